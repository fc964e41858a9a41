// What waits until a worker can have it: in which order, for which worker, and from when on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include <sidestep/detail/pool_task.hpp>

#include "dispatch/task_list.hpp"
#include "sys/sys.hpp"
#include "task/token_gate.hpp"

namespace sidestep::inline v0::detail {

// Tasks wait in one list, but for those with a key: they have one for each worker. A task that
// pauses before its next attempt is in no list until its pause is over. One that needs tokens waits
// at their gate: it counts as one of its list whenever it may have them, and has them when it
// leaves. What is put here has none.
//
// Threads: the caller serialises (a pool, by its mutex).
class Backlog {
  public:
    // Which list: the one of a worker's tasks with a key, by its index; or that of all others.
    using ListNumber = std::uint32_t;
    static constexpr ListNumber kAnyWorker = ~ListNumber(0);

    static_assert(kAnyWorker == TokenUse::kAnyWorker);

    // The gate outlives this object; null: no task needs tokens.
    explicit Backlog(std::uint32_t workers, TokenGate* gate = nullptr)
        : gate_(gate), keyed_(workers), held_(workers) {}

    ListNumber list_of(const PoolTask& task) const {
        std::uint64_t key = task.options ? task.options->key : 0;
        return key ? static_cast<ListNumber>(key % keyed_.size()) : kAnyWorker;
    }
    bool empty(ListNumber list = kAnyWorker) const {
        return of(list).empty() && !(has_gated() && gate_->first(list));
    }
    std::uint64_t size(ListNumber list = kAnyWorker) const { return of(list).size(); }  // ungated
    PoolTask* pop(ListNumber list = kAnyWorker) {
        return has_gated() ? pop_either(list) : of(list).pop();
    }
    const PoolTask* first(ListNumber list = kAnyWorker) const;  // what pop() would take, or null
    std::vector<TokenStats> token_stats() const {
        return gate_ ? gate_->stats() : std::vector<TokenStats>();
    }
    std::uint64_t waiting_at_gate() const { return gate_ ? gate_->waiting() : 0; }
    // A new task, behind its equals.
    void push(PoolTask* task);
    // One that was in a ring, or was begun before: it comes before all that were submitted later.
    void push_back(PoolTask* task);
    // One that is new, and may be older than others: as either of these.
    void push_late(PoolTask* task);
    // Requires: the task is here.
    void remove(PoolTask& task);
    // Whatever comes first, also if it pauses; null: nothing is left.
    PoolTask* pop_anything();
    template <class F>
    void for_each(F f) const {
        for_each_of(any_, f);
        for (const TaskList& list : keyed_) for_each_of(list, f);
        if (gate_) gate_->for_each([&](const TokenUse& use) { f(use.task); });
        for (const auto& [end, task] : paused_) f(task);
    }

    // Once a task had a priority, each new one may have to overtake what is in the rings.
    void note_priority(const PoolTask& task) {
        has_priorities_ = has_priorities_ || task.priority != 0;
    }
    bool has_priorities() const { return has_priorities_; }

    // Throws std::bad_alloc; then the task is where it was.
    void pause(PoolTask* task, sys::Clock::time_point end);
    sys::Deadline first_pause_ends() const;  // none: no task pauses
    // A task whose pause is over, now in no list; null: there is none.
    PoolTask* pop_rested(sys::Clock::time_point now);

    // With another number of workers, keys belong to others than before: the lists are made anew.
    // Until a task with such a key is out of the ring of the worker that had it, what comes behind
    // it is held back. Strong guarantee.
    void resize(std::uint32_t workers);
    std::uint32_t workers() const { return static_cast<std::uint32_t>(keyed_.size()); }
    bool keys_moved() const { return keys_moved_; }  // some worker's list may be held back
    bool is_held(std::uint32_t worker) const { return keys_moved_ && held_[worker]; }
    // Which lists are held back is found out anew: none, then those with a key of a task that this
    // worker has.
    void hold_none();
    void hold_behind(std::uint64_t key, std::uint32_t worker);

  private:
    bool has_gated() const { return gate_ && !gate_->is_empty(); }
    PoolTask* pop_either(ListNumber list);
    void wait_at_gate(PoolTask& task) noexcept;
    TaskList& of(ListNumber list) { return list == kAnyWorker ? any_ : keyed_[list]; }
    const TaskList& of(ListNumber list) const { return list == kAnyWorker ? any_ : keyed_[list]; }
    template <class F>
    static void for_each_of(const TaskList& list, F& f) {
        for (PoolTask* task = list.first(); task; task = TaskList::next(task)) f(task);
    }

    TokenGate* const gate_;
    TaskList any_;
    std::vector<TaskList> keyed_;                              // by worker
    std::multimap<sys::Clock::time_point, PoolTask*> paused_;  // by the end of the pause
    bool has_priorities_ = false;
    bool keys_moved_ = false;
    std::vector<bool> held_;  // by worker
};

}  // namespace sidestep::detail
