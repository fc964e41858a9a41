// What a pool still takes, of processes or of threads: from its start to its end.
#pragma once

#include <exception>
#include <utility>

namespace sidestep::inline v0::detail {

//   running      takes tasks
//   closed       takes what belongs to maps that were begun before; if it was interrupted, nothing
//   terminating  takes nothing, and begins nothing that waits
//   broken       the same, since something is wrong with it for good
//
//                close()   interrupt()   terminate()   break_down()
//   running      closed    closed        terminating   broken
//   closed       -         closed        terminating   broken
//   terminating  -         -             -             broken
//   broken       -         -             -             broken
//
// Threads: the caller serialises (a pool, by its mutex).
class Lifecycle {
  public:
    // Throws why no task is taken: std::logic_error, CancelledError, BrokenPool. begun: a task of a
    // map that was begun before close().
    void require_accepting(bool begun = false) const {
        if (state_ != State::running) refuse(begun);
    }

    bool running() const { return state_ == State::running; }
    bool closed() const { return state_ == State::closed; }
    bool broken() const { return state_ == State::broken; }
    bool ending() const { return state_ == State::terminating || broken(); }
    bool interrupted() const { return interrupted_; }
    // A task that failed may be run again.
    bool allows_retries() const { return !ending() && !interrupted_; }
    const std::exception_ptr& why_broken() const { return why_broken_; }  // a BrokenPool

    void close() {
        if (running()) state_ = State::closed;
    }
    // False: it was ending anyhow.
    bool interrupt();
    bool terminate();
    void break_down(std::exception_ptr why) {
        state_ = State::broken;
        why_broken_ = std::move(why);
    }

    // Nothing is left, and from now on nothing more is taken: not of a map that was begun either.
    void seal() { sealed_ = true; }
    bool sealed() const { return sealed_; }

    // Nobody has the pool any more.
    void be_destroyed() { destroyed_ = true; }
    bool destroyed() const { return destroyed_; }

    // Maps that are collected: join() waits for them, unless the pool is ending.
    void begin_map() { ++maps_; }
    bool end_map() { return --maps_ == 0; }  // it was the last one
    bool waits_for_maps() const { return maps_ > 0 && !ending(); }
    // Those that were begun go on no more.
    void cancel_maps() { maps_cancelled_ = true; }

  private:
    enum class State : unsigned char { running, closed, terminating, broken };

    void refuse(bool begun) const;

    State state_ = State::running;
    bool interrupted_ = false;
    bool sealed_ = false;
    bool destroyed_ = false;
    bool maps_cancelled_ = false;
    unsigned maps_ = 0;
    std::exception_ptr why_broken_;
};

}  // namespace sidestep::detail
