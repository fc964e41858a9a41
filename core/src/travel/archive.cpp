#include <sidestep/archive.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "sys/sys.hpp"
#include "text/demangle.hpp"

namespace sidestep::inline v0::detail {

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

std::uint32_t SentPointers::number(const std::shared_ptr<const void>& pointer,
                                   const std::type_info& type) {
    auto next = static_cast<std::uint32_t>(ids_.size() + 1);
    auto [known, is_new] = ids_.try_emplace({pointer.get(), type}, next);
    if (!is_new) return known->second;
    kept_.push_back(pointer);
    return next | cereal::detail::msb_32bit;
}

void ReceivedPointers::add(std::uint32_t id, std::shared_ptr<void> pointer,
                           const std::type_info& type, bool usable) {
    known_.insert_or_assign(id, Known{std::move(pointer), type, usable});
}

const std::shared_ptr<void>& ReceivedPointers::find(std::uint32_t id,
                                                    const std::type_info& type) const {
    auto found = known_.find(id);
    if (found == known_.end()) throw_unknown_pointer(id);
    const Known& known = found->second;
    if (known.type != type)
        throw SerializationError(fmt::format(
            "cannot deserialize: shared pointer {} is a {}, and is used as a {}; the data are "
            "damaged, or the two sides' types do not agree",
            id, demangle(known.type.name()), demangle(type.name())));
    if (!known.usable)
        throw SerializationError(fmt::format(
            "cannot deserialize: shared pointer {} is used before its {} is constructed; a type "
            "with load_and_construct cannot refer to itself",
            id, demangle(type.name())));
    return known.pointer;
}

void throw_unknown_pointer(std::uint32_t id) {
    throw SerializationError(fmt::format(
        "cannot deserialize: shared pointer {} was not sent before it is used; the data are "
        "damaged, or the two sides' types do not agree",
        id));
}

void throw_too_deep() {
    throw SerializationError(fmt::format(
        "cannot deserialize: values lie more than {} deep inside one another; send what is as deep "
        "as a flat container (or the data are damaged)",
        kDeepest));
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
