// What the supervisor's steps throw, which never ends its thread.
#pragma once

#include <exception>
#include <utility>

#include "life/timers.hpp"
#include "sync/supervisor_role.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

// A step that throws has left everything so that it can be done again, and is done again in the
// next round. What lasts longer than a shortage may is no shortage.
class Trouble {
  public:
    template <class Step>
    void attempt(Step step) noexcept SUPERVISOR_ONLY {
        try {
            step();
        } catch (...) {
            now_ = std::current_exception();
        }
    }
    enum class Round : unsigned char { good, bad, hopeless };
    // A round is over. Hopeless: each one was bad for so long.
    Round end_round(std::chrono::nanoseconds patience) noexcept SUPERVISOR_ONLY {
        if (!now_) {
            since_.reset();
            return Round::good;
        }
        last_ = std::exchange(now_, nullptr);
        auto now = sys::Clock::now();
        if (!since_) since_ = now;
        return now >= saturating_add(*since_, patience) ? Round::hopeless : Round::bad;
    }
    bool lasts() const SUPERVISOR_ONLY { return since_.has_value(); }
    const std::exception_ptr& last() const SUPERVISOR_ONLY { return last_; }

  private:
    std::exception_ptr now_ SUPERVISOR_OWNED;   // what a step threw in this round,
    std::exception_ptr last_ SUPERVISOR_OWNED;  //   or in the last bad one
    sys::Deadline since_ SUPERVISOR_OWNED;      // since when each round has some
};

}  // namespace sidestep::detail
