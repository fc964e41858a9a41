// One T for each process: a forked child gets a fresh one, and leaves the parent's alone, whose
// mutexes may be locked by threads that the child does not have. (Unless it takes that over: who
// forked held its mutex.)
//
// Ownership: never destroyed: it may be asked for while static objects go.
// Threads:   thread-safe.
#pragma once

#include <atomic>

#include "sys/fork_marker.hpp"

namespace sidestep::inline v0 {

template <class T>
class PerProcess {
  public:
    T& get() {
        Slot* slot = current_.load(std::memory_order_acquire);
        if (slot && slot->process.same_process()) return slot->value;
        auto* fresh = new Slot{{}, slot, {}};
        // SYNC(slot): release when published, acquire when read.
        if (current_.compare_exchange_strong(slot, fresh, std::memory_order_acq_rel))
            return fresh->value;
        delete fresh;  // another thread was faster
        return slot->value;
    }

    // Null: this process has none yet. Allocates nothing.
    T* find() noexcept {
        Slot* slot = current_.load(std::memory_order_acquire);
        return slot && slot->process.same_process() ? &slot->value : nullptr;
    }
    // In a forked child, which has one thread: the copy of its parent's becomes its own.
    void take_over_copy() noexcept {
        if (Slot* slot = current_.load(std::memory_order_acquire)) slot->process = ForkMarker();
    }

  private:
    struct Slot {
        ForkMarker process;  // changed in a process of one thread
        Slot* parents;       // keeps it reachable, for those who look for leaks
        T value;
    };
    std::atomic<Slot*> current_{nullptr};
};

}  // namespace sidestep
