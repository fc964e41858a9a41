// Whether workers die again and again without having done anything.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace sidestep::inline v0::detail {

// Counts the deaths of workers that began no task, in a row, with no task ending in between.
// Threads: the caller serialises (a pool, by its mutex).
class CrashLoop {
  public:
    // A worker died, or could not be started, that began nothing; so many tasks have ended until
    // now. How long to wait before the next start.
    std::chrono::milliseconds note_death(std::uint64_t completed) {
        deaths_ = completed == completed_ ? deaths_ + 1 : 0;
        completed_ = completed;
        std::chrono::milliseconds pause{deaths_ < 2 ? 0 : 1 << std::min(deaths_, 10u)};
        return std::min(pause, kLongestPause);
    }
    // A worker died that had begun a task.
    void note_begun_task() { deaths_ = 0; }
    unsigned deaths() const { return deaths_; }
    // That many are no accident.
    bool is_one(std::size_t workers) const { return deaths_ > 4 + 2 * workers; }

  private:
    static constexpr std::chrono::milliseconds kLongestPause{100};

    unsigned deaths_ = 0;
    std::uint64_t completed_ = 0;  // at the last death
};

}  // namespace sidestep::detail
