#include "supervise/worker_deaths.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>

#include "spare_errors.hpp"
#include "worker/crash_stack.hpp"
#include "worker/frame_names.hpp"
#include "worker/worker_memory.hpp"

namespace sidestep::inline v0::detail {
namespace {

using namespace std::chrono_literals;
constexpr auto kOrphans = 10ms;   // how often those that were killed are looked for
constexpr auto kOrphansEnd = 1s;  // and for how long at the end

bool has_message(int socket) {
    pollfd entry = {socket, POLLIN, 0};
    return ::poll(&entry, 1, 0) == 1;
}

// Where a worker without a task was when a signal ended it. To give it names takes milliseconds:
// whoever asks breaks the pool.
struct Crash {
    std::string fault;  // "it reached for ...; ", or empty
    std::string stack;  // see stack_text()

    explicit Crash(const CrashRecord& record)
        : fault(describe_fault(record)), stack(stack_text(code_addresses(record.stack))) {
        if (!fault.empty()) fault += "; ";
    }
};

}  // namespace

void WorkerDeaths::start() {
    PoolLock lock(rooms_.mutex);
    oom_kills_.start();
}

void WorkerDeaths::look(Worker& worker) {
    RingLane& lane = worker.lane;
    if (!lane.condition().alive) return;
    int pidfd = lane.process.launched.pidfd.get();
    ExitStatus status = sys::wait_pidfd(pidfd, false, true);
    if (status.running()) return;
    if (!lane.condition().ready && has_message(lane.process.control()))
        pool_.trouble.attempt([&]() SUPERVISOR_ONLY {
            pool_.talk.look(worker);
        });  // what it said last explains its death
    pool_.nested.close(lane.pid);
    Hold hold(rooms_.mutex, rooms_.sleepers);
    // What its tasks left running goes with it, while its zombie reserves the group's number.
    ::kill(-lane.pid, SIGKILL);
    pool_.trouble.attempt([&] { status = sys::wait_pidfd(pidfd, true); });
    orphans_.add(lane.pid);
    bool in_order = status.success() && lane.condition().leaving && !lane.stopping;
    rooms_.insight.note_worker_ended(lane.number, lane.pid, in_order, status);
    (void)lane.drain(hold);
    bury(worker, status, hold);
    rooms_.dispatcher.refill(hold);
    rooms_.dispatcher.rebalance(rooms_.life.ending(), hold);
    hold.wake_waiters();
    // The dead worker may have cleared the sleeper's bit without waking it: everybody is woken.
    pool_.page.bell.wake_all();
}

// From here on nothing throws, and each of its tasks has its place.
void WorkerDeaths::bury(Worker& worker, const ExitStatus& status, Hold& hold) {
    RingLane& lane = worker.lane;
    int pid = lane.pid;
    bool stopped_a_task = lane.stopping.has_value();
    // An idle worker's death does not count towards the crash loop.
    bool idle = lane.condition().ready && lane.load.in_flight == 0;
    lane.end_tasks(status, oom_kills_, hold);
    bool expected = lane.condition().leaving || stopped_a_task || rooms_.life.ending();
    bool initialized = lane.condition().ready || !rooms_.options.initializer;
    const std::shared_ptr<WorkerMemory> memory = lane.memory();  // its crash is in it
    close(worker);
    if (!expected && !idle) note_death_without_progress(worker);
    if (!expected && !initialized)
        pool_.end.break_down(
            broken_pool([&] {
                const Crash crash(memory->crash());
                return fmt::format(
                    "the pool is broken: worker {} {} before its initializer had ended; "
                    "{}{}: nothing is tried again{}",
                    pid, status.describe(), crash.fault,
                    worker.boot_failure.empty() ? "look at what that does" : worker.boot_failure,
                    crash.stack);
            }),
            hold);
    unsigned deaths = pool_.crash_loop.deaths();
    if (rooms_.life.broken() || !is_crash_loop()) return;
    pool_.end.break_down(
        broken_pool([&] {
            const Crash crash(memory->crash());
            return fmt::format(
                "the pool is broken: {} workers in a row died without beginning a task, the last "
                "one (process {}) {}; {}{}{}",
                deaths, pid, status.describe(), crash.fault,
                worker.boot_failure.empty() ? "run the program under a debugger, or look at what "
                                              "its start-up does before init()"
                                            : worker.boot_failure,
                crash.stack);
        }),
        hold);
}

void WorkerDeaths::give_up(Worker& worker, Hold& hold) {
    if (!worker.lane.condition().alive) return;
    if (!rooms_.life.ending())
        pool_.end.break_down(
            broken_pool([&] {
                return fmt::format(
                    "the pool is broken: worker {} is to end, and cannot be signalled "
                    "(Operation not permitted), nor does it end when its lifeline closes: "
                    "it, or this process, has changed its user; end it by hand",
                    worker.lane.pid);
            }),
            hold);
    bury(worker, ExitStatus::lost_status(), hold);
    hold.wake_waiters();
}

// The process is reaped.
void WorkerDeaths::close(Worker& worker) {
    RingLane& lane = worker.lane;
    pool_.page.set_parked(lane.number, true);
    pool_.loop.remove(lane.process.launched.pidfd.get());
    pool_.loop.remove(lane.process.control());
    pool_.loop.remove(lane.process.bell.get());
    lane.close();
    worker.respawn_at = sys::Clock::now();
}

void WorkerDeaths::note_death_without_progress(Worker& worker) {
    auto pause = pool_.crash_loop.note_death(rooms_.task_end.completed());
    worker.respawn_at = sys::Clock::now() + pause;
}

bool WorkerDeaths::is_crash_loop() const {
    return pool_.crash_loop.is_one(pool_.workers.size()) &&
           std::none_of(pool_.workers.begin(), pool_.workers.end(), [](const Worker& worker) {
               return worker.lane.condition().alive && worker.lane.condition().ready;
           });
}

void WorkerDeaths::reap_orphans_at_end() { orphans_.reap_until(sys::Clock::now() + kOrphansEnd); }

sys::Deadline WorkerDeaths::next_look() const {
    if (orphans_.empty()) return {};
    return sys::Clock::now() + kOrphans;
}

}  // namespace sidestep::detail
