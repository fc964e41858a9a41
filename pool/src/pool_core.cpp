#include "pool_core.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include <sidestep/pool_errors.hpp>

#include "spare_errors.hpp"
#include "sync/spin.hpp"
#include "sys/error.hpp"
#include "task_fds.hpp"

namespace sidestep::inline v0::detail {

namespace {

// Work that a ring may hold ahead of its worker, in wake-ups and at least: enough for a worker that
// announces some wake-ups' worth of work at a time and does not run dry meanwhile (ipc.md 1.3).
constexpr std::uint64_t kPrefetchWakeUps = 64;
constexpr std::uint64_t kPrefetchNs = 250'000;
constexpr std::uint64_t kUnknownTaskNs = 1'000'000;  // before anything was measured
constexpr std::uint64_t kStartNs = 2'000'000;        // a worker that has not said it is ready
constexpr std::uint64_t kUnresponsiveNs =
    1'000'000'000;                                       // one that may be stopped: the last resort
constexpr std::uint64_t kLongestTaskNs = 1'000'000'000;  // what the average takes into account
constexpr std::uint64_t kTinyTasksForOneLook = 32;
constexpr std::uint64_t kSubmitNs = 400;

// The arenas of arguments and of each worker's results, and one more: a worker maps the arguments'
// twice if it is a fork.
PoolOptions fitted(PoolOptions options) {
    options.arena_bytes = Segment::fitting(options.arena_bytes, WorkerMemory::kLeastArena,
                                           std::size_t(*options.processes) + 2);
    return options;
}

}  // namespace

PoolCore::PoolCore(const PoolOptions& options)
    : options_(fitted(options)),
      has_default_options_(options.task.says_anything()),
      owner_pid_(::getpid()),
      control_segment_(Segment::create("sidestep-control", sizeof(ControlPage))),
      args_segment_(
          Segment::reserve("sidestep-args", options_.arena_bytes, WorkerMemory::kLeastArena)),
      args_reader_(sys::reopen_read_only(args_segment_.fd())),
      control_(new (control_segment_.data()) ControlPage),
      supervisor_bell_(sys::make_eventfd()),
      target_(*options.processes),
      insight_(*options.processes == 0 ? "thread" : "worker"),
      wait_room_(mutex_, *this, *control_, spin_,
                 [this](Hold& hold) POOL_LOCKED { return drain(hold); }),
      links_(*options.processes),
      args_(args_segment_),
      task_end_(args_, callbacks_),
      backlog_(*options.processes),
      task_ns_(kUnknownTaskNs) {
    spin_.workers = *options.processes;
    spin_.cpus = static_cast<std::uint32_t>(sys::usable_cpus());
    spin_.spin_ns = static_cast<std::uint64_t>(spin_budget().count());
    wake_cost_ns_ = static_cast<std::uint64_t>(wake_up_cost().count());
    for (std::uint32_t i = 0; i < *options.processes; ++i) {
        links_[i].index = i;
        control_->set_parked(i, true);
    }
}

std::vector<int> PoolCore::worker_pids() {
    require_owner();
    Lock lock(mutex_);
    std::vector<int> pids;
    for (const WorkerLink& link : links_)
        if (link.alive) pids.push_back(link.process.pid);
    return pids;
}

// --- submitting --------------------------------------------------------------------------------

// Before the mutex is taken: in a forked copy a thread that exists no more may hold it for ever.
void PoolCore::require_owner() const {
    if (!owned_here())
        throw std::logic_error(
            "this pool belongs to the process that made it, and this is a forked copy: make a pool "
            "of its own here");
}

bool PoolCore::accepting() {
    if (!owned_here()) return false;
    Lock lock(mutex_);
    return life_.running();
}

void PoolCore::check_open() {
    require_owner();
    Lock lock(mutex_);
    life_.require_accepting();
}

void PoolCore::begin_map() {
    require_owner();
    Lock lock(mutex_);
    life_.begin_map();
}

void PoolCore::end_map() {
    if (!owned_here()) return;
    Hold hold(mutex_, *this);
    if (life_.end_map() && !life_.running()) hold.wake_waiters();
}

void PoolCore::submit(const PoolTaskRef& task, Completions* sink, bool begun) {
    require_owner();
    Hold hold(mutex_, *this);
    life_.require_accepting(begun);
    if (task->options_ && task->options_->retry.when) judges_.start();
    task_end_.begin(*task);
    note_submit(*task);
    task->sink_ = sink;
    PoolTaskRef reference = task;  // the pool's own, until it is done
    if (links_.empty()) {
        hold.unlock();
        run_inline(*task);
        return (void)reference.release();
    }
    if (asleep_) wake_dormant(hold);
    place(reference.release(), hold);
    // Results are looked for now and then when tasks are tiny: what a look costs is the cache line
    // of the slot that the worker is at.
    bool looks = task_ns_ >= WorkerMeter::kTinyTaskNs || task->serial_ % kTinyTasksForOneLook == 0;
    if (looks && drain(links_[hot_], hold)) {
        refill(hold);
        if (!wait_room_.is_empty()) hold.wake_waiters();
    }
}

// What waits for that worker alone has to wait for another one, too.
bool PoolCore::is_held(const WorkerLink& link) {
    if (backlog_.keys_moved()) look_for_held_keys();
    return backlog_.is_held(link.index);
}

void PoolCore::place(PoolTask* task, Hold& hold) {
    backlog_.note_priority(*task);
    if (backlog_.has_priorities() && overtake(*task)) {
        backlog_.push(task);
        return refill(hold);
    }
    Backlog::ListNumber list = backlog_.list_of(*task);
    WorkerLink* link = nullptr;
    if (!backlog_.empty(list))
        link = nullptr;  // it waits behind those
    else if (list == Backlog::kAnyWorker)
        link = pick();
    else if (WorkerLink& its = links_[list]; has_room(its) && !is_held(its))
        link = &its;
    if (link)
        publish(*link, task, hold);
    else
        backlog_.push(task);
}

// Takes back what was handed out, has not begun, and is less important. False: there is none.
bool PoolCore::overtake(const PoolTask& task) {
    bool any = false;
    for (WorkerLink& link : links_) {
        if (!link.alive || link.stopping || link.corrupt) continue;
        RingParent& ring = link.ring();
        while (ring.in_flight() > 0) {
            PoolTask* last = link.shadow[ring.position(ring.published() - 1)];
            if (!last || last->priority_ >= task.priority_ ||
                backlog_.list_of(*last) != backlog_.list_of(task) || !ring.take_back_last())
                break;
            take_back_task_fds(link.process.control.get(), last->serial_,
                               last->argument_view().fds->numbers);
            backlog_.push_back(last);
            any = true;
        }
    }
    return any;
}

// How many tasks a ring may hold: two for long ones, hundreds for tiny ones.
std::uint64_t PoolCore::depth() const {
    std::uint64_t ns = std::max(kPrefetchNs, kPrefetchWakeUps * wake_cost_ns_);
    return std::clamp<std::uint64_t>(ns / std::max<std::uint64_t>(task_ns_, 1), 2, kRingCapacity);
}

// Nanoseconds until a new task would start there.
std::uint64_t PoolCore::cost(WorkerLink& link) const {
    std::uint64_t in_flight = link.ring().in_flight();
    std::uint64_t busy = in_flight * task_ns_;
    if (!link.ready) return busy + kStartNs;
    if (link.unresponsive) return busy + kUnresponsiveNs;
    return in_flight == 0 && link.ring().sleeping() ? wake_cost_ns_ : busy;
}

bool PoolCore::has_room(WorkerLink& link) const {
    if (!link.alive || link.stopping || link.retiring || link.eviction) return false;
    if (link.corrupt || link.deaf) return false;
    RingParent& ring = link.ring();
    if (options_.max_tasks_per_child && ring.published() >= options_.max_tasks_per_child)
        return false;
    return ring.in_flight() < (link.stuck > 0 ? 1 : depth());
}

// No worker more helps: tasks are shorter than it takes to submit one, and with the threads that
// submit, those that are awake have all CPUs.
bool PoolCore::crowded() const {
    return task_ns_ < kSubmitNs && spin_.awake(*control_) + 1 >= spin_.cpus;
}

// The worker that would start a new task soonest, or null if all rings hold enough. The one that
// was used last is kept while its queue is shorter than a wake-up: a worker that runs is worth two
// that must be woken.
WorkerLink* PoolCore::pick() {
    WorkerLink& hot = links_[hot_];
    if (has_room(hot) && hot.ready && (cost(hot) < wake_cost_ns_ || crowded())) return &hot;
    // One that is still starting gets nothing while others work: it would begin with that, though
    // older tasks wait behind those that run now.
    bool ready = std::any_of(links_.begin(), links_.end(), [](const WorkerLink& l) {
        return l.alive && l.ready && !l.stopping && !l.retiring && !l.eviction;
    });
    WorkerLink* best = nullptr;
    std::uint64_t best_cost = 0;
    for (WorkerLink& link : links_) {
        if (!has_room(link) || link.ready != ready) continue;
        std::uint64_t c = cost(link);
        if (best && c >= best_cost) continue;
        best = &link;
        best_cost = c;
    }
    if (best) hot_ = best->index;
    return best;
}

// False: not now: the socket is full, or there is no memory. Descriptors that cannot be sent at all
// (the application closed them) are left out: the worker says of the task that they did not come.
bool PoolCore::send_descriptors(WorkerLink& link, const PoolTask& task,
                                const TaskDescriptors& fds) noexcept {
    int control = link.process.control.get();
    if (!fds.lasting.empty() && !timers_.is_set(Timers::Purpose::handles))
        timers_.set(Timers::Purpose::handles, sys::Clock::now() + kLetGo);
    try {
        return link.given.give(control, fds.lasting) &&
               send_task_fds(control, task.serial_, fds.numbers);
    } catch (const std::bad_alloc&) {
        return false;
    } catch (const std::exception&) {
        return true;
    }
}

// The supervisor is to look at the rings, soon or now and then. (It may sleep for longer now.)
void PoolCore::watch_rings(bool soon, Hold& hold) {
    if (std::exchange(soon ? ticking_ : watching_, true)) return;
    timers_.set_earlier(Timers::Purpose::rings, next_look());
    hold.kick_supervisor();
}

// False: the task's descriptors cannot be sent now, so it went to the backlog, and the worker gets
// nothing until the supervisor's next look.
bool PoolCore::publish(WorkerLink& link, PoolTask* task, Hold& hold) {
    RingParent& ring = link.ring();
    PoolTask::ArgumentView arguments = task->argument_view();
    const TaskDescriptors& fds = *arguments.fds;
    if (!fds.empty() && !send_descriptors(link, *task, fds)) {
        backlog_.push_back(task);
        link.deaf = true;
        watch_rings(true, hold);
        return false;
    }
    TaskSlot& slot = ring.next();
    slot.serial = task->serial_;
    slot.module = task->id_.where.module;
    slot.offset = task->id_.where.offset;
    slot.signature = task->id_.signature;
    slot.size = arguments.size;
    slot.fds = static_cast<std::uint32_t>(fds.numbers.size());
    slot.attempt = static_cast<std::uint16_t>(task->attempts_ + 1);
    slot.timed = task->is_chunk() && task->options_ && task->options_->timeout.count() > 0;
    slot.items_begin = task->items_begin_;
    slot.items_end = task->items_end_;
    slot.block = arguments.block;
    slot.reply = ReplyKind::none;
    if (task->is_chunk()) {  // relaxed: published with the rest
        slot.started_ns.store(0, std::memory_order_relaxed);
        slot.progress.store(0, std::memory_order_relaxed);
        slot.partial_block.store(0, std::memory_order_relaxed);
    }
    if (!slot.block) std::memcpy(slot.inline_bytes, arguments.inline_bytes, arguments.size);
    slot.sum = SlotSum::of_task(slot, arguments.inline_bytes);
    task->place_ = PoolTask::Place::ring;
    task->link_ = link.index;
    task->index_ = ring.published();
    link.shadow[ring.position(ring.published())] = task;
    ring.publish();
    ring.wake();
    if (task->options_) watch_policy(*task, hold);
    // Something may get stuck: behind a long task, or in front of a stopped worker.
    watch_rings(ring.in_flight() >= 2, hold);
    return true;
}

void PoolCore::refill(Hold& hold) {
    if (backlog_.keys_moved()) look_for_held_keys();
    for (std::uint32_t i = 0; i < backlog_.workers(); ++i)
        while (!backlog_.empty(i) && has_room(links_[i]) && !backlog_.is_held(i))
            (void)publish(links_[i], backlog_.pop(i), hold);
    while (!backlog_.empty()) {
        WorkerLink* link = pick();
        if (!link) return;
        (void)publish(*link, backlog_.pop(), hold);  // or another worker takes it
    }
}

// --- draining ----------------------------------------------------------------------------------

bool PoolCore::drain(Hold& hold) {
    bool any = false;
    for (WorkerLink& link : links_) any = drain(link, hold) || any;
    if (any) {
        refill(hold);
        rebalance(hold);
    }
    return any;
}

bool PoolCore::drain(WorkerLink& link, Hold& hold) {
    if (!link.memory || link.corrupt) return false;
    bool any = false;
    while (TaskSlot* slot = link.ring().front_done()) {
        PoolTask* task = link.shadow[link.ring().position(link.ring().consumed())];
        Reply reply(*slot);
        if (!RingParent::is_done(*slot) || !is_sound(link, reply, task)) {
            condemn(link, hold);
            return any;
        }
        take_reply(link, reply, task, hold);
        any = true;
    }
    return any;
}

// P3. Its death sorts its tasks (I4): until then it may run them.
void PoolCore::condemn(WorkerLink& link, Hold& hold) {
    link.corrupt = true;
    signal_worker(link, SIGKILL, hold);
}

// What the worker wrote makes sense. No task: one that was evicted, or the request to stop.
bool PoolCore::is_sound(WorkerLink& link, const Reply& reply, const PoolTask* task) {
    if (task && reply.serial != task->serial_) return false;
    if (reply.sum != SlotSum::of_reply({reply.serial, reply.raw_kind, reply.block, reply.size,
                                        reply.begun_ns, reply.duration_ns},
                                       reply.inline_bytes))
        return false;
    if (reply.kind == ReplyKind::stopped) return !task;
    if (reply.kind != ReplyKind::value && reply.kind != ReplyKind::error) return false;
    if (reply.block == 0) return reply.size <= PoolTask::kInline;
    return Arena::is_valid(reply.block, link.memory->results.size()) &&
           reply.size <= Arena::capacity(reply.block);
}

void PoolCore::take_reply(WorkerLink& link, const Reply& reply, PoolTask* task, Hold& hold) {
    if (link.output) take_output(link, task);
    if (!task) {
        if (reply.kind != ReplyKind::stopped && reply.block) link.memory->take_back(reply.block);
        if (link.eviction) finish_eviction(link, hold);
    } else {
        if (reply.lacks_fds) link.given.forget(task->argument_view().fds->lasting);
        note_reply(link, reply, *task);
        if (reply.kind == ReplyKind::error && task->options_ &&
            may_retry(*task, FailureKind::error)) {
            settle_error_reply(link, reply, task, hold);
        } else {
            accept_reply(link, reply, *task);
            task_end_.complete(task, hold);
        }
    }
    link.ring().release_front();
    link.stuck = 0;
    link.unresponsive = link.deaf = false;
    bool through =
        options_.max_tasks_per_child && link.ring().consumed() >= options_.max_tasks_per_child;
    if ((through || link.retiring || link.dormant) && link.ring().in_flight() == 0)
        ask_to_stop(link, hold);
}

// Takes the reply over into the task.
void PoolCore::accept_reply(WorkerLink& link, const Reply& reply, PoolTask& task) {
    if (reply.block && !link.memory->lend()) {
        link.memory->take_back(reply.block);
        task.failure_ = spare_errors().no_memory;
        return;
    }
    if (reply.block) {
        task.result_block_ = reply.block;
        task.memory_ = link.memory;
    } else {
        std::memcpy(task.bytes_, reply.inline_bytes, reply.size);
    }
    task.items_done_ = task.items_end_ - task.items_begin_;
    task.result_size_ = reply.size;
    task.has_value_ = reply.kind == ReplyKind::value;
    task.duration_ns_ = reply.duration_ns;
    note_duration(reply.duration_ns);
}

// A moving average over 16 tasks that follows a rise at once: a ring full of tasks that are longer
// than thought is worse than one that is too short.
void PoolCore::note_duration(std::uint64_t ns) {
    ns = std::min<std::uint64_t>(ns, kLongestTaskNs);
    task_ns_ = ns > 4 * task_ns_ ? (task_ns_ + ns) / 2 : (task_ns_ * 15 + ns) / 16;
    if (task_ns_ == 0) task_ns_ = 1;
}

// --- memory ------------------------------------------------------------------------------------

BlockId PoolCore::allocate_argument(std::size_t size) {
    require_owner();
    Lock lock(mutex_);
    return args_.allocate(size);
}

void PoolCore::free_argument(BlockId block) noexcept {
    if (!owned_here()) return;
    Lock lock(mutex_);
    args_.free(block);
}

void PoolCore::free_result(WorkerMemory& memory, BlockId block) noexcept {
    if (!owned_here()) return;
    Hold hold(mutex_, *this);
    memory.take_back(block);
    // The queue to the worker is full: the rest follows when the worker has taken some.
    if (memory.owes()) watch_rings(false, hold);
}

}  // namespace sidestep::detail
