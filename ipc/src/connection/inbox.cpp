#include "connection/inbox.hpp"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>
#include <system_error>

#include "connection/tls.hpp"
#include "sys/error.hpp"

namespace sidestep::inline v0::detail {

std::size_t Inbox::fill(const Source& source, std::size_t count) {
    SIDESTEP_ASSERT(count <= kWindow);
    while (end_ - begin_ < count) {
        make_room(count);
        std::size_t size = receive(source, {memory_.get() + end_, kWindow - end_});
        if (size == 0) break;
        end_ += size;
    }
    return end_ - begin_;
}

// Room for `count` bytes from begin_ on, and behind end_ for a read that is worth its system call.
void Inbox::make_room(std::size_t count) {
    if (memory_ == nullptr) memory_.reset(new std::byte[kWindow]);
    if (begin_ == end_) begin_ = end_ = 0;  // the part that the cache holds
    bool is_enough = kWindow - begin_ >= count && kWindow - end_ >= kWindow / 2;
    if (is_enough) return;
    std::memmove(memory_.get(), memory_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
}

namespace {
// For who has a limit on silence; others wait in the call that reads, and TLS sees to it itself.
void wait_for_bytes(const Source& source) {
    if (!source.silence || source.tls) return;
    if (!sys::wait_ready(source.fd, POLLIN, deadline_after(source.silence)))
        throw_errno(ETIMEDOUT, fmt::format("recv: the other side has been silent for {} ms",
                                           source.silence->count() / 1'000'000));
}
}  // namespace

std::size_t Inbox::receive(const Source& source, std::span<std::byte> buffer) {
    wait_for_bytes(source);
    switch (source.channel) {
        case Channel::file:
            return sys::read_some(source.fd, buffer);
        case Channel::socket:
            return sys::receive_some(source.fd, buffer, false);
        case Channel::tls:
            return source.tls->receive_some(source.fd, buffer, source.silence);
        case Channel::unix_socket:
            break;
    }
    try {
        sys::Received received = sys::receive_with_fds(source.fd, buffer);
        if (!received.fds.empty() || received.fds_lost) keep_fds(received);
        return received.size;
    } catch (const std::system_error& error) {
        // A Unix socket says this behind its last byte if the peer left messages unread.
        if (error.code().value() == ECONNRESET) return 0;
        throw;
    }
}

// The bytes are off the socket: what is thrown now would lose them. So descriptors for which there
// is no memory are closed, and whose message they came with is told.
void Inbox::keep_fds(sys::Received& received) noexcept {
    const std::uint64_t end = consumed_ + (end_ - begin_) + received.size;
    try {
        Batch& batch = batches_.emplace_back();
        batch.end = end;
        batch.lost = true;  // until all are kept
        if (received.fds_lost || fds_held() + received.fds.size() > kMostFds) return;
        batch.fds.reserve(received.fds.size());
        for (Fd& one : received.fds) batch.fds.emplace_back(one.release());
        batch.lost = false;
    } catch (const std::bad_alloc&) {
        if (batches_.empty() || batches_.back().end != end) lost_end_ = end;
    }
}

std::size_t Inbox::fds_held() const {
    std::size_t count = 0;
    for (const Batch& batch : batches_) count += batch.fds.size();
    return count;
}

bool Inbox::read_exactly(const Source& source, std::span<std::byte> buffer) {
    std::size_t here = std::min(buffer.size(), end_ - begin_);
    if (here > 0) std::memcpy(buffer.data(), memory_.get() + begin_, here);
    consume(here);
    buffer = buffer.subspan(here);
    while (!buffer.empty()) {
        wait_for_bytes(source);
        const bool wait_for_all = !source.silence;
        std::size_t size = source.channel == Channel::file ? sys::read_some(source.fd, buffer)
                           : source.channel == Channel::tls
                               ? source.tls->receive_some(source.fd, buffer, source.silence)
                               : sys::receive_some(source.fd, buffer, wait_for_all);
        if (size == 0) return false;
        consumed_ += size;
        buffer = buffer.subspan(size);
    }
    return true;
}

void Inbox::take_fds(IncomingFds& to) {
    if (lost_end_ != 0 && lost_end_ <= consumed_) {
        lost_end_ = 0;
        to.set_lost();
    }
    while (!batches_.empty() && batches_.front().end <= consumed_) {
        for (DupFd& fd : batches_.front().fds) to.add(std::move(fd));
        if (batches_.front().lost) to.set_lost();
        batches_.pop_front();
    }
}

void Inbox::save(OutputArchive& archive) const {
    std::span<const std::byte> ahead = bytes();
    const std::size_t batches = batches_.size() + (lost_end_ != 0);
    archive(static_cast<std::uint32_t>(ahead.size()), static_cast<std::uint32_t>(batches));
    archive.write(ahead.data(), ahead.size());
    if (lost_end_ != 0) archive(lost_end_ - consumed_, true, std::uint32_t(0));
    for (const Batch& batch : batches_) {
        archive(batch.end - consumed_, batch.lost, static_cast<std::uint32_t>(batch.fds.size()));
        for (const DupFd& fd : batch.fds) fd.save(archive);
    }
}

void Inbox::load(InputArchive& archive) {
    std::uint32_t size = 0, batches = 0;
    archive(size, batches);
    if (size > kWindow) throw_bad_length(size, kWindow);
    std::span<const std::byte> ahead = archive.view(size);
    make_room(kWindow);
    std::memcpy(memory_.get(), ahead.data(), size);
    end_ = size;
    while (batches-- > 0) {
        Batch batch = {};
        std::uint32_t fds = 0;
        archive(batch.end, batch.lost, fds);
        while (fds-- > 0) batch.fds.emplace_back().load(archive);
        batches_.push_back(std::move(batch));
    }
}

}  // namespace sidestep::detail
