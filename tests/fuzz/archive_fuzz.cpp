// Messages whose bytes are anything, read as each of several types.
//
// Holds: a value comes out, or SerializationError (or cereal's own exception, e.g. for the index of
// a variant); never another exception, and memory stays within a small multiple of the input,
// whatever lengths it claims and however deep it goes (libFuzzer looks at the time). What was read
// is written, read and written again: the bytes are the same.
#include <sidestep/archive.hpp>
#include <sidestep/connection.hpp>

#include <cereal/types/polymorphic.hpp>

#include <array>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

#include "memory.hpp"

namespace {

struct Pixel {
    std::uint16_t red = 0, green = 0;
};

struct Leaf {
    int number = 0;
    std::string text;
    std::shared_ptr<std::string> shared, again;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(number, text, shared, again);
    }
};

// Types that contain themselves.
struct Tree {
    std::vector<Tree> children;
    std::map<short, Tree> named;
    std::shared_ptr<Tree> shared;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(children, named, shared);
    }
};
struct Chain {
    std::unique_ptr<Chain> next;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(next);
    }
};

// Types of which a number may be used as another.
struct Base {
    virtual ~Base() = default;
    std::uint64_t words[4] = {};
    template <class Archive>
    void serialize(Archive& archive) {
        for (std::uint64_t& word : words) archive(word);
    }
};
struct Derived final : Base {
    std::string text;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(cereal::base_class<Base>(this), text);
    }
};
using Block = std::array<double, 512>;
using Pointers =
    std::tuple<std::shared_ptr<std::array<std::uint64_t, 4>>, std::shared_ptr<std::string>,
               std::shared_ptr<Base>, std::shared_ptr<Derived>, std::weak_ptr<std::string>>;

}  // namespace

CEREAL_REGISTER_TYPE_WITH_NAME(Derived, "D")

template <>
inline constexpr bool sidestep::is_bitwise<Pixel> = true;

namespace {

using namespace sidestep;

std::string bytes_of(const auto& value) {
    detail::HeapBuffer buffer;
    OutputArchive archive(buffer);
    archive(value);
    return {reinterpret_cast<const char*>(buffer.bytes().data()), buffer.bytes().size()};
}

template <class T>
T value_of(std::span<const std::byte> bytes) {
    InputArchive archive(bytes);
    T value{};
    archive(value);
    archive.expect_end();
    return value;
}

// `ordered`: the same value is always written in the same order.
template <class T, bool ordered = true>
void read_as(std::span<const std::byte> bytes) {
    try {
        std::string first = bytes_of(value_of<T>(bytes));
        std::string second = bytes_of(value_of<T>(std::as_bytes(std::span(first))));
        if (first.size() != second.size() || (ordered && first != second)) std::abort();
    } catch (const SerializationError&) {
    } catch (const cereal::Exception&) {
    }
}

// Reads it and looks at all of it.
template <class T>
void touch(std::span<const std::byte> bytes) {
    try {
        (void)bytes_of(value_of<T>(bytes));
    } catch (const SerializationError&) {
    } catch (const cereal::Exception&) {
    }
}

using Reader = void (*)(std::span<const std::byte>);
constexpr Reader kReaders[] = {
    read_as<std::vector<std::string>>,
    read_as<std::map<std::string, std::vector<double>>>,
    read_as<std::vector<std::vector<std::vector<int>>>>,
    read_as<std::tuple<bool, char, std::optional<std::string>, std::array<short, 3>>>,
    read_as<std::variant<int, std::string, std::vector<bool>>>,
    read_as<std::deque<std::pair<std::string, bool>>>,
    read_as<std::unordered_map<int, std::string>, false>,
    read_as<std::set<std::string>>,
    read_as<std::vector<Pixel>>,
    read_as<std::vector<Leaf>>,
    read_as<std::unique_ptr<std::vector<Leaf>>>,
    read_as<std::vector<Address>>,
    read_as<std::filesystem::path>,
    read_as<DupFd>,
    read_as<Connection>,
    read_as<std::vector<bool>>,
    // The second writing may find fewer pointers: one that was weak alone is gone.
    touch<Pointers>,
    touch<std::vector<Pointers>>,
    touch<std::unique_ptr<Base>>,
    touch<Tree>,
    read_as<Chain>,
    read_as<std::vector<Block>>,
    read_as<std::list<std::deque<Block>>>,
    read_as<std::forward_list<std::u16string>>,
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    if (size < 1) return 0;
    fuzz::begin();
    kReaders[data[0] % std::size(kReaders)](std::as_bytes(std::span(data + 1, size - 1)));
    fuzz::end(size, 100, 4 << 20);
    return 0;
}
