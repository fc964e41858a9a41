#include "server_link.hpp"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <new>
#include <random>
#include <system_error>

#include <sidestep/actor_lost.hpp>

#include "object_server.hpp"
#include "sys/make_thread.hpp"
#include "sys/per_process.hpp"

namespace sidestep::inline v0::detail {
namespace {

// What the calls of one thread are known by at the server.
std::uint64_t this_caller() {
    static std::atomic<std::uint64_t> last{0};
    thread_local const std::uint64_t number = last.fetch_add(1, std::memory_order_relaxed) + 1;
    return number;
}

std::uint64_t new_ticket() {
    std::random_device random;
    return (std::uint64_t(random()) << 32 | random()) | 1;  // 0 is none
}

}  // namespace

ServerLink::ServerLink(ServerName server, ObjectServer* local)
    : server_(std::move(server)), local_(local), session_(0), carries_fds_(true) {}
ServerLink::ServerLink(ServerName server, Connection connection)
    : server_(std::move(server)),
      local_(nullptr),
      session_(server_.is_actor() ? new_ticket() : 0),
      carries_fds_(connection.carries_fds()),
      connection_(std::move(connection)) {
    if (!server_.is_actor()) return;
    try {
        send_resume();
    } catch (const std::system_error&) {  // who reads finds its end
    }
}

ServerLink::~ServerLink() {
    if (!same_process()) {
        beats_.abandon();
        return;
    }
    report_unseen();
    // Copies in forked children keep the socket open, but not the connection.
    if (!connection_.closed()) ::shutdown(connection_.fd(), SHUT_RDWR);
    beating_->stop();
    if (beats_.is_this_thread())
        beats_.leave();
    else if (beats_.joinable())
        beats_.join();
}

void ServerLink::report_unseen() noexcept {
    std::map<std::uint64_t, PerObject> all;
    {
        std::lock_guard lock(mutex_);
        all.swap(objects_);
    }
    for (const auto& [object, state] : all) {
        if (!state.error) continue;
        try {
            std::rethrow_exception(state.error);
        } catch (const std::exception& error) {
            std::fprintf(stderr, "sidestep: a call of object %llu, whose result was dropped: %s\n",
                         static_cast<unsigned long long>(object), error.what());
        } catch (...) {  // it has no text
        }
    }
}

bool ServerLink::broken() const {
    std::lock_guard lock(mutex_);
    return broken_;
}
bool ServerLink::ended_by_server() const {
    std::lock_guard lock(mutex_);
    return broken_ && by_server_;
}
void ServerLink::set_process(std::shared_ptr<Process> process) {
    std::lock_guard lock(mutex_);
    process_ = std::move(process);
}

// --- calls -----------------------------------------------------------------------------------

TaskRef ServerLink::call(std::uint64_t object, const CallKind& kind, const WriteArguments& write,
                         const CallLimits& limits) {
    HeapBuffer body;
    OutgoingFds fds(carries_fds_);
    OutputArchive archive(body, &fds);
    FrameHead head{FrameKind::call, 0, this_caller(), object, kind.id};
    head.timeout = static_cast<std::uint64_t>(limits.timeout.count());
    if (server_.is_manager_server && !local_ && kind.method) {
        head.kind = FrameKind::invoke;
        head.task = {};
        archive(std::string(kind.method));
    }
    write(archive);
    return send(head, body, fds, &kind, limits);
}

std::size_t ServerLink::most_pending() const {
    return server_.max_pending != 0 ? std::min<std::size_t>(server_.max_pending, kMostPending)
                                    : kMostPending;
}
bool ServerLink::has_room() const {
    std::lock_guard lock(mutex_);
    return local_ || broken_ || calls_ < most_pending();
}

std::uint64_t ServerLink::pin(std::uint64_t object) {
    if (server_.is_actor()) return 0;
    const std::uint64_t ticket = new_ticket();
    if (local_ && !broken()) {
        local_->pin_here(object, ticket);
        return ticket;
    }
    TaskRef task = ask(FrameKind::pin, object, [&](OutputArchive& archive) { archive(ticket); });
    return ticket;
}

// Not a call, but it is answered.
TaskRef ServerLink::ask(FrameKind kind, std::uint64_t object, const WriteArguments& write,
                        std::uint64_t takes_back) {
    HeapBuffer body;
    OutputArchive archive(body);
    write(archive);
    TaskRef task =
        send({kind, 0, 0, object, {}}, body, OutgoingFds(false), nullptr, {}, takes_back);
    (void)task->wait({});
    (void)task->value();
    return task;
}

std::pair<std::uint64_t, bool> ServerLink::get(const std::string& name, const std::string& type) {
    if (local_ && !broken()) return {local_->get_here(name, type), true};
    TaskRef task = ask(FrameKind::get, 0, [&](OutputArchive& archive) { archive(name, type); });
    std::pair<std::uint64_t, bool> found;
    InputArchive archive(task->result());
    archive(found.first, found.second);
    return found;
}

ServerStats ServerLink::stats() {
    if (local_ && !broken()) return local_->stats();
    TaskRef task = ask(FrameKind::stats, 0, [](OutputArchive&) {});
    ServerStats stats;
    InputArchive archive(task->result());
    archive(stats);
    return stats;
}

void ServerLink::trace(const std::string& path) {
    const std::string whole = path.empty() ? path : std::filesystem::absolute(path).string();
    if (!local_ || broken()) {
        TaskRef task = ask(FrameKind::trace, 0, [&](OutputArchive& archive) { archive(whole); });
        return;
    }
    whole.empty() ? local_->stop_trace() : local_->start_trace(whole);
}

void ServerLink::claim(std::uint64_t object, std::uint64_t ticket) {
    if (broken() || server_.is_actor()) return;  // an actor's object stays
    if (local_)
        local_->claim_here(object, ticket);
    else
        send_alone(FrameKind::claim, object, ticket);
}

void ServerLink::release(std::uint64_t object) noexcept {
    try {
        if (broken() || server_.is_actor()) return;
        if (local_)
            local_->release_here(object);
        else
            send_alone(FrameKind::release, object, 0);
    } catch (...) {  // no memory: the server counts until this process ends
    }
}

void ServerLink::flush(std::uint64_t object) {
    WaitScope waits;
    (void)wait_until([&] { return broken_ || objects_[object].outstanding == 0; }, {});
    std::lock_guard lock(mutex_);
    std::exception_ptr error = std::exchange(objects_[object].error, nullptr);
    if (objects_[object].outstanding == 0) objects_.erase(object);
    if (error) std::rethrow_exception(error);
}

void ServerLink::note_unseen(std::uint64_t object, const std::exception_ptr& error) noexcept {
    try {
        std::lock_guard lock(mutex_);
        PerObject& state = objects_[object];
        if (!state.error) state.error = error;
    } catch (const std::bad_alloc&) {
    }
}

// --- answers ---------------------------------------------------------------------------------

bool ServerLink::wait_until(const std::function<bool()>& ready, const Deadline& deadline) {
    std::unique_lock lock(mutex_);
    for (bool late = false; !ready(); late = is_over(deadline)) {
        if (late || local_) return ready();
        send_before_waiting(lock, deadline);
        if (ready()) break;
        if (reading_ || broken_) {  // who found the end fails all calls
            if (deadline)
                changed_.wait_until(lock, *deadline);
            else
                changed_.wait(lock);
        } else if (down_) {
            reconnect(lock, deadline);
        } else {
            (void)read_one(lock, deadline);
        }
    }
    return true;
}

// True: something came.
bool ServerLink::read_one(std::unique_lock<std::mutex>& lock, const Deadline& deadline) {
    reading_ = true;
    lock.unlock();
    std::string end;         // empty: it goes on
    bool by_server = false;  // else it is this process that cannot read on
    try {
        std::optional<Timeout> left;
        if (deadline) left = Timeout(*deadline);
        if (connection_.poll(left)) {
            lock.lock();
            in_frame_ = true;
            lock.unlock();
            hand_out(connection_.recv<ObjectFrame>());
        }
    } catch (const EndOfStream& error) {
        end = text_of_end(error);
        by_server = all_said_ = true;
    } catch (const std::system_error& error) {
        end = text_of_end(error);
        const int code = error.code().value();  // EPIPE: what an encrypted one says
        by_server = code == ECONNRESET || code == EPIPE;
    } catch (const std::exception& error) {  // no memory, or what no server sends
        end = text_of_end(error);
    }
    const bool goes_on = by_server && server_.restarts;
    if (!end.empty() && !goes_on) end_session(std::move(end), by_server);
    lock.lock();
    if (goes_on) {
        down_ = true;
        // It took the connection, and has ended before it said how often it was started: the next
        // one that says so tells its death.
        if (!restarts_) restarts_ = 0;
    }
    const bool came = std::exchange(in_frame_, false);
    if (came) unanswered_beats_ = 0;
    reading_ = false;
    changed_.notify_all();
    return came;
}

void ServerLink::hand_out(ObjectFrame frame) {
    if (frame.head.kind == FrameKind::beat) return;
    if (frame.head.kind == FrameKind::waits) {
        std::lock_guard lock(mutex_);
        auto found = pending_.find(frame.head.request);
        if (found != pending_.end()) found->second.waits = true;
        return;
    }
    if (frame.head.kind == FrameKind::begins) return note_begun(frame.head);
    if (frame.head.kind == FrameKind::serves) return hear_state(frame);
    if (frame.head.kind != FrameKind::value && try_again(frame.head)) return;
    if (frame.head.kind == FrameKind::value) end_taken_back(frame);
    take(frame.head.request, [&](CallTask& call) {
        if (frame.head.kind == FrameKind::lost)
            call.lose(lost_with(call, frame));
        else if (frame.head.kind == FrameKind::overdue)
            call.lose(timed_out(call));
        else
            call.answer(std::move(frame.bytes), frame.head.kind);
    });
}

// Those of that caller up to that request.
void ServerLink::note_begun(const FrameHead& head) {
    std::lock_guard lock(mutex_);
    for (auto call = pending_.begin(); call != pending_.end() && call->first <= head.request;
         ++call)
        if (call->second.task->caller() == head.caller) call->second.told_begun = true;
}

// By who reads that it was taken back: the next that it reads may be the connection's end, and then
// all that is pending is sent again.
void ServerLink::end_taken_back(const ObjectFrame& answer) {
    std::uint64_t request = 0;
    {
        std::lock_guard lock(mutex_);
        auto found = pending_.find(answer.head.request);
        if (found != pending_.end()) request = found->second.takes_back;
    }
    if (request == 0) return;
    bool taken = false;
    InputArchive archive(answer.bytes);
    archive(taken);
    if (taken) take(request, [](CallTask& call) { call.end_cancelled(); });
}

// The call is counted as outstanding until what it threw, if nobody asks, is noted.
void ServerLink::take(std::uint64_t request, const std::function<void(CallTask&)>& finish) {
    Ref<CallTask> task;
    {
        std::lock_guard lock(mutex_);
        auto found = pending_.find(request);
        if (found == pending_.end()) return;
        task = std::move(found->second.task);
        if (found->second.is_call) --calls_;
        pending_.erase(found);
    }
    const std::uint64_t object = task->object();
    try {
        finish(*task);
    } catch (...) {  // no memory, or an answer that cannot be read: nobody else ends this call
        task->lose(std::current_exception());
    }
    task = {};
    std::lock_guard lock(mutex_);
    auto state = objects_.find(object);
    if (state == objects_.end()) return;
    PerObject& left = state->second;
    if (left.outstanding > 0) --left.outstanding;  // 0: the link broke meanwhile
    if (left.outstanding == 0 && !left.error) objects_.erase(state);
}

void ServerLink::look_for_restart() {
    try {
        read_in_background();
    } catch (const std::exception&) {  // no thread, or no memory: who waits looks for it
    }
}

void ServerLink::read_in_background() {
    if (local_) return;
    {
        std::lock_guard lock(mutex_);
        if (background_ || (pending_.empty() && callbacks_.empty() && !is_watched())) return;
        background_ = true;
    }
    // It ends when there is nothing more to do, and touches nothing once it has let go of the link.
    try {
        make_service_thread([self = shared_from_this()]() mutable {
            self->serve_callbacks();
            self.reset();
        }).detach();
    } catch (...) {  // the next one tries again
        std::lock_guard lock(mutex_);
        background_ = false;
        throw;
    }
}

void ServerLink::serve_callbacks() {
    auto nobody_waits = [this] { return pending_.empty() && !is_watched(); };
    for (;;) {
        Deadline look_again;
        {
            // In a second: when somebody drops the Future of a death, nobody is told.
            std::lock_guard lock(mutex_);
            if (pending_.empty())
                look_again = std::chrono::steady_clock::now() + std::chrono::seconds(1);
        }
        (void)wait_until([&] { return nobody_waits() || !callbacks_.empty(); }, look_again);
        Callbacks now;
        {
            std::lock_guard lock(mutex_);
            now.swap(callbacks_);
            if (now.empty() && (nobody_waits() || broken_)) {
                background_ = false;
                return;
            }
        }
        run_callbacks(std::move(now));
    }
}

void ServerLink::post(Callbacks callback) {
    {
        std::lock_guard lock(mutex_);
        callbacks_.splice(callbacks_.end(), callback);
        changed_.notify_all();
    }
    read_in_background();
}

}  // namespace sidestep::detail
