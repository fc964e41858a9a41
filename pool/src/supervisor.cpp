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
#include <span>
#include <stdexcept>
#include <system_error>

#include <sidestep/pool_errors.hpp>

#include "error.hpp"
#include "pool_core.hpp"

namespace sidestep::detail {
namespace {

using namespace std::chrono_literals;
constexpr auto kTick = 2ms;  // how often stuck tasks are looked for while tasks wait in rings
constexpr auto kHeartbeat = 250ms;     // and while there are tasks at all
constexpr unsigned kLooksToEvict = 5;  // then tasks leave a stuck ring although nobody is idle
constexpr auto kTerminateGrace = 1s;   // from SIGTERM to SIGKILL
constexpr auto kLeaveGrace = 30s;      // from the request to leave (exit handlers run) to SIGKILL
constexpr auto kLongestBackOff = 100ms;

enum class Source : std::uint64_t { bell, death, control };
std::uint64_t tag(Source source, std::uint32_t index) {
    return static_cast<std::uint64_t>(source) << 32 | index;
}

// Threads of this process that are ours: fork is safe beside them, they are asleep or hold only
// locks that a child never touches.
std::atomic<std::size_t> own_threads{0};

void watch(const Fd& epoll, int fd, std::uint64_t data) {
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.u64 = data;
    if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) < 0)
        throw_errno(errno, "epoll_ctl(worker)");
}

// A worker that is dead already gets no letter: that is seen by its pidfd, with the status that
// tells why.
void send_setup(const Launched& process, const WorkerSetup& setup, std::span<const int> fds) {
    try {
        sys::send_message(process.control.get(), std::as_bytes(std::span(&setup, 1)), fds);
    } catch (const std::system_error& error) {
        int code = error.code().value();
        if (code != EPIPE && code != ECONNRESET) throw;
    }
}

}  // namespace

PoolCore::~PoolCore() { SIDESTEP_ASSERT(!supervisor_.joinable()); }

void PoolCore::start() {
    launcher_ = make_launcher(options_.start_method, "a pool's worker", own_threads.load());
    epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
    if (!epoll_) throw_errno(errno, "epoll_create1");
    watch(epoll_, supervisor_bell_.get(), tag(Source::bell, 0));
    try {
        for (WorkerLink& link : links_) launch(link);
        // The supervisor takes no signals: they are the application's.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        ++own_threads;
        try {
            supervisor_ = std::thread([this] { supervise(); });
        } catch (...) {
            --own_threads;
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
    setup.spin = spin_;
    int fds[WorkerSetup::kFds] = {memory->ring_segment.fd().get(), memory->results.fd().get(),
                                  args_reader_.get(), control_segment_.fd().get(),
                                  supervisor_bell_.get()};
    try {
        send_setup(process, setup, fds);
        sys::set_nonblocking(process.control.get(), true);  // task descriptors: never wait here
        watch(epoll_, process.pidfd.get(), tag(Source::death, link.index));
        watch(epoll_, process.control.get(), tag(Source::control, link.index));
        memory->close_descriptors();
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
    link.ready = link.stopping = link.corrupt = link.unresponsive = false;
    link.stuck = 0;
    link.last_front = WorkerLink::kNoFront;
    // The pool may have begun to end while the worker was being started, without the mutex.
    if (ending())
        sys::pidfd_send_signal(link.process.pidfd.get(), SIGKILL);
    else if (joining_)
        ask_to_stop();
    else
        refill();
}

// --- the loop ----------------------------------------------------------------------------------

void PoolCore::supervise() {
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
}

bool PoolCore::all_gone() const {
    return std::none_of(links_.begin(), links_.end(), [](const WorkerLink& l) { return l.alive; });
}

sys::Clock::time_point PoolCore::next_look() const {
    return last_look_ + (ticking_ ? std::chrono::milliseconds(kTick) : kHeartbeat);
}

// Milliseconds until something is due; -1: nothing is.
int PoolCore::next_timeout() {
    sys::Deadline due = kill_at_;
    auto consider = [&](sys::Clock::time_point at) { due = due ? std::min(*due, at) : at; };
    if (ticking_ || watching_) consider(next_look());
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

// Looks for tasks that wait behind one that runs long, or for a worker that is stopped; and whether
// the ladder to SIGKILL is due.
void PoolCore::tick() {
    Garbage garbage;
    Lock lock(mutex_);
    kill_overdue();
    if (!(ticking_ || watching_) || sys::Clock::now() < next_look()) return;
    last_look_ = sys::Clock::now();
    if (drain(garbage)) wake_waiters();
    for (WorkerLink& link : links_) note_front(link);
    rebalance();
    // Nobody is idle, but somebody will be before the stuck ones: it is the turn of what waits
    // there, ahead of all that was submitted later.
    for (WorkerLink& link : links_)
        if (link.stuck >= kLooksToEvict && !ending())
            take_back_from(link, link.ring().published() - waiting(link));
    refill();
    ticking_ = std::any_of(links_.begin(), links_.end(),
                           [](WorkerLink& l) { return l.alive && l.ring().in_flight() >= 2; });
    watching_ = outstanding_ > 0 || completed_ != completed_at_look_;
    completed_at_look_ = completed_;
}

void PoolCore::note_front(WorkerLink& link) {
    if (!link.alive) return;
    bool busy = link.ring().in_flight() > 0;
    std::uint64_t front = busy ? link.ring().consumed() : WorkerLink::kNoFront;
    bool same = busy && front == link.last_front;  // it may be starting still, or stopped in that
    link.stuck = same ? link.stuck + 1 : 0;
    link.last_front = front;
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
    int pid = process.pid;

    Garbage garbage;
    Lock lock(mutex_);
    drain(link, garbage);
    // Killed while it was idle, a worker says nothing about those that follow it.
    bool idle = link.ready && link.ring().in_flight() == 0;
    sort_tasks_of_dead(link, status, garbage);
    bool expected = link.stopping || ending();
    retire(link);
    if (!expected && !idle) note_barren_death(link);
    if (state_ != State::broken && crash_loop())
        break_pool(fmt::format("the pool is broken: {} workers in a row died without beginning a "
                               "task, the last one (process {}) {}; run the program under a "
                               "debugger, or look at what its start-up does before init()",
                               barren_deaths_, pid, status.describe()),
                   garbage);
    refill();
    rebalance();
    wake_waiters();
    control_->bell.wake_all();  // it may have been about to wake the sleeper, and taken its bit
}

void PoolCore::sort_tasks_of_dead(WorkerLink& link, const ExitStatus& status, Garbage& garbage) {
    RingParent& ring = link.ring();
    for (std::uint64_t i = ring.published(); i-- > ring.consumed();) {
        TaskState* task = std::exchange(link.shadow[ring.position(i)], nullptr);
        if (!task) continue;  // the request to stop
        SlotState state = ring.slot(i).state.load(std::memory_order_acquire);
        // R3: only the front can have been running, whatever the worker wrote elsewhere; and a
        // front that a corrupt ring calls ready is not believed.
        bool not_begun = i != ring.consumed() || (state == SlotState::ready && !link.corrupt);
        if (state_ == State::terminating)
            fail(task, std::make_exception_ptr(CancelledError("the task was cancelled")), garbage);
        else if (state_ == State::broken)
            fail(task, std::make_exception_ptr(BrokenPool(broken_reason_)), garbage);
        else if (not_begun)
            push_back_to_backlog(task);
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
    // By name: closing is not enough while a forked process has the descriptors too.
    (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, link.process.pidfd.get(), nullptr);
    (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, link.process.control.get(), nullptr);
    link.process = {};
    link.alive = link.ready = false;
    link.stuck = 0;
    link.respawn_at = sys::Clock::now();
}

// A worker died, or could not be started, that did not begin anything.
void PoolCore::note_barren_death(WorkerLink& link) {
    barren_deaths_ = completed_ == completed_at_death_ ? barren_deaths_ + 1 : 0;
    completed_at_death_ = completed_;
    auto back_off = barren_deaths_ < 2 ? 0ms : 1ms * (1 << std::min(barren_deaths_, 10u));
    link.respawn_at =
        sys::Clock::now() + std::min<std::chrono::milliseconds>(back_off, kLongestBackOff);
}

// Many in a row, and nobody left who works.
bool PoolCore::crash_loop() const {
    return barren_deaths_ > 4 + 2 * links_.size() &&
           std::none_of(links_.begin(), links_.end(),
                        [](const WorkerLink& l) { return l.alive && l.ready; });
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
            note_barren_death(link);
            if (state_ != State::broken && crash_loop()) {
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
    require_owner();
    Lock lock(mutex_);
    if (state_ == State::running) state_ = State::closed;
}

void PoolCore::terminate() {
    require_owner();
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
    require_owner();
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
    if (!finished.joinable()) return;
    finished.join();
    --own_threads;
    launcher_.reset();  // a fork server goes now, though futures may keep this object
}

void PoolCore::abandon() {
    if (supervisor_.joinable()) supervisor_.detach();  // it exists in the parent only
}

}  // namespace sidestep::detail
