// When a worker calls its parent, and how it waits for its parent.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>

#include "sync/spin.hpp"
#include "sys/fd.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

// Threads: those that run the worker's tasks, which is one.
class Announcer {
  public:
    // supervisor_bell: an eventfd. The rest outlives this object.
    Announcer(ControlPage& page, RingWorker& ring, Fd supervisor_bell, const WorkerSetup& setup)
        : control_(page),
          ring_(ring),
          supervisor_bell_(std::move(supervisor_bell)),
          spin_(setup.spin),
          wake_ns_(setup.wake_ns),
          index_(setup.index) {}

    void begin() { control_.set_parked(index_, false); }

    // After a completed task: tells the parent, if it sleeps, now or with the next ones. To wake it
    // costs this worker about as much time as it takes (an interrupt of another CPU), so while
    // there is more to do, it is done for several wake-ups' worth of work at a time: for more of
    // it while three times as many tasks wait, whose results take that much longer anyway. A result
    // is late by so much, or by the supervisor's tick.
    void announce(std::uint64_t duration) {
        bool is_long = duration > kLongTaskNs;
        ++unannounced_;
        unannounced_ns_ += duration;
        std::uint32_t three_times = std::min(3 * unannounced_, kRingCapacity - 1);
        bool is_little =
            unannounced_ns_ < kAnnounceWakeUps * wake_ns_ ||
            (unannounced_ns_ < kAnnounceOfMany * wake_ns_ && ring_.has_work(three_times));
        if (is_little && ring_.has_work(tasks_until_refill(duration))) return;
        std::atomic_thread_fence(std::memory_order_seq_cst);  // SYNC(E1), SYNC(attended)
        if (control_.bell.has_sleepers())
            control_.bell.notify_all_fenced();
        else if (is_long || (unannounced_ >= kAnnounced && ring_.parent_lags(2 * kAnnounced)))
            ring_supervisor();
        else if (unannounced_ < kAnnounced)
            return;
        unannounced_ = 0;
        unannounced_ns_ = 0;
    }

    // False: it slept, and nothing came for a whole second.
    bool wait_for_task() {
        if (spin_until(spin_.budget(control_), [&] { return ring_.has_work(); })) return true;
        std::atomic_thread_fence(std::memory_order_seq_cst);  // SYNC(E1), SYNC(attended)
        // The task after one that was not announced may have been taken back.
        if (unannounced_ > 0 && control_.bell.has_sleepers())
            control_.bell.notify_all_fenced();
        else
            ring_supervisor();
        unannounced_ = 0;
        unannounced_ns_ = 0;
        control_.set_parked(index_, true);
        EventCount& bell = ring_.doorbell();
        EventCount::Key key = bell.prepare(0);
        if (!ring_.has_work()) bell.wait(key, {});
        bell.cancel(0);
        control_.set_parked(index_, false);
        return ring_.has_work();
    }

  private:
    // So many wake-ups' worth of work is announced at a time; and while much more waits;
    static constexpr std::uint64_t kAnnounceWakeUps = 4;
    static constexpr std::uint64_t kAnnounceOfMany = 16;
    static constexpr std::uint32_t kAnnounced = 64;  // so many tasks at most

    // How many tasks like this one it takes until a parent that is woken now has handed out more.
    std::uint32_t tasks_until_refill(std::uint64_t duration) const {
        if (duration < WorkerMeter::kTinyTaskNs) return 0;
        return static_cast<std::uint32_t>(std::min<std::uint64_t>(2 * wake_ns_ / duration, 32));
    }

    // SYNC(attended): the parent clears `attended`, fences, and looks at the rings; we complete a
    // task, fence, and look at `attended`. So one of us sees the other.
    void ring_supervisor() {
        if (control_.attended.load(std::memory_order_relaxed) != 0) return;
        if (control_.armed.load(std::memory_order_relaxed) == 0 || ring_.all_consumed()) return;
        if (control_.armed.exchange(0) == 0) return;
        std::uint64_t one = 1;
        (void)!::write(supervisor_bell_.get(), &one, sizeof one);
    }

    ControlPage& control_;
    RingWorker& ring_;
    const Fd supervisor_bell_;
    const SpinPolicy spin_;
    const std::uint64_t wake_ns_;
    const std::uint32_t index_;
    std::uint32_t unannounced_ = 0;  // tasks whose result the parent may not have seen
    std::uint64_t unannounced_ns_ = 0;
};

}  // namespace sidestep::detail
