// DupFd: a file descriptor that travels inside messages and arguments.
//
//     connection.send(DupFd(open("data", O_RDONLY)));     // the receiver gets its own descriptor
//     DupFd file = other.recv<DupFd>();
//
// Ownership: owns its descriptor; move-only. Sending one leaves it open here: the receiver's is a
//            duplicate, of the same open file (offset and flags are shared, see dup(2)).
// Threads:   a value, as an int; sharing one object between threads is the caller's to order.
// Fork:      O_CLOEXEC; a forked child owns a copy.
// Errors:    SerializationError where descriptors cannot travel (TCP, a plain pipe, a Queue).
// Limits:    253 different descriptors in one message of a Connection.
#pragma once

#include <utility>

#include <sidestep/detail/travel.hpp>

namespace sidestep::inline v0 {

class DupFd {
  public:
    DupFd() = default;
    // Takes over an open descriptor.
    explicit DupFd(int fd) noexcept : fd_(fd) {}
    DupFd(DupFd&& other) noexcept : fd_(other.detach()) {}
    DupFd& operator=(DupFd&& other) noexcept {
        if (this != &other) reset(other.detach());
        return *this;
    }
    ~DupFd() { reset(); }

    // Duplicates a descriptor that stays the caller's. Throws std::system_error.
    static DupFd duplicate_of(int fd);

    int fd() const noexcept { return fd_; }
    explicit operator bool() const noexcept { return fd_ >= 0; }
    // Gives the descriptor to the caller, who closes it.
    [[nodiscard]] int detach() noexcept { return std::exchange(fd_, -1); }
    void reset(int fd = -1) noexcept;

    void save(OutputArchive& archive) const;
    void load(InputArchive& archive);

  private:
    int fd_ = -1;
};

}  // namespace sidestep
