// What a message is, beside its frame: the type of its value, and its descriptors.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <sidestep/connection.hpp>

#include "sys/sys.hpp"
#include "sys/sys_socket.hpp"
#include "text/demangle.hpp"

namespace sidestep::inline v0 {
namespace detail {

std::uint64_t OutgoingFds::put(int fd) {
    if (!allowed_)
        throw SerializationError(
            "this connection cannot carry descriptors, connections or handles: it is not a Unix "
            "socket; use Pipe(), or a Listener on a UnixAddress");
    auto same = std::find(fds_.begin(), fds_.end(), fd);
    if (same != fds_.end()) return static_cast<std::uint64_t>(same - fds_.begin());
    if (fds_.size() == sys::kMaxFdsPerSend)
        throw SerializationError(fmt::format(
            "more than {} descriptors in one message; send several messages", sys::kMaxFdsPerSend));
    fds_.push_back(fd);
    return fds_.size() - 1;
}

namespace {

std::string expected_text(const MessageType& expected) {
    return fmt::format("recv<{}>: ", demangle(expected.name));
}

// Python's pickles, of each protocol since 2, begin with their protocol and end with a dot.
bool is_pickle(std::span<const std::byte> message) {
    auto at = [&](std::size_t i) { return std::to_integer<unsigned>(message[i]); };
    return message.size() >= 3 && at(0) == 0x80 && at(1) >= 2 && at(1) <= 5 &&
           at(message.size() - 1) == '.';
}

}  // namespace

MessageType::MessageType(const std::type_info& type) noexcept
    : name(type.name()), tag(0xcbf29ce484222325u) {
    for (const char* c = name; *c != '\0'; ++c)  // FNV-1a
        tag = (tag ^ static_cast<unsigned char>(*c)) * 0x100000001b3u;
}

std::span<const std::byte> open_message(std::span<const std::byte> message,
                                        const MessageType& expected) {
    std::uint32_t magic = 0;
    std::uint64_t tag = 0;
    if (message.size() >= MessageType::kSize) {
        std::memcpy(&magic, message.data(), sizeof magic);
        std::memcpy(&tag, message.data() + sizeof magic, sizeof tag);
    }
    if (magic == MessageType::kMagic && tag == expected.tag)
        return message.subspan(MessageType::kSize);
    if (magic == MessageType::kMagic)
        throw SerializationError(expected_text(expected) +
                                 "a value of another type came; receive the type that is sent");
    if (is_pickle(message))
        throw SerializationError(
            expected_text(expected) +
            "a Python pickle came; with Python at the other end, exchange bytes: send_bytes() and "
            "recv_bytes() on both sides");
    throw SerializationError(
        expected_text(expected) +
        fmt::format("{} bytes without a type came; what send_bytes() sends is for recv_bytes()",
                    message.size()));
}

// Many small objects lie in one segment: it is made once for all that name it.
std::shared_ptr<void> IncomingFds::get_lasting(std::uint64_t number, Make make) {
    std::shared_ptr<void>& made = lasting_[{number, make}];
    if (made == nullptr) made = make(get(number));
    return made;
}

int IncomingFds::get(std::uint64_t number) {
    if (++copies_ > kMostCopies)
        throw SerializationError(fmt::format(
            "cannot deserialize: the message names its descriptors more than {} times; send "
            "several messages",
            kMostCopies));
    bool full = false;
    if (number < fds_.size() && fds_[static_cast<std::size_t>(number)]) {
        // A duplicate: the same number may come again.
        int copy = sys::duplicate_fd(fds_[static_cast<std::size_t>(number)].fd());
        if (copy >= 0) return copy;
        full = errno == EMFILE;
    }
    if (lost_ || full)
        throw SerializationError(
            "descriptors of this message were lost: this process has no room for more open "
            "descriptors (ulimit -n), or no memory, or the sender attached more than a message may "
            "have");
    throw SerializationError(fmt::format(
        "cannot deserialize: descriptor {} is not among the {} that came with the message", number,
        fds_.size()));
}

}  // namespace detail

}  // namespace sidestep
