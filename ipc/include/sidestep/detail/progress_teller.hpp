// How a task that may end in the middle says how much of it is finished. Internal.
#pragma once

#include <atomic>
#include <cstdint>

namespace sidestep::inline v0::detail {

// Tells a word in shared memory, and beforehand, in one of two others in turn, what vouches for it:
// the same word, mixed with a key that its reader knows too. So at each moment, whenever the
// process dies, one of the two agrees with what was told last, and what a stray write leaves in the
// word agrees with none.
class ProgressTeller {
  public:
    void tell(std::uint64_t word) noexcept {
        vouch(word, key_);
        told_ = word;
        // SYNC(partial): release, pairs with PartialLook.
        progress_->store(word, std::memory_order_release);
    }

  protected:
    // Relaxed: the store that it vouches for is a release.
    void vouch(std::uint64_t word, std::uint64_t key) noexcept {
        key_ = key;
        checks_[turn_ ^= 1].store(word ^ key, std::memory_order_relaxed);
    }

    std::atomic<std::uint64_t>* progress_ = nullptr;
    std::atomic<std::uint64_t>* checks_ = nullptr;
    std::uint64_t key_ = 0;
    std::uint64_t told_ = 0;  // what `progress` is, whatever others write there
    unsigned turn_ = 0;
};

}  // namespace sidestep::detail
