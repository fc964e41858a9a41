// Whether this process is the one that made an object, or a forked copy of it, without a system
// call.
//
// The marker lies in a page that is emptied in a forked child (fork_page.hpp).
#pragma once

#include <atomic>

#include "sys/fork_page.hpp"

namespace sidestep::inline v0 {

class ForkMarker {
  public:
    ForkMarker() noexcept;  // remembers this process

    // False in a forked copy of the process that made the marker. Async-signal-safe.
    bool same_process() const noexcept {
        return page_->load(std::memory_order_relaxed) == generation_;
    }
    // For who has no room for a marker: it is fork_page().generation in the same process only.
    ForkGeneration generation() const noexcept { return generation_; }

  private:
    const std::atomic<ForkGeneration>* page_;
    ForkGeneration generation_;
};

}  // namespace sidestep
