// How a client goes on when the actor that it calls has died and is started again: it connects to
// the same address, and sends again what was not answered. The server knows which of these calls
// had begun (actor_board.hpp), and answers those with how its predecessor ended.
#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <system_error>

#include <sidestep/actor_lost.hpp>
#include <sidestep/listener.hpp>

#include "server_link.hpp"

namespace sidestep::inline v0::detail {

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
    std::uint64_t last = 0;
    {
        std::lock_guard lock(mutex_);
        last = last_request_;
    }
    HeapBuffer body;
    OutputArchive archive(body);
    archive(session_, last);
    connection_.send(ObjectFrame{{FrameKind::resume, 0, 0, 0, {}}, body.bytes(), {}, {}, {}});
}

// With `lock` held, and nobody reading.
void ServerLink::reconnect(std::unique_lock<std::mutex>& lock, const Deadline& deadline) {
    reading_ = true;
    lock.unlock();
    try {
        if (auto fresh = connect_again(deadline)) send_again(std::move(*fresh));
    } catch (const std::exception& error) {  // nobody listens any more
        end_session(error.what());
    }
    lock.lock();
    reading_ = false;
    changed_.notify_all();
}

// Nothing: it took too long, or that process has died, too. Throws if nobody listens.
std::optional<Connection> ServerLink::connect_again(const Deadline& deadline) {
    // Who only looks (poll) gets a little further each time.
    constexpr std::chrono::milliseconds kLeast{20};
    ClientOptions options{.authkey = server_.authkey, .timeout = std::nullopt};
    if (deadline) {
        const auto left = *deadline - std::chrono::steady_clock::now();
        options.timeout = Timeout(std::max<std::chrono::nanoseconds>(left, kLeast));
    }
    try {
        return Client(server_.address, options);
    } catch (const AuthenticationError&) {  // it died, or is late
        return std::nullopt;
    } catch (const std::system_error& error) {
        const int code = error.code().value();
        if (code == ETIMEDOUT || code == ECONNRESET || code == EPIPE || code == EAGAIN)
            return std::nullopt;
        throw;
    }
}

void ServerLink::send_again(Connection fresh) {
    std::lock_guard order(sending_);
    std::vector<std::shared_ptr<SentFrame>> frames;
    {
        std::lock_guard lock(mutex_);
        if (broken_) return;  // it was closed meanwhile
        std::swap(connection_, fresh);
        for (const auto& [request, call] : pending_)
            if (call.frame) frames.push_back(call.frame);
        down_ = false;
    }
    try {
        send_resume();
        for (const auto& frame : frames)
            connection_.send(ObjectFrame{frame->head, frame->body, frame->fds, {}, {}});
    } catch (const std::system_error&) {  // who reads finds that it has died again
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
    try {
        connection_.send(ObjectFrame{frame->head, frame->body, frame->fds, {}, {}});
    } catch (const std::system_error&) {  // who reads finds the end
        ::shutdown(connection_.fd(), SHUT_RDWR);
    }
    return true;
}

// What came of an actor, besides answers.
void ServerLink::hear_state(const ObjectFrame& frame) {
    ActorState state;
    InputArchive archive(frame.bytes);
    archive(state);
    std::vector<std::uint64_t> watches;
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
        for (const auto& [request, call] : pending_)
            if (call.watches) watches.push_back(request);
    }
    for (std::uint64_t request : watches)
        take(request, [&](CallTask& call) { tell_death(call, state.last); });
}

void ServerLink::tell_death(CallTask& watch, const Casualty& end) {
    HeapBuffer bytes;
    OutputArchive archive(bytes);
    archive(end);
    watch.answer({bytes.bytes().begin(), bytes.bytes().end()});
}

std::exception_ptr ServerLink::lost_with(const CallTask& call, const ObjectFrame& frame) const {
    Casualty end;
    InputArchive archive(frame.bytes);
    archive(end);
    TaskError::Details details;
    details.pid = end.pid;
    if (end.known) details.exit_status = end.status();
    details.note = end.note;
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
    std::string where = server_.is_actor()
                            ? fmt::format("the actor {} (process {})", server_.actor, details.pid)
                            : fmt::format("object {} of the server {}", call.object(), details.pid);
    return std::make_exception_ptr(CallTimeout(std::move(details), call.short_method(), where));
}

TaskRef ServerLink::watch_death() {
    Ref<CallTask> task(new CallTask(shared_from_this(), 0, 0, nullptr));
    if (local_)
        throw std::logic_error(
            "the end of a process cannot be waited for in that process: ask for it in another one");
    std::unique_lock lock(mutex_);
    if (broken_ || over_) {
        lock.unlock();
        tell_death(*task, end_of_server());
        return task;
    }
    pending_.emplace(++last_request_, Pending{task, false, true, nullptr});
    ++objects_[0].outstanding;
    return task;
}

bool ServerLink::cancel(std::uint64_t request) {
    TaskRef task = ask(FrameKind::cancel, 0, [&](OutputArchive& archive) { archive(request); });
    bool cancelled = false;
    InputArchive archive(task->result());
    archive(cancelled);
    return cancelled;
}

}  // namespace sidestep::detail
