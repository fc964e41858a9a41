// How a link ends, what its calls are told then, and those that wait for a server's death.
#include <sys/socket.h>

#include <cerrno>
#include <new>
#include <set>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <variant>

#include <sidestep/actor_lost.hpp>

#include "server_link.hpp"

namespace sidestep::inline v0::detail {

bool failed_here(const Connection& connection, const std::exception& error) noexcept {
    if (!connection.writable()) return false;
    const auto* failure = dynamic_cast<const std::system_error*>(&error);
    const int code = failure ? failure->code().value() : 0;
    return code != EPIPE && code != ECONNRESET && code != ENOTCONN && code != ETIMEDOUT;
}

std::string text_of_end(const std::exception& error) noexcept {
    try {
        return error.what();
    } catch (const std::bad_alloc&) {
        return "out of memory";  // no longer than a string that has no memory of its own
    }
}

namespace {
// What has ended the process, if that is an exception.
std::string thrown_by(const Process& process) {
    try {
        process.rethrow();
    } catch (const std::exception& error) {
        return text_of_end(error);
    }
    return {};
}
}  // namespace

void ServerLink::end_session(std::string why, bool by_server) noexcept {
    {
        std::lock_guard lock(mutex_);
        if (end_.empty()) {
            end_ = std::move(why);
            by_server_ = by_server;
        }
    }
    break_off();
}

void ServerLink::break_off() noexcept {
    std::map<std::uint64_t, Pending> calls;
    bool watched = false;
    {
        std::lock_guard lock(mutex_);
        broken_ = true;
        watched = is_watched();
        calls.swap(pending_);
        calls_ = 0;
        if (!connection_.closed()) ::shutdown(connection_.fd(), SHUT_RDWR);
    }
    beating_->stop();
    fail_all(std::move(calls));
    try {
        if (watched) tell_watches(end_of_server());
    } catch (const std::bad_alloc&) {  // they learn that it is dead, and not how
        tell_watches({});
    }
    std::lock_guard lock(mutex_);
    std::erase_if(objects_, [](const auto& object) { return !object.second.error; });
    for (auto& [object, state] : objects_) state.outstanding = 0;
    changed_.notify_all();
}

void ServerLink::fail_all(std::map<std::uint64_t, Pending> calls) noexcept {
    std::set<std::uint64_t> callers;
    // What is cut off takes along, over TCP, what the server had said last.
    const bool any_may_have = !all_said_ && std::holds_alternative<TcpAddress>(server_.address);
    for (auto& [request, call] : calls) {
        try {
            // Of one thread's calls those that wait have begun, and the first other one may have,
            // and those of which the server said so.
            const bool is_first = !call.waits && callers.insert(call.task->caller()).second;
            const bool began = call.waits || call.told_begun || is_first || any_may_have;
            call.task->lose(lost(*call.task, began));
        } catch (...) {
            call.task->lose(std::current_exception());
        }
    }
}

std::exception_ptr ServerLink::lost(const CallTask& call, bool began) const {
    TaskError::Details details;
    details.pid = server_.pid;
    if (server_.is_manager_server) {
        {
            std::lock_guard lock(mutex_);
            details.note = end_;
        }
        return std::make_exception_ptr(Disconnected(
            std::move(details), call.object(), call.method(), began, to_string(server_.address)));
    }
    const Casualty end = end_of_server();
    details.pid = end.pid;
    if (end.known) details.exit_status = end.status();
    details.note = end.note;
    call.tell_attempts(details, true);
    return std::make_exception_ptr(
        ActorLost(std::move(details), call.object(),
                  server_.is_actor() ? call.short_method() : call.method(), began, server_.actor));
}

// Waited for once: its connection ends a moment before it does.
Casualty ServerLink::end_of_server() const {
    std::shared_ptr<Process> process;
    Casualty end;
    {
        std::lock_guard lock(mutex_);
        if (end_told_) return *end_told_;
        if (by_server_)
            process = process_;
        else
            end.note = end_;
        end.pid = pid_ != 0 ? pid_ : server_.pid;
    }
    if (process && process->join_for(std::chrono::seconds(2))) {
        end = Casualty::of(process->pid(), process->exit_status());
        if (end.code == 1) end.note = thrown_by(*process);
    }
    std::lock_guard lock(mutex_);
    if (!end_told_) end_told_ = end;
    return *end_told_;
}

// --- who waits for it --------------------------------------------------------------------------

TaskRef ServerLink::watch_death() {
    Ref<CallTask> task(new CallTask(shared_from_this(), 0, 0, nullptr));
    if (local_)
        throw std::logic_error(
            "the end of a process cannot be waited for in that process: ask for it in another one");
    auto watch = std::make_shared<DeathWatch>();
    watch->task = task.get();
    task->watch_by(watch);
    std::unique_lock lock(mutex_);
    if (broken_ || over_) {
        lock.unlock();
        tell_death(*task, end_of_server());
        return task;
    }
    (void)is_watched();  // those that are not any more make room
    watches_.push_back(watch);
    return task;
}

void ServerLink::tell_death(CallTask& watch, const Casualty& end) {
    HeapBuffer bytes;
    OutputArchive archive(bytes);
    archive(end);
    watch.answer({bytes.bytes().begin(), bytes.bytes().end()});
}

void ServerLink::tell_watches(const Casualty& end) noexcept {
    std::vector<std::weak_ptr<DeathWatch>> told;
    {
        std::lock_guard lock(mutex_);
        told.swap(watches_);
    }
    for (const auto& watch : told) {
        auto waiting = watch.lock();
        if (!waiting) continue;
        std::lock_guard lock(waiting->mutex);
        if (!waiting->task) continue;
        try {
            tell_death(*waiting->task, end);
        } catch (...) {  // no memory
            waiting->task->lose(std::current_exception());
        }
    }
}

// With the mutex held.
bool ServerLink::is_watched() {
    std::erase_if(watches_, [](const auto& watch) { return watch.expired(); });
    return !watches_.empty();
}

}  // namespace sidestep::detail
