// wait(): which of these things are ready?
//
//     auto ready = wait({connection, process.sentinel(), listener}, 5s);
//     if (!ready.empty() && ready[0] == connection) use(connection.recv_bytes());
//
// Ownership:  none: what is waited for stays open for as long as the call lasts, by the caller.
// Threads:    thread-safe; waiting changes nothing.
// Peer death: the end of a stream is readiness: the next recv says EndOfStream.
// Errors:     std::system_error (EBADF) for a number that is no open descriptor;
//             std::invalid_argument for a negative one.
#pragma once

#include <concepts>
#include <initializer_list>
#include <optional>
#include <span>
#include <vector>

#include <sidestep/timeout.hpp>

namespace sidestep::inline v0 {

// Anything with a descriptor that becomes readable: a number (a process's sentinel, a pidfd, a
// socket), or an object with fd(): Connection, Listener, Queue, Popen's pipes.
// It refers to the object, and does not keep it open.
class Waitable {
  public:
    Waitable(int fd) : fd_(fd) {}  // implicit, so that wait({a, sentinel}) reads as it should
    template <class T>
    requires requires(const T& object) {
        { object.fd() } -> std::convertible_to<int>;
    }
    Waitable(const T& object) : fd_(object.fd()) {
        if constexpr (requires { object.buffered(); }) buffered_ = object.buffered();
    }

    int fd() const { return fd_; }
    // Ready whatever the descriptor says: the object has read ahead.
    bool buffered() const { return buffered_; }
    // The same thing?
    bool operator==(const Waitable& other) const { return fd_ == other.fd_; }

  private:
    int fd_;
    bool buffered_ = false;
};

// The things that are ready (readable, or at their end), in the order given; waits until there is
// one. Without a timeout it waits as long as it takes; after the timeout it returns none. A
// timeout of zero or less looks once.
std::vector<Waitable> wait(std::span<const Waitable> things, std::optional<Timeout> timeout = {});
inline std::vector<Waitable> wait(std::initializer_list<Waitable> things,
                                  std::optional<Timeout> timeout = {}) {
    return wait(std::span<const Waitable>(things.begin(), things.size()), timeout);
}

}  // namespace sidestep
