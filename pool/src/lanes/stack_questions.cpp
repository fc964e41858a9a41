#include "lanes/stack_questions.hpp"

#include <atomic>
#include <utility>

#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

void StackQuestions::restart(std::shared_ptr<WorkerMemory> memory) noexcept {
    memory_ = std::move(memory);
    answer_ = nullptr;
    asked_ = 0;
}

std::shared_ptr<const AskedStack> StackQuestions::expect() {
    answer_ = std::make_shared<const AskedStack>(memory_, ++asked_);
    return answer_;
}

void StackQuestions::ask() noexcept {
    memory_->crash().asked.store(asked_, std::memory_order_release);
    if (process_.launched.pidfd) (void)sys::try_signal(process_.launched.pidfd.get(), kWhereSignal);
}

void StackQuestions::settle() noexcept {
    if (auto answer = std::exchange(answer_, nullptr)) answer->settle();
}

}  // namespace sidestep::detail
