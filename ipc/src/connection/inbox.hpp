// The receiving half of a connection: bytes and descriptors that were read ahead.
//
// Small messages cost one system call, not one for the header and one for the body; that is a
// third of a round trip.
//
// Which message do descriptors belong to? A sender attaches them to the first byte of a frame with
// one sendmsg(2). The kernel ends a recvmsg(2) with the piece that carried them (unix(7)), so they
// belong to the frame that holds the last byte received: to the first frame that ends there or
// behind. That place is kept with them, as an offset in the stream.
//
// Threads: the receiving thread's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <sidestep/connection.hpp>
#include <sidestep/timeout.hpp>

#include "sys/sys_socket.hpp"

namespace sidestep::inline v0::detail {

class TlsStream;

// Where the bytes come from.
struct Source {
    int fd;
    Channel channel;
    TlsStream* tls;                  // of Channel::tls
    std::optional<Timeout> silence;  // nothing comes for so long: ETIMEDOUT
};

class Inbox {
  public:
    // What is read ahead at most, and the largest piece that fill() makes contiguous.
    static constexpr std::size_t kWindow = std::size_t(32) << 10;

    // The bytes that are here. Invalidated by fill().
    std::span<const std::byte> bytes() const { return {memory_.get() + begin_, end_ - begin_}; }

    // Reads until at least `count` bytes are here; returns how many are: fewer only at the end of
    // the stream.
    std::size_t fill(const Source& source, std::size_t count);
    // Takes `count` of the bytes that are here.
    void consume(std::size_t count) {
        begin_ += count;
        consumed_ += count;
    }
    // How many bytes were taken since the beginning.
    std::uint64_t consumed() const { return consumed_; }
    // Takes exactly as many bytes as the buffer has room for, and reads none beyond. False: the
    // stream ended before.
    bool read_exactly(const Source& source, std::span<std::byte> buffer);
    // Moves the descriptors of everything consumed so far.
    void take_fds(IncomingFds& to);

    // For a connection that is sent elsewhere: what was read ahead goes along.
    void save(OutputArchive& archive) const;
    void load(InputArchive& archive);

  private:
    struct Batch {
        std::uint64_t end = 0;  // where in the stream the bytes ended that came with them
        std::vector<DupFd> fds;
        bool lost = false;
    };
    // An honest peer's: those of the message that is being read, and of the one whose first bytes
    // came with its last ones. A malicious one attaches some to every byte.
    static constexpr std::size_t kMostFds = 2 * sys::kMaxFdsPerSend;
    void keep_fds(sys::Received& received) noexcept;
    std::size_t fds_held() const;
    std::size_t receive(const Source& source, std::span<std::byte> buffer);
    void make_room(std::size_t count);

    std::unique_ptr<std::byte[]> memory_;  // kWindow bytes, from the first use on
    std::size_t begin_ = 0, end_ = 0;
    std::uint64_t consumed_ = 0;  // offset of begin_ in the stream
    std::deque<Batch> batches_;   // rarely any
    // Where bytes ended whose descriptors are lost, and for which there is no batch; 0: none.
    std::uint64_t lost_end_ = 0;
};

}  // namespace sidestep::detail
