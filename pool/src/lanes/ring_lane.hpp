// One worker process and its ring, as a lane.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <sidestep/exit_status.hpp>
#include <sidestep/pool_options.hpp>

#include "lanes/front_clock.hpp"
#include "lanes/lane.hpp"
#include "lanes/ring_slot.hpp"
#include "lanes/stack_questions.hpp"
#include "lanes/worker_process.hpp"
#include "life/timers.hpp"
#include "process_memory.hpp"
#include "worker/output_capture.hpp"
#include "worker/task_fds.hpp"
#include "worker/worker_memory.hpp"
#include "worker/worker_meter.hpp"

namespace sidestep::inline v0::detail {

// What a worker wrote is checked against what the parent knows itself before it is believed; one
// that wrote nonsense is killed, and its tasks are sorted by the parent's own records.
//
// Threads: the caller serialises, by the pool's mutex; `pid`, the process's pidfd and control
// socket, `alive` and `ready` change in the supervisor's thread only.
class RingLane final : public Lane {
  public:
    // What the pool knows of the worker.
    struct Condition {
        bool alive = false;
        bool ready = false;     // it said so
        bool leaving = false;   // it was asked to
        bool retiring = false;  // it takes no more tasks, and is asked to leave when it is through
        bool dormant = false;   // it leaves when it is through; started again when there is a task
        bool corrupt = false;   // it wrote nonsense, and was killed
        // Send it no descriptors, so no tasks, until it completes a task or the next look: its
        // control socket is full, or it has as many as it keeps.
        bool fd_socket_full = false;
        bool doubtful = false;  // at the last look its words contradicted each other
    };
    // A new worker: what it has of its own.
    struct Parts {
        sys::Clock::time_point launch_began = sys::Clock::now();
        std::shared_ptr<WorkerMemory> memory;
        std::unique_ptr<WorkerOutput> output;    // of its tasks, if it is captured
        std::vector<PoolTask*> in_flight_tasks;  // by position in the ring
        GivenFds sent_fds;
        WorkerProcess process;
    };

    // All of them outlive this object.
    RingLane(std::uint32_t its_number, LaneEvents& events, Timers& timers,
             const PoolOptions& options);

    bool start(PoolTask& task, Hold& hold) POOL_LOCKED override;
    bool drain(Hold& hold) POOL_LOCKED override;
    void take_back(std::uint32_t keep, Hold& hold) noexcept POOL_LOCKED override;
    PoolTask* task_at(std::uint32_t i) const POOL_LOCKED override;
    std::uint32_t waiting() POOL_LOCKED override;
    bool front_runs() POOL_LOCKED override;
    bool stop(Hold& hold) noexcept POOL_LOCKED override;
    void ask_to_stop(std::uint64_t request) POOL_LOCKED override;
    StackQuestions* questions() POOL_LOCKED override { return &questions_; }
    void set_duty(LaneDuty wanted, Hold& hold) POOL_LOCKED override;
    void signal(int which, Hold& hold) noexcept POOL_LOCKED override;
    LaneFront look_at_front(Time now) POOL_LOCKED override;
    std::uint64_t begun_ns(std::uint64_t now) const POOL_LOCKED override;
    std::optional<PartialResult> partial(std::uint64_t most) noexcept POOL_LOCKED override;
    TaskError::Details describe(const PoolTask& task) const POOL_LOCKED override;

    // Its process came; or is reaped (what waits in its memory stays there).
    void open(Parts parts) noexcept POOL_LOCKED;
    void close() noexcept POOL_LOCKED;
    void set_ready() POOL_LOCKED;
    void set_dormant(bool dormant, Hold& hold) POOL_LOCKED;
    // Finishes what it runs, and leaves; or leaves now, having nothing to do.
    void retire(Hold& hold) POOL_LOCKED;
    void ask_to_leave(Hold& hold) POOL_LOCKED;
    // What it wrote is not to be believed: it is killed. Its death sorts its tasks; until then it
    // may run them.
    void condemn(Hold& hold) POOL_LOCKED;
    // Its process is dead: each of its tasks is lost or handed back.
    void end_tasks(const ExitStatus& status, OomKills& kills, Hold& hold) noexcept POOL_LOCKED;
    // The supervisor's look, now and then: for one that is stopped, or contradicts itself.
    void look(Hold& hold) POOL_LOCKED;
    // Keeps the worker no shared objects that are gone. True: it keeps some.
    bool let_go_of_handles() POOL_LOCKED;
    const Condition& condition() const { return condition_; }
    const std::shared_ptr<WorkerMemory>& memory() const { return memory_; }

    WorkerProcess process;
    WorkerTally tally;
    std::unique_ptr<WorkerOutput> output;  // of its tasks; null: it is not captured

  private:
    void refresh() POOL_LOCKED;
    void take_reply(const SlotReply& reply, PoolTask* task, Hold& hold) POOL_LOCKED;
    void end_stopping(Hold& hold) noexcept POOL_LOCKED;

    LaneEvents& events_;
    Timers& timers_ POOL_GUARDED;
    const PoolOptions& options_;
    Condition condition_;
    std::shared_ptr<WorkerMemory> memory_;
    std::vector<PoolTask*> in_flight_tasks_ POOL_GUARDED;
    GivenFds sent_fds_ POOL_GUARDED;
    FdsInFlight fds_in_flight_ POOL_GUARDED;
    FrontClock front_clock_ POOL_GUARDED;
    StackQuestions questions_ POOL_GUARDED;
    std::uint64_t last_front_ POOL_GUARDED = 0;  // at the last look; see look()
};

}  // namespace sidestep::detail
