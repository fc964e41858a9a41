#include <sidestep/detail/thread_job.hpp>

#include <fmt/format.h>

#include <memory>
#include <new>
#include <stdexcept>

#include "task/record_memory.hpp"
#include "threads/job_extra.hpp"
#include "threads/pools_by_number.hpp"

namespace sidestep::inline v0::detail {

// Small ones are records, as a Pool's tasks are.
void* ThreadJob::operator new(std::size_t size) {
    if (size <= JobMemory::kRecord) return JobMemory::allocate();
    if (size <= RecordMemory::kRecord) return RecordMemory::allocate();
    return ::operator new(size);
}
void ThreadJob::operator delete(void* memory, std::size_t size) noexcept {
    if (size <= JobMemory::kRecord) return JobMemory::free(memory);
    if (size <= RecordMemory::kRecord) return RecordMemory::free(memory);
    ::operator delete(memory);
}

ThreadJob::ThreadJob() = default;
ThreadJob::~ThreadJob() = default;

std::shared_ptr<ThreadPoolCore> ThreadJob::thread_pool() const {
    return pool == 0 || is_forked_copy() ? nullptr : pools_by_number().find(pool);
}

// The nodes in `extra` refer to the task.
void EndJob::operator()(ThreadJob* job) const noexcept {
    job->drop_call();
    job->extra = nullptr;
    job->drop_reference();
}

void refuse_retries(const Retry& retry) {
    if (retry.max_attempts > 1)
        throw std::invalid_argument(fmt::format(
            "TaskOptions::retry.max_attempts is {}, and an argument cannot be copied: the second "
            "attempt would have none. Give it a shared_ptr, or max_attempts = 1",
            retry.max_attempts));
}

}  // namespace sidestep::detail
