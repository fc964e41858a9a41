// How a client goes on when the actor that it calls has died and is started again: it connects to
// the same address, and sends again what was not answered. The server knows which of these calls
// had begun (actor_board.hpp), and answers those with how its predecessor ended.
#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <new>
#include <stdexcept>
#include <system_error>

#include <sidestep/actor_lost.hpp>
#include <sidestep/listener.hpp>

#include "server_link.hpp"
#include "sys/error.hpp"

namespace sidestep::inline v0::detail {

namespace {

constexpr std::chrono::milliseconds kPause{20};      // until what was lacking is asked for again
constexpr std::chrono::milliseconds kShortPause{2};  // until another handshake

}  // namespace

std::shared_ptr<ServerLink::SentFrame> ServerLink::keep_frame(const HeapBuffer& body,
                                                              const OutgoingFds& fds,
                                                              const CallLimits& limits) const {
    if (!server_.restarts && limits.attempts <= 1) return nullptr;
    auto kept = std::make_shared<SentFrame>();
    kept->body.assign(body.bytes().begin(), body.bytes().end());
    for (int fd : fds.fds()) {
        kept->owned.push_back(DupFd::duplicate_of(fd));
        kept->fds.push_back(kept->owned.back().fd());
    }
    return kept;
}

void ServerLink::send_resume() {
    HeapBuffer body;
    OutputArchive archive(body);
    archive(session_);
    connection_.send(ObjectFrame{{FrameKind::resume, 0, 0, 0, {}}, body.bytes(), {}, {}, {}});
}

// With `lock` held, and nobody reading.
void ServerLink::reconnect(std::unique_lock<std::mutex>& lock, const Deadline& deadline) {
    const auto now = std::chrono::steady_clock::now();
    if (now < no_reconnect_before_) {
        changed_.wait_until(lock, *sooner(deadline, no_reconnect_before_));
        return;
    }
    reading_ = true;
    lock.unlock();
    std::string lacking;  // empty: nothing
    bool failed = false;
    try {
        auto fresh = connect_to_actor(server_, deadline, failures_);
        failed = !fresh;
        if (fresh) send_again(std::move(*fresh));
    } catch (const std::bad_alloc&) {
        lacking = "out of memory";  // see text_of_end()
    } catch (const std::system_error& error) {
        if (is_shortage(error.code().value()))
            lacking = text_of_end(error);
        else
            end_session(text_of_end(error));
    } catch (const std::exception& error) {  // nobody listens any more
        end_session(text_of_end(error));
    }
    if (!lacking.empty()) fail_calls(lacking);
    lock.lock();
    if (failed || !lacking.empty())
        no_reconnect_before_ = std::chrono::steady_clock::now() + (failed ? kShortPause : kPause);
    reading_ = false;
    changed_.notify_all();
}

// This process lacks something that it needs to connect: that is the end of its calls, and not of
// the link. Who waits for the actor's death goes on to.
void ServerLink::fail_calls(const std::string& why) noexcept {
    for (;;) {
        std::uint64_t request = 0;
        bool began = false;
        TaskError::Details details;
        {
            std::lock_guard lock(mutex_);
            if (pending_.empty()) return;
            auto call = pending_.begin();
            request = call->first;
            began = call->second.sent;
            details.pid = pid_ != 0 ? pid_ : server_.pid;
        }
        take(request, [&](CallTask& call) {
            details.note = why;
            call.lose(std::make_exception_ptr(ActorLost(
                std::move(details), call.object(), call.short_method(), began, server_.actor)));
        });
    }
}

std::optional<Connection> connect_to_actor(const ServerName& server, const Deadline& deadline,
                                           HandshakeFailures& failures) {
    // Who only looks (poll) gets a little further each time.
    constexpr std::chrono::milliseconds kLeast{20};
    ClientOptions options{.authkey = server.authkey, .timeout = std::nullopt};
    if (deadline) {
        const auto left = *deadline - std::chrono::steady_clock::now();
        options.timeout = Timeout(std::max<std::chrono::nanoseconds>(left, kLeast));
    }
    try {
        Connection connection = Client(server.address, options);
        failures.clear();
        return connection;
    } catch (const AuthenticationError&) {  // it died, or is late
        if (!deadline) failures.add();
        return std::nullopt;
    } catch (const std::system_error& error) {
        const int code = error.code().value();
        if (code == ETIMEDOUT || code == EAGAIN) return std::nullopt;
        if (code != ECONNRESET && code != EPIPE) throw;
        if (!deadline) failures.add();
        return std::nullopt;
    }
}

void ServerLink::send_again(Connection fresh) {
    std::lock_guard order(sending_);
    std::vector<std::shared_ptr<SentFrame>> frames;
    {
        std::lock_guard lock(mutex_);
        if (broken_) return;  // it was closed meanwhile
        frames.reserve(pending_.size());
        std::swap(connection_, fresh);
        for (auto& [request, call] : pending_) {
            if (!call.frame) continue;
            call.sent = true;
            frames.push_back(call.frame);
        }
        down_ = false;
    }
    try {
        send_resume();
    } catch (const std::exception&) {  // who reads finds that it has died again
        ::shutdown(connection_.fd(), SHUT_RDWR);
        return;
    }
    for (const auto& frame : frames) send_kept(*frame);
}

// With `sending_` held.
void ServerLink::send_kept(const SentFrame& frame) noexcept {
    try {
        connection_.send(ObjectFrame{frame.head, frame.body, frame.fds, {}, {}});
    } catch (const std::exception& error) {
        if (failed_here(connection_, error))
            take(frame.head.request, [](CallTask& call) { call.lose(std::current_exception()); });
        else  // who reads finds the end
            ::shutdown(connection_.fd(), SHUT_RDWR);
    }
}

// True: a call that failed, and may run again, is sent as a new request.
bool ServerLink::try_again(const FrameHead& failed) {
    std::lock_guard order(sending_);
    std::shared_ptr<SentFrame> frame;
    {
        std::lock_guard lock(mutex_);
        auto found = pending_.find(failed.request);
        if (found == pending_.end() || !found->second.frame) return false;
        if (!found->second.task->take_attempt(failed.kind == FrameKind::lost)) return false;
        auto call = pending_.extract(found);  // so that it needs no memory
        frame = call.mapped().frame;
        frame->head.request = ++last_request_;
        call.mapped().task->set_request(frame->head.request);
        call.mapped().waits = false;
        call.key() = frame->head.request;
        pending_.insert(std::move(call));
    }
    // It is the reader that sends here, and need not fear that the server waits until it reads: a
    // server's reader does not wait for that (ObjectServer::tell).
    send_kept(*frame);
    return true;
}

// What came of an actor, besides answers.
void ServerLink::hear_state(const ObjectFrame& frame) {
    ActorState state;
    InputArchive archive(frame.bytes);
    archive(state);
    {
        std::lock_guard lock(mutex_);
        pid_ = state.pid;
        const auto before = std::exchange(restarts_, state.restarts);
        if (state.over) {
            over_ = true;
            end_told_ = state.last;
        } else if (!before || *before == state.restarts) {
            return;  // nobody has died since it was first heard of
        }
    }
    tell_watches(state.last);
}

std::exception_ptr ServerLink::lost_with(const CallTask& call, const ObjectFrame& frame) const {
    Casualty end;
    InputArchive archive(frame.bytes);
    archive(end);
    TaskError::Details details;
    details.pid = end.pid;
    if (end.known) details.exit_status = end.status();
    details.note = end.note;
    call.tell_attempts(details, true);
    return std::make_exception_ptr(ActorLost(std::move(details), call.object(), call.short_method(),
                                             end.began, server_.actor));
}

std::exception_ptr ServerLink::timed_out(const CallTask& call) const {
    TaskError::Details details;
    {
        std::lock_guard lock(mutex_);
        details.pid = pid_ != 0 ? pid_ : server_.pid;
    }
    details.limit = static_cast<std::uint64_t>(call.timeout().count());
    call.tell_attempts(details, false);
    std::string where = server_.is_actor()
                            ? fmt::format("the actor {} (process {})", server_.actor, details.pid)
                            : fmt::format("object {} of the server {}", call.object(), details.pid);
    return std::make_exception_ptr(CallTimeout(std::move(details), call.short_method(), where));
}

bool ServerLink::cancel(std::uint64_t request) {
    TaskRef task = ask(
        FrameKind::cancel, 0, [&](OutputArchive& archive) { archive(request); }, request);
    bool cancelled = false;
    InputArchive archive(task->result());
    archive(cancelled);
    return cancelled;
}

}  // namespace sidestep::detail
