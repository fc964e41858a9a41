// Jobs of a ThreadPool that need nothing special, in the order in which they were submitted.
#pragma once

#include <cstddef>
#include <utility>

#include <sidestep/detail/thread_job.hpp>

namespace sidestep::inline v0::detail {

// Intrusive: a job is in one list at most, and the list owns it. Takes no memory.
// Threads: the caller serialises.
class JobList {
  public:
    JobList() = default;
    JobList(JobList&& other) noexcept { swap(other); }
    JobList& operator=(JobList&&) = delete;
    ~JobList() {
        while (pop()) {
        }
    }

    bool empty() const { return !first_; }
    std::size_t size() const { return size_; }
    const ThreadJob* first() const { return first_; }

    // Behind the others.
    void push(ThreadJobPtr job) noexcept {
        ThreadJob* last = job.release();
        last->next = nullptr;
        (last_ ? last_->next : first_) = last;
        last_ = last;
        ++size_;
    }
    // The first; null: there is none.
    ThreadJobPtr pop() noexcept {
        ThreadJobPtr job(first_);
        if (!job) return job;
        first_ = std::exchange(job->next, nullptr);
        if (!first_) last_ = nullptr;
        --size_;
        return job;
    }
    // Takes all of `other`, whose jobs were likely submitted before these.
    void merge(JobList&& other) noexcept {
        JobList all;
        while (!empty() && !other.empty())
            all.push((other.first_->number < first_->number ? other : *this).pop());
        JobList& rest = empty() ? other : *this;
        if (rest.empty()) return swap(all);
        if (all.empty()) return swap(rest);
        all.last_->next = std::exchange(rest.first_, nullptr);
        all.last_ = std::exchange(rest.last_, nullptr);
        all.size_ += std::exchange(rest.size_, 0);
        swap(all);
    }

  private:
    void swap(JobList& other) noexcept {
        std::swap(first_, other.first_);
        std::swap(last_, other.last_);
        std::swap(size_, other.size_);
    }

    ThreadJob* first_ = nullptr;
    ThreadJob* last_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace sidestep::detail
