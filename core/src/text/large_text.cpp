#include "text/large_text.hpp"

#include <new>
#include <span>

#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr std::size_t kMuch = 1 << 20;
constexpr std::size_t kGrowth = 32;  // memory that is not touched is not used

bool grow(std::string& text, std::size_t capacity) {
    std::string larger;
    try {
        larger.reserve(capacity);
    } catch (const std::bad_alloc&) {
        return false;
    }
    sys::use_large_pages(std::as_writable_bytes(std::span(larger.data(), larger.capacity())));
    larger += text;  // not reserve() on `text`: these pages too shall be large
    text.swap(larger);
    return true;
}

}  // namespace

void append_large(std::string& text, std::string_view bytes) {
    std::size_t size = text.size();
    // With less address space than that, twice; or what += asks for.
    if (size >= kMuch && text.capacity() - size < bytes.size() &&
        !grow(text, size * kGrowth + bytes.size()))
        grow(text, size * 2 + bytes.size());
    text += bytes;
}

}  // namespace sidestep
