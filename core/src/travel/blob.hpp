// Blobs: bytes of any size, with any number of descriptors, over a control socket (a pair of
// SOCK_SEQPACKET sockets). Small ones travel inside the message, larger ones in a sealed memfd
// beside it; descriptors follow, 64 a message.
//
// Peer death: sending to one that is gone does nothing; receiving from it returns nothing.
// Errors:     std::system_error; std::runtime_error for what is no blob.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <sidestep/archive.hpp>

#include "sys/fd.hpp"

namespace sidestep::inline v0 {

// Where a blob is written: on the heap while it is small, then into a memfd.
class BlobBuffer final : public detail::OutputBuffer {
  public:
    static constexpr std::size_t kInline = std::size_t(32) << 10;

    std::span<const std::byte> bytes() const { return {begin(), size()}; }
    // The memfd if there is one, cut to size and sealed; the buffer is empty after.
    Fd take_file();
    bool in_file() const { return bool(file_); }

  private:
    void grow(std::size_t more) override;
    std::vector<std::byte> heap_;
    Fd file_;
    Mapping mapping_;
};

// Collects the descriptors of a blob. They are borrowed until it is sent; one that is put twice
// travels once.
class BlobFds final : public detail::FdSink {
  public:
    std::uint64_t put(int fd) override;

    std::vector<int> fds;
    std::vector<std::uint32_t> uses;  // how often each was put
};

void send_blob(int socket, BlobBuffer& buffer, const BlobFds& fds);

// A received blob, and the source of its descriptors: those that nobody takes are closed with it.
class Blob final : public detail::FdSource {
  public:
    // Blocks. Nothing: the sender is gone.
    static std::optional<Blob> receive(int socket);

    std::span<const std::byte> bytes() const;
    // For one that is kept: lets go of the room that its bytes do not need.
    void shrink();
    int get(std::uint64_t number) override;

  private:
    std::vector<std::byte> heap_;
    std::size_t offset_ = 0;  // of the bytes in heap_
    Mapping mapping_;
    std::size_t size_ = 0;
    std::vector<Fd> fds_;
    std::vector<std::uint32_t> uses_;
};

}  // namespace sidestep
