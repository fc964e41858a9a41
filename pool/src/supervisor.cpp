// The supervisor: the one thread of a pool that starts, reaps and replaces workers. It sleeps in
// epoll on their pidfds, their control sockets and an eventfd, and drains the rings when nobody
// else does.
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <stdexcept>

#include <sidestep/pool_errors.hpp>

#include "error.hpp"
#include "pool_core.hpp"

namespace sidestep::detail {
namespace {

using namespace std::chrono_literals;
constexpr auto kTick = 2ms;           // how often stuck tasks are looked for while there may be any
constexpr auto kTerminateGrace = 1s;  // from SIGTERM to SIGKILL
constexpr auto kLeaveGrace = 30s;     // from the request to leave (exit handlers run) to SIGKILL
constexpr auto kLongestBackOff = 100ms;

enum class Source : std::uint64_t { bell, death, control };
std::uint64_t tag(Source source, std::uint32_t index) {
    return static_cast<std::uint64_t>(source) << 32 | index;
}

// Threads of this process that are ours: fork is safe beside them, they are asleep or hold only
// locks that a child never touches.
std::atomic<std::size_t> own_threads{0};

void watch(const Fd& epoll, const Fd& fd, std::uint64_t data) {
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.u64 = data;
    if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd.get(), &event) < 0)
        throw_errno(errno, "epoll_ctl(worker)");
}

}  // namespace

PoolCore::~PoolCore() { SIDESTEP_ASSERT(!supervisor_.joinable()); }

void PoolCore::start() {
    launcher_ = make_launcher(options_.start_method, "a pool's worker", own_threads.load());
    epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
    if (!epoll_) throw_errno(errno, "epoll_create1");
    watch(epoll_, supervisor_bell_, tag(Source::bell, 0));
    try {
        for (WorkerLink& link : links_) launch(link);
        // The supervisor takes no signals: they are the application's.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        try {
            supervisor_ = std::thread([this] { supervise(); });
        } catch (...) {
            pthread_sigmask(SIG_SETMASK, &before, nullptr);
            throw;
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    } catch (...) {  // those that were started must not stay
        signal_workers(SIGKILL);
        for (WorkerLink& link : links_)
            if (link.alive) (void)sys::wait_pidfd(link.process.pidfd.get(), true);
        throw;
    }
}

// --- starting ----------------------------------------------------------------------------------

void PoolCore::launch(WorkerLink& link) {
    auto memory = std::make_shared<WorkerMemory>(options_.arena_bytes);
    Launched process = launcher_->launch(&worker_main);
    WorkerSetup setup;
    setup.index = link.index;
    setup.parent_pid = owner_pid_;
    int fds[WorkerSetup::kFds] = {memory->ring_segment.fd().get(), memory->results.fd().get(),
                                  args_reader_.get(), control_segment_.fd().get(),
                                  supervisor_bell_.get()};
    try {
        sys::send_message(process.control.get(), std::as_bytes(std::span(&setup, 1)), fds);
        watch(epoll_, process.pidfd, tag(Source::death, link.index));
        watch(epoll_, process.control, tag(Source::control, link.index));
    } catch (...) {
        sys::pidfd_send_signal(process.pidfd.get(), SIGKILL);
        (void)sys::wait_pidfd(process.pidfd.get(), true);
        throw;
    }
    Lock lock(mutex_);
    adopt(link, std::move(process), std::move(memory));
}

void PoolCore::adopt(WorkerLink& link, Launched process, std::shared_ptr<WorkerMemory> memory) {
    link.process = std::move(process);
    link.memory = std::move(memory);
    link.shadow.assign(kRingCapacity, nullptr);
    link.alive = true;
    link.ready = link.stopping = link.corrupt = link.stuck = false;
    link.last_front = 0;
    refill();
}

// --- the loop ----------------------------------------------------------------------------------

void PoolCore::supervise() {
    ++own_threads;
    prctl(PR_SET_NAME, "sidestep-pool");
    epoll_event events[64];
    for (;;) {
        // SYNC(attended): armed, fence, then a look at the rings; see Worker::ring_supervisor.
        control_->armed.store(1);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        int timeout;
        {
            Garbage garbage;
            Lock lock(mutex_);
            if (drain(garbage)) wake_waiters();
            if ((joining_ || state_ == State::broken) && all_gone()) break;
            timeout = next_timeout();
        }
        int n = epoll_wait(epoll_.get(), events, std::size(events), timeout);
        if (n < 0 && errno != EINTR) throw_errno(errno, "epoll_wait(pool)");
        for (int i = 0; i < n; ++i) handle_event(events[i].data.u64);
        respawn_due();
        tick();
    }
    Lock lock(mutex_);
    supervisor_done_ = true;
    wake_waiters();
    --own_threads;
}

bool PoolCore::all_gone() const {
    return std::none_of(links_.begin(), links_.end(), [](const WorkerLink& l) { return l.alive; });
}

// Milliseconds until something is due; -1: nothing is.
int PoolCore::next_timeout() {
    sys::Deadline due = kill_at_;
    auto consider = [&](sys::Clock::time_point at) { due = due ? std::min(*due, at) : at; };
    if (ticking_) consider(sys::Clock::now() + kTick);
    if (state_ == State::running || state_ == State::closed)
        for (WorkerLink& link : links_)
            if (!link.alive && !joining_) consider(link.respawn_at);
    return sys::poll_timeout(due);
}

void PoolCore::handle_event(std::uint64_t data) {
    auto index = static_cast<std::uint32_t>(data);
    switch (static_cast<Source>(data >> 32)) {
        case Source::bell: {
            std::uint64_t count;
            (void)!::read(supervisor_bell_.get(), &count, sizeof count);
            return;
        }
        case Source::control:
            return handle_control(index);
        case Source::death:
            return handle_death(index);
    }
}

void PoolCore::handle_control(std::uint32_t index) {
    WorkerLink& link = links_[index];
    WorkerReady ready;
    Lock lock(mutex_);
    if (!link.alive) return;
    sys::Message message = sys::receive_message(link.process.control.get(),
                                                std::as_writable_bytes(std::span(&ready, 1)));
    if (message.closed) {  // its death comes by the pidfd
        epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, link.process.control.get(), nullptr);
    } else if (message.size == sizeof ready && ready.magic == WorkerReady::kMagic) {
        link.ready = true;
        rebalance();
        refill();
    }
}

// Looks for tasks that wait behind one that runs long, and whether the ladder to SIGKILL is due.
void PoolCore::tick() {
    Garbage garbage;
    Lock lock(mutex_);
    kill_overdue();
    if (!ticking_) return;
    bool may_be_stuck = false;
    for (WorkerLink& link : links_) {
        if (!link.alive) continue;
        std::uint64_t front = link.ring().consumed();
        link.stuck = link.ring().in_flight() > 0 && front == link.last_front && link.ready;
        link.last_front = front;
        may_be_stuck = may_be_stuck || link.ring().in_flight() >= 2;
    }
    if (drain(garbage)) wake_waiters();
    rebalance();
    ticking_ = may_be_stuck;
}

// --- death -------------------------------------------------------------------------------------

// I4: the kernel has declared the death; then done is drained, taken is classified, ready requeued.
void PoolCore::handle_death(std::uint32_t index) {
    WorkerLink& link = links_[index];
    if (!link.alive) return;
    const Launched& process = link.process;
    // What it left running goes with it, while its zombie still reserves the group's number.
    ExitStatus status = sys::wait_pidfd(process.pidfd.get(), false, true);
    if (status.running()) return;
    if (!status.success()) ::kill(-process.pid, SIGKILL);
    status = sys::wait_pidfd(process.pidfd.get(), true);

    Garbage garbage;
    Lock lock(mutex_);
    drain(link, garbage);
    sort_tasks_of_dead(link, status, garbage);
    bool expected = link.stopping || state_ == State::terminating || state_ == State::broken;
    retire(link);
    if (!expected) note_death(link, status.describe());
    if (barren_deaths_ > 4 + 2 * links_.size())
        break_pool(fmt::format("the pool is broken: {} workers in a row died without finishing a "
                               "task, the last one (process {}) {}; run the program under a "
                               "debugger, or look at what its start-up does before init()",
                               barren_deaths_, process.pid, status.describe()),
                   garbage);
    refill();
    rebalance();
    wake_waiters();
}

void PoolCore::sort_tasks_of_dead(WorkerLink& link, const ExitStatus& status, Garbage& garbage) {
    RingParent& ring = link.ring();
    for (std::uint64_t i = ring.published(); i-- > ring.consumed();) {
        TaskState* task = std::exchange(link.shadow[ring.position(i)], nullptr);
        if (!task) continue;  // the request to stop
        SlotState state = ring.slot(i).state.load(std::memory_order_acquire);
        bool not_begun = state == SlotState::ready || state == SlotState::cancelled;
        // A corrupt ring is not believed: only its front can have been running.
        if (link.corrupt) not_begun = i != ring.consumed();
        if (task->cancel_asked_ || state_ == State::terminating)
            fail(task, std::make_exception_ptr(CancelledError("the task was cancelled")), garbage);
        else if (state_ == State::broken)
            fail(task, std::make_exception_ptr(BrokenPool(broken_reason_)), garbage);
        else if (not_begun)
            push_backlog(task, true);
        else
            fail(task, lost_error(link, *task, status), garbage);
    }
}

std::exception_ptr PoolCore::lost_error(const WorkerLink& link, const TaskState& task,
                                        const ExitStatus& status) const {
    WorkerLost::Details details;
    details.pid = link.process.pid;
    details.exit_status = status;
    details.worker_index = link.index;
    details.task = task.serial_;
    details.task_type = describe_entry(*task.entry_);
    details.function = task.function_;
    if (link.corrupt) details.note = "it had overwritten its shared memory, so the pool stopped it";
    return std::make_exception_ptr(WorkerLost(std::move(details)));
}

// The process is reaped. Results that wait in its memory keep that alive.
void PoolCore::retire(WorkerLink& link) {
    control_->set_parked(link.index, true);
    link.memory->alive = false;
    link.memory = nullptr;
    link.process = {};  // closes what epoll watched
    link.alive = link.ready = link.stuck = false;
}

void PoolCore::note_death(WorkerLink& link, const std::string&) {
    barren_deaths_ = completed_ == completed_at_death_ ? barren_deaths_ + 1 : 0;
    completed_at_death_ = completed_;
    auto back_off = barren_deaths_ < 2 ? 0ms : 1ms * (1 << std::min(barren_deaths_, 10u));
    link.respawn_at =
        sys::Clock::now() + std::min<std::chrono::milliseconds>(back_off, kLongestBackOff);
}

void PoolCore::respawn_due() {
    for (WorkerLink& link : links_) {
        {
            Lock lock(mutex_);
            bool wanted = (state_ == State::running || state_ == State::closed) && !joining_;
            if (!wanted || link.alive || sys::Clock::now() < link.respawn_at) continue;
        }
        try {
            launch(link);  // takes milliseconds: without the mutex
        } catch (const std::exception& error) {
            Garbage garbage;
            Lock lock(mutex_);
            note_death(link, error.what());
            if (barren_deaths_ > 4 + 2 * links_.size() && all_gone()) {
                break_pool(
                    fmt::format("the pool is broken: no worker can be started: {}", error.what()),
                    garbage);
                wake_waiters();
            }
        }
    }
}

void PoolCore::break_pool(const std::string& reason, Garbage& garbage) {
    state_ = State::broken;
    broken_reason_ = reason;
    fail_everything([&] { return std::make_exception_ptr(BrokenPool(reason)); }, garbage);
    signal_workers(SIGKILL);
}

// Fails what is in the backlog; what is in rings fails when its worker is gone.
void PoolCore::fail_everything(const std::function<std::exception_ptr()>& error, Garbage& garbage) {
    while (backlog_first_) fail(pop_backlog(), error(), garbage);
}

void PoolCore::signal_workers(int signal) {
    for (WorkerLink& link : links_) {
        if (!link.alive) continue;
        // The group's number is reserved while the worker is unreaped.
        if (::kill(-link.process.pid, signal) < 0)
            (void)sys::pidfd_send_signal(link.process.pidfd.get(), signal);
    }
}

void PoolCore::kill_overdue() {
    if (!kill_at_ || sys::Clock::now() < *kill_at_) return;
    kill_at_.reset();
    signal_workers(SIGKILL);
}

// --- the end -----------------------------------------------------------------------------------

void PoolCore::kick_supervisor() {
    std::uint64_t one = 1;
    (void)!::write(supervisor_bell_.get(), &one, sizeof one);
}

void PoolCore::close() {
    Lock lock(mutex_);
    if (state_ == State::running) state_ = State::closed;
}

void PoolCore::terminate() {
    Garbage garbage;
    Lock lock(mutex_);
    if (state_ == State::terminating || state_ == State::broken) return;
    state_ = State::terminating;
    fail_everything(
        [] { return std::make_exception_ptr(CancelledError("the pool was terminated")); }, garbage);
    signal_workers(SIGTERM);
    kill_at_ = sys::Clock::now() + kTerminateGrace;
    kick_supervisor();
    wake_waiters();
}

void PoolCore::ask_to_stop() {
    for (WorkerLink& link : links_) {
        if (!link.alive || link.stopping) continue;
        link.stopping = true;
        RingParent& ring = link.ring();
        TaskSlot& slot = ring.next();
        slot.module = 0;
        slot.offset = kStopOffset;
        link.shadow[ring.position(ring.published())] = nullptr;
        ring.publish();
        ring.wake();
    }
}

void PoolCore::join() {
    {
        Lock lock(mutex_);
        if (state_ == State::running)
            throw std::logic_error("join() before close() or terminate(): it would wait for ever");
    }
    wait([this] { return outstanding_ == 0; }, {});
    {
        Lock lock(mutex_);
        if (!joining_) {
            joining_ = true;
            if (state_ == State::closed) {
                ask_to_stop();
                kill_at_ = sys::Clock::now() + kLeaveGrace;
            }
            kick_supervisor();
        }
    }
    wait([this] { return supervisor_done_; }, {});
    std::thread finished;
    {
        Lock lock(mutex_);
        finished.swap(supervisor_);  // one of several joiners gets it
    }
    if (finished.joinable()) finished.join();
}

void PoolCore::abandon() {
    if (supervisor_.joinable()) supervisor_.detach();  // it exists in the parent only
}

}  // namespace sidestep::detail
