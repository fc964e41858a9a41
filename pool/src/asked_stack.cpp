#include "asked_stack.hpp"

#include <chrono>

#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::chrono::milliseconds kMoment{100};

}  // namespace

std::vector<const void*> AskedStack::addresses() const {
    const CrashRecord::Answer& answer = memory->crash().answer_to(question);
    const sys::Deadline end = sys::Clock::now() + kMoment;
    for (;;) {
        const std::uint64_t told = answer.question.load(std::memory_order_acquire);
        if (told == question) return code_addresses(answer.stack);
        if (told > question || is_over(end)) return {};
        (void)sys::futex_wait(sys::low_half(answer.question), static_cast<std::uint32_t>(told),
                              end);
    }
}

}  // namespace sidestep::detail
