// Tasks that wait, in the order in which they are begun: the higher priority first, then the older.
#pragma once

#include <cstdint>

#include <sidestep/detail/pool_task.hpp>

namespace sidestep::inline v0::detail {

// Intrusive: a task is in one list at most. Threads: the caller serialises.
class TaskList {
  public:
    bool empty() const { return !first_; }
    std::uint64_t size() const { return size_; }
    PoolTask* first() const { return first_; }
    static PoolTask* next(const PoolTask* task) { return task->next; }

    // A new task: it comes behind its equals.
    void push(PoolTask* task) {
        PoolTask* before = last_;
        while (before && comes_before(task, before)) before = before->previous;
        insert(task, before ? before->next : first_);
    }
    // One that was begun before, or was in a ring: likely to be among the first.
    void push_old(PoolTask* task) {
        PoolTask* next = first_;
        while (next && comes_before(next, task)) next = next->next;
        insert(task, next);
    }
    bool would_be_last(const PoolTask* task) const { return !last_ || comes_before(last_, task); }
    PoolTask* pop() {
        PoolTask* task = first_;
        remove(task);
        return task;
    }
    void remove(PoolTask* task) {
        (task->next ? task->next->previous : last_) = task->previous;
        (task->previous ? task->previous->next : first_) = task->next;
        task->next = task->previous = nullptr;
        --size_;
    }

    static bool comes_before(const PoolTask* a, const PoolTask* b) {
        if (a->priority != b->priority) return a->priority > b->priority;
        return a->serial < b->serial;
    }

  private:
    void insert(PoolTask* task, PoolTask* next) {
        task->next = next;
        task->previous = next ? next->previous : last_;
        (next ? next->previous : last_) = task;
        (task->previous ? task->previous->next : first_) = task;
        ++size_;
    }

    PoolTask* first_ = nullptr;
    PoolTask* last_ = nullptr;
    std::uint64_t size_ = 0;
};

}  // namespace sidestep::detail
