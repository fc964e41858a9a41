#include "policy/limits.hpp"

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include <sidestep/this_task.hpp>

#include "lanes/lane_errors.hpp"
#include "lanes/stack_questions.hpp"
#include "process_memory.hpp"
#include "spare_errors.hpp"
#include "sys/error.hpp"

namespace sidestep::inline v0::detail {
namespace {

using namespace std::chrono_literals;
constexpr std::chrono::nanoseconds kMemoryLook = 20ms;
constexpr auto kPolicies = Timers::Purpose::policies;

bool is_limit(Timeout timeout) { return timeout.count() > 0 && timeout != kNoTimeout; }
bool has_timeout(const TaskOptions& options) { return is_limit(options.timeout); }
bool has_soft_timeout(const TaskOptions& options) { return is_limit(options.soft_timeout); }

bool has_memory_limit(const TaskOptions& options) {
    return options.memory_limit > 0 && options.memory_limit != kNoLimit;
}

// What the process may be held to; nothing: nobody can tell.
std::optional<std::size_t> used_memory(int pid, MemoryLook& look) {
    auto resident = resident_memory(pid);
    if (resident && *resident <= look.limit) return resident;  // cheap, and never too small
    if (auto used = proportional_memory(pid)) return used;
    // One that may not be looked into: by how much it has grown. What it shared with its parent
    // when it started is not its own.
    if (auto own = private_memory(pid)) return look.growth(*own);
    return {};
}

}  // namespace

void Limits::watch(const PoolTask& task, Hold& hold) {
    const TaskOptions& options = *task.options;
    auto pause = kNoTimeout;
    if (has_timeout(options)) pause = options.timeout;
    if (has_soft_timeout(options)) pause = std::min(pause, options.soft_timeout.time());
    if (has_memory_limit(options)) pause = std::min(pause, kMemoryLook);
    if (pause == kNoTimeout) return;
    any_in_lanes_ = true;
    if (pause >= pause_) return;
    pause_ = pause;
    rooms_.timers.set(kPolicies, saturating_add(sys::Clock::now(), pause));
    hold.kick_supervisor();
}

void Limits::look_within(std::chrono::nanoseconds pause) {
    any_in_lanes_ = true;
    pause_ = std::min(pause_, pause);
}

void Limits::enforce(Hold& hold) {
    Timers& timers = rooms_.timers;
    Backlog& backlog = rooms_.dispatcher.backlog();
    auto now = sys::Clock::now();
    // The supervisor wakes for many reasons, and to look at all that is in flight costs more than
    // the tasks. Only what was stopped or put off can be due before the time that was found.
    bool none_put_off = stopper_.is_idle() && !backlog.first_pause_ends();
    bool early = timers.is_set(kPolicies) && !timers.is_due(kPolicies, now);
    if (early && none_put_off) return;
    timers.clear(kPolicies);  // also when nothing is left to look at: what is past keeps it awake
    if (!any_in_lanes_ && none_put_off) return;
    std::uint64_t completed = rooms_.task_end.completed();
    bool rested = retries_.end_pauses(now, hold);
    pause_ = kNoTimeout;
    bool looks = std::exchange(any_in_lanes_, false);
    for (Lane* lane : rooms_.dispatcher.lanes()) {
        if (lane->stopping && lane->drain(hold)) rested = true;  // it may have ended in time
        stopper_.climb(*lane, now, hold);
        if (looks) enforce_in(*lane, now, hold);
        if (lane->stopping && lane->stopping->step != Stopping::Step::killed)
            timers.set_earlier(kPolicies, lane->stopping->next_at);
    }
    if (rested) rooms_.dispatcher.refill(hold);
    if (any_in_lanes_) timers.set_earlier(kPolicies, saturating_add(now, pause_));
    if (sys::Deadline end = backlog.first_pause_ends()) timers.set_earlier(kPolicies, *end);
    if (rooms_.task_end.completed() == completed) return;
    rooms_.dispatcher.refill(hold);
    hold.wake_waiters();
}

void Limits::ask_in_time(Lane& lane, const PoolTask& task, std::chrono::nanoseconds ran) {
    const std::uint64_t request = soft_stop(task.serial, task.failures.attempts + 1u);
    if (lane.asked_to_stop == request) return;
    const std::chrono::nanoseconds left = task.options->soft_timeout.time() - ran;
    if (left.count() > 0)
        look_within(left);
    else
        lane.ask_to_stop(request);
}

// A task that has not begun cannot be late before its whole timeout has passed from now on.
void Limits::enforce_in(Lane& lane, Time now, Hold& hold) {
    for (std::uint32_t i = 0; i < lane.load.in_flight; ++i) {
        PoolTask* task = lane.task_at(i);
        if (!task || !task->options) continue;
        const TaskOptions& options = *task->options;
        LaneFront front;
        if (i == 0 && (has_timeout(options) || has_soft_timeout(options)))
            front = lane.look_at_front(now);
        const std::chrono::nanoseconds ran = front.runs ? now - front.begun : 0ns;
        if (has_soft_timeout(options)) ask_in_time(lane, *task, ran);
        if (has_timeout(options)) {
            const std::chrono::nanoseconds left = options.timeout.time() - ran;
            if (left.count() <= 0) return time_out(lane, *task, front.item, hold);
            look_within(left);
        }
        if (!has_memory_limit(options)) continue;
        if (i == 0 && lane.pid != 0 && lane.front_runs()) {
            lane.memory_look.task = task->serial;
            lane.memory_look.limit = options.memory_limit;
        }
        look_within(kMemoryLook);
    }
}

void Limits::enforce_memory() {
    for (Lane* lane : rooms_.dispatcher.own_lanes()) {
        MemoryLook look = lane->memory_look;
        lane->memory_look.task = 0;
        if (look.task == 0 || lane->pid == 0) continue;
        errno = 0;
        std::optional<std::size_t> used = used_memory(lane->pid, lane->memory_look);
        if (used && *used <= look.limit) continue;
        // Not now, since this process is short of descriptors or memory: at the next look.
        if (!used && is_shortage(errno)) continue;
        Hold hold(rooms_.mutex, rooms_.sleepers);
        // Nobody can tell: it cannot be held to its limit.
        stop_too_large(*lane, look, used.value_or(0), hold);
    }
}

// The number is of a moment ago: the task that runs now may have begun since, and is looked at
// again.
void Limits::stop_too_large(Lane& lane, const MemoryLook& look, std::size_t used, Hold& hold) {
    if (rooms_.life.ending() || !lane.front_runs()) return;
    PoolTask* task = lane.task_at(0);
    if (!task || task->serial != look.task || !task->options) return;
    auto error = error_about<OutOfMemory>(lane, *task, spare_errors().out_of_memory,
                                          [&](TaskError::Details& details) {
                                              details.limit = look.limit;
                                              details.used = used;
                                          });
    (void)stopper_.stop(lane, FailureKind::out_of_memory, std::move(error), hold);
    rooms_.dispatcher.refill(hold);
    hold.wake_waiters();
}

// item: the one that is late. If the worker has gone on to the next one meanwhile, that is not.
void Limits::time_out(Lane& lane, const PoolTask& task, std::uint64_t item, Hold& hold) {
    StackQuestions* const questions = lane.questions();
    bool is_expected = false;
    auto error = error_about<TaskTimeout>(
        lane, task, spare_errors().timed_out, [&](TaskError::Details& details) POOL_LOCKED {
            details.limit = static_cast<std::uint64_t>(task.options->timeout.count());
            if (!questions) return;
            details.asked_stack = questions->expect();
            is_expected = true;
        });
    LaneFront front = lane.look_at_front(sys::Clock::now());
    if (front.runs && front.item == item &&
        stopper_.stop(lane, FailureKind::timeout, std::move(error), hold, item)) {
        if (is_expected) questions->ask();  // not before: the signal ends its waits
        return;
    }
    look_within(std::chrono::nanoseconds(0));  // look again at once
}

}  // namespace sidestep::detail
