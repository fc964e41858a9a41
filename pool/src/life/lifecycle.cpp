#include "life/lifecycle.hpp"

#include <stdexcept>

#include <sidestep/pool_errors.hpp>

namespace sidestep::inline v0::detail {

bool Lifecycle::interrupt() {
    if (ending()) return false;
    state_ = State::closed;
    interrupted_ = true;
    return true;
}

bool Lifecycle::terminate() {
    if (ending()) return false;
    state_ = State::terminating;
    return true;
}

void Lifecycle::refuse(bool begun) const {
    if (interrupted_ && state_ != State::broken)
        throw CancelledError(
            "the pool was interrupted (InterruptGuard): it finishes what runs, and takes no tasks "
            "any more");
    switch (state_) {
        case State::running:
            return;
        case State::broken:
            std::rethrow_exception(why_broken_);
        case State::closed:
            if (begun && maps_cancelled_)
                throw CancelledError(
                    "the map was cancelled: its pool was shut down before all of "
                    "its items had begun");
            if (begun && !sealed_) return;
            throw std::logic_error("the pool is closed: it takes no tasks after close()");
        case State::terminating:
            if (begun) throw CancelledError("the item was cancelled: its pool was terminated");
            throw std::logic_error("the pool is terminated: it takes no tasks after terminate()");
    }
}

}  // namespace sidestep::detail
