// A client, as a server of objects knows it.
//
// Threads: fields say whose they are.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include <sidestep/connection.hpp>

#include "connection/frame_batch.hpp"
#include "insist.hpp"
#include "object_server.hpp"
#include "sys/fd.hpp"
#include "sys/parent_fd.hpp"
#include "sys/sys_socket.hpp"

namespace sidestep::inline v0::detail {

// Which file a descriptor is of, as long as that is open; nothing: it is of none.
using FileId = std::optional<std::pair<dev_t, ino_t>>;
inline FileId file_of(int fd) noexcept {
    struct stat status;
    if (::fstat(fd, &status) != 0) return std::nullopt;
    return std::pair(status.st_dev, status.st_ino);
}

struct ObjectServer::Client {
    // Without a connection: the server's own process.
    Client(ObjectServer& its_server, std::uint64_t its_number)
        : server(its_server), number(its_number) {}
    // Before anything else.
    void take(Connection stream) noexcept {
        connection = std::move(stream);
        socket = file_of(connection.fd());
    }

    // The next frame that it sends.
    ObjectFrame next_frame(std::optional<std::size_t> max_bytes) {
        for (;;) {
            try {
                return connection.recv<ObjectFrame>(max_bytes);
            } catch (const std::bad_alloc&) {
                if (!connection.readable()) throw;  // in the middle of a large one
            }
            pause_for_memory();
        }
    }
    void send(FrameKind kind, std::uint64_t request, std::span<const std::byte> body) noexcept {
        while (!try_send(kind, request, body)) pause_for_memory();
    }
    // False: there is no memory to write that, and nothing was sent.
    bool try_send(FrameKind kind, std::uint64_t request, std::span<const std::byte> body) noexcept {
        std::lock_guard lock(sending);
        return send_locked({kind, request, 0, 0, {}}, body);
    }
    // It goes with what is sent next: by who calls this, soon, or by the clock.
    bool hold(const FrameHead& head, std::span<const std::byte> body) noexcept {
        std::lock_guard lock(sending);
        if (gone || body.size() > kSmall || held.size_bytes() >= kMostHeld)
            return send_locked(head, body);
        try {
            held.add(ObjectFrame{head, body, {}, {}, {}});
        } catch (const std::exception&) {  // no memory
            return false;
        }
        return true;
    }
    void flush() noexcept {
        for (;; pause_for_memory()) {
            std::lock_guard lock(sending);
            if (send_held()) return;
        }
    }
    // Without waiting until it reads; false: that would be needed. For small frames.
    bool send_now(FrameKind kind, std::uint64_t request, std::span<const std::byte> body) noexcept {
        if (body.size() > kSmall) return false;
        std::unique_lock lock(sending, std::try_to_lock);
        if (!lock || !held.empty()) return false;
        try {
            // What the kernel still takes then is more than that.
            const auto now = std::chrono::steady_clock::now();
            if (!sys::wait_ready(connection.fd(), POLLOUT, now)) return false;
        } catch (const std::exception&) {  // no memory in the kernel
            return false;
        }
        return send_locked({kind, request, 0, 0, {}}, body);
    }
    void cut() noexcept {
        if (has_socket()) ::shutdown(connection.fd(), SHUT_RDWR);
    }
    // False: a call has closed it, or put another file in its place.
    bool has_socket() const noexcept { return file_of(connection.fd()) == socket; }
    // With `sending` held. As try_send().
    bool send_locked(const FrameHead& head, std::span<const std::byte> body) noexcept {
        if (gone) return true;
        const ObjectFrame frame{head, body, {}, {}, {}};
        if (!held.empty() && body.size() <= kSmall) {
            try {
                held.add(frame);
            } catch (const std::exception&) {  // no memory
                return false;
            }
            while (!send_held()) pause_for_memory();
            return true;
        }
        if (!send_held()) return false;
        return send_all([&] { connection.send(frame); });
    }
    // With `sending` held.
    bool send_held() noexcept {
        if (held.empty()) return true;
        if (!gone && !send_all([&] { held.send_by(connection); })) return false;
        held.clear();
        ++holdings;
        return true;
    }
    template <class Send>
    bool send_all(const Send& send) noexcept {
        if (!has_socket()) {
            server.lose_descriptors();
            return true;
        }
        try {
            send();
        } catch (const std::bad_alloc&) {
            if (connection.writable()) return false;
            cut();
        } catch (...) {  // it is dead, or cut off; or the kernel has no memory, and it is told so
            cut();
        }
        return true;
    }
    // All has been sent: it reads that, and then the end.
    void finish() noexcept {
        std::unique_lock lock(sending, std::try_to_lock);
        if (!has_socket()) return;
        ::shutdown(connection.fd(), lock ? SHUT_WR : SHUT_RDWR);  // not read: it is not waited for
    }

    // Constant once it has its connection.
    ObjectServer& server;
    const std::uint64_t number;
    FileId socket;  // what the connection's descriptor is
    Fd process;     // a pidfd; none: not of this machine, or not to be seen
    int pid = 0;
    // Of an actor's client, since it has said so: what it is in all its connections.
    std::uint64_t session = 0;
    std::shared_ptr<SessionCalls> session_calls;

    static constexpr std::size_t kSmall = 4096, kMostHeld = 12 << 10;
    std::mutex sending;  // held while frames are written
    // Guarded by sending: answers that go together; how often some have gone; and that number when
    // the clock last saw some.
    FrameBatch held;
    std::uint64_t holdings = 1, holdings_seen = 0;
    Connection connection;  // read by its own thread
    // No forked child has it: it would hide this process's end.
    std::optional<ParentFdMark> hidden;
    std::atomic<bool> gone{false};  // it is not to be answered any more

    // What is to be told by a thread that must not wait (ObjectServer::tell).
    struct Owed {
        FrameKind kind;
        std::uint64_t request;
        std::vector<std::byte> body;
    };
    std::mutex owing;
    // Guarded by owing.
    std::deque<Owed> owed;
    bool owed_has_thread = false;

    std::mutex queueing;
    // Guarded by queueing: by caller, those that have calls.
    std::map<std::uint64_t, Strand> strands;
    std::size_t unanswered = 0;  // calls that wait, run, or wait within
    std::map<std::uint64_t, std::shared_ptr<CallState>> calls;  // the same, by their requests
    // Which of the runs that its reader has done itself is going on; 0: it reads. And the one that
    // the last look at readers has seen.
    std::uint64_t run = 0, last_run = 0, run_seen = 0;

    // Its reader's, until it does: the strand that it is to run itself.
    std::optional<std::uint64_t> runs_next;
};

}  // namespace sidestep::detail
