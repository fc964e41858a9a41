#include "pool_core.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include <sidestep/pool_errors.hpp>

#include "error.hpp"
#include "spin.hpp"
#include "task_fds.hpp"

namespace sidestep::detail {

namespace {

// Work that a ring may hold ahead of its worker: enough to bridge a wake-up (ipc.md 1.3).
constexpr std::uint64_t kPrefetchNs = 250'000;
constexpr std::uint64_t kUnknownTaskNs = 1'000'000;  // before anything was measured
constexpr std::uint64_t kStartNs = 2'000'000;        // a worker that has not said it is ready
constexpr std::uint64_t kUnresponsiveNs =
    1'000'000'000;                                       // one that may be stopped: the last resort
constexpr std::uint64_t kLongestTaskNs = 1'000'000'000;  // what the average takes into account
constexpr std::size_t kLeastArena = std::size_t(16) << 20;

}  // namespace

void Garbage::drop() {
    while (first_) TaskRef last(std::exchange(first_, first_->garbage_));
}

void Garbage::drop(std::unique_lock<std::mutex>& lock) {
    if (!first_) return;
    lock.unlock();
    drop();
    lock.lock();
}

void Garbage::add(TaskState* task) {
    task->garbage_ = first_;
    first_ = task;
}

WorkerMemory::WorkerMemory(std::size_t arena_bytes)
    : ring_segment(Segment::create("sidestep-ring", RingHeader::bytes_for(kRingCapacity))),
      results(Segment::reserve("sidestep-results", arena_bytes, kLeastArena)) {
    auto* header = new (ring_segment.data()) RingHeader;
    header->capacity = kRingCapacity;
    new (header->slots()) TaskSlot[kRingCapacity];
    ring = RingParent(header, kRingCapacity);
}

void WorkerMemory::close_descriptors() {
    ring_segment.close_descriptor();
    results.close_descriptor();
}

PoolCore::PoolCore(const PoolOptions& options)
    : options_(options),
      owner_pid_(::getpid()),
      control_segment_(Segment::create("sidestep-control", sizeof(ControlPage))),
      args_segment_(Segment::reserve("sidestep-args", options.arena_bytes, kLeastArena)),
      args_reader_(sys::reopen_read_only(args_segment_.fd())),
      control_(new (control_segment_.data()) ControlPage),
      supervisor_bell_(sys::make_eventfd()),
      links_(options.processes),
      args_(args_segment_),
      task_ns_(kUnknownTaskNs) {
    spin_.workers = options.processes;
    spin_.cpus = static_cast<std::uint32_t>(sys::usable_cpus());
    spin_.spin_ns = static_cast<std::uint64_t>(spin_budget().count());
    wake_cost_ns_ = static_cast<std::uint64_t>(wake_up_cost().count());
    for (std::uint32_t i = 0; i < options.processes; ++i) {
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

void PoolCore::check_accepting() const {
    switch (state_) {
        case State::running:
            return;
        case State::broken:
            throw BrokenPool(broken_reason_);
        case State::closed:
            throw std::logic_error("the pool is closed: it takes no tasks after close()");
        case State::terminating:
            throw std::logic_error("the pool is terminated: it takes no tasks after terminate()");
    }
}

void PoolCore::submit(const TaskRef& task, Completions* sink) {
    require_owner();
    Garbage garbage;
    Lock lock(mutex_);
    check_accepting();
    task->serial_ = next_serial_++;
    task->sink_ = sink;
    ++outstanding_;
    TaskRef reference = task;  // the pool's own, until it is done
    place(reference.release());
    if (drain(links_[hot_], garbage)) {
        refill();
        if (followers_ > 0 || leader_) wake_waiters();
    }
}

void PoolCore::place(TaskState* task) {
    WorkerLink* link = backlog_size_ == 0 ? pick() : nullptr;
    if (link)
        publish(*link, task);
    else
        push_backlog(task);
}

// How many tasks a ring may hold: two for long ones, hundreds for tiny ones.
std::uint64_t PoolCore::depth() const {
    return std::clamp<std::uint64_t>(kPrefetchNs / std::max<std::uint64_t>(task_ns_, 1), 2,
                                     kRingCapacity);
}

// Nanoseconds until a new task would start there.
std::uint64_t PoolCore::cost(WorkerLink& link) const {
    std::uint64_t in_flight = link.ring().in_flight();
    std::uint64_t busy = in_flight * task_ns_;
    if (!link.ready) return busy + kStartNs;
    if (link.unresponsive) return busy + kUnresponsiveNs;
    return in_flight == 0 && link.ring().sleeping() ? wake_cost_ns_ : busy;
}

// The worker that would start a new task soonest, or null if all rings hold enough. The one that
// was used last is kept while its queue is shorter than a wake-up: a worker that runs is worth two
// that must be woken.
WorkerLink* PoolCore::pick() {
    std::uint64_t most = depth();
    auto has_room = [&](WorkerLink& link) {
        return link.alive && !link.stopping &&
               link.ring().in_flight() < (link.stuck > 0 ? 1 : most);
    };
    WorkerLink& hot = links_[hot_];
    if (has_room(hot) && hot.ready && cost(hot) < wake_cost_ns_) return &hot;
    WorkerLink* best = nullptr;
    std::uint64_t best_cost = 0;
    for (WorkerLink& link : links_) {
        if (!has_room(link)) continue;
        std::uint64_t c = cost(link);
        if (best && c >= best_cost) continue;
        best = &link;
        best_cost = c;
    }
    if (best) hot_ = best->index;
    return best;
}

// False: the task's descriptors cannot be sent now, so it went to the backlog; the supervisor tries
// again at its next tick.
bool PoolCore::publish(WorkerLink& link, TaskState* task) {
    RingParent& ring = link.ring();
    const std::vector<int>& fds = task->descriptors_.numbers;
    if (!fds.empty() && !send_task_fds(link.process.control.get(), task->serial_, fds)) {
        push_back_to_backlog(task);
        if (!std::exchange(ticking_, true)) kick_supervisor();
        return false;
    }
    TaskSlot& slot = ring.next();
    slot.serial = task->serial_;
    slot.module = task->id_.where.module;
    slot.offset = task->id_.where.offset;
    slot.signature = task->id_.signature;
    slot.size = task->arguments_.size();
    slot.fds = fds.size();
    slot.block = task->argument_block_;
    slot.reply = ReplyKind::none;
    if (!slot.block) std::memcpy(slot.inline_bytes, task->bytes_, slot.size);
    task->place_ = TaskState::Place::ring;
    task->link_ = link.index;
    task->index_ = ring.published();
    link.shadow[ring.position(ring.published())] = task;
    ring.publish();
    ring.wake();
    // Something may get stuck: behind a long task, or in front of a stopped worker.
    bool& looking = ring.in_flight() >= 2 ? ticking_ : watching_;
    if (!std::exchange(looking, true)) kick_supervisor();
    return true;
}

void PoolCore::push_backlog(TaskState* task) {
    task->place_ = TaskState::Place::backlog;
    task->next_ = nullptr;
    task->previous_ = backlog_last_;
    (backlog_last_ ? backlog_last_->next_ : backlog_first_) = task;
    backlog_last_ = task;
    ++backlog_size_;
}

// One that was in a ring: it comes before all that were submitted later.
void PoolCore::push_back_to_backlog(TaskState* task) {
    task->place_ = TaskState::Place::backlog;
    TaskState* next = backlog_first_;
    while (next && next->serial_ < task->serial_) next = next->next_;
    task->next_ = next;
    task->previous_ = next ? next->previous_ : backlog_last_;
    (next ? next->previous_ : backlog_last_) = task;
    (task->previous_ ? task->previous_->next_ : backlog_first_) = task;
    ++backlog_size_;
}

void PoolCore::unlink_backlog(TaskState* task) {
    (task->next_ ? task->next_->previous_ : backlog_last_) = task->previous_;
    (task->previous_ ? task->previous_->next_ : backlog_first_) = task->next_;
    task->next_ = task->previous_ = nullptr;
    --backlog_size_;
}

TaskState* PoolCore::pop_backlog() {
    TaskState* task = backlog_first_;
    unlink_backlog(task);
    return task;
}

void PoolCore::refill() {
    while (backlog_first_) {
        WorkerLink* link = pick();
        if (!link) return;
        if (!publish(*link, pop_backlog())) return;
    }
}

// Takes back the tasks from `index` on. False: the worker has begun that one; those behind it are
// taken back.
bool PoolCore::take_back_from(WorkerLink& link, std::uint64_t index) {
    RingParent& ring = link.ring();
    while (ring.published() > index && ring.take_back_last())
        push_back_to_backlog(link.shadow[ring.position(ring.published())]);
    if (ring.in_flight() == 0 && link.stuck > 0) link.unresponsive = true;
    return ring.published() <= index;
}

// How many tasks wait for the one at the front; with it, if the worker does not even begin it: it
// is still starting, or stopped.
std::uint64_t PoolCore::waiting(WorkerLink& link) {
    RingParent& ring = link.ring();
    if (link.stopping || ring.in_flight() == 0) return 0;  // the request to stop is no task
    bool begun = ring.slot(ring.consumed()).state.load(std::memory_order_relaxed) !=
                 SlotState::ready;  // a hint: taking back decides
    return ring.in_flight() - (begun || (link.ready && link.stuck == 0) ? 1 : 0);
}

// Gives what waits behind others to workers that have nothing to do.
void PoolCore::rebalance() {
    if (backlog_first_ || ending()) return;
    auto idle = [](WorkerLink& l) {
        return l.alive && l.ready && !l.stopping && !l.unresponsive && l.ring().in_flight() == 0;
    };
    auto count = static_cast<std::uint64_t>(std::count_if(links_.begin(), links_.end(), idle));
    if (count == 0) return;
    for (WorkerLink& link : links_) {
        if (!link.alive || idle(link)) continue;
        std::uint64_t movable = waiting(link);
        bool worth_it = link.stuck > 0 || movable * task_ns_ > wake_cost_ns_;
        if (movable == 0 || !worth_it) continue;
        std::uint64_t share =
            link.stuck > 0 ? movable : std::max<std::uint64_t>(1, movable * count / (count + 1));
        take_back_from(link, link.ring().published() - share);
        refill();
        if (backlog_first_) return;
    }
}

// --- draining ----------------------------------------------------------------------------------

bool PoolCore::drain(Garbage& garbage) {
    bool any = false;
    for (WorkerLink& link : links_) any = drain(link, garbage) || any;
    if (any) {
        refill();
        rebalance();
    }
    return any;
}

bool PoolCore::drain(WorkerLink& link, Garbage& garbage) {
    if (!link.memory || link.corrupt) return false;
    bool any = false;
    while (TaskSlot* slot = link.ring().front_done()) {
        TaskState* task = link.shadow[link.ring().position(link.ring().consumed())];
        if (task && !accept_reply(link, *slot, *task)) {
            link.corrupt = true;  // P3: the supervisor sorts its tasks when it is dead
            sys::pidfd_send_signal(link.process.pidfd.get(), SIGKILL);
            return any;
        }
        link.ring().release_front();
        link.stuck = 0;
        link.unresponsive = false;
        if (task) complete(task, garbage);  // null: the request to stop
        any = true;
    }
    return any;
}

// Takes the reply over into the task. False: what the worker wrote makes no sense.
bool PoolCore::accept_reply(WorkerLink& link, TaskSlot& slot, TaskState& task) {
    ReplyKind kind = slot.reply;
    std::uint64_t size = slot.size, block = slot.block;
    if (slot.serial != task.serial_) return false;
    if (kind != ReplyKind::value && kind != ReplyKind::error) return false;
    if (block == 0) {
        if (size > TaskState::kInline) return false;
        std::memcpy(task.bytes_, slot.inline_bytes, size);
    } else {
        if (!Arena::is_valid(block, link.memory->results.size()) || size > Arena::capacity(block))
            return false;
        task.result_block_ = block;
        task.memory_ = link.memory;
    }
    task.result_size_ = size;
    task.has_value_ = kind == ReplyKind::value;
    task.duration_ns_ = slot.duration_ns;
    note_duration(slot.duration_ns);
    return true;
}

// A moving average over 16 tasks that follows a rise at once: a ring full of tasks that are longer
// than thought is worse than one that is too short.
void PoolCore::note_duration(std::uint64_t ns) {
    ns = std::min<std::uint64_t>(ns, kLongestTaskNs);
    task_ns_ = ns > 4 * task_ns_ ? (task_ns_ + ns) / 2 : (task_ns_ * 15 + ns) / 16;
    if (task_ns_ == 0) task_ns_ = 1;
}

void PoolCore::complete(TaskState* task, Garbage& garbage) {
    if (task->argument_block_) args_.free(std::exchange(task->argument_block_, 0));
    task->descriptors_.clear();
    task->place_ = TaskState::Place::done;
    --outstanding_;
    ++completed_;
    if (Completions* sink = task->sink_) {
        task->next_ = nullptr;
        (sink->last_ ? sink->last_->next_ : sink->first_) = task;
        sink->last_ = task;
        // The sink's list holds a reference of its own.
        task->references_.fetch_add(1, std::memory_order_relaxed);  // we have one
    }
    // SYNC(task): release, pairs with TaskState::done.
    task->done_.store(true, std::memory_order_release);
    garbage.add(task);
}

void PoolCore::fail(TaskState* task, std::exception_ptr error, Garbage& garbage) {
    task->failure_ = std::move(error);
    complete(task, garbage);
}

bool PoolCore::cancel(TaskState& task) {
    if (!owned_here()) return false;
    Garbage garbage;
    Lock lock(mutex_);
    drain(garbage);
    if (task.place_ == TaskState::Place::done) return task.cancelled_;
    if (task.place_ == TaskState::Place::new_ || ending()) return false;
    // What is behind it in the ring comes back too, and goes to whoever is free.
    bool ours =
        task.place_ == TaskState::Place::backlog || take_back_from(links_[task.link_], task.index_);
    if (ours) {
        unlink_backlog(&task);
        task.cancelled_ = true;
        fail(&task, std::make_exception_ptr(CancelledError("the task was cancelled")), garbage);
        wake_waiters();
    }
    refill();
    return ours;
}

// --- memory ------------------------------------------------------------------------------------

BlockId PoolCore::allocate_argument(std::size_t size) {
    require_owner();
    Lock lock(mutex_);
    return args_.allocate(size);
}

void PoolCore::free_argument(BlockId block) {
    if (!owned_here()) return;
    Lock lock(mutex_);
    args_.free(block);
}

void PoolCore::free_result(WorkerMemory& memory, BlockId block) {
    if (!owned_here()) return;
    Lock lock(mutex_);
    if (!memory.alive) return;
    memory.to_give_back.push_back(block);
    while (!memory.to_give_back.empty() && memory.ring.give_back(memory.to_give_back.back()))
        memory.to_give_back.pop_back();
}

}  // namespace sidestep::detail
