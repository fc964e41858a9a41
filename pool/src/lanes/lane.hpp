// Where tasks run: one worker with its ring (ring_lane.hpp), this process (inline_lane.hpp). The
// dispatcher knows nothing else of it.
//
// A lane has tasks in the order in which it was given them, and works on the first of them, its
// front. A task that it has is in no other place; it leaves the lane by exactly one event:
// finished, lost or handed_back. A task that is stopped leaves it at once, and the lane says
// stopped() when it is really done with it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <vector>

#include <sidestep/detail/pool_task.hpp>
#include <sidestep/pool_errors.hpp>

#include "lanes/stopping.hpp"
#include "lanes/task_reply.hpp"
#include "sync/event_count.hpp"
#include "task/hold.hpp"

namespace sidestep::inline v0::detail {

class Lane;
class StackQuestions;  // see stack_questions.hpp

// All that a lane knows of its pool. No call needs memory to do its work: what it may not have
// then, it goes without.
class LaneEvents {
  public:
    // The lane has the task, which has options: the pool sees to its limits.
    virtual void given(const PoolTask& task, Hold& hold) POOL_LOCKED = 0;
    // The task ran to its end; its number there is still counted until the call returns.
    virtual void finished(Lane& lane, PoolTask& task, const TaskReply& reply,
                          Hold& hold) POOL_LOCKED = 0;
    // It was begun, and has no end: its worker died.
    virtual void lost(Lane& lane, PoolTask& task, const std::exception_ptr& error,
                      Hold& hold) noexcept POOL_LOCKED = 0;
    // It was not begun: it waits again, before all that was submitted later.
    virtual void handed_back(PoolTask& task, Hold& hold) noexcept POOL_LOCKED = 0;
    // What was stopped has ended (Lane::stop()); the lane may take tasks again.
    virtual void stopped(Stopping done, Hold& hold) noexcept POOL_LOCKED = 0;

  protected:
    ~LaneEvents() = default;
};

// What a lane is chosen by. The lane keeps it true, so to choose one makes no call.
struct LaneLoad {
    std::uint32_t in_flight = 0;  // tasks that it has; and the one that it was to stop
    std::uint32_t most = 0;       // it takes a task if it has fewer; 0: none now
    std::uint32_t stuck = 0;      // looks in a row at which the same task was at its front
    // It takes tasks and has begun to: one that still starts gets none while another one works.
    bool works = false;
    bool gathers = false;       // it has what it sends at flush()
    bool unresponsive = false;  // what it had was taken back from it; until it ends a task
    // What comes before a new task begins there, but for the tasks before it: a start, a way.
    std::uint64_t start_ns = 0;
    const EventCount* doorbell = nullptr;  // where its worker sleeps; null: it never does
};

// The task that a lane works on, at one look.
struct LaneFront {
    bool runs = false;                              // a hint: it may have ended since
    std::uint64_t item = 0;                         // of a chunk: which it is at, from 0
    std::chrono::steady_clock::time_point begun{};  // the task, or that item; if it runs
};

// What a chunk had finished when it was ended: so many items, and their results.
struct PartialResult {
    std::uint32_t items;
    std::vector<std::byte> bytes;
};

// The task whose memory the supervisor is to look at.
struct MemoryLook {
    std::uint64_t task = 0;  // 0: none
    std::size_t limit = 0;   // what it may use
    // What its worker used when it began, without what it shares; none: not known yet.
    std::optional<std::size_t> at_start;

    // By how much that has grown to `own`. The first number that is known is where it began.
    std::size_t growth(std::size_t own) {
        if (!at_start) at_start = own;
        return own > *at_start ? own - *at_start : 0;
    }
};

// What a lane is to do beside running the task at its front.
enum class LaneDuty : unsigned char {
    works,  // it gets tasks
    waits,  // its task waits for nested ones: it gets none, and another lane works in its place
    helps,  // its task waits, and runs nested ones meanwhile: it gets no others
    rests   // it works in nobody's place: it gets none
};

class Lane {
  public:
    using Time = std::chrono::steady_clock::time_point;

    explicit Lane(std::uint32_t its_number) : number(its_number) {}
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;

    // Plain data.
    const std::uint32_t number;  // from 0: also that of the worker, for users
    int pid = 0;                 // of the process that runs its tasks; 0: there is none now
    std::uint64_t tasks_ended = 0;
    LaneLoad load;
    LaneDuty duty = LaneDuty::works;   // changed by set_duty()
    std::optional<Stopping> stopping;  // the task that was at its front is being stopped
    std::uint64_t asked_to_stop = 0;   // the last request of ask_to_stop()
    MemoryLook memory_look;            // owned by the supervisor's thread

    // Takes the task. False: not now, and the task stays the caller's; then load.most is 0 for a
    // while. Requires: load.in_flight < load.most.
    virtual bool start(PoolTask& task, Hold& hold) POOL_LOCKED = 0;
    // A round of start() is over: what was only gathered is sent.
    virtual void flush(Hold&) POOL_LOCKED {}
    // Tells of all that has ended. True: there was something.
    virtual bool drain(Hold& hold) POOL_LOCKED = 0;
    // Hands back what has not begun, the newest first, until only `keep` are left. What was begun
    // stays; what another machine has may come later.
    virtual void take_back(std::uint32_t keep, Hold& hold) noexcept POOL_LOCKED = 0;
    // The i-th of load.in_flight, the oldest first; null: it is no task, or one that was stopped.
    virtual PoolTask* task_at(std::uint32_t i) const POOL_LOCKED = 0;
    // How many tasks wait for the one at the front; with it, if it is not even begun, since the
    // worker still starts or is stopped. A hint: taking back decides.
    virtual std::uint32_t waiting() POOL_LOCKED = 0;
    // The front is a task that runs. (A hint: it may be done the next moment.)
    virtual bool front_runs() POOL_LOCKED = 0;
    // The task at the front is to end: from now on the lane has it no more, hands back what comes
    // behind it, and takes nothing until stopped(). False: it cannot. Requires: front_runs(), and
    // that task_at(0) is a task.
    virtual bool stop(Hold& hold) noexcept POOL_LOCKED = 0;
    // The task at the front is asked to stop, and stays; a soft_stop(). Requires what stop() does.
    // The default: the lane sees to limits by itself.
    virtual void ask_to_stop(std::uint64_t) POOL_LOCKED {}
    // Where the task at the front is, its worker can be asked by this. Null: nobody can tell.
    virtual StackQuestions* questions() POOL_LOCKED { return nullptr; }
    // Hands back what has not begun, if it is to get none.
    virtual void set_duty(LaneDuty, Hold&) POOL_LOCKED {}
    // The worker's process gets the signal. Where there is none: nothing.
    virtual void signal(int, Hold&) noexcept POOL_LOCKED {}
    // A look at the front; Limits goes by it. The default: it sees to limits by itself.
    virtual LaneFront look_at_front(Time) POOL_LOCKED { return {}; }
    // Since when the front runs (steady clock), for what is shown.
    virtual std::uint64_t begun_ns(std::uint64_t now) const POOL_LOCKED { return now; }
    // What the chunk at the front, of so many items, has finished. Nothing: nobody can tell, or
    // there is no memory for a copy.
    virtual std::optional<PartialResult> partial(std::uint64_t) noexcept POOL_LOCKED { return {}; }
    // What an error says of the task, and of who runs it.
    virtual TaskError::Details describe(const PoolTask& task) const POOL_LOCKED = 0;

    bool has_room(std::uint64_t depth) const {
        return load.in_flight < (load.most < depth ? load.most : depth);
    }
    // Hands back the task, and what comes behind it. False: it was begun, or is not here.
    bool take_back_task(const PoolTask& task, Hold& hold) noexcept POOL_LOCKED;

  protected:
    ~Lane() = default;
};

}  // namespace sidestep::detail
