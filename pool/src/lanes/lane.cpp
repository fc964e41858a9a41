#include "lanes/lane.hpp"

namespace sidestep::inline v0::detail {

bool Lane::take_back_task(const PoolTask& task, Hold& hold) noexcept {
    for (std::uint32_t i = load.in_flight; i-- > 0;) {
        if (task_at(i) != &task) continue;
        take_back(i, hold);
        return load.in_flight <= i;
    }
    return false;
}

}  // namespace sidestep::detail
