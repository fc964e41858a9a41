// How a client sends: each call at once, but where many go out together.
//
// The calls of a session that come one upon the other, or while another thread is sending, are
// queued, and go out in one write: by the thread that is sending, by the one that queues too many
// bytes, by whoever waits for an answer next; if none of them does, by the thread that beats, which
// is woken for it. So a call is held back by nothing but a thread that is on its way. Where there
// is no such thread, which a Manager's and an actor's clients have to do without (they may fork),
// each call is a write of its own.
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <system_error>
#include <utility>

#include "object_server.hpp"
#include "server_link.hpp"
#include "sys/sys_socket.hpp"

namespace sidestep::inline v0::detail {
namespace {

// Calls that follow each other so closely are many: the next one is soon there.
constexpr std::chrono::microseconds kSoon{20};
constexpr unsigned kMany = 3;
// Of a call that is queued, and of all that are.
constexpr std::size_t kSmall = 2048, kMostQueued = 8192;
// So often a thread sends what others have queued, before it goes on with its own work.
constexpr int kMostRounds = 16;

}  // namespace

TaskRef ServerLink::send(const FrameHead& head, const HeapBuffer& body, const OutgoingFds& fds,
                         const CallKind* kind, const CallLimits& limits, std::uint64_t takes_back) {
    Ref<CallTask> task(new CallTask(shared_from_this(), head.object, head.caller, kind));
    task->set_limits(limits);
    if (local_ && !broken()) {
        local_->call_here(head, body.bytes(), fds.fds(), *task);
        return task;
    }
    // Answers are read by who waits for them: not to read any would hold up the server. A question,
    // as that to take a call back, does not wait for the calls that it may be about.
    if (kind) (void)wait_until([this] { return broken_ || calls_ < most_pending(); }, {});
    Pending call{.task = task,
                 .frame = keep_frame(body, fds, limits),
                 .is_call = kind != nullptr,
                 .takes_back = takes_back};
    const bool is_kept = call.frame != nullptr;
    FrameHead numbered = head;
    if (queues_ && fds.fds().empty() && body.size() <= kSmall &&
        try_queue(numbered, body.bytes(), call))
        return task;
    std::unique_lock order(sending_);
    {
        std::unique_lock lock(mutex_);
        if (broken_) {
            lock.unlock();
            order.unlock();
            task->lose(lost(*task, false));
            return task;
        }
        call.sent = !down_;
        add_pending(numbered, std::move(call));
        if (down_) {  // it is sent when there is another connection, for which somebody looks
            lock.unlock();
            order.unlock();
            look_for_restart();
            return task;
        }
    }
    try {
        const Turn turn(*this);
        connection_.send(ObjectFrame{numbered, body.bytes(), fds.fds(), {}, {}});
    } catch (const std::system_error& error) {
        if (failed_here(connection_, error)) {
            withdraw(numbered.request);
            throw;
        }
        // Who waits reads what was answered before, then its end.
        ::shutdown(connection_.fd(), SHUT_RDWR);
        order.unlock();
        if (is_kept) look_for_restart();
    } catch (...) {
        withdraw(numbered.request);
        throw;
    }
    return task;
}

// With the mutex held. If that throws, nothing was added.
void ServerLink::add_pending(FrameHead& head, Pending call) {
    const bool is_call = call.is_call;
    head.request = ++last_request_;
    call.task->set_request(head.request);
    if (call.frame) call.frame->head = head;
    PerObject& calls_of_it = objects_[head.object];  // first: then what throws has left nothing
    pending_.emplace(head.request, std::move(call));
    if (is_call) ++calls_;
    ++calls_of_it.outstanding;
}

void ServerLink::withdraw(std::uint64_t request) {
    take(request, [](CallTask& call) { call.answer({}); });
}

void ServerLink::send_alone(FrameKind kind, std::uint64_t object, std::uint64_t ticket) {
    std::span body = std::as_bytes(std::span(&ticket, 1));
    std::lock_guard order(sending_);
    try {
        const Turn turn(*this);  // calls of that object go before it
        connection_.send(ObjectFrame{{kind, 0, 0, object, {}}, body, {}, {}, {}});
    } catch (const std::system_error& error) {
        if (failed_here(connection_, error)) throw;
        ::shutdown(connection_.fd(), SHUT_RDWR);
    }
}

// --- calls that go out together ----------------------------------------------------------------

// False: it is to be sent at once.
bool ServerLink::try_queue(FrameHead& head, std::span<const std::byte> body, Pending& call) {
    std::unique_lock lock(mutex_);
    if (broken_) return false;
    const auto now = std::chrono::steady_clock::now();
    const bool follows = pace_.caller == head.caller && now - pace_.last < kSoon;
    pace_ = {head.caller, now, follows ? pace_.calls + 1 : 1};
    if ((!sends_ && pace_.calls <= kMany) || queued_.size_bytes() >= kMostQueued) return false;
    if (queued_requests_.size() == queued_requests_.capacity())
        queued_requests_.reserve(std::max<std::size_t>(64, 2 * queued_requests_.size()));
    FrameHead numbered = head;
    call.sent = true;  // by when anybody looks, it may be
    add_pending(numbered, call);
    try {
        queued_.add(ObjectFrame{numbered, body, {}, {}, {}});
    } catch (...) {
        pending_.erase(numbered.request);
        if (call.is_call) --calls_;
        --objects_[numbered.object].outstanding;
        throw;
    }
    queued_requests_.push_back(numbered.request);
    const bool asks = !sends_ && !std::exchange(sending_asked_, true);
    lock.unlock();
    if (asks) beating_->ask();
    return true;
}

// With `sending_` held: what this thread has queued goes before what it is about to send.
ServerLink::Turn::Turn(ServerLink& link) noexcept : link_(link) {
    if (link.queues_) (void)link.send_batch(Next::own);
}
ServerLink::Turn::~Turn() { link_.send_queued(); }

// With `sending_` held: until nothing is queued.
void ServerLink::send_queued() noexcept {
    if (!queues_) return;
    for (int round = 0; round < kMostRounds; ++round)
        if (!send_batch(Next::nothing)) return;
    std::lock_guard lock(mutex_);
    sends_ = false;
    if (!queued_.empty() && !std::exchange(sending_asked_, true)) beating_->ask();
}

// With `sending_` held. next: what this thread does if nothing is queued. False: nothing was.
bool ServerLink::send_batch(Next next) noexcept {
    {
        std::lock_guard lock(mutex_);
        sends_ = !queued_.empty() || next == Next::own;
        if (queued_.empty()) {
            // To send has taken its time, and the next call follows closely all the same.
            if (next == Next::nothing) pace_.last = std::chrono::steady_clock::now();
            return false;
        }
        queued_.swap(batch_);
        queued_requests_.swap(batch_requests_);
    }
    try {
        batch_.send_by(connection_);
    } catch (const std::exception& error) {
        if (failed_here(connection_, error))
            for (std::uint64_t request : batch_requests_)
                take(request, [](CallTask& call) { call.lose(std::current_exception()); });
        else  // who reads finds the end
            ::shutdown(connection_.fd(), SHUT_RDWR);
    }
    batch_.clear();
    batch_requests_.clear();
    return true;
}

// With the mutex held, by who waits next. Not where that could take longer than he wants to wait.
void ServerLink::send_before_waiting(std::unique_lock<std::mutex>& lock, const Deadline& deadline) {
    pace_.calls = 0;
    if (queued_.empty() || sends_ || broken_) return;
    lock.unlock();
    bool sent = false;
    {
        std::unique_lock order(sending_, std::defer_lock);
        try {
            if (!deadline)
                order.lock();
            else if (order.try_lock() &&
                     !sys::wait_ready(connection_.fd(), POLLOUT, std::chrono::steady_clock::now()))
                order.unlock();
        } catch (const std::exception&) {  // no memory in the kernel
            order.unlock();
        }
        if (order) {
            send_queued();
            sent = true;
        }
    }
    lock.lock();
    if (!sent && !queued_.empty() && !std::exchange(sending_asked_, true)) beating_->ask();
}

// What nobody waits for is sent all the same.
void ServerLink::send_at_exit() noexcept {
    std::unique_lock lock(mutex_);
    send_before_waiting(lock, std::chrono::steady_clock::now());
}

// By the thread that beats, when it was asked to.
void ServerLink::send_as_asked() noexcept {
    {
        std::lock_guard lock(mutex_);
        sending_asked_ = false;
    }
    std::lock_guard order(sending_);
    send_queued();
}

}  // namespace sidestep::detail
