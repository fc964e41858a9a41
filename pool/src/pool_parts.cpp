#include "pool_parts.hpp"

#include <algorithm>
#include <utility>

#include "sync/spin.hpp"

namespace sidestep::inline v0::detail {

PoolShared::PoolShared(const PoolOptions& options)
    : control_segment(Segment::create("sidestep-control", sizeof(ControlPage))),
      arguments(Segment::reserve("sidestep-args", options.arena_bytes, WorkerMemory::kLeastArena)),
      arguments_reader(sys::reopen_read_only(arguments.fd())),
      control(new (control_segment.data()) ControlPage),
      wake_ns(static_cast<std::uint64_t>(wake_up_cost().count())) {
    spin.workers = *options.processes;
    spin.cpus = static_cast<std::uint32_t>(sys::usable_cpus());
    spin.spin_ns = static_cast<std::uint64_t>(spin_budget().count());
}

PoolTasks::PoolTasks(const PoolOptions& options, const PoolShared& shared,
                     CallbackThread& callbacks)
    : arguments(shared.arguments),
      tokens(options.tokens),
      task_end(arguments, callbacks, &tokens),
      insight(*options.processes == 0 ? "thread" : "worker"),
      pace(timers),
      dispatcher(std::max(1u, *options.processes), {shared.spin, *shared.control, shared.wake_ns},
                 pace, &tokens) {}

PoolPolicies::PoolPolicies(const PoolRooms& rooms)
    : retries(rooms),
      late(rooms),
      chunks(rooms, retries),
      stopper(rooms, retries, late, chunks),
      limits(rooms, retries, stopper),
      end(rooms, retries, late),
      outcomes(rooms, {retries, chunks, stopper, limits, crash_loop}) {}

PoolSupervision::PoolSupervision(const PoolRooms& rooms, const PoolShared& shared,
                                 PoolPolicies& policies, LookPace& pace, int owner_pid,
                                 std::function<std::shared_ptr<PoolCore>()> core)
    : starter(rooms.options, {shared.control_segment, shared.arguments_reader, shared.spin,
                              shared.wake_ns, owner_pid}),
      relief(rooms),
      nested(rooms, relief, policies.stopper, std::move(core)),
      talk(rooms, policies.end, loop, trouble, nested),
      deaths(rooms, {policies.end, loop, trouble, talk, *shared.control, policies.crash_loop,
                     workers, nested}),
      fleet(rooms, {workers, policies.outcomes, *shared.control, policies.end, loop, talk, deaths,
                    starter, relief}),
      housekeeper(rooms, {pace, workers, fleet, relief, shared.arguments}),
      supervisor(rooms, {loop, trouble, fleet, deaths, housekeeper, policies.limits, policies.end,
                         *shared.control}) {}

}  // namespace sidestep::detail
