// Whether this process is the one that made an object, or a forked copy of it, without a system
// call.
//
// The marker lies in a page that is emptied in a forked child (fork_page.hpp).
#pragma once

#include <atomic>
#include <cstdint>

namespace sidestep::inline v0 {

class ForkMarker {
  public:
    ForkMarker() noexcept;  // remembers this process

    // False in a forked copy of the process that made the marker. Async-signal-safe.
    bool same_process() const noexcept {
        return page_->load(std::memory_order_relaxed) == generation_;
    }
    // The process that made it.
    int pid() const noexcept { return static_cast<int>(generation_); }

  private:
    const std::atomic<std::uint64_t>* page_;
    std::uint64_t generation_;
};

}  // namespace sidestep
