// The inside of a pool in the application's process: the owner of its rooms, and what its users
// call.
//
// Everything is guarded by one mutex, which no other process can hold. Draining (taking results out
// of the lanes) is done by whoever is there: a submitter, a thread that waits for a result (the
// first one leads, the others sleep), else the supervisor.
//
// P1 Each task that was submitted and is not done is in exactly one place: the backlog, a lane, a
//    lane's `stopping`, another host, or the retry desk, where Retry::when is asked.
//    TaskEnd::complete() is called once for each.
// P2 References are dropped outside the mutex (Hold::drop_later()): the last one frees shared
//    memory, which takes the mutex.
// P3 What a worker wrote is checked against what its lane knows before it is believed; a worker
//    that wrote nonsense is killed, and its tasks are sorted by the lane's records alone.
// P4 What completes a task takes no memory: that was had when the task was submitted, or there
//    is a spare (spare_errors.hpp). (A result of 25 to 152 bytes takes one more record: without
//    memory for that it is std::bad_alloc.) What is only noted (statistics, output, a retry) goes
//    without when memory is used up. So no drain, and no event of the supervisor, throws for want
//    of memory with a task in no place.
// P5 What a worker has too (its bell, its control socket) is never waited for with the mutex held,
//    nor is /proc read about a worker: it decides how long that takes.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include <sidestep/detail/pool_task.hpp>
#include <sidestep/pool_errors.hpp>
#include <sidestep/pool_options.hpp>

#include "argument_memory.hpp"
#include "dispatch/wait_room.hpp"
#include "future_desk.hpp"
#include "intake.hpp"
#include "joiner.hpp"
#include "lanes/host_lane.hpp"
#include "lanes/inline_lane.hpp"
#include "life/pool_owner.hpp"
#include "policy/other_hosts.hpp"
#include "pool_parts.hpp"
#include "pool_view.hpp"
#include "service_thread.hpp"
#include "sync/pool_mutex.hpp"

namespace sidestep::inline v0::detail {

class PoolCore final : public std::enable_shared_from_this<PoolCore>,
                       public EndingPool,
                       public HostListener,
                       private Sleepers {
  public:
    explicit PoolCore(const PoolOptions& options);
    ~PoolCore();

    // Starts the workers and the supervisor; throws what went wrong, having cleaned up.
    void start(const HostPlan& plan = {}) POOL_UNLOCKED;

    // Of all hosts.
    std::uint32_t workers() const { return supervision_.fleet.target() + hosts_.workers(); }
    bool has_hosts() const { return hosts_.workers() > 0; }
    void hosts_told(std::uint32_t lane, std::vector<HostEvent> events) override POOL_UNLOCKED;
    PoolView& view() { return view_; }
    Intake& intake() { return intake_; }
    FutureDesk& desk() { return desk_; }
    ArgumentMemory& memory() { return memory_; }

    const PoolOptions& options() const { return options_; }
    void run_in_background(std::function<void()> work) POOL_UNLOCKED;
    CallbackThread& callbacks() { return callbacks_; }

    void close() POOL_UNLOCKED;
    // Like close(), for maps that were begun, too; what waits is cancelled, nothing is run again.
    void interrupt() POOL_UNLOCKED;
    void terminate() POOL_UNLOCKED;
    void join() POOL_UNLOCKED override;
    bool join_until(const Deadline& deadline) POOL_UNLOCKED;
    // Nobody has the pool any more: join() does not wait for what others are to do.
    void be_destroyed() POOL_UNLOCKED;
    void end_with_process() noexcept POOL_UNLOCKED override;
    void keep_for_ever() { self_ = shared_from_this(); }  // nobody will join()
    void cancel_waiting() POOL_UNLOCKED;                  // all of them
    void resize(unsigned workers) POOL_UNLOCKED;
    bool owned_here() const { return owner_.is_here(); }
    // This thread runs callbacks of the pool's futures or Retry::when, or is in a map: it cannot
    // join().
    bool in_own_thread() override;
    void abandon();  // in a forked child: leave the parent's threads and processes alone

  private:
    using Lock = PoolLock;

    void wake_waiters() noexcept override { wait_room_.wake_all(); }
    void require_joinable() POOL_UNLOCKED;
    void await_end() POOL_UNLOCKED;
    void end_vain_waits() POOL_UNLOCKED;
    void kick_supervisor() noexcept override { supervision_.supervisor.kick(); }
    void say_who_attends() noexcept override POOL_LOCKED { wait_room_.say_who_attends(); }

    const PoolOptions options_;
    const PoolOwner owner_;
    PoolShared shared_;
    CallbackThread callbacks_;
    BackgroundThreads background_;    // they feed maps to the workers
    std::shared_ptr<PoolCore> self_;  // see keep_for_ever()
    Joiner joiner_;
    std::mutex joining_one_;  // before mutex_: the turn of whoever is in join()
    mutable PoolMutex mutex_;
    PoolTasks tasks_;
    const PoolRooms rooms_;
    PoolPolicies policies_;
    OtherHosts hosts_;
    PoolSupervision supervision_;
    InlineLane inline_lane_;  // if there are no workers
    WaitRoom wait_room_;
    FutureDesk desk_;
    Intake intake_;
    ArgumentMemory memory_;
    PoolView view_;
};

}  // namespace sidestep::detail
