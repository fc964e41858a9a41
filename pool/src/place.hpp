// A place for one task in a pool that takes only so many (max_pending): try_submit() has it from
// its look until its submit(), so no other thread takes it meanwhile.
#pragma once

#include <memory>
#include <utility>

namespace sidestep::inline v0::detail {

// Core has take_place(), which counts one more unless there is none, and give_place_back().
template <class Core>
class Place {
  public:
    // While the result lives, this thread need not wait for a place. Null: there is none.
    static std::shared_ptr<void> take(const std::shared_ptr<Core>& core) {
        auto place = std::make_shared<Place>(core);
        return place->taken_ ? std::move(place) : nullptr;
    }
    static bool is_here(const Core& core) { return here_ == &core; }

    explicit Place(std::shared_ptr<Core> core) : core_(std::move(core)), before_(here_) {
        taken_ = core_->take_place();
        if (taken_) here_ = core_.get();
    }
    ~Place() {
        if (!taken_) return;
        here_ = before_;
        core_->give_place_back();
    }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;

  private:
    inline static thread_local const Core* here_ = nullptr;

    const std::shared_ptr<Core> core_;
    const Core* const before_;
    bool taken_ = false;
};

}  // namespace sidestep::detail
