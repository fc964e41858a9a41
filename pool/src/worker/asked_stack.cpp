#include "worker/asked_stack.hpp"

#include <algorithm>
#include <chrono>

#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::chrono::milliseconds kMoment{100};

void wait_for_answer(const CrashRecord& record, std::uint64_t question) {
    const sys::Deadline end = sys::Clock::now() + kMoment;
    for (;;) {
        const std::uint64_t told = record.answered.load(std::memory_order_acquire);
        if (told >= question || is_over(end)) return;
        (void)sys::futex_wait(sys::low_half(record.answered), static_cast<std::uint32_t>(told),
                              end);
    }
}

}  // namespace

std::vector<const void*> AskedStack::addresses() const {
    std::shared_ptr<WorkerMemory> memory;
    {
        std::lock_guard lock(mutex_);
        memory = memory_;
    }
    if (memory) wait_for_answer(memory->crash(), question_);
    settle();
    std::lock_guard lock(mutex_);
    return code_addresses(stack_);
}

bool AskedStack::is_there() const {
    std::lock_guard lock(mutex_);
    return !memory_ || memory_->crash().answered.load(std::memory_order_acquire) >= question_;
}

void AskedStack::settle() const noexcept {
    std::lock_guard lock(mutex_);
    if (!memory_) return;
    const CrashRecord& record = memory_->crash();
    if (record.answered.load(std::memory_order_acquire) == question_) {
        const std::uint64_t count =
            std::min<std::uint64_t>(record.where.count, StackRecord::kMostFrames);
        std::copy_n(record.where.frames, count, stack_.frames);
        stack_.count = count;
    }
    memory_ = nullptr;
}

}  // namespace sidestep::detail
