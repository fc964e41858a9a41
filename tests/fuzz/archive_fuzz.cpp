// Messages whose bytes are anything, read as each of several types.
//
// Holds: a value comes out, or SerializationError (or cereal's own exception, e.g. for the index of
// a variant); never another exception, and memory stays within a small multiple of the input.
// What was read is written, read and written again: the bytes are the same.
#include <sidestep/archive.hpp>
#include <sidestep/connection.hpp>

#include <cstdlib>
#include <string>

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

}  // namespace

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
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    if (size < 1) return 0;
    kReaders[data[0] % std::size(kReaders)](std::as_bytes(std::span(data + 1, size - 1)));
    return 0;
}
