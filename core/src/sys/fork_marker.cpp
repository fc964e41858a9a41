#include "sys/fork_marker.hpp"

#include <cstdint>

namespace sidestep::inline v0 {
namespace {

// A forked child goes on counting where its parent was. (Process numbers would not do: in a pid
// namespace of its own a child may have the number that its parent has, 1.)
std::atomic<std::uint32_t> last_generation{0};

}  // namespace

ForkMarker::ForkMarker() noexcept : page_(&fork_page().generation) {
    // After a fork the page is zero, and the first marker that the child makes marks it.
    generation_ = page_->load(std::memory_order_relaxed);
    if (generation_ != ForkGeneration::none) return;
    const ForkGeneration fresh{last_generation.fetch_add(1, std::memory_order_relaxed) + 1};
    // Or another thread was faster.
    if (fork_page().generation.compare_exchange_strong(generation_, fresh)) generation_ = fresh;
}

}  // namespace sidestep
