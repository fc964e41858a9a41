#include "worker/line_mark.hpp"

#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "sys/error.hpp"
#include "sys/sys.hpp"
#include "text/columns.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::string_view kTask = "{task}";
constexpr std::string_view kNumber = "{number}";

// What ends like the begin of a mark waits for what comes behind it: no line does, since no UTF-8
// has this.
constexpr char kNotInText = '\xff';

constexpr std::size_t kMostOfName = 256;
using NameSize = std::uint16_t;

// A mark: the nonce, the number, the size of the name, the name.
constexpr std::size_t kNumberAt = sizeof(LineNonce);
constexpr std::size_t kSizeAt = kNumberAt + sizeof(std::uint64_t);
constexpr std::size_t kNameAt = kSizeAt + sizeof(NameSize);
static_assert(kNameAt + kMostOfName <= PIPE_BUF);

template <class Number>
Number read_number(const void* at) {
    Number number;
    std::memcpy(&number, at, sizeof number);
    return number;
}

// All of it or nothing, since it is a pipe.
void write_mark(int fd, std::string_view mark) noexcept {
    while (::write(fd, mark.data(), mark.size()) < 0) {
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return;  // nobody reads
        pollfd entry = {fd, POLLOUT, 0};
        (void)::poll(&entry, 1, -1);  // a task has made the pipe non-blocking
    }
}

}  // namespace

LineNonce make_line_nonce() {
    LineNonce nonce;
    sys::fill_random(std::as_writable_bytes(std::span(nonce)));
    nonce.front() = kNotInText;
    return nonce;
}

bool prefix_names_tasks(std::string_view prefix) {
    return prefix.find(kTask) != std::string_view::npos ||
           prefix.find(kNumber) != std::string_view::npos;
}

// In one pass: a name may have such words in it.
std::string task_prefix(std::string_view prefix, std::uint64_t number, std::string_view name) {
    std::string text;
    while (!prefix.empty()) {
        const std::size_t at = std::min(prefix.find('{'), prefix.size());
        text += prefix.substr(0, at);
        prefix.remove_prefix(at);
        if (prefix.starts_with(kTask)) {
            text += name;
            prefix.remove_prefix(kTask.size());
        } else if (prefix.starts_with(kNumber)) {
            text += std::to_string(number);
            prefix.remove_prefix(kNumber.size());
        } else if (!prefix.empty()) {
            text += prefix.front();
            prefix.remove_prefix(1);
        }
    }
    return text;
}

void append_task_name(OutputBuffer& arguments, std::string name) {
    std::size_t size = std::min(name.size(), kMostOfName);
    if (size < name.size())  // not in the middle of a character
        while (size > 0 && (static_cast<unsigned char>(name[size]) & 0xc0) == 0x80) --size;
    name.resize(size);
    name = printable(std::move(name));
    const auto its_size = static_cast<NameSize>(size);
    arguments.write(name.data(), size);
    arguments.write(&its_size, sizeof its_size);
}

std::string_view take_task_name(std::span<const std::byte>& arguments) {
    if (arguments.size() >= sizeof(NameSize)) {
        const std::size_t rest = arguments.size() - sizeof(NameSize);
        const std::size_t size = read_number<NameSize>(arguments.data() + rest);
        if (size <= std::min(rest, kMostOfName)) {
            const auto name = arguments.subspan(rest - size, size);
            arguments = arguments.first(rest - size);
            return {reinterpret_cast<const char*>(name.data()), name.size()};
        }
    }
    throw SerializationError(
        "the name of a task is not behind its arguments: a process wrote over them");
}

LineMark LineMark::find(std::string_view text, const LineNonce& nonce) {
    const std::string_view begin(nonce.data(), nonce.size());
    LineMark mark;
    mark.begin = text.find(begin);
    if (mark.begin == std::string_view::npos) {
        mark.begin = text.size() - std::min(text.size(), nonce.size() - 1);
        while (!begin.starts_with(text.substr(mark.begin))) ++mark.begin;
        return mark;
    }
    text.remove_prefix(mark.begin);
    if (text.size() < kNameAt) return mark;
    const std::size_t size = read_number<NameSize>(text.data() + kSizeAt);
    if (text.size() < kNameAt + size) return mark;
    mark.size = kNameAt + size;
    mark.number = read_number<std::uint64_t>(text.data() + kNumberAt);
    mark.name = text.substr(kNameAt, size);
    return mark;
}

LineMarker::LineMarker(const LineNonce& nonce, int out, int err)
    : nonce_(nonce), pipes_{Pipe(out, STDOUT_FILENO), Pipe(err, STDERR_FILENO)} {}

void LineMarker::begin_task(std::uint64_t number, std::string_view name) const noexcept {
    std::array<char, kNameAt + kMostOfName> mark;
    const auto size = static_cast<NameSize>(std::min(name.size(), kMostOfName));
    std::memcpy(mark.data(), nonce_.data(), nonce_.size());
    std::memcpy(mark.data() + kNumberAt, &number, sizeof number);
    std::memcpy(mark.data() + kSizeAt, &size, sizeof size);
    std::copy_n(name.begin(), size, mark.data() + kNameAt);
    for (const Pipe& pipe : pipes_)
        for (int fd : {pipe.own, pipe.standard})  // a number that a task closed may be another's
            if (pipe.identity.is(fd)) {
                write_mark(fd, {mark.data(), kNameAt + size});
                break;
            }
}

}  // namespace sidestep::detail
