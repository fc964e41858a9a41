#include "threads/pools_by_number.hpp"

#include <utility>

namespace sidestep::inline v0::detail {

PoolsByNumber& pools_by_number() {
    static auto* pools = new PoolsByNumber;
    return *pools;
}

void PoolsByNumber::add(std::uint32_t number, std::weak_ptr<ThreadPoolCore> pool) {
    std::lock_guard lock(mutex_);
    pools_.emplace(number, std::move(pool));
}

void PoolsByNumber::remove(std::uint32_t number) noexcept {
    std::lock_guard lock(mutex_);
    pools_.erase(number);
}

std::shared_ptr<ThreadPoolCore> PoolsByNumber::find(std::uint32_t number) {
    std::lock_guard lock(mutex_);
    auto at = pools_.find(number);
    return at == pools_.end() ? nullptr : at->second.lock();
}

}  // namespace sidestep::detail
