// The coming and going of a lane's worker, and what becomes of its tasks when it dies.
#include <signal.h>

#include <algorithm>
#include <utility>

#include <sidestep/detail/chunk.hpp>

#include "insight/task_facts.hpp"
#include "lanes/lane_errors.hpp"
#include "lanes/lane_output.hpp"
#include "lanes/ring_lane.hpp"
#include "spare_errors.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {
namespace {

std::exception_ptr lost_error(const RingLane& lane, const PoolTask& task, const ExitStatus& status,
                              OomKills& kills) noexcept POOL_LOCKED {
    bool is_corrupt = lane.condition().corrupt;
    bool oom_killed = status.signal() == SIGKILL && !is_corrupt && kills.rose();
    return error_about<WorkerLost>(
        lane, task, spare_errors().lost, [&](TaskError::Details& details) {
            details.exit_status = status;
            details.stack = code_addresses(lane.memory()->crash().stack);
            details.note = describe_fault(lane.memory()->crash());
            if (std::string words = last_words(details.output); !words.empty())
                details.note += details.note.empty() ? words : "; " + words;
            if (is_corrupt)
                details.note =
                    "it had overwritten its shared memory, or written to the pool's socket, so the "
                    "pool stopped it";
            details.oom_killed = oom_killed;
        });
}

}  // namespace

void RingLane::open(Parts parts) noexcept {
    auto now = sys::Clock::now();
    process = std::move(parts.process);
    memory_ = std::move(parts.memory);
    output = std::move(parts.output);
    in_flight_tasks_ = std::move(parts.in_flight_tasks);
    sent_fds_ = std::move(parts.sent_fds);
    fds_in_flight_ = {};
    tally.launch_began = parts.launch_began;
    ++tally.launches;
    pid = process.pid();
    bool dormant = condition_.dormant;
    condition_ = {};
    condition_.alive = true;
    condition_.dormant = dormant;
    last_front_ = ~std::uint64_t(0);
    asked_to_stop = 0;
    questions_.restart(memory_);
    front_clock_.restart(now);
    if (output) timers_.set_earlier(Timers::Purpose::output, now);
    if (!sent_fds_.empty()) timers_.set_earlier(Timers::Purpose::handles, now);
    load = {};
    load.doorbell = &memory_->ring_segment.at<RingHeader>()->doorbell;
    refresh();
}

// Results that wait in its memory keep that alive.
void RingLane::close() noexcept {
    tally.add(memory_->words(), sys::Clock::now());
    load = {};
    memory_->alive = false;
    memory_ = nullptr;
    questions_.restart(nullptr);
    if (output) output->end();
    output = nullptr;
    process = {};
    pid = 0;
    condition_.alive = condition_.ready = condition_.retiring = false;
    if (duty != LaneDuty::rests) duty = LaneDuty::works;  // the task that waited has gone with it
    refresh();
}

void RingLane::set_ready() {
    condition_.ready = true;
    // What it holds, or what was taken back from it, it had not been able to begin.
    load.stuck = 0;
    load.unresponsive = false;
    tally.start += sys::Clock::now() - tally.launch_began;
    refresh();
}

void RingLane::set_dormant(bool dormant, Hold& hold) {
    condition_.dormant = dormant;
    if (dormant && condition_.alive && load.in_flight == 0) ask_to_leave(hold);
}

void RingLane::set_duty(LaneDuty wanted, Hold& hold) {
    if (duty == wanted) return;
    duty = wanted;
    if (duty != LaneDuty::works) take_back(front_runs() ? 1 : 0, hold);
    refresh();
}

void RingLane::retire(Hold& hold) {
    condition_.retiring = true;
    take_back(front_runs() ? 1 : 0, hold);
    refresh();
    if (load.in_flight == 0) ask_to_leave(hold);
}

void RingLane::ask_to_leave(Hold& hold) {
    if (!condition_.alive || condition_.leaving) return;
    condition_.leaving = true;
    process.leave_by = saturating_add(sys::Clock::now(), options_.leave_grace);
    hold.kick_supervisor();  // it may sleep for longer
    RingParent& its = memory_->ring;
    fill_with_request_to_leave(its.next());
    in_flight_tasks_[its.position(its.published())] = nullptr;
    its.publish();
    its.wake();
    ++load.in_flight;
    refresh();
}

void RingLane::condemn(Hold& hold) {
    condition_.corrupt = true;
    refresh();
    signal(SIGKILL, hold);
}

void RingLane::end_tasks(const ExitStatus& status, OomKills& kills, Hold& hold) noexcept {
    // It found out itself, or left words that contradict each other.
    const WorkerWords& words = memory_->words();
    auto damage = static_cast<Damage>(words.damaged.load(std::memory_order_relaxed));
    if (damage != Damage::none || contradicts_itself(memory_->ring, words, condition_.alive))
        condition_.corrupt = true;
    RingParent& its = memory_->ring;
    // Two words have to agree that the front was not begun: a stray write into one of them must not
    // have a task run twice. (One whose arguments were overwritten is taken, and not begun.)
    SlotState front = its.front_state();
    bool front_waits = words.begun.load(std::memory_order_relaxed) <= its.consumed() &&
                       (front == SlotState::ready ||
                        (front == SlotState::taken && damage == Damage::task_refused));
    if (stopping) end_stopping(hold);
    for (std::uint64_t i = its.published(); i-- > its.consumed();) {
        PoolTask* task = std::exchange(in_flight_tasks_[its.position(i)], nullptr);
        if (!task) continue;  // the request to leave, or it was stopped
        // R3: only the front can have been running, whatever the worker wrote elsewhere.
        if (i != its.consumed() || front_waits) {
            events_.handed_back(*task, hold);
        } else {
            if (output) keep_output(*output, *task);
            events_.lost(*this, *task, lost_error(*this, *task, status, kills), hold);
        }
    }
    load = {};
}

TaskError::Details RingLane::describe(const PoolTask& task) const {
    TaskError::Details details;
    details.pid = pid;
    details.worker_index = number;
    tell_task(details, task);
    if (output) details.output = output->read();
    const PoolTask::Items& items = task.items();
    const std::uint64_t count = items.told > 0 ? items.told : items.end - items.begin;
    if (count > 0 && memory_) {
        const TaskSlot& front = memory_->ring.slot(memory_->ring.consumed());
        std::uint64_t done = ChunkProgress::items(front.progress.load(std::memory_order_relaxed));
        details.item = items.first + items.begin + std::min(done, count - 1);
    }
    return details;
}

}  // namespace sidestep::detail
