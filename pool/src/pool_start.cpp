// Starting workers: at first, in place of one that died, and when more are wanted.
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <exception>
#include <new>
#include <span>
#include <system_error>
#include <thread>

#include <sidestep/pool_errors.hpp>
#include <sidestep/remote_error.hpp>

#include "inner_threads.hpp"
#include "pool_core.hpp"
#include "pool_events.hpp"
#include "process_memory.hpp"
#include "spare_errors.hpp"
#include "start/boot_failure.hpp"
#include "sys/error.hpp"
#include "task_fds.hpp"

namespace sidestep::inline v0::detail {
namespace {

using namespace std::chrono_literals;
constexpr auto kDying = 100ms;         // from the end of its descriptors to its own
constexpr auto kHookFdsTime = 10s;     // for a new worker to read what its hooks get
constexpr auto kShortestPause = 5ms;   // between attempts to start a worker, while there is none of
constexpr auto kLongestPause = 250ms;  //   something that it needs

void watch(const ParentFd& epoll, int fd, std::uint64_t data, std::uint32_t events = EPOLLIN) {
    epoll_event event = {};
    event.events = events;
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

// False: nobody reads there any more.
bool wait_writable(int socket, const sys::Deadline& deadline) {
    pollfd entry = {socket, POLLOUT, 0};
    int n;
    do n = ::poll(&entry, 1, sys::poll_timeout(deadline));
    while (n < 0 && errno == EINTR);
    if (n < 0) throw_errno(errno, "poll(worker)");
    return (entry.revents & (POLLERR | POLLHUP)) == 0;
}

// Never waits for a worker that does not read for longer than that.
void send_hook_fds(int control, GivenFds& given, const TaskDescriptors& fds, std::uint64_t serial) {
    sys::Deadline deadline = sys::Clock::now() + kHookFdsTime;
    while (!(given.give(control, fds.lasting) && send_task_fds(control, serial, fds.numbers))) {
        if (!wait_writable(control, deadline)) return;
        if (sys::Clock::now() >= *deadline)
            throw_errno(ETIMEDOUT,
                        "the new worker does not take the handles of its initializer and finalizer "
                        "(is it stopped?)");
        std::this_thread::sleep_for(1ms);  // what was short may not have been room
    }
}

// What was short, and what helps; null: the error is of another kind, and will not pass.
const char* shortage(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const std::bad_alloc&) {
        return "memory is used up";
    } catch (const std::system_error& e) {
        switch (e.code().value()) {
            case EMFILE:
                return "this process has no descriptors left: close some, or raise its limit "
                       "(RLIMIT_NOFILE, ulimit -n)";
            case ENFILE:
                return "the system has no descriptors left (fs.file-max)";
            case ETOOMANYREFS:
                return "too many descriptors of this user are on their way between processes "
                       "(RLIMIT_NOFILE, ulimit -n)";
            case EAGAIN:
                return "there are too many processes or threads: of this user (RLIMIT_NPROC, "
                       "ulimit -u), or in this control group (pids.max)";
            case ENOMEM:
            case ENOBUFS:
                return "memory or address space is used up";
            case ENOSPC:
                return "space is used up: shared memory, or watches (fs.epoll.max_user_watches)";
            default:
                return nullptr;
        }
    } catch (...) {
        return nullptr;
    }
}

}  // namespace

PoolCore::~PoolCore() { SIDESTEP_ASSERT(!supervisor_.joinable()); }

void PoolCore::start() {
    Supervising until_the_thread_does;
    save_hook(options_.initializer, initializer_, initializer_fds_);
    save_hook(options_.finalizer, finalizer_, finalizer_fds_);
    {
        Lock lock(mutex_);
        oom_kills_ = oom_kills();
    }
    if (options_.max_memory_growth > 0 && !private_memory(owner_pid_))
        throw std::runtime_error(
            "PoolOptions::max_memory_growth cannot be watched: /proc/PID/statm cannot be read; "
            "mount "
            "the /proc of this pid namespace, or leave it out");
    launch_options_.environment = inner_thread_variables(*options_.inner_threads);
    if (!own_links().empty())
        launcher_ = make_launcher(options_.start_method, "a pool's worker", ServiceThread::count(),
                                  launch_options_);
    // After the launcher: a template that is forked there has neither.
    supervisor_bell_ = ParentFd(sys::make_eventfd());
    Fd epoll(epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) throw_errno(errno, "epoll_create1");
    epoll_ = ParentFd(std::move(epoll));
    watch(epoll_, supervisor_bell_.get(), event_tag(EventSource::bell, 0));
    try {
        for (WorkerLink& link : own_links()) launch(link);
        supervisor_.start("sidestep-pool", ServiceThread::Runs::library_code,
                          [this] { supervise(); });
    } catch (...) {  // those that were started must not stay
        for (WorkerLink& link : own_links())
            if (link.alive) discard(std::move(link.process));
        throw;
    }
}

// Its code and arguments, for all workers that will be.
void PoolCore::save_hook(const WorkerHook& hook, HookSetup& setup, TaskDescriptors& fds) {
    if (!hook) return;
    HeapBuffer buffer;
    OutputArchive archive(buffer, &fds);
    hook.save(archive);
    setup.block = allocate_argument(std::max<std::size_t>(buffer.size(), 1));
    std::memcpy(argument_data(setup.block), buffer.begin(), buffer.size());
    setup.size = buffer.size();
    setup.module = hook.kind().id.where.module;
    setup.offset = hook.kind().id.where.offset;
    setup.signature = hook.kind().id.signature;
    setup.fds = fds.numbers.size();
    setup.lasting_fds = fds.lasting.size();
    setup.given = true;
}

// What a worker has of its own, before it is one.
struct PoolCore::Started {
    sys::Clock::time_point began = sys::Clock::now();
    std::shared_ptr<WorkerMemory> memory;
    std::unique_ptr<WorkerOutput> output;
    std::vector<PoolTask*> shadow;
    ParentFd bell;
    GivenFds given;
    Launched process;
};

void PoolCore::launch(WorkerLink& link) {
    Started started;
    started.memory = std::make_shared<WorkerMemory>(options_.arena_bytes);
    if (captures_output()) started.output = std::make_unique<WorkerOutput>(options_.output_limit);
    started.shadow.assign(kRingCapacity, nullptr);
    started.bell = ParentFd(sys::make_eventfd());
    started.process = launcher_->launch(&worker_main, launch_options_);
    try {
        set_up(link, started);
    } catch (...) {
        discard(std::move(started.process));
        throw;
    }
    Hold hold(mutex_, *this);
    adopt(link, std::move(started), hold);
}

void PoolCore::set_up(WorkerLink& link, Started& started) {
    WorkerSetup setup;
    setup.index = link.index;
    setup.parent_pid = owner_pid_;
    setup.seed = options_.seed;
    setup.wake_ns = wake_cost_ns_;
    setup.spin = spin_;
    setup.cpu = options_.pin_workers ? sys::nth_cpu(link.index) : -1;
    setup.inner_threads = *options_.inner_threads;
    setup.captures_output = captures_output() ? 1 : 0;
    setup.initializer = initializer_;
    setup.finalizer = finalizer_;
    WorkerMemory& memory = *started.memory;
    std::vector<int> fds = {memory.ring_segment.fd().get(), memory.results.fd().get(),
                            args_reader_.get(), control_segment_.fd().get(), started.bell.get()};
    if (const auto& output = started.output)
        fds.insert(fds.end(), {output->out_fd(), output->err_fd()});
    const Launched& process = started.process;
    int control = process.control.get();
    send_setup(process, setup, fds);
    sys::set_nonblocking(control, true);  // from here on nothing waits there
    send_hook_fds(control, started.given, initializer_fds_, kInitializerFds);
    send_hook_fds(control, started.given, finalizer_fds_, kFinalizerFds);
    watch(epoll_, process.pidfd.get(), event_tag(EventSource::death, link.index));
    watch(epoll_, control, event_tag(EventSource::control, link.index));
    watch(epoll_, started.bell.get(), event_tag(EventSource::ring, link.index), EPOLLIN | EPOLLET);
    memory.close_descriptors();
}

// With the mutex held. Throws nothing: the worker is there.
void PoolCore::adopt(WorkerLink& link, Started started, Hold& hold) {
    link.process = std::move(started.process);
    link.memory = std::move(started.memory);
    link.output = std::move(started.output);
    link.shadow = std::move(started.shadow);
    link.bell = std::move(started.bell);
    link.given = std::move(started.given);
    link.tally.launch_began = started.began;
    ++link.tally.launches;
    link.alive = true;
    link.ready = link.stopping = link.corrupt = link.unresponsive = link.retiring = false;
    link.deaf = false;
    link.stuck = 0;
    link.last_front = WorkerLink::kNoFront;
    link.doubtful = false;
    link.started_at = sys::Clock::now();
    link.memory_at_start = 0;
    link.private_memory.reset();
    link.front_clock = {};
    link.front_clock.looked_at = link.started_at;
    link.boot_failure.clear();
    shortage_since_.reset();
    nobody_since_.reset();
    if (captures_output()) timers_.set_earlier(Timers::Purpose::output, link.started_at);
    if (!link.given.empty()) timers_.set_earlier(Timers::Purpose::handles, link.started_at);
    insight_.note_worker_started(link.index, link.process.pid);
    // The pool may have begun to end while the worker was being started, without the mutex.
    if (life_.ending())
        signal_worker(link, SIGKILL, hold);
    else if (life_.sealed())
        ask_all_to_stop(hold);
    else
        refill(hold);
}

// A shortage may pass: it is tried again for start_patience, if nobody works meanwhile, else for
// ever. Whatever else keeps a worker from being started counts as its death.
void PoolCore::note_failed_launch(WorkerLink& link, const std::exception_ptr& error) noexcept {
    Hold hold(mutex_, *this);
    const char* what = shortage(error);
    auto now = sys::Clock::now();
    if (what) {
        if (!shortage_since_) shortage_since_ = now;
        auto pause = (now - *shortage_since_) / 4;
        link.respawn_at =
            now + std::clamp<std::chrono::nanoseconds>(pause, kShortestPause, kLongestPause);
    } else {
        note_barren_death(link);
    }
    if (!all_gone())
        nobody_since_.reset();
    else if (!nobody_since_)
        nobody_since_ = now;
    bool over = what ? nobody_since_ && now >= later(*nobody_since_, options_.start_patience)
                     : crash_loop();
    if (!over || life_.ending()) return;
    auto alone = nobody_since_ ? now - *nobody_since_ : sys::Clock::duration(0);
    break_pool(broken_pool([&]() -> std::string {
                   if (!what)
                       return fmt::format("the pool is broken: no worker can be started: {}",
                                          text_of(error));
                   return fmt::format(
                       "the pool is broken: no worker could be started for {} ms "
                       "(PoolOptions::start_patience): {}: {}",
                       std::chrono::duration_cast<std::chrono::milliseconds>(alone).count(), what,
                       text_of(error));
               }),
               hold);
    hold.wake_waiters();
}

// A worker says once that it is ready. Tasks have the socket too: what else comes is a stray write.
// (Links change in this thread only.)
void PoolCore::handle_control(std::uint32_t index) {
    WorkerLink& link = own_links()[index];
    if (!link.alive) return;
    if (auto reason = link.ready ? std::nullopt : take_boot_failure(link.process.control.get())) {
        link.boot_failure = *reason;
        return;
    }
    WorkerReady ready;
    sys::Message message;
    try {
        message = sys::receive_message(link.process.control.get(),
                                       std::as_writable_bytes(std::span(&ready, 1)));
    } catch (const std::system_error& error) {
        if (error.code().value() == EMSGSIZE) distrust(link);
        return;  // what was for want of memory is tried again
    }
    if (message.closed) return handle_closed(link);
    if (link.ready || message.size != sizeof ready || ready.magic != WorkerReady::kMagic)
        return distrust(link);
    handle_ready(link, ready);
}

void PoolCore::distrust(WorkerLink& link) {
    Hold hold(mutex_, *this);
    if (drain(link, hold)) hold.wake_waiters();  // what it has finished counts
    condemn(link, hold);
}

bool PoolCore::lives_on(const WorkerLink& link) const {
    return link.alive && link.ready && !link.stopping && !link.corrupt && !life_.ending();
}

// It is dying, and its death comes by the pidfd; or a task closed all descriptors, and the worker
// that can be sent nothing any more is replaced, if it is there still in a moment.
void PoolCore::handle_closed(WorkerLink& link) {
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, link.process.control.get(), nullptr);
    Lock lock(mutex_);
    if (lives_on(link)) link.cut_off_at = sys::Clock::now() + kDying;
}

// It takes tasks, or its initializer threw.
void PoolCore::handle_ready(WorkerLink& link, const WorkerReady& ready) {
    std::size_t memory = 0;  // what it says is said once: nothing else may end this
    attempt([&] { memory = private_memory(link.process.pid).value_or(0); });
    std::exception_ptr reason;
    if (ready.error_block) reason = broken_pool([&] { return initializer_error(link, ready); });
    Hold hold(mutex_, *this);
    if (ready.error_block) {
        break_pool(reason, hold);
        return hold.wake_waiters();
    }
    link.ready = true;
    link.tally.start += sys::Clock::now() - link.tally.launch_began;
    link.memory_at_start = memory;
    link.private_memory = memory;
    if (!backlog_.empty())  // what waits behind others is older, and comes first
        for (WorkerLink& other : links_)
            if (other.alive && other.ready && !other.stopping)
                take_back_from(other, other.ring().published() - waiting(other));
    rebalance(hold);
    refill(hold);
}

std::string PoolCore::initializer_error(const WorkerLink& link, const WorkerReady& ready) const {
    std::string text = "with something that cannot be read";
    std::uint64_t block = ready.error_block;
    const Segment& results = link.memory->results;
    if (Arena::is_valid(block, results.size()) && ready.error_size <= Arena::capacity(block)) {
        try {
            InputArchive archive({results.data() + Arena::offset(block), ready.error_size});
            std::rethrow_exception(load_exception(archive));
        } catch (const std::exception& error) {
            text = error.what();
        } catch (...) {  // it stays unreadable
        }
    }
    return fmt::format(
        "the pool is broken: its initializer failed in worker {}: {}; nothing was "
        "tried again: make a new pool when the cause is gone",
        link.process.pid, text);
}

}  // namespace sidestep::detail
