#include <sidestep/detail/call_times.hpp>

#include <algorithm>

#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {
namespace {

// What a look at the clock costs: it is a part of all that is measured, and much of a tiny item.
std::uint64_t clock_cost() {
    static const std::uint64_t cost = [] {
        std::uint64_t least = ~std::uint64_t(0);
        for (int i = 0; i < 16; ++i) {
            std::uint64_t begin = steady_now_ns();
            least = std::min(least, steady_now_ns() - begin);
        }
        return least;
    }();
    return cost;
}

}  // namespace

std::uint64_t steady_now_ns() {
    return static_cast<std::uint64_t>(sys::Clock::now().time_since_epoch().count());
}

void CallTimes::begin() {
    (void)clock_cost();  // measured now, not in the middle
    at_ = steady_now_ns();
}

void CallTimes::end_part(std::uint64_t& sum) {
    std::uint64_t now = steady_now_ns();
    sum += now - at_ - std::min(now - at_, clock_cost());
    at_ = now;
}

std::uint64_t CallTimes::serialize_part(std::uint64_t duration_ns) const {
    std::uint64_t all = serialize_ns_ + call_ns_;
    if (all == 0) return 0;
    double part = static_cast<double>(serialize_ns_) / static_cast<double>(all);
    return static_cast<std::uint64_t>(part * static_cast<double>(duration_ns));
}

}  // namespace sidestep::detail
