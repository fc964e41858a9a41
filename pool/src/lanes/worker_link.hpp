// One worker, as its pool knows it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sidestep/detail/pool_task.hpp>

#include "output_capture.hpp"
#include "queue/task_ring.hpp"
#include "start/launch.hpp"
#include "sys/fork_marker.hpp"
#include "sys/sys.hpp"
#include "task/failure_kind.hpp"
#include "task_fds.hpp"
#include "worker_memory.hpp"
#include "worker_meter.hpp"

namespace sidestep::inline v0::detail {

// What a worker wrote into a slot, copied: it may change while we look (I7).
struct Reply {
    explicit Reply(const TaskSlot& slot) : Reply(slot, slot.reply) {}

    const ReplyKind raw_kind, kind;
    const bool lacks_fds;
    const std::uint32_t sum;
    const std::uint64_t serial, block, size, begun_ns, duration_ns;
    const std::byte* const inline_bytes;

  private:
    Reply(const TaskSlot& slot, ReplyKind what)
        : raw_kind(what),
          kind(what == ReplyKind::lacks_fds ? ReplyKind::error : what),
          lacks_fds(what == ReplyKind::lacks_fds),
          sum(slot.sum),
          serial(slot.serial),
          block(slot.block),
          size(slot.size),
          begun_ns(slot.begun_ns),
          duration_ns(slot.duration_ns),
          inline_bytes(slot.inline_bytes) {}
};

// The task at the front of a ring is stopped: asked by its flag, then by SIGTERM, then SIGKILL.
struct Eviction {
    enum class Step : unsigned char { asked, terminated, killed };
    Step step = Step::asked;
    sys::Clock::time_point next_at;
    BlockId arguments = 0;       // the task still reads them,
    std::shared_ptr<void> kept;  //   or these
    PoolTask* task = nullptr;    // it is not done: it may be run again when the worker is free,
    FailureKind kind = FailureKind::error;
    std::exception_ptr error;  //   else this is its result
    std::uint64_t key = 0;     // of the task, which runs still
};

// Since when the task at the front of a ring runs, or the item that it is at, by the parent's own
// clock: between the last look that did not see it run, and the first one that did.
struct FrontClock {
    std::uint64_t index = 0;
    std::uint64_t item = 0;
    bool runs = false;
    sys::Clock::time_point looked_at{}, not_before{}, seen_at{};
};

// One worker, as the parent knows it.
struct WorkerLink {
    static constexpr std::uint64_t kNoFront = ~std::uint64_t(0);

    std::uint32_t index = 0;
    Launched process;
    // The worker writes to it when the supervisor is wanted. Nobody reads: the supervisor hears of
    // each write (EPOLLET), so what a task does to it is no matter.
    ParentFd bell;
    std::shared_ptr<WorkerMemory> memory;
    std::vector<PoolTask*> shadow;  // by ring position: who is in flight
    bool alive = false;
    bool ready = false;     // it said so
    bool stopping = false;  // it was asked to leave
    bool corrupt = false;   // it wrote nonsense and was killed
    bool deaf = false;      // its socket takes nothing; until it completes a task, or the next look
    unsigned stuck = 0;     // looks in a row at which the same task was at its front
    std::uint64_t last_front = kNoFront;  // at the last look
    bool doubtful = false;                // at the last look its words contradicted each other
    FrontClock front_clock;
    bool unresponsive = false;  // a task was taken back from its front; until it completes one
    sys::Clock::time_point respawn_at{};
    std::optional<Eviction> eviction;
    bool retiring = false;   // takes no more tasks, and is asked to leave when it is through
    bool dormant = false;    // left after idle_timeout; started again when there is something to do
    bool surplus = false;    // beyond the number of workers that is wanted
    sys::Deadline leave_by;  // it was asked to leave; if it is still there then, it is killed
    sys::Deadline cut_off_at;  // its socket is closed; if it lives on then, it is replaced
    sys::Deadline gone_by;     // nothing but its lifeline could end it; then the pool gives up
    // Owned by the supervisor's thread:
    std::uint64_t limited = 0;     // the task whose worker's memory is to be looked at; 0: none
    std::size_t memory_limit = 0;  //   what it may use
    std::optional<std::size_t> private_memory;  // at the last look; see measure_growth()
    sys::Clock::time_point started_at{};
    std::size_t memory_at_start = 0;       // its own, without what it shares
    std::string boot_failure;              // what it said when it could not start
    std::unique_ptr<WorkerOutput> output;  // of its tasks, if it is captured
    WorkerTally tally;
    GivenFds given;

    RingParent& ring() { return memory->ring; }
};

}  // namespace sidestep::detail
