#include "insight/slow_tasks.hpp"

#include <algorithm>

namespace sidestep::inline v0::detail {

void SlowTasks::add(const Entry& entry) noexcept {
    auto shorter = [&](const Entry& e) { return e.duration < entry.duration; };
    entries_.insert(std::find_if(entries_.begin(), entries_.end(), shorter), entry);
    if (entries_.size() > kMost) entries_.pop_back();
    if (entries_.size() == kMost) least_ = entries_.back().duration;
}

}  // namespace sidestep::detail
