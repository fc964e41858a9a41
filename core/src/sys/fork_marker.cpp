#include "sys/fork_marker.hpp"

#include <unistd.h>

#include "sys/fork_page.hpp"

namespace sidestep::inline v0 {

ForkMarker::ForkMarker() noexcept : page_(&fork_page().generation) {
    // The process's own number marks the page: after a fork the page is zero, and the first marker
    // that the child makes writes the child's. (The same value from every thread.)
    generation_ = page_->load(std::memory_order_relaxed);
    if (generation_ != 0) return;
    generation_ = static_cast<std::uint64_t>(::getpid());
    fork_page().generation.store(generation_, std::memory_order_relaxed);
}

}  // namespace sidestep
