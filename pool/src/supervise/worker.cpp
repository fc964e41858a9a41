#include "supervise/worker.hpp"

namespace sidestep::inline v0::detail {

WorkerStats stats_of(const RingLane& lane) {
    WorkerTally sum = lane.tally;
    if (lane.condition().alive) sum.add(lane.memory()->words(), sys::Clock::now());
    WorkerStats stats;
    stats.index = lane.number;
    stats.pid = lane.pid;
    stats.stopped = lane.condition().alive && sys::is_stopped(lane.process.launched.pidfd.get());
    stats.tasks = lane.tasks_ended;
    stats.restarts = sum.launches > 0 ? sum.launches - 1 : 0;
    stats.start = sum.start;
    stats.init = sum.init;
    stats.wait = sum.wait;
    stats.work = sum.work;
    stats.serialize = sum.serialize;
    return stats;
}

}  // namespace sidestep::detail
