#include <sidestep/shareable_list.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include <sidestep/archive.hpp>
#include <sidestep/detail/object_ref.hpp>

namespace sidestep::inline v0 {
namespace {

// The layout, all in 8-byte words: the length n; n + 1 offsets into the data; the data; n formats
// of 8 characters each; then n bytes: how to make a value of what was unpacked.
constexpr std::size_t kWord = 8;
enum Recreation : char { kAsIs = 0, kText = 1, kBytes = 2, kNone = 3 };

template <class... F>
struct Overloaded : F... {
    using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

// Python counts the characters of text, not its bytes, and cuts off what then does not fit; here
// the place is as large as the bytes need, at least.
std::size_t place_size(const ShareableItem& item) {
    auto padded = [](std::size_t length) { return kWord * (length / kWord + 1); };
    auto characters = [](const std::string& text) {
        return static_cast<std::size_t>(
            std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
    };
    return std::visit(
        Overloaded{[&](const std::string& text) {
                       std::size_t needed = (text.size() + kWord - 1) / kWord * kWord;
                       return std::max(padded(characters(text)), needed);
                   },
                   [&](const ByteString& bytes) { return padded(bytes.bytes.size()); },
                   [](const auto&) { return kWord; }},
        item);
}

std::string format_of(const ShareableItem& item, std::size_t size) {
    return std::visit(Overloaded{[](std::nullptr_t) { return std::string("xxxxxx?x"); },
                                 [](bool) { return std::string("xxxxxxx?"); },
                                 [](std::int64_t) { return std::string("q"); },
                                 [](double) { return std::string("d"); },
                                 [&](const auto&) { return fmt::format("{}s", size); }},
                      item);
}

char recreation_of(const ShareableItem& item) {
    return std::visit(
        Overloaded{[](std::nullptr_t) { return kNone; }, [](const std::string&) { return kText; },
                   [](const ByteString&) { return kBytes; }, [](const auto&) { return kAsIs; }},
        item);
}

void write_text(std::byte* to, std::size_t size, const std::string& text) {
    std::memset(to, 0, size);
    std::memcpy(to, text.data(), text.size());
}

void write_item(std::byte* to, std::size_t size, const ShareableItem& item) {
    std::visit(Overloaded{[&](std::nullptr_t) { std::memset(to, 0, kWord); },
                          [&](bool value) {
                              std::memset(to, 0, kWord);
                              to[7] = std::byte{value};
                          },
                          [&](std::int64_t value) { std::memcpy(to, &value, kWord); },
                          [&](double value) { std::memcpy(to, &value, kWord); },
                          [&](const std::string& text) { write_text(to, size, text); },
                          [&](const ByteString& bytes) { write_text(to, size, bytes.bytes); }},
               item);
}

std::int64_t word_at(const std::byte* base, std::size_t index) {
    std::int64_t word = 0;
    std::memcpy(&word, base + index * kWord, kWord);
    return word;
}

std::string text_at(const std::byte* from, std::size_t size) {
    std::string text(reinterpret_cast<const char*>(from), size);
    text.resize(text.find_last_not_of('\0') + 1);
    return text;
}

[[noreturn]] void throw_no_list(const SharedMemory& memory) {
    throw DamagedError(
        fmt::format("the SharedMemory \"{}\" holds no ShareableList, or a process that shares it "
                    "wrote over it: make a new one",
                    memory.name()));
}

}  // namespace

struct ShareableList::Place {
    std::byte* data;
    std::size_t size;
    std::byte* format;
    std::byte* recreation;
    std::string format_text() const { return text_at(format, kWord); }
};

ShareableList::ShareableList(std::span<const ShareableItem> items, std::optional<std::string> name,
                             SharedMemoryOptions options)
    : memory_(detail::Blank{}) {
    std::size_t n = items.size(), data_size = 0;
    std::vector<std::string> item_formats;  // all that can fail comes before there is a name
    for (const ShareableItem& item : items) {
        std::size_t size = place_size(item);
        data_size += size;
        item_formats.push_back(format_of(item, size));
        if (item_formats.back().size() > kWord)
            throw std::length_error("text of more than 9999999 bytes in a ShareableList");
    }
    std::size_t total = (n + 2) * kWord + data_size + n * kWord + n;
    memory_ = name ? SharedMemory(create_only, *name, total, options)
                   : SharedMemory(create_only, total, options);
    std::byte* base = memory_.bytes().data();
    std::byte* formats = base + (n + 2) * kWord + data_size;
    auto put_word = [&](std::size_t index, std::size_t value) {
        std::memcpy(base + index * kWord, &value, kWord);
    };
    put_word(0, n);
    std::size_t offset = 0;
    for (std::size_t i = 0; i < n; ++i) {
        std::size_t size = place_size(items[i]);
        put_word(1 + i, offset);
        write_item(base + (n + 2) * kWord + offset, size, items[i]);
        write_text(formats + i * kWord, kWord, item_formats[i]);
        formats[n * kWord + i] = std::byte(recreation_of(items[i]));
        offset += size;
    }
    put_word(1 + n, offset);
}

ShareableList::ShareableList(OpenOnly, std::string name, SharedMemoryOptions options)
    : memory_(open_only, std::move(name), options) {
    check();
}

void ShareableList::save(OutputArchive& archive) const { archive(memory_); }
void ShareableList::load(InputArchive& archive) {
    archive(memory_);
    check();
}

void ShareableList::check() const {
    if (memory_.size() < 2 * kWord) throw_no_list(memory_);
    if (size() > 0) (void)place(static_cast<std::ptrdiff_t>(size()) - 1);
}

std::size_t ShareableList::size() const {
    std::int64_t n = word_at(memory_.bytes().data(), 0);
    // Each item takes an offset, a word of data, a format and a byte.
    if (n < 0 || static_cast<std::size_t>(n) > (memory_.size() - 2 * kWord) / (3 * kWord + 1))
        throw_no_list(memory_);
    return static_cast<std::size_t>(n);
}

// What is in the memory is another's word: it is checked each time.
ShareableList::Place ShareableList::place(std::ptrdiff_t index) const {
    std::size_t n = size();
    std::ptrdiff_t at = index < 0 ? index + static_cast<std::ptrdiff_t>(n) : index;
    if (at < 0 || static_cast<std::size_t>(at) >= n)
        throw std::out_of_range(fmt::format("index {} of a ShareableList of {} items", index, n));
    std::byte* base = memory_.bytes().data();
    auto i = static_cast<std::size_t>(at);
    std::size_t room = memory_.size() - (n + 2) * kWord - n * kWord - n;
    auto begin = static_cast<std::size_t>(word_at(base, 1 + i));
    auto end = static_cast<std::size_t>(word_at(base, 2 + i));
    auto all = static_cast<std::size_t>(word_at(base, 1 + n));
    if (begin > end || end - begin < kWord || end > all || all > room) throw_no_list(memory_);
    std::byte* data = base + (n + 2) * kWord;
    return {data + begin, end - begin, data + all + i * kWord, data + all + n * kWord + i};
}

ShareableItem ShareableList::get(std::ptrdiff_t index) const {
    Place at = place(index);
    std::string format = at.format_text();
    switch (static_cast<char>(*at.recreation)) {
        case kText:
            return text_at(at.data, at.size);
        case kBytes:
            return ByteString{text_at(at.data, at.size)};
        case kNone:
            return nullptr;
        default:
            break;
    }
    if (format == "q") return word_at(at.data, 0);
    if (format == "xxxxxxx?") return at.data[7] != std::byte{0};
    if (format != "d") throw_no_list(memory_);
    double value = 0;
    std::memcpy(&value, at.data, kWord);
    return value;
}

void ShareableList::set(std::ptrdiff_t index, const ShareableItem& item) {
    Place at = place(index);
    const std::string* text = std::get_if<std::string>(&item);
    if (auto* bytes = std::get_if<ByteString>(&item)) text = &bytes->bytes;
    if (text && text->size() > at.size)
        throw std::length_error(
            fmt::format("text of {} bytes exceeds the available storage of {} bytes at index {} of "
                        "a ShareableList",
                        text->size(), at.size, index));
    std::string format = at.format_text();
    if (!text || !format.ends_with('s')) format = format_of(item, at.size);
    if (format.size() > kWord)
        throw std::length_error(
            fmt::format("an item of {} bytes at index {} of a ShareableList: what is larger than "
                        "9,999,999 bytes has no format in Python's layout",
                        at.size, index));
    write_text(at.format, kWord, format);
    *at.recreation = std::byte(recreation_of(item));
    write_item(at.data, at.size, item);
}

std::vector<ShareableItem> ShareableList::items() const {
    std::vector<ShareableItem> all;
    for (std::size_t i = 0; i < size(); ++i) all.push_back(get(static_cast<std::ptrdiff_t>(i)));
    return all;
}

std::size_t ShareableList::count(const ShareableItem& item) const {
    std::size_t found = 0;
    for (const ShareableItem& each : items()) found += each == item;
    return found;
}

std::size_t ShareableList::index(const ShareableItem& item) const {
    for (std::size_t i = 0; i < size(); ++i)
        if (get(static_cast<std::ptrdiff_t>(i)) == item) return i;
    throw std::invalid_argument("ShareableList::index of an item that is not in the list");
}

std::string ShareableList::format() const {
    std::string all;
    for (std::size_t i = 0; i < size(); ++i)
        all += place(static_cast<std::ptrdiff_t>(i)).format_text();
    return all;
}

std::string to_string(const ShareableList& list) {
    std::string text;
    for (const ShareableItem& item : list.items()) {
        if (!text.empty()) text += ", ";
        std::visit(Overloaded{[&](std::nullptr_t) { text += "None"; },
                              [&](bool value) { text += value ? "True" : "False"; },
                              [&](const std::string& value) { text += '"' + value + '"'; },
                              [&](const ByteString& value) { text += "b\"" + value.bytes + '"'; },
                              [&](auto value) { text += fmt::format("{}", value); }},
                   item);
    }
    return fmt::format("ShareableList([{}], {})", text, list.memory().name());
}

}  // namespace sidestep
