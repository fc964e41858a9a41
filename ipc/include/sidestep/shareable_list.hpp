// ShareableList: a list of fixed length in a SharedMemory, the same as Python's: one side makes it,
// the other opens it by name.
//
// An item is nothing (Python's None), a bool, a 64-bit integer, a double, text (UTF-8) or bytes. An
// item can be replaced by one of any type; text and bytes must fit the place, whose size is fixed
// when the list is made: of bytes, the next multiple of 8 above their number; of text, that above
// the number of characters (as in Python), or as many bytes as its UTF-8 takes, whichever is more.
// NULs at the end of text and bytes get lost, as they do in Python.
//
// Ownership:  as SharedMemory: the creator owns the name.
// Threads:    nothing locks: who writes and reads the same item at once may see half of it. Keep a
//             Lock beside.
// Fork:       as SharedMemory.
// Peer death: an item may be half written.
// Errors:     std::out_of_range; std::length_error for text that does not fit; DamagedError
//             (a std::runtime_error) if the memory holds no list; those of SharedMemory. What is
//             written over in the layout is told; a value that is written over is another value.
// Limits:     an item never grows beyond the place that it was made with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <sidestep/shared_memory.hpp>

namespace sidestep::inline v0 {

// Python's bytes, as opposed to text.
struct ByteString {
    std::string bytes;
    bool operator==(const ByteString&) const = default;
};

using ShareableItem =
    std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, ByteString>;

class ShareableList {
  public:
    ShareableList() : ShareableList(std::span<const ShareableItem>()) {}
    ShareableList(std::initializer_list<ShareableItem> items)
        : ShareableList(std::span(items.begin(), items.size())) {}
    // With a name, or one that is made up.
    explicit ShareableList(std::span<const ShareableItem> items,
                           std::optional<std::string> name = {}, SharedMemoryOptions options = {});
    ShareableList(OpenOnly, std::string name, SharedMemoryOptions options = {});
    explicit ShareableList(detail::Blank blank) noexcept : memory_(blank) {}

    std::size_t size() const;
    // A negative index counts from the end.
    ShareableItem get(std::ptrdiff_t index) const;
    void set(std::ptrdiff_t index, const ShareableItem& item);
    std::vector<ShareableItem> items() const;

    std::size_t count(const ShareableItem& item) const;
    // Where the item is first. Throws std::invalid_argument if it is not in the list.
    std::size_t index(const ShareableItem& item) const;
    // The items' places, in the language of Python's struct module: "8sdq".
    std::string format() const;

    SharedMemory& memory() { return memory_; }
    const SharedMemory& memory() const { return memory_; }

    void save(OutputArchive& archive) const;
    void load(InputArchive& archive);

  private:
    struct Place;
    Place place(std::ptrdiff_t index) const;
    void check() const;
    SharedMemory memory_;
};
template <>
inline constexpr bool detail::needs_fds<ShareableList> = false;

// "ShareableList(["howdy", 100, None], psm_12ab34cd)"
std::string to_string(const ShareableList& list);

}  // namespace sidestep
