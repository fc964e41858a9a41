// How soon the supervisor looks at what the lanes have: for a task that is stuck there, or waits
// behind one that runs long.
#pragma once

#include <chrono>
#include <cstdint>
#include <utility>

#include "life/timers.hpp"
#include "task/hold.hpp"

namespace sidestep::inline v0::detail {

// Soon while tasks wait for others, now and then while there are any, and not at all when some
// looks have seen nothing to do.
class LookPace {
  public:
    using Time = Timers::Time;

    explicit LookPace(Timers& timers) : timers_(timers) {}

    // There is something to look at, soon or now and then. (It may sleep for longer now.)
    void want(bool soon, Hold& hold) POOL_LOCKED {
        if (std::exchange(soon ? soon_ : wanted_, true)) return;
        timers_.set_earlier(Timers::Purpose::rings, next());
        hold.kick_supervisor();
    }
    // It is time: the next look is set, also if something throws in this one.
    bool begin(Time now) POOL_LOCKED {
        if (!timers_.is_due(Timers::Purpose::rings, now)) return false;
        last_ = now;
        timers_.set(Timers::Purpose::rings, next());
        return true;
    }
    // Since the last look somebody else has completed some of so many tasks.
    bool has_progressed(std::uint64_t completed) const POOL_LOCKED { return completed != seen_; }
    struct Found {
        bool soon;                // something is to be looked at again soon
        bool owes;                // workers are to be given something back, now and then
        bool outstanding;         // there are tasks that are not done
        std::uint64_t completed;  // tasks, since the pool began
    };
    // True: the pool is busy.
    bool end(const Found& found) POOL_LOCKED {
        bool progressed = has_progressed(found.completed);
        bool busy = found.outstanding || progressed;
        seen_ = found.completed;
        idle_looks_ = busy ? 0 : idle_looks_ + 1;
        soon_ = found.soon;
        wanted_ = idle_looks_ < kIdleLooks || found.owes;
        if (soon_ || wanted_)
            timers_.set(Timers::Purpose::rings, next());
        else
            timers_.clear(Timers::Purpose::rings);
        return busy;
    }
    // Memory that nobody uses is to go back to the system.
    bool is_over() const POOL_LOCKED { return !wanted_; }

  private:
    static constexpr std::chrono::milliseconds kSoon{2};
    static constexpr std::chrono::milliseconds kNowAndThen{250};
    static constexpr unsigned kIdleLooks = 4;

    Time next() const POOL_LOCKED { return last_ + (soon_ ? kSoon : kNowAndThen); }

    Timers& timers_ POOL_GUARDED;
    bool soon_ POOL_GUARDED = false;
    bool wanted_ POOL_GUARDED = false;
    unsigned idle_looks_ POOL_GUARDED = 0;  // in a row
    Time last_ POOL_GUARDED{};
    std::uint64_t seen_ POOL_GUARDED = 0;  // completed at the last look
};

}  // namespace sidestep::detail
