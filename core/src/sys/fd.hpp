// Owned file descriptors and memory mappings.
//
// Ownership: move-only; the destructor closes or unmaps. close() is never retried: on Linux the fd
//            is gone even when close() says EINTR (close(2)).
// Fork:      everything here is O_CLOEXEC at birth; a forked child owns copies.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

namespace sidestep::inline v0 {

class Fd {
  public:
    Fd() = default;
    explicit Fd(int fd) noexcept : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        if (this != &other) reset(std::exchange(other.fd_, -1));
        return *this;
    }
    ~Fd() { reset(); }

    int get() const noexcept { return fd_; }
    explicit operator bool() const noexcept { return fd_ >= 0; }
    int release() noexcept { return std::exchange(fd_, -1); }
    void reset(int fd = -1) noexcept;

    // A second descriptor for the same open file, O_CLOEXEC and numbered 3 or more.
    Fd duplicate() const { return duplicate_of(fd_); }
    static Fd duplicate_of(int fd);

  private:
    int fd_ = -1;
};

class Mapping {
  public:
    Mapping() = default;
    Mapping(void* address, std::size_t size) noexcept : address_(address), size_(size) {}
    Mapping(Mapping&& other) noexcept
        : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    Mapping& operator=(Mapping&& other) noexcept {
        if (this != &other) {
            reset();
            address_ = std::exchange(other.address_, nullptr);
            size_ = std::exchange(other.size_, 0);
        }
        return *this;
    }
    ~Mapping() { reset(); }

    std::byte* data() const noexcept { return static_cast<std::byte*>(address_); }
    std::size_t size() const noexcept { return size_; }
    std::span<std::byte> bytes() const noexcept { return {data(), size_}; }
    explicit operator bool() const noexcept { return address_ != nullptr; }
    void reset() noexcept;

  private:
    void* address_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace sidestep
