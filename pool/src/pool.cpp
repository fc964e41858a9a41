#include <sidestep/pool.hpp>

#include <fmt/format.h>

#include <exception>
#include <stdexcept>

#include "pool_core.hpp"

namespace sidestep {
namespace {

PoolOptions checked(PoolOptions options) {
    if (options.processes == 0)
        options.processes =
            static_cast<unsigned>(std::min<std::size_t>(sys::usable_cpus(), kMaxWorkers));
    if (options.processes > kMaxWorkers)
        throw std::invalid_argument(
            fmt::format("PoolOptions::processes is {}; a pool has 1 to {} workers",
                        options.processes, kMaxWorkers));
    if (options.arena_bytes < (std::size_t(16) << 20))
        throw std::invalid_argument(
            fmt::format("PoolOptions::arena_bytes is {}; give it 16 MiB or more (it is address "
                        "space, pages come on first touch)",
                        options.arena_bytes));
    return options;
}

}  // namespace

Pool::Pool(PoolOptions options)
    : core_(std::make_shared<detail::PoolCore>(checked(options))),
      exceptions_at_start_(std::uncaught_exceptions()) {
    core_->start();
}

Pool::~Pool() {
    if (!core_->owned_here()) {
        core_->abandon();
        // A forked copy: what it owns is the parent's; nothing of it is touched, or freed.
        new std::shared_ptr<detail::PoolCore>(std::move(core_));
        return;
    }
    if (std::uncaught_exceptions() > exceptions_at_start_)
        core_->terminate();
    else
        core_->close();
    core_->join();
}

void Pool::close() { core_->close(); }
void Pool::terminate() { core_->terminate(); }
void Pool::join() { core_->join(); }
unsigned Pool::processes() const { return core_->workers(); }
std::vector<int> Pool::worker_pids() const { return core_->worker_pids(); }

}  // namespace sidestep
