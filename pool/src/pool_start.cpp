// Starting workers: at first, in place of one that died, and when more are wanted.
#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <span>
#include <system_error>

#include <sidestep/pool_errors.hpp>
#include <sidestep/remote_error.hpp>

#include "error.hpp"
#include "inner_threads.hpp"
#include "pool_core.hpp"
#include "pool_events.hpp"
#include "process_memory.hpp"
#include "task_fds.hpp"

namespace sidestep::detail {
namespace {

using namespace std::chrono_literals;
constexpr auto kDying = 100ms;  // from the end of its descriptors to its own

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
    save_hook(options_.initializer, initializer_, &hook_fds_);
    initializer_.fds = hook_fds_.numbers.size();
    initializer_.lasting_fds = hook_fds_.lasting.size();
    save_hook(options_.finalizer, finalizer_, nullptr);  // it can have no handles
    oom_kills_ = oom_kills();
    launch_options_.environment = inner_thread_variables(*options_.inner_threads);
    if (!links_.empty())
        launcher_ = make_launcher(options_.start_method, "a pool's worker", ServiceThread::count(),
                                  launch_options_);
    epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
    if (!epoll_) throw_errno(errno, "epoll_create1");
    watch(epoll_, supervisor_bell_.get(), event_tag(EventSource::bell, 0));
    try {
        for (WorkerLink& link : links_) launch(link);
        supervisor_.start("sidestep-pool", ServiceThread::Runs::library_code,
                          [this] { supervise(); });
    } catch (...) {  // those that were started must not stay
        signal_workers(SIGKILL);
        for (WorkerLink& link : links_)
            if (link.alive) (void)sys::wait_pidfd(link.process.pidfd.get(), true);
        throw;
    }
}

// Its code and arguments, for all workers that will be.
void PoolCore::save_hook(const WorkerHook& hook, HookSetup& setup, FdSink* fds) {
    if (!hook) return;
    HeapBuffer buffer;
    OutputArchive archive(buffer, fds);
    hook.save(archive);
    setup.block = allocate_argument(std::max<std::size_t>(buffer.size(), 1));
    std::memcpy(argument_data(setup.block), buffer.begin(), buffer.size());
    setup.size = buffer.size();
    setup.module = hook.kind().id.where.module;
    setup.offset = hook.kind().id.where.offset;
    setup.signature = hook.kind().id.signature;
    setup.given = true;
}

void PoolCore::launch(WorkerLink& link) {
    auto began = sys::Clock::now();
    std::vector<PoolTask*> shadow(kRingCapacity);  // first: once the worker runs, nothing may fail
    auto memory = std::make_shared<WorkerMemory>(options_.arena_bytes);
    auto output =
        captures_output() ? std::make_unique<WorkerOutput>(options_.output_limit) : nullptr;
    Launched process = launcher_->launch(&worker_main, launch_options_);
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
    std::vector<int> fds = {memory->ring_segment.fd().get(), memory->results.fd().get(),
                            args_reader_.get(), control_segment_.fd().get(),
                            supervisor_bell_.get()};
    if (output) fds.insert(fds.end(), {output->out_fd(), output->err_fd()});
    GivenFds given;
    try {
        send_setup(process, setup, fds);
        (void)given.give(process.control.get(), hook_fds_.lasting);
        (void)send_task_fds(process.control.get(), 0, hook_fds_.numbers);
        sys::set_nonblocking(process.control.get(), true);  // task descriptors: never wait here
        watch(epoll_, process.pidfd.get(), event_tag(EventSource::death, link.index));
        watch(epoll_, process.control.get(), event_tag(EventSource::control, link.index));
        memory->close_descriptors();
    } catch (...) {
        discard(std::move(process));
        throw;
    }
    Lock lock(mutex_);
    link.shadow.swap(shadow);
    link.output = std::move(output);
    link.given = std::move(given);
    link.tally.launch_began = began;
    ++link.tally.launches;
    adopt(link, std::move(process), std::move(memory));
}

void PoolCore::adopt(WorkerLink& link, Launched process, std::shared_ptr<WorkerMemory> memory) {
    link.process = std::move(process);
    link.memory = std::move(memory);
    link.alive = true;
    link.ready = link.stopping = link.corrupt = link.unresponsive = link.retiring = false;
    link.deaf = false;
    link.leave_by.reset();
    link.stuck = 0;
    link.last_front = WorkerLink::kNoFront;
    link.started_at = sys::Clock::now();
    link.memory_at_start = 0;
    trace_worker(link, TraceEvent::Kind::worker_started);
    // The pool may have begun to end while the worker was being started, without the mutex.
    if (ending())
        sys::pidfd_send_signal(link.process.pidfd.get(), SIGKILL);
    else if (joining_)
        ask_all_to_stop();
    else
        refill();
}

// A worker says once that it is ready. Tasks have the socket too: what else comes is a stray write.
// (Links change in this thread only.)
void PoolCore::handle_control(std::uint32_t index) {
    WorkerLink& link = links_[index];
    if (!link.alive) return;
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

// P3. Its death sorts its tasks.
void PoolCore::distrust(WorkerLink& link) {
    Garbage garbage;
    Lock lock(mutex_);
    if (drain(link, garbage)) wake_waiters();  // what it has finished counts
    link.corrupt = true;
    sys::pidfd_send_signal(link.process.pidfd.get(), SIGKILL);
}

// It is dying, and its death comes by the pidfd; or a task closed all descriptors, and the worker
// that can be sent nothing any more is replaced.
void PoolCore::handle_closed(WorkerLink& link) {
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, link.process.control.get(), nullptr);
    auto lives_on = [&] { return link.ready && !link.stopping && !link.corrupt && !ending(); };
    {
        Lock lock(mutex_);
        if (!lives_on()) return;
    }
    if (sys::wait_for_exit(link.process.pidfd.get(), sys::Clock::now() + kDying)) return;
    Lock lock(mutex_);
    if (!lives_on()) return;
    retire_early(link);
    refill();
}

// It takes tasks, or its initializer threw.
void PoolCore::handle_ready(WorkerLink& link, const WorkerReady& ready) {
    std::size_t memory = options_.max_memory_growth ? private_memory(link.process.pid) : 0;
    std::string reason = ready.error_block ? initializer_error(link, ready) : "";
    Garbage garbage;
    Lock lock(mutex_);
    if (!reason.empty()) {
        break_pool(reason, garbage);
        return wake_waiters();
    }
    link.ready = true;
    link.tally.start += sys::Clock::now() - link.tally.launch_began;
    link.memory_at_start = memory;
    if (!backlog_.empty())  // what waits behind others is older, and comes first
        for (WorkerLink& other : links_)
            if (other.alive && other.ready && !other.stopping)
                take_back_from(other, other.ring().published() - waiting(other));
    rebalance();
    refill();
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
