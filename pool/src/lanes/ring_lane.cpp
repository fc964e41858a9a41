#include "lanes/ring_lane.hpp"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <span>
#include <utility>

#include <sidestep/detail/chunk.hpp>

#include "lanes/lane_output.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {
namespace {

using namespace std::chrono_literals;
constexpr std::uint64_t kStartNs = 2'000'000;  // a worker that has not said it is ready
constexpr std::uint64_t kUnresponsiveNs =
    1'000'000'000;  // one that may be stopped: the last resort
constexpr std::uint64_t kNoFront = ~std::uint64_t(0);

// False: not now: the socket is full, or there is no memory. Descriptors that cannot be sent at all
// (the application closed them) are left out: the worker says of the task that they did not come.
bool send_descriptors(int control, GivenFds& sent, std::uint64_t serial,
                      const TaskDescriptors& fds) noexcept {
    try {
        return sent.give(control, fds.lasting) && send_task_fds(control, serial, fds.numbers);
    } catch (const std::bad_alloc&) {
        return false;
    } catch (const std::exception&) {
        return true;
    }
}

}  // namespace

RingLane::RingLane(std::uint32_t its_number, LaneEvents& events, Timers& timers,
                   const PoolOptions& options)
    : Lane(its_number), events_(events), timers_(timers), options_(options), questions_(process) {}

// After each change of what it goes by.
void RingLane::refresh() {
    const Condition& is = condition_;
    bool closed = !is.alive || is.leaving || is.retiring || stopping || duty != LaneDuty::works;
    bool through = options_.max_tasks_per_child && is.alive &&
                   memory_->ring.published() >= options_.max_tasks_per_child;
    load.works = is.ready && !closed;
    load.most = closed || is.corrupt || is.fd_socket_full || through ? 0
                : load.stuck > 0                                     ? 1
                                                                     : kRingCapacity;
    load.start_ns = !is.ready ? kStartNs : load.unresponsive ? kUnresponsiveNs : 0;
}

// --- tasks -------------------------------------------------------------------------------------

bool RingLane::start(PoolTask& task, Hold& hold) {
    PoolTask::ArgumentView arguments = task.argument_view();
    const TaskDescriptors& fds = *arguments.fds;
    if (!fds.empty()) {
        if (!fds.lasting.empty() && !timers_.is_set(Timers::Purpose::handles))
            timers_.set(Timers::Purpose::handles, sys::Clock::now() + kLetGo);
        const std::uint64_t begin = memory_->ring.consumed(), end = memory_->ring.published();
        const std::size_t own = fds.numbers.size();
        if ((own > 0 && !fds_in_flight_.has_room(own, begin, end)) ||
            !send_descriptors(process.control(), sent_fds_, task.serial, fds)) {
            condition_.fd_socket_full = true;
            refresh();
            return false;
        }
        if (own > 0) fds_in_flight_.add(own, begin, end);
    }
    RingParent& its = memory_->ring;
    fill_slot(its.next(), task, arguments);
    in_flight_tasks_[its.position(its.published())] = &task;
    its.publish();
    its.wake();
    ++load.in_flight;
    if (options_.max_tasks_per_child) refresh();
    if (task.options) events_.given(task, hold);
    return true;
}

bool RingLane::drain(Hold& hold) {
    if (!memory_ || condition_.corrupt) return false;
    bool any = false;
    while (TaskSlot* slot = memory_->ring.front_done()) {
        PoolTask* task = in_flight_tasks_[memory_->ring.position(memory_->ring.consumed())];
        SlotReply reply(*slot);
        if (!RingParent::is_done(*slot) || !reply.is_sound(task, memory_->results.size())) {
            condemn(hold);
            return any;
        }
        take_reply(reply, task, hold);
        any = true;
    }
    return any;
}

void RingLane::take_reply(const SlotReply& reply, PoolTask* task, Hold& hold) {
    if (output) take_output(*output, *memory_, task);
    if (task) {
        if (reply.lacks_fds) sent_fds_.forget(task->argument_view().fds->lasting);
        ++tasks_ended;
        const std::byte* bytes =
            reply.block ? memory_->results.data() + Arena::offset(reply.block) : reply.inline_bytes;
        events_.finished(*this, *task,
                         {reply.kind == ReplyKind::value,
                          {bytes, reply.size},
                          reply.begun_ns,
                          reply.duration_ns,
                          reply.block,
                          &memory_},
                         hold);
    } else {
        if (reply.block) memory_->take_back(reply.block);
        if (stopping) end_stopping(hold);
    }
    memory_->ring.release_front();
    --load.in_flight;
    if (load.stuck > 0 || load.unresponsive || condition_.fd_socket_full) {
        load.stuck = 0;
        load.unresponsive = condition_.fd_socket_full = false;
        refresh();
    }
    if (load.in_flight > 0) return;
    bool through =
        options_.max_tasks_per_child && memory_->ring.consumed() >= options_.max_tasks_per_child;
    if (through || condition_.retiring || condition_.dormant) ask_to_leave(hold);
}

// From a ring that cannot be believed nothing is taken back, until its worker is dead.
void RingLane::take_back(std::uint32_t keep, Hold& hold) noexcept {
    if (!memory_ || condition_.corrupt) return;
    while (load.in_flight > keep) {
        PoolTask* task = task_at(load.in_flight - 1);
        // Two words have to agree that it was not begun: see end_tasks(). Relaxed: if it is begun
        // in this moment, its state tells.
        bool begun =
            memory_->words().begun.load(std::memory_order_relaxed) >= memory_->ring.published();
        if (!task || begun || !memory_->ring.take_back_last()) break;
        --load.in_flight;
        take_back_task_fds(process.control(), task->serial, task->argument_view().fds->numbers);
        events_.handed_back(*task, hold);
    }
    if (load.in_flight == 0 && load.stuck > 0) load.unresponsive = true;
    refresh();
}

PoolTask* RingLane::task_at(std::uint32_t i) const {
    return in_flight_tasks_[memory_->ring.position(memory_->ring.consumed() + i)];
}

std::uint32_t RingLane::waiting() {
    if (condition_.leaving || condition_.corrupt || load.in_flight == 0) return 0;
    // Relaxed: hints.
    bool begun =
        memory_->ring.slot(memory_->ring.consumed()).state.load(std::memory_order_relaxed) !=
            SlotState::ready ||
        memory_->words().begun.load(std::memory_order_relaxed) > memory_->ring.consumed();
    return load.in_flight - (begun || (condition_.ready && load.stuck == 0) ? 1 : 0);
}

bool RingLane::front_runs() {
    return condition_.alive && load.in_flight > 0 &&
           memory_->ring.front_state() == SlotState::taken;
}

bool RingLane::stop(Hold& hold) noexcept {
    PoolTask*& front = in_flight_tasks_[memory_->ring.position(memory_->ring.consumed())];
    if (output) keep_output(*output, *front);
    memory_->ring.ask_to_stop(front->serial);
    front = nullptr;
    stopping.emplace();
    take_back(1, hold);
    return true;
}

void RingLane::ask_to_stop(std::uint64_t request) {
    asked_to_stop = request;
    memory_->ring.ask_to_stop(request);
}

// The worker has finished the task after all, or is dead.
void RingLane::end_stopping(Hold& hold) noexcept {
    memory_->ring.ask_to_stop(0);  // it may run again here, with the same number
    questions_.settle();
    Stopping done = std::move(*stopping);
    stopping.reset();
    refresh();
    events_.stopped(std::move(done), hold);
}

void RingLane::signal(int which, Hold& hold) noexcept {
    if (condition_.alive && process.signal(which)) hold.kick_supervisor();
}

// --- looks -------------------------------------------------------------------------------------

LaneFront RingLane::look_at_front(Time now) {
    const TaskSlot& slot = memory_->ring.slot(memory_->ring.consumed());
    const PoolTask* task = task_at(0);
    bool is_chunk = task && task->is_chunk();
    LaneFront front;
    // SYNC(partial): acquire, so that the start that is read next is that item's, or a later one's.
    if (is_chunk) front.item = ChunkProgress::items(slot.progress.load(std::memory_order_acquire));
    front.runs = front_runs() && !condition_.corrupt;  // or its worker dies, and tells more
    // Relaxed: hints.
    std::uint64_t word = is_chunk ? slot.started_ns.load(std::memory_order_relaxed) : 0;
    if (word == 0) word = memory_->words().since.load(std::memory_order_relaxed) >> 1;
    Time said{std::chrono::nanoseconds(static_cast<std::int64_t>(word))};
    front.begun = front_clock_.look(memory_->ring.consumed(), front.item, front.runs, said, now);
    return front;
}

std::uint64_t RingLane::begun_ns(std::uint64_t now) const {
    std::uint64_t begun = memory_->words().since.load(std::memory_order_relaxed) >> 1;
    auto launched = tally.launch_began.time_since_epoch().count();
    return begun < static_cast<std::uint64_t>(launched) || begun > now ? now : begun;  // I7
}

std::optional<PartialResult> RingLane::partial(std::uint64_t most) noexcept {
    if (condition_.corrupt) return {};
    return copy_partial(memory_->ring, memory_->words(), memory_->results, most);
}

void RingLane::look(Hold& hold) {
    condition_.fd_socket_full = false;
    if (memory_) memory_->give_back_queued();
    if (condition_.alive) {
        bool busy = load.in_flight > 0;
        std::uint64_t front = busy ? memory_->ring.consumed() : kNoFront;
        bool same = busy && front == last_front_;  // it may be starting still, or stopped in that
        load.stuck = same ? load.stuck + 1 : 0;
        last_front_ = front;
        // Twice, since it writes one of them after the other.
        bool doubtful = !condition_.corrupt && contradicts_itself(memory_->ring, memory_->words());
        if (doubtful && ((condition_.doubtful && same) || !memory_->ring.is_sound())) condemn(hold);
        condition_.doubtful = doubtful;
    }
    refresh();
}

bool RingLane::let_go_of_handles() {
    if (!condition_.alive) return false;
    sent_fds_.take_back(process.control());
    return !sent_fds_.empty();
}

}  // namespace sidestep::detail
