#include <sidestep/detail/hosted.hpp>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include <sidestep/server_stats.hpp>

#include "object_server.hpp"

namespace sidestep::inline v0::detail {

void CallCounts::add(bool failed, bool overdue, std::uint64_t run_ns,
                     std::uint64_t wait_ns) noexcept {
    constexpr auto relaxed = std::memory_order_relaxed;
    calls_.fetch_add(1, relaxed);
    if (failed) failed_.fetch_add(1, relaxed);
    if (overdue) overdue_.fetch_add(1, relaxed);
    run_ns_.fetch_add(run_ns, relaxed);
    wait_ns_.fetch_add(wait_ns, relaxed);
    std::uint64_t longest = longest_ns_.load(relaxed);
    while (run_ns > longest && !longest_ns_.compare_exchange_weak(longest, run_ns, relaxed)) {
    }
}

void CallCounts::tell(ObjectStats& stats) const noexcept {
    constexpr auto relaxed = std::memory_order_relaxed;
    stats.calls = calls_.load(relaxed);
    stats.failed = failed_.load(relaxed);
    stats.overdue = overdue_.load(relaxed);
    stats.run = std::chrono::nanoseconds(run_ns_.load(relaxed));
    stats.longest_run = std::chrono::nanoseconds(longest_ns_.load(relaxed));
    stats.wait = std::chrono::nanoseconds(wait_ns_.load(relaxed));
}

// With the mutex held, as in all that follow.
bool Hosted::may_enter(Entry entry) const {
    const auto me = std::this_thread::get_id();
    if (depth_ > 0) return inside_ == me;
    const bool reads = std::find(readers_.begin(), readers_.end(), me) != readers_.end();
    if (entry == Entry::beside_readers && most_ > 1)
        return reads || (alone_waiting_ == 0 && readers_.size() < most_);
    if (reads)
        throw std::logic_error(
            "a call that only reads an object (read) has made one that may change it: it would "
            "wait for itself. Make the outer one by call or submit");
    return readers_.empty();
}

void Hosted::note_entry(Entry entry) {
    const auto me = std::this_thread::get_id();
    if (entry == Entry::beside_readers && most_ > 1 && depth_ == 0) return readers_.push_back(me);
    inside_ = me;
    ++depth_;
}

bool Hosted::try_enter(Entry entry) {
    std::lock_guard lock(mutex_);
    if (!may_enter(entry)) return false;
    note_entry(entry);
    return true;
}

void Hosted::enter(Entry entry) {
    std::unique_lock lock(mutex_);
    const bool alone = entry == Entry::alone;
    if (!may_enter(entry)) {
        ++waiting_;
        if (alone) ++alone_waiting_;
        changed_.wait(lock, [&] { return may_enter(entry); });
        if (alone) --alone_waiting_;
        --waiting_;
    }
    note_entry(entry);
}

bool Hosted::take_change() {
    std::lock_guard lock(mutex_);
    return depth_ == 1 && std::exchange(unsettled_, false);
}

void Hosted::enter_with(std::unique_lock<std::mutex>& lock, unsigned depth) {
    const auto me = std::this_thread::get_id();
    ++waiting_;
    changed_.wait(lock, [&] { return depth_ == 0 && readers_.empty(); });
    --waiting_;
    inside_ = me;
    depth_ += depth;
}

void Hosted::leave() {
    ObjectServer::let_out_what_is_printed();
    std::lock_guard lock(mutex_);
    if (depth_ > 0) {
        --depth_;
    } else {
        readers_.erase(std::find(readers_.begin(), readers_.end(), std::this_thread::get_id()));
    }
    if (depth_ == 0 && waiting_ > 0) changed_.notify_all();
}

bool Hosted::wait(const std::function<bool()>& ready, const Deadline& deadline,
                  const std::function<bool()>& give_up) {
    std::unique_lock lock(mutex_);
    const unsigned depth = depth_;
    if (depth == 0)
        throw std::logic_error("a call that only reads an object (read) cannot wait in it");
    bool late = false;
    for (;;) {
        // This thread is inside: what ready() looks at is its own.
        if (ready()) return true;
        if (late || give_up()) return false;
        depth_ = 0;
        changed_.notify_all();
        ++waiting_;
        if (deadline)
            late = changed_.wait_until(lock, *deadline) == std::cv_status::timeout;
        else
            changed_.wait(lock);
        --waiting_;
        enter_with(lock, depth);
    }
}

void Hosted::outside(const std::function<void()>& work) {
    std::unique_lock lock(mutex_);
    const unsigned depth = std::exchange(depth_, 0);
    if (depth == 0)
        throw std::logic_error("a call that only reads an object (read) cannot wait in it");
    changed_.notify_all();
    lock.unlock();
    work();
    lock.lock();
    enter_with(lock, depth);
}

void Hosted::wake() {
    std::lock_guard lock(mutex_);
    changed_.notify_all();
}

Hosted& hosted_here(std::uint64_t type) {
    Hosted* object = ObjectServer::current().object.get();
    if (!object || object->type() != type)
        throw std::logic_error("the object is not of the type that the call is for");
    return *object;
}

Caller caller_here() { return ObjectServer::current().caller; }

std::function<void()> waker_here() {
    return [object = ObjectServer::current().object] { object->wake(); };
}

std::uint64_t host_here(std::shared_ptr<Hosted> object) {
    ObjectServer::let_out_what_is_printed();  // the constructor's
    ObjectServer::CurrentCall& call = ObjectServer::current();
    return call.server.host(*call.client, std::move(object));
}

}  // namespace sidestep::detail
