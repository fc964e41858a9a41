#include <sidestep/archive.hpp>

#include <algorithm>
#include <filesystem>
#include <limits>

#include <catch2/catch.hpp>
#include <cereal/types/polymorphic.hpp>

#include "archive_support.hpp"

namespace archive_test {

using namespace test;
using namespace std::chrono_literals;
using sidestep::InputArchive;
using sidestep::OutputArchive;
using sidestep::SerializationError;
using sidestep::detail::HeapBuffer;

namespace {

enum class Color : std::uint8_t { red, green = 200 };
enum Plain { kFirst, kSecond = -70000 };
enum class Wide : std::uint64_t { top = ~std::uint64_t(0) };

struct Point {
    double x = 0, y = 0;
    friend bool operator==(const Point&, const Point&) = default;
};
enum class Level : std::int16_t { low, high };

struct Member {
    int number = 0;
    std::string text;
    friend bool operator==(const Member&, const Member&) = default;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(CEREAL_NVP(number), cereal::make_nvp("text", text));
    }
};

struct Free {
    std::vector<Member> members;
    friend bool operator==(const Free&, const Free&) = default;
};
template <class Archive>
void serialize(Archive& archive, Free& value) {
    archive(value.members);
}

struct Pair {  // the two halves differ: what is written is not what is kept
    int sum = 0, difference = 0;
    friend bool operator==(const Pair&, const Pair&) = default;
    template <class Archive>
    void save(Archive& archive) const {
        archive((sum + difference) / 2, (sum - difference) / 2);
    }
    template <class Archive>
    void load(Archive& archive) {
        int a = 0, b = 0;
        archive(a, b);
        // Wraps: damaged bytes may hold anything.
        sum = static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
        difference = static_cast<int>(static_cast<unsigned>(a) - static_cast<unsigned>(b));
    }
};

struct Minimal {
    std::string text;
    friend bool operator==(const Minimal&, const Minimal&) = default;
    template <class Archive>
    std::string save_minimal(const Archive&) const {
        return text;
    }
    template <class Archive>
    void load_minimal(const Archive&, const std::string& value) {
        text = value;
    }
};

struct Versioned {
    int value = 0;
    std::uint32_t seen = 0;
    template <class Archive>
    void serialize(Archive& archive, std::uint32_t version) {
        seen = version;
        archive(value);
    }
};

struct Shape {
    virtual ~Shape() = default;
    virtual double area() const = 0;
    template <class Archive>
    void serialize(Archive&) {}
};
struct Square : Shape {
    double side = 0;
    double area() const override { return side * side; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(cereal::base_class<Shape>(this), side);
    }
};

struct Refuses {
    bool on_save = false, on_load = false;
    template <class Archive>
    void save(Archive& archive) const {
        archive(1, 2, 3);
        if (on_save) throw std::domain_error("not today");
        archive(on_load);
    }
    template <class Archive>
    void load(Archive& archive) {
        int skip[3];
        archive(skip, on_load);
        if (on_load) throw std::domain_error("not over here");
    }
};

// A base that is met once in an archive, and a member that is read last.
struct Root {
    int depth = 0;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(depth);
    }
};
struct OfVirtualBase : virtual Root {
    int width = 0;
    friend bool operator==(const OfVirtualBase& a, const OfVirtualBase& b) {
        return a.depth == b.depth && a.width == b.width;
    }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(cereal::virtual_base_class<Root>(this), width);
    }
};
struct OfVersionedBase : Versioned {
    friend bool operator==(const OfVersionedBase& a, const OfVersionedBase& b) {
        return a.value == b.value;
    }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(cereal::base_class<Versioned>(this));
    }
};
struct Deferring {
    Member first;
    int second = 0;
    friend bool operator==(const Deferring&, const Deferring&) = default;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(cereal::defer(first), second);
        archive.serializeDeferments();
    }
};

struct Nothing {
    friend bool operator==(const Nothing&, const Nothing&) = default;
};

}  // namespace

}  // namespace archive_test

CEREAL_CLASS_VERSION(archive_test::Versioned, 7)
CEREAL_REGISTER_TYPE(archive_test::Square)

template <>
inline constexpr bool sidestep::is_bitwise<archive_test::Point> = true;
template <>
inline constexpr bool sidestep::is_bitwise<archive_test::Level> = true;

namespace archive_test {

TEST_CASE("numbers survive the round trip, their limits too", "[core][archive]") {
    check_limits<char, signed char, unsigned char, short, unsigned short, int, unsigned, long,
                 unsigned long, long long, unsigned long long, wchar_t, char8_t, char16_t, char32_t,
                 float, double, long double>();
    check_round_trip(true);
    check_round_trip(false);
    check_round_trip(std::numeric_limits<double>::infinity());
    CHECK(std::isnan(loaded<double>(saved(std::numeric_limits<double>::quiet_NaN()))));
    CHECK(std::signbit(loaded<float>(saved(-0.0f))));
}

TEST_CASE("enums travel as their underlying type", "[core][archive]") {
    check_round_trip(Color::green);
    CHECK(loaded<Plain>(saved(kSecond)) == kSecond);  // damaged, it may be no Plain at all
    check_round_trip(Wide::top);
    CHECK(saved(Color::green).size() == 1);
    CHECK(saved(Wide::top).size() == 8);
}

TEST_CASE("a bool that is neither 0 nor 1 is refused", "[core][archive]") {
    for (int value : {2, 3, 128, 255}) {
        std::vector<std::byte> bytes{static_cast<std::byte>(value)};
        CHECK_THROWS_AS(loaded<bool>(bytes), SerializationError);
        CHECK_THROWS_WITH(loaded<bool>(bytes),
                          Catch::Contains("a bool of value " + std::to_string(value)));
    }
    std::vector<std::byte> two_in_a_vector = saved(std::vector<bool>{true, false});
    two_in_a_vector.back() = std::byte{2};
    CHECK_THROWS_AS(loaded<std::vector<bool>>(two_in_a_vector), SerializationError);
    std::vector<std::byte> optional = saved(std::optional<int>(5));
    optional[0] = std::byte{2};
    CHECK_THROWS_AS(loaded<std::optional<int>>(optional), SerializationError);
}

TEST_CASE("strings of every character type survive the round trip", "[core][archive]") {
    check_round_trip(std::string());
    check_round_trip(std::string("with\0nul", 8));
    check_round_trip(std::string(100'000, 'x'));
    check_round_trip(std::u8string(u8"\u00e4"));
    check_round_trip(std::u16string(u"\u20ac"));
    check_round_trip(std::u32string(U"\U0001F600"));
    check_round_trip(std::wstring(L"\u00e4\u00f6"));
}

TEST_CASE("sequences survive the round trip", "[core][archive]") {
    check_round_trip(std::array<int, 3>{1, 2, 3});
    check_round_trip(std::array<std::string, 2>{"a", ""});
    check_round_trip(std::array<int, 0>{});
    check_round_trip(std::vector<int>{});
    check_round_trip(std::vector<int>{1, -2, 3});
    check_round_trip(std::vector<long double>{1.5L, -2});
    check_round_trip(std::vector<std::string>{"", "b", "cc"});
    check_round_trip(std::vector<std::vector<std::vector<char>>>{{{'a'}, {}}, {}});
    check_round_trip(std::vector<bool>{true, false, true});
    check_round_trip(std::vector<Color>{Color::red, Color::green});
    check_round_trip(std::deque<int>{1, 2});
    check_round_trip(std::list<std::string>{"x", "y"});
}

TEST_CASE("associative containers survive the round trip", "[core][archive]") {
    check_round_trip(std::map<std::string, int>{{"a", 1}, {"b", 2}});
    check_round_trip(std::multimap<int, std::string>{{1, "x"}, {1, "y"}, {0, "a"}});  // in order
    check_round_trip(std::set<double>{1, 2, 3});
    check_round_trip(std::multiset<int>{1, 1, 2});
    check_round_trip(std::unordered_map<std::string, std::vector<int>>{{"a", {1}}, {"b", {}}});
    check_round_trip(std::unordered_multimap<int, int>{{1, 2}, {1, 3}});
    check_round_trip(std::unordered_set<std::string>{"p", "q"});
    check_round_trip(std::unordered_multiset<int>{4, 4});
}

TEST_CASE("sums, products and values of <chrono> survive the round trip", "[core][archive]") {
    check_round_trip(std::pair<int, std::string>{1, "one"});
    check_round_trip(std::tuple<int, std::string, double>{1, "two", 3.0});
    check_round_trip(std::tuple<>{});
    check_round_trip(std::optional<std::string>{});
    check_round_trip(std::optional<std::string>{"here"});
    using Variant = std::variant<std::monostate, int, std::string>;
    check_round_trip(Variant{});
    check_round_trip(Variant{5});
    check_round_trip(Variant{"text"});
    check_round_trip(std::complex<float>(1, -2));
    check_round_trip(std::chrono::nanoseconds(-5));
    check_round_trip(std::chrono::duration<double>(0.25));
    check_round_trip(std::chrono::system_clock::time_point(123s));
    check_round_trip(std::filesystem::path("/a/b c"));
    check_round_trip(std::filesystem::path());
    check_round_trip(std::vector<std::filesystem::path>{"x", "y/z"});
    check_round_trip(
        std::map<std::string, std::vector<std::optional<std::tuple<int, std::string>>>>{
            {"k", {std::tuple<int, std::string>{1, "v"}, std::nullopt}}, {"empty", {}}});
}

TEST_CASE("smart pointers carry what they own, and sharing", "[core][archive]") {
    CHECK(*loaded<std::unique_ptr<Member>>(saved(std::make_unique<Member>(Member{3, "three"}))) ==
          Member{3, "three"});
    CHECK(loaded<std::unique_ptr<int>>(saved(std::unique_ptr<int>())) == nullptr);
    CHECK(loaded<std::shared_ptr<int>>(saved(std::shared_ptr<int>())) == nullptr);
    auto one = std::make_shared<std::string>("shared");
    auto both = loaded<std::pair<std::shared_ptr<std::string>, std::shared_ptr<std::string>>>(
        saved(std::pair(one, one)));
    CHECK(*both.first == "shared");
    CHECK(both.first == both.second);
    auto square = std::make_unique<Square>();
    square->side = 3;
    auto shape = loaded<std::unique_ptr<Shape>>(saved(std::unique_ptr<Shape>(std::move(square))));
    REQUIRE(shape);
    CHECK(shape->area() == 9);
}

TEST_CASE("bitwise types travel as raw memory, in bulk in vectors", "[core][archive]") {
    check_round_trip(Point{1, 2});
    check_round_trip(std::vector<Point>{{1, 2}, {3, 4}});
    check_round_trip(std::vector<Point>{});
    check_round_trip(std::vector<Level>{Level::high, Level::low});
    check_round_trip(std::map<int, Point>{{1, {2, 3}}});
    CHECK(saved(std::vector<Point>(5)).size() == 8 + 5 * sizeof(Point));
    CHECK(saved(std::vector<Level>(5)).size() == 8 + 5 * sizeof(Level));
}

TEST_CASE("vectors of numbers survive the round trip where they are not aligned, and large ones",
          "[core][archive]") {
    std::vector<double> few{1.5, -2, 3}, many((std::size_t(5) << 20) / sizeof(double), 0.25);
    many.back() = 7;
    for (const auto& values : {few, many}) {
        auto aligned = std::pair(std::uint64_t(1), values);
        CHECK(loaded<decltype(aligned)>(saved(aligned)) == aligned);
        auto shifted = std::pair('c', values);
        CHECK(loaded<decltype(shifted)>(saved(shifted)) == shifted);
    }
    std::string text(std::size_t(5) << 20, 't');
    CHECK(loaded<std::string>(saved(text)) == text);
}

TEST_CASE("the user's types travel by whatever cereal function they have", "[core][archive]") {
    check_round_trip(Member{1, "one"});
    check_round_trip(Free{{{1, "a"}, {2, "b"}}});
    check_round_trip(Pair{10, 4});
    check_round_trip(Minimal{"small"});
    check_round_trip(std::vector<Pair>{{1, 1}, {2, 0}});
    Versioned value = loaded<Versioned>(saved(Versioned{42, 0}));
    CHECK(value.value == 42);
    CHECK(value.seen == 7);
}

TEST_CASE("an empty class takes no bytes, so a filled container of them cannot be read back",
          "[core][archive]") {
    CHECK(saved(Nothing{}).empty());
    check_round_trip(Nothing{});
    check_round_trip(std::vector<Nothing>{});
    CHECK_THROWS_AS(loaded<std::vector<Nothing>>(saved(std::vector<Nothing>(3))),
                    SerializationError);
}

TEST_CASE("a throw inside serialize passes through, and the buffer can be cut back",
          "[core][archive]") {
    HeapBuffer buffer;
    OutputArchive archive(buffer);
    archive(std::string("before"));
    std::size_t good = buffer.size();
    CHECK_THROWS_AS(archive(Refuses{true, false}), std::domain_error);
    CHECK(buffer.size() > good);
    buffer.truncate(good);
    archive(7);
    InputArchive input(buffer.bytes());
    std::string text;
    int number = 0;
    input(text, number);
    input.expect_end();
    CHECK(text == "before");
    CHECK(number == 7);
    CHECK_THROWS_WITH(loaded<Refuses>(saved(Refuses{false, true})), "not over here");
}

TEST_CASE("what is left over is an error that says how much", "[core][archive]") {
    std::vector<std::byte> bytes = saved(1.0);
    InputArchive archive(bytes);
    int half = 0;
    archive(half);
    CHECK(archive.remaining() == 4);
    CHECK_THROWS_WITH(archive.expect_end(), Catch::Contains("4 bytes left over"));
    archive(half);
    archive.expect_end();
}

TEST_CASE("a view reads in place, a reset goes on elsewhere", "[core][archive]") {
    std::vector<std::byte> first = saved(std::uint32_t(1)), second = saved(std::uint32_t(2));
    InputArchive archive(first);
    CHECK(archive.view(2).data() == first.data());
    CHECK_THROWS_AS(archive.view(3), SerializationError);
    CHECK(archive.view(2).data() == first.data() + 2);
    CHECK(archive.view(0).empty());
    archive.reset(second);
    std::uint32_t value = 0;
    archive(value);
    CHECK(value == 2);
}

TEST_CASE("a heap buffer grows and keeps what it has", "[core][archive]") {
    for (std::size_t step : {1u, 3u, 255u, 256u, 257u, 100'000u}) {
        HeapBuffer buffer;
        CHECK(buffer.size() == 0);
        std::vector<std::byte> expected;
        for (std::size_t i = 0; expected.size() < 300'000; ++i) {
            std::vector<std::byte> piece(step, static_cast<std::byte>(i));
            expected.insert(expected.end(), piece.begin(), piece.end());
            buffer.write(piece.data(), piece.size());
        }
        CHECK(buffer.size() == expected.size());
        CHECK(buffer.capacity() >= buffer.size());
        CHECK(buffer.capacity() <= 2 * buffer.size() + step + 256);
        CHECK(std::equal(expected.begin(), expected.end(), buffer.begin()));
        buffer.truncate(1);
        CHECK(buffer.bytes().size() == 1);
        CHECK(buffer.bytes()[0] == std::byte{0});
        buffer.clear();
        CHECK(buffer.bytes().empty());
        CHECK(buffer.capacity() > 0);
    }
    HeapBuffer empty;
    empty.write(nullptr, 0);
    CHECK(empty.bytes().empty());
}

// The same object is written twice, each time by itself, and the second one is read without the
// first.
template <class T>
void check_apart(const T& value, bool is_kept) {
    HeapBuffer buffer;
    OutputArchive archive(buffer);
    OutputArchive* const first = &archive.apart();
    (*first)(value);
    const std::size_t half = buffer.size();
    CHECK((&archive.apart() == first) == is_kept);
    archive.apart()(value);
    const std::span<const std::byte> bytes = buffer.bytes();
    CHECK(std::ranges::equal(bytes.first(half), bytes.subspan(half)));

    InputArchive from(bytes);
    for (auto part : {bytes.subspan(half), bytes.first(half)}) {
        T back{};
        InputArchive& reader = from.apart(part);
        reader(back);
        reader.expect_end();
        CHECK(back == value);
    }
}

TEST_CASE("of values that are written apart, each can be read without those before",
          "[core][archive]") {
    const Member member{3, "three"};
    check_apart(member, true);
    check_apart(Free{{member, member}}, true);
    check_apart(Pair{8, 2}, true);
    check_apart(Minimal{"least"}, true);
    check_apart(std::map<int, Member>{{1, member}}, true);
    // These leave something in the archive: the next one gets another.
    const auto twice = std::make_shared<std::string>("shared");
    struct Pointers {
        std::shared_ptr<std::string> a, b;
        bool operator==(const Pointers& other) const {
            return *a == *other.a && *b == *other.b && (a == b) == (other.a == other.b);
        }
        void serialize(OutputArchive& archive) { archive(a, b); }
        void serialize(InputArchive& archive) { archive(a, b); }
    };
    check_apart(Pointers{twice, twice}, false);
    OfVersionedBase versioned;
    versioned.value = 5;
    check_apart(versioned, false);
    OfVirtualBase virtual_base;
    virtual_base.depth = 1;
    virtual_base.width = 2;
    check_apart(virtual_base, false);
    check_apart(Deferring{member, 4}, false);
}

TEST_CASE("what is read apart fails alone", "[core][archive]") {
    HeapBuffer buffer;
    OutputArchive archive(buffer);
    archive.apart()(Refuses{false, true});
    const std::size_t half = buffer.size();
    CHECK_THROWS_AS(archive.apart()(Refuses{true, false}), std::domain_error);
    buffer.truncate(half);
    archive.apart()(Member{1, "after"});
    const std::span<const std::byte> bytes = buffer.bytes();
    InputArchive from(bytes);
    Refuses refuses;
    CHECK_THROWS_AS(from.apart(bytes.first(half))(refuses), std::domain_error);
    Member member;
    from.apart(bytes.subspan(half))(member);
    CHECK(member == Member{1, "after"});
}

TEST_CASE("a transport's descriptors are reachable from serialize, where there are any",
          "[core][archive]") {
    struct Sink : sidestep::detail::FdSink {
        std::vector<int> fds;
        std::uint64_t put(int fd) override { return fds.push_back(fd), fds.size() - 1; }
    } sink;
    HeapBuffer buffer;
    CHECK(OutputArchive(buffer).fds() == nullptr);
    OutputArchive archive(buffer, &sink);
    CHECK(archive.fds()->put(30) == 0);
    CHECK(archive.fds()->put(31) == 1);
    CHECK(&archive.buffer() == &buffer);
    CHECK(InputArchive({}).fds() == nullptr);
}

}  // namespace archive_test
