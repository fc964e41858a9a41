// Which threads of a ThreadPool may run jobs, while others wait for futures inside of theirs.
#pragma once

namespace sidestep::inline v0::detail {

// A thread that waits for a future lets another one run; when it goes on, that one finishes what it
// has and pauses. Those beyond the number that was asked for are extra: they run only in the place
// of one that waits, so that the others get their turn (tasks with a key have only them).
//
// Threads: the caller serialises (a pool, by its mutex).
class Turns {
  public:
    explicit Turns(unsigned threads) : threads_(threads) {}

    bool may_run(unsigned index) const {
        if (is_extra(index) && extra_running_ >= in_wait_) return false;
        return running_ < most();
    }
    // The most threads that are of use now.
    unsigned most() const { return threads_ + in_wait_; }
    bool any_waits() const { return in_wait_ > 0; }

    void begin_run(unsigned index) {
        ++running_;
        extra_running_ += is_extra(index);
    }
    void end_run(unsigned index) {
        --running_;
        extra_running_ -= is_extra(index);
    }
    void begin_wait() { ++in_wait_; }
    void end_wait() { --in_wait_; }

  private:
    bool is_extra(unsigned index) const { return index >= threads_; }

    const unsigned threads_;  // that were asked for
    unsigned in_wait_ = 0;
    unsigned running_ = 0;        // those that wait, too
    unsigned extra_running_ = 0;  // of those
};

}  // namespace sidestep::detail
