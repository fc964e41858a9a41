// How far a call has come: whether it has begun, and whether it may. One word, with one look at a
// time: so the call itself and who ends it, when its time is up, never take it for different
// things.
//
// stage  | begin          | unbegin        | end_unbegun | end
// -------|----------------|----------------|-------------|-----------------
// waits  | -> begun       | -              | -> over     | -> over
// begun  | (not called)   | -> waits       | false       | -> over, its place
// over   | false          | -              | true        | -
//
// Threads: begin() and unbegin() are of the thread that runs the call; the others are thread-safe.
#pragma once

#include <atomic>
#include <optional>

#include "actor_board.hpp"

namespace sidestep::inline v0::detail {

class CallStage {
  public:
    using Place = ActorBoard::Place;
    static constexpr Place kUnnoted = ~Place(0);  // of one that has begun, and is noted nowhere

    // Where it is noted that it has begun. False: it is over, and must not begin.
    bool begin(Place place) noexcept {
        Place waits = kWaits;
        return stage_.compare_exchange_strong(waits, place);
    }
    // It waits (again). Returns where it was noted; nothing: it had not begun, or somebody has
    // ended it, whose that place is now.
    std::optional<Place> unbegin() noexcept {
        Place now = stage_.load();
        if (now == kWaits || now == kOver) return std::nullopt;
        if (!stage_.compare_exchange_strong(now, kWaits)) return std::nullopt;
        return now;
    }
    // True: it had not begun, and does not any more.
    bool end_unbegun() noexcept {
        Place now = kWaits;
        return stage_.compare_exchange_strong(now, kOver) || now == kOver;
    }
    // It is over. Returns where it is noted, if it has begun.
    std::optional<Place> end() noexcept {
        const Place was = stage_.exchange(kOver);
        if (was == kWaits || was == kOver) return std::nullopt;
        return was;
    }
    bool has_begun() const noexcept {
        const Place now = stage_.load();
        return now != kWaits && now != kOver;
    }

  private:
    static constexpr Place kWaits = ~Place(1), kOver = ~Place(2);
    std::atomic<Place> stage_{kWaits};
};

}  // namespace sidestep::detail
