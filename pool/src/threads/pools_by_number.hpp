// The ThreadPools of this process that are there, by their numbers: a job has room for no more.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

namespace sidestep::inline v0::detail {

class ThreadPoolCore;

// Never destroyed. Threads: thread-safe.
class PoolsByNumber {
  public:
    std::uint32_t next() { return ++last_; }
    void add(std::uint32_t number, std::weak_ptr<ThreadPoolCore> pool);
    void remove(std::uint32_t number) noexcept;
    std::shared_ptr<ThreadPoolCore> find(std::uint32_t number);

  private:
    std::atomic<std::uint32_t> last_{0};
    std::mutex mutex_;
    std::map<std::uint32_t, std::weak_ptr<ThreadPoolCore>> pools_;  // guarded by mutex_
};
PoolsByNumber& pools_by_number();

}  // namespace sidestep::detail
