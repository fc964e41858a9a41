// Lengths that lie: whatever the bytes say, no more is allocated than they can back.
#include <algorithm>
#include <cstring>
#include <filesystem>

#include <catch2/catch.hpp>

#include "archive_support.hpp"

namespace archive_damage_test {

using namespace test;
using sidestep::SerializationError;

namespace {

std::size_t largest_request = 0;

// Remembers the largest request; memory comes from the heap.
template <class T>
struct Watched {
    using value_type = T;
    Watched() = default;
    template <class U>
    Watched(const Watched<U>&) {}  // NOLINT: conversions are what allocators are made of
    T* allocate(std::size_t count) {
        largest_request = std::max(largest_request, count * sizeof(T));
        return std::allocator<T>().allocate(count);
    }
    void deallocate(T* memory, std::size_t count) { std::allocator<T>().deallocate(memory, count); }
    template <class U>
    bool operator==(const Watched<U>&) const {
        return true;
    }
};

struct Large {
    std::array<std::uint64_t, 512> numbers{};
    template <class Archive>
    void serialize(Archive& archive) {
        archive(numbers);
    }
};

struct Sample {
    std::uint32_t a = 0, b = 0;
};

using String = std::basic_string<char, std::char_traits<char>, Watched<char>>;
using Text16 = std::basic_string<char16_t, std::char_traits<char16_t>, Watched<char16_t>>;
template <class T>
using Vector = std::vector<T, Watched<T>>;
using Map = std::map<int, int, std::less<>, Watched<std::pair<const int, int>>>;
using HashMap = std::unordered_map<int, int, std::hash<int>, std::equal_to<>,
                                   Watched<std::pair<const int, int>>>;
using HashSet = std::unordered_set<int, std::hash<int>, std::equal_to<>, Watched<int>>;

// A length word, then `more` zero bytes.
Bytes with_length(std::uint64_t length, std::size_t more) {
    Bytes bytes(sizeof length + more, std::byte{0});
    std::memcpy(bytes.data(), &length, sizeof length);
    return bytes;
}

template <class T>
std::size_t request_of(std::uint64_t length, std::size_t more) {
    largest_request = 0;
    INFO("length " << length << " with " << more << " bytes behind it");
    CHECK_THROWS_AS(loaded<T>(with_length(length, more)), SerializationError);
    return largest_request;
}

}  // namespace

}  // namespace archive_damage_test

template <>
inline constexpr bool sidestep::is_bitwise<archive_damage_test::Sample> = true;

namespace archive_damage_test {

TEMPLATE_TEST_CASE("a forged length is refused before anything is allocated", "[core][archive]",
                   String, Text16, Vector<char>, Vector<int>, Vector<double>, Vector<bool>,
                   Vector<String>, Vector<Large>, Vector<Sample>, Map, HashMap, HashSet,
                   (std::deque<int, Watched<int>>), (std::list<int, Watched<int>>),
                   Vector<Vector<int>>) {
    constexpr std::uint64_t kTop = std::uint64_t(1) << 63;
    for (std::uint64_t length : {std::uint64_t(1) << 40, kTop, kTop + 1, ~std::uint64_t(0),
                                 std::uint64_t(65), std::uint64_t(1) << 32, kTop / 4})
        // An empty deque or hash table may hold a block of its own.
        CHECK(request_of<TestType>(length, 64) <= 1024);
}

TEST_CASE("a vector of numbers asks for what its bytes can back, not for one element a byte",
          "[core][archive]") {
    // 64 bytes hold eight doubles: 9 to 64 are as impossible as 65.
    for (std::uint64_t length : {9u, 16u, 64u}) {
        CHECK(request_of<Vector<double>>(length, 64) == 0);
        CHECK(request_of<Vector<Sample>>(length, 64) == 0);
    }
    CHECK(loaded<Vector<double>>(with_length(8, 64)).size() == 8);
    CHECK(loaded<Vector<Sample>>(with_length(8, 64)).size() == 8);
}

TEST_CASE("a length is exact: one less leaves bytes over, one more is too many",
          "[core][archive]") {
    for (std::size_t size : {std::size_t(0), std::size_t(1), std::size_t(15), std::size_t(4096)}) {
        CHECK(loaded<std::string>(with_length(size, size)).size() == size);
        CHECK_THROWS_WITH(loaded<std::string>(with_length(size, size + 1)),
                          Catch::Contains("1 bytes left over"));
        CHECK_THROWS_WITH(
            loaded<std::string>(with_length(size + 1, size)),
            Catch::Contains("a length of " + std::to_string(size + 1) + " elements with " +
                            std::to_string(size) + " bytes left"));
    }
}

TEST_CASE("a variant's index and a smart pointer's number are checked", "[core][archive]") {
    Bytes variant = saved(std::variant<int, std::string>(5));
    for (int index : {2, 3, 127, -1}) {
        std::memcpy(variant.data(), &index, sizeof index);
        CHECK((refuses<std::variant<int, std::string>>(variant)));
    }
    Bytes pointer = saved(std::make_shared<int>(5));
    std::uint32_t number = 3;  // refers to an object that was not sent
    std::memcpy(pointer.data(), &number, sizeof number);
    CHECK(refuses<std::shared_ptr<int>>(pointer));
}

TEST_CASE("random bytes are refused or read as something, never worse", "[core][archive]") {
    std::uint64_t state = 0x9e3779b97f4a7c15u;
    auto next = [&] { return state = state * 6364136223846793005u + 1442695040888963407u; };
    for (int round = 0; round < 3000; ++round) {
        Bytes bytes(next() >> 58);
        for (std::byte& b : bytes) b = static_cast<std::byte>(next() >> (round % 2 ? 56 : 62));
        (void)refuses<std::map<std::string, std::vector<std::optional<std::string>>>>(bytes);
        (void)refuses<std::vector<std::variant<int, std::string, std::vector<double>>>>(bytes);
        (void)refuses<std::pair<std::shared_ptr<std::string>, std::unique_ptr<Large>>>(bytes);
        (void)refuses<std::list<std::tuple<std::filesystem::path, bool, float>>>(bytes);
        (void)refuses<std::unordered_map<int, std::deque<std::set<short>>>>(bytes);
    }
}

}  // namespace archive_damage_test
