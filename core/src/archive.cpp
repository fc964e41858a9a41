#include <sidestep/archive.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "sys.hpp"

namespace sidestep::detail {

std::uint64_t new_identity() noexcept {
    static std::atomic<std::uint64_t> last{0};
    return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

void HeapBuffer::grow(std::size_t more) {
    std::size_t used = size();
    memory_.resize(std::max({used + more, 2 * memory_.size(), std::size_t(256)}));
    set_window(memory_.data(), used, memory_.size());
}

void expect_writes(void* begin, std::size_t size) noexcept {
    sys::use_large_pages({static_cast<std::byte*>(begin), size});
}

void throw_short_read(std::size_t wanted, std::size_t remaining) {
    throw SerializationError(fmt::format(
        "cannot deserialize: {} bytes wanted, {} left; the type's save and load (or the two sides' "
        "types) do not agree",
        wanted, remaining));
}

void throw_bad_length(std::uint64_t length, std::size_t remaining) {
    throw SerializationError(fmt::format(
        "cannot deserialize: a length of {} elements with {} bytes left; the data are damaged, or "
        "the type's save and load do not agree",
        length, remaining));
}

void throw_bad_bool(unsigned value) {
    throw SerializationError(fmt::format(
        "cannot deserialize: a bool of value {}; the type's save and load do not agree", value));
}

void throw_left_over(std::size_t remaining) {
    throw SerializationError(fmt::format(
        "cannot deserialize: {} bytes left over; the type's save and load (or the two sides' "
        "types) do not agree",
        remaining));
}

}  // namespace sidestep::detail
