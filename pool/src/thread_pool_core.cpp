#include "thread_pool_core.hpp"

#include <fmt/format.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <new>
#include <stdexcept>
#include <utility>

#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/detail/pool_task.hpp>

#include "place.hpp"
#include "spare_errors.hpp"
#include "sys/error.hpp"
#include "sys/make_thread.hpp"
#include "sys/sys.hpp"
#include "task/record_memory.hpp"

namespace sidestep::inline v0 {
namespace detail {
namespace {

thread_local ThreadPoolCore* pool_of_this_thread = nullptr;

}  // namespace

ThreadPoolCore::ThreadPoolCore(ThreadPoolOptions options)
    : state_(std::move(options)),
      queue_(state_),
      team_(state_, queue_,
            [this](PoolThread& thread) {
                pool_of_this_thread = this;
                runner_.run(thread);
            }),
      clock_(state_.mutex),
      late_(state_, team_),
      end_(state_, queue_, team_, late_),
      insight_(state_, queue_, late_),
      runner_({state_, team_, clock_, end_, insight_}) {}

ThreadPoolCore* ThreadPoolCore::of_this_thread() noexcept { return pool_of_this_thread; }

bool retry_here(const Retry& retry, unsigned attempts, const std::exception_ptr& error) {
    return pool_of_this_thread->runner().retry(retry, attempts, error);
}

// (A forked copy is not destroyed.)
ThreadPoolCore::~ThreadPoolCore() { pools_by_number().remove(state_.number); }

void ThreadPoolCore::check_open() {
    state_.owner.require_here();
    Lock lock(state_.mutex);
    state_.life.require_accepting();
}

void ThreadPoolCore::begin_map() {
    state_.owner.require_here();
    Lock lock(state_.mutex);
    state_.life.begin_map();
}

void ThreadPoolCore::end_map() {
    if (!owned_here()) return;
    Lock lock(state_.mutex);
    (void)state_.life.end_map();
    state_.quiet.notify_all();
}

std::shared_ptr<void> hold_open(const std::shared_ptr<ThreadPoolCore>& core) {
    struct OpenMap {
        explicit OpenMap(const std::shared_ptr<ThreadPoolCore>& held) : core(held), here(*held) {
            core->begin_map();
        }
        ~OpenMap() { core->end_map(); }
        const std::shared_ptr<ThreadPoolCore> core;
        const InPool here;
    };
    return std::make_shared<OpenMap>(core);
}

// --- the end -----------------------------------------------------------------------------------

void ThreadPoolCore::run_in_background(std::function<void()> work) {
    state_.owner.require_here();
    background_.start("sidestep-map", std::move(work));
}

void ThreadPoolCore::close() {
    state_.owner.require_here();
    Lock lock(state_.mutex);
    state_.life.close();
    state_.quiet.notify_all();  // submit() may wait for room
}

void ThreadPoolCore::cancel_waiting() {
    state_.owner.require_here();
    end_.cancel_waiting();
}

void ThreadPoolCore::interrupt() {
    state_.owner.require_here();
    {
        Lock lock(state_.mutex);
        (void)state_.life.interrupt();
    }
    cancel_waiting();
}

void ThreadPoolCore::terminate() {
    state_.owner.require_here();
    {
        Lock lock(state_.mutex);
        (void)state_.life.terminate();
        state_.quiet.notify_all();
    }
    cancel_waiting();
    ask_to_stop();
}

void ThreadPoolCore::end_with_process() noexcept { terminate(); }

void ThreadPoolCore::ask_to_stop() {
    state_.owner.require_here();
    team_.ask_to_stop();
}

std::shared_ptr<void> ThreadPoolCore::take_place(const std::shared_ptr<ThreadPoolCore>& core) {
    core->state_.owner.require_here();
    if (core->state_.options.max_pending == 0 || core->in_own_thread()) return core;
    return Place<ThreadPoolCore>::take(core);
}

bool ThreadPoolCore::take_place() {
    Lock lock(state_.mutex);
    if (is_full() && state_.life.running()) return false;
    ++places_taken_;  // of a pool that is closed, too: submit() says why
    return true;
}

void ThreadPoolCore::give_place_back() {
    if (!owned_here()) return;
    Lock lock(state_.mutex);
    --places_taken_;
    state_.quiet.notify_all();
}

void ThreadPoolCore::await_room() {
    while (is_full() && !Place<ThreadPoolCore>::is_here(*this)) {
        state_.quiet.wait(state_.mutex);
        state_.life.require_accepting();
    }
}

bool ThreadPoolCore::in_own_thread() {
    if (of_this_thread() == this || end_.is_this_thread() || late_.is_this_thread() ||
        background_.is_this_thread() || InPool::is_here(*this))
        return true;
    return clock_.is_this_thread();
}

void ThreadPoolCore::require_joinable() {
    state_.owner.require_here();
    {
        Lock lock(state_.mutex);
        if (state_.life.running())
            throw std::logic_error("join() before close() or terminate(): it would wait for ever");
    }
    if (in_own_thread())
        throw std::logic_error(
            "join() in a thread of the pool would wait for itself: call it in another thread, or "
            "let the pool end here, which does not wait");
}

void ThreadPoolCore::join() {
    require_joinable();
    await_end();
    joiner_.stop();
}

bool ThreadPoolCore::join_until(const sys::Deadline& deadline) {
    require_joinable();
    return joiner_.wait([this] { await_end(); }, deadline);
}

void ThreadPoolCore::await_end() {
    std::lock_guard only_one(joining_);
    background_.join();
    for (bool sealed = false; !sealed;) {
        late_.end_vain_waits();
        Lock lock(state_.mutex);
        while (!late_.wait_in_vain() &&
               (state_.jobs.unfinished > 0 || state_.life.waits_for_maps()))
            state_.quiet.wait(state_.mutex);
        if (late_.wait_in_vain()) continue;
        state_.life.seal();
        team_.wake_all();
        sealed = true;
    }
    team_.join();
    late_.stop();
    clock_.end();
    insight_.end();
    JobMemory::trim();
}

}  // namespace detail
}  // namespace sidestep
