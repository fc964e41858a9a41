// How a session at a ManagerServer stays alive, and how its client finds out that the server is
// gone though the connection does not end: a machine without power, a network that was cut, a
// server that was stopped.
//
// Silence is counted in beats that were not answered, not by the clock: a process that was stopped
// itself for an hour finds the answers waiting when it goes on.
#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <new>

#include "server_link.hpp"
#include "sys/sys_socket.hpp"

namespace sidestep::inline v0::detail {
namespace {
constexpr unsigned kBeats = 4;  // within lost_after
}

void ServerLink::Beating::stop() {
    std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
}

void ServerLink::Beating::ask() {
    std::lock_guard lock(mutex_);
    asked_ = true;
    changed_.notify_all();
}

ServerLink::Beating::Next ServerLink::Beating::pause_until(
    std::chrono::steady_clock::time_point time) {
    std::unique_lock lock(mutex_);
    (void)changed_.wait_until(lock, time, [&] { return ended_ || asked_; });
    if (ended_) return Next::end;
    return std::exchange(asked_, false) ? Next::send : Next::beat;
}

void ServerLink::start_beating() {
    if (!server_.is_manager_server || Timeout(server_.lost_after).is_forever()) return;
    const auto interval = std::max<std::chrono::nanoseconds>(server_.lost_after / kBeats,
                                                             std::chrono::milliseconds(1));
    // The link is held for a beat only. A call that nobody waits for may be the last that holds it:
    // then it ends in this thread, when the answer is read.
    auto body = [link = weak_from_this(), beating = beating_, interval] {
        for (auto due = std::chrono::steady_clock::now() + interval;;) {
            const Beating::Next next = beating->pause_until(due);
            if (next == Beating::Next::end) return;
            auto self = link.lock();
            if (!self) return;
            if (next == Beating::Next::send) self->send_as_asked();
            const auto now = std::chrono::steady_clock::now();
            if (now < due) continue;
            due = now + interval;
            try {
                self->beat();
            } catch (const std::bad_alloc&) {  // the next one may find memory
            }
        }
    };
    beats_.start("sidestep-beat", ServiceThread::Runs::library_code, std::move(body));
    queues_ = true;
}

void ServerLink::beat() {
    std::unique_lock lock(mutex_);
    // What came, if nobody waits for it.
    while (!reading_ && !broken_ && read_one(lock, std::chrono::steady_clock::now())) {
    }
    if (broken_) return;
    // Who is in the middle of a frame waits for its next byte, and no longer than for any answer.
    if (!in_frame_ && unanswered_beats_ >= kBeats) {
        lock.unlock();
        return end_session(fmt::format(
            "nothing was heard of it for {} ms",
            std::chrono::duration_cast<std::chrono::milliseconds>(server_.lost_after).count()));
    }
    lock.unlock();
    const bool sent = send_beat();
    lock.lock();
    if (sent) ++unanswered_beats_;
}

// False: somebody else is sending, and finds out by itself if nothing is taken.
bool ServerLink::send_beat() {
    std::unique_lock order(sending_, std::try_to_lock);
    if (!order) return false;
    try {
        if (sys::wait_ready(connection_.fd(), POLLOUT, std::chrono::steady_clock::now()))
            connection_.send(ObjectFrame{{FrameKind::beat, 0, 0, 0, {}}, {}, {}, {}, {}});
    } catch (const std::exception& error) {
        if (failed_here(connection_, error)) return false;
        ::shutdown(connection_.fd(), SHUT_RDWR);  // who reads finds the end
    }
    return true;
}

}  // namespace sidestep::detail
