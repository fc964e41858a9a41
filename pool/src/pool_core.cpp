#include "pool_core.hpp"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <utility>

#include <sidestep/pool_errors.hpp>

#include "nested/inline_nested.hpp"
#include "process_memory.hpp"
#include "sys/error.hpp"
#include "task/record_memory.hpp"
#include "worker/line_mark.hpp"

namespace sidestep::inline v0::detail {

namespace {

// The arenas of arguments and of each worker's results, and one more: a worker maps the arguments'
// twice if it is a fork.
PoolOptions fitted(PoolOptions options) {
    options.arena_bytes = Segment::fitting(options.arena_bytes, WorkerMemory::kLeastArena,
                                           std::size_t(*options.processes) + 2);
    return options;
}

}  // namespace

PoolCore::PoolCore(const PoolOptions& options)
    : options_(fitted(options)),
      shared_(options_),
      tasks_(options_, shared_, callbacks_),
      rooms_{options_,         mutex_,          *this,          tasks_.life,      tasks_.timers,
             tasks_.arguments, tasks_.task_end, tasks_.insight, tasks_.dispatcher},
      policies_(rooms_),
      hosts_(rooms_, {policies_.retries, policies_.chunks, policies_.end}),
      supervision_(rooms_, shared_, policies_, tasks_.pace, owner_.pid(),
                   [this] { return shared_from_this(); }),
      inline_lane_({*this, mutex_, tasks_.arguments, tasks_.task_end, tasks_.insight, options_.seed,
                    owner_.pid(), lines_name_tasks(options_)},
                   [this](PoolTask& task, const std::exception_ptr& error) {
                       return policies_.retries.retry_here(task, error);
                   }),
      wait_room_(mutex_, *this, *shared_.control, shared_.spin,
                 [this](Hold& hold)
                     POOL_LOCKED { return tasks_.dispatcher.drain(tasks_.life.ending(), hold); }),
      desk_(rooms_, {owner_, policies_.retries, policies_.stopper}, wait_room_),
      intake_(rooms_,
              {owner_, policies_.retries, policies_.chunks, policies_.late, tasks_.tokens, hosts_,
               supervision_.fleet, *this},
              wait_room_, desk_),
      memory_(owner_, rooms_, tasks_.pace),
      view_(rooms_, {owner_, supervision_.workers, supervision_.fleet, supervision_.supervisor,
                     hosts_, policies_.late}) {
    if (*options_.processes == 0) tasks_.dispatcher.add(inline_lane_);
}

// The last of its tasks goes, too: each refers to its pool.
PoolCore::~PoolCore() {
    SIDESTEP_ASSERT(!supervision_.supervisor.thread().joinable());
    RecordMemory::trim();
}

void PoolCore::start(const HostPlan& plan) {
    Supervising until_the_thread_does;
    WorkerStarter& starter = supervision_.starter;
    starter.save_hooks([this](std::size_t size) -> WorkerStarter::Block {
        BlockId block = memory_.allocate(size);
        return {block, memory_.data(block)};
    });
    supervision_.deaths.start();
    if (options_.max_memory_growth > 0 && !private_memory(owner_.pid()))
        throw std::runtime_error(
            "PoolOptions::max_memory_growth cannot be watched: /proc/PID/statm cannot be read; "
            "mount "
            "the /proc of this pid namespace, or leave it out");
    if (*options_.processes > 0)
        starter.make_launcher();
    else
        inline_lane_.set_nested(std::make_shared<InlineNested>(weak_from_this()));
    supervision_.supervisor.open();
    try {
        if (starter.hooks_have_handles()) OtherHosts::require_no_hosts(plan);
        hosts_.open(plan, shared_from_this());  // they start their workers while this one does
        supervision_.fleet.start();
        supervision_.supervisor.start();
    } catch (...) {  // those that were started must not stay
        supervision_.fleet.discard_all();
        Lock lock(mutex_);
        hosts_.end(true);
        throw;
    }
}

void PoolCore::hosts_told(std::uint32_t lane, std::vector<HostEvent> events) {
    Hold hold(mutex_, *this);
    hosts_.told(lane, std::move(events), hold);
    if (!tasks_.life.ending()) tasks_.dispatcher.refill(hold);
    hold.wake_waiters();
}

}  // namespace sidestep::detail
