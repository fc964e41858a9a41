// A client, as a server of objects knows it.
//
// Threads: fields say whose they are.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>

#include <sidestep/connection.hpp>

#include "object_server.hpp"
#include "sys/fd.hpp"

namespace sidestep::inline v0::detail {

struct ObjectServer::Client {
    Client(std::uint64_t its_number, Connection stream)
        : number(its_number), connection(std::move(stream)) {}

    void send(FrameKind kind, std::uint64_t request, std::span<const std::byte> body) noexcept {
        std::lock_guard lock(sending);
        if (gone) return;
        try {
            connection.send(ObjectFrame{{kind, request, 0, 0, {}}, body, {}, {}, {}});
        } catch (...) {  // it is dead, or cut off
            cut();
        }
    }
    void cut() noexcept { ::shutdown(connection.fd(), SHUT_RDWR); }
    // All has been sent: it reads that, and then the end.
    void finish() noexcept {
        std::unique_lock lock(sending, std::try_to_lock);
        ::shutdown(connection.fd(), lock ? SHUT_WR : SHUT_RDWR);  // not read: it is not waited for
    }

    // Constant after construction.
    const std::uint64_t number;
    Fd process;  // a pidfd; none: not of this machine, or not to be seen
    int pid = 0;
    // Of an actor's client, since it has said so: what it is in all its connections, and the last
    // request that it sent in one before, to this process.
    std::uint64_t session = 0, sent_before = 0;

    std::mutex sending;             // held while a frame is written
    Connection connection;          // read by its own thread
    std::atomic<bool> gone{false};  // it is not to be answered any more

    std::mutex queueing;
    // Guarded by queueing: by caller, those that have calls.
    std::map<std::uint64_t, Strand> strands;
    std::size_t unanswered = 0;  // calls that wait, run, or wait within
    std::map<std::uint64_t, std::shared_ptr<CallState>> calls;  // the same, by their requests
};

}  // namespace sidestep::detail
