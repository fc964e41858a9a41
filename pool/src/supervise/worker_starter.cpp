#include "supervise/worker_starter.hpp"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <new>
#include <span>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>

#include <sidestep/detail/hook_maker.hpp>

#include "service_thread.hpp"
#include "sys/error.hpp"
#include "worker/task_fds.hpp"
#include "worker/worker_settings.hpp"

namespace sidestep::inline v0::detail {
namespace {

using namespace std::chrono_literals;
constexpr auto kHookFdsTime = 10s;  // for a new worker to read what its hooks get

// A worker that is dead already gets no letter: that is seen by its pidfd, with the status that
// tells why.
void send_to_new(int control, const WorkerSetup& setup, std::span<const int> fds) {
    try {
        sys::send_message(control, std::as_bytes(std::span(&setup, 1)), fds);
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
void send_hook_fds(int control, GivenFds& sent, const TaskDescriptors& fds, std::uint64_t serial) {
    sys::Deadline deadline = sys::Clock::now() + kHookFdsTime;
    while (!(sent.give(control, fds.lasting) && send_task_fds(control, serial, fds.numbers))) {
        if (!wait_writable(control, deadline)) return;
        if (sys::Clock::now() >= *deadline)
            throw_errno(ETIMEDOUT,
                        "the new worker does not take the handles of its initializer and finalizer "
                        "(is it stopped?)");
        std::this_thread::sleep_for(1ms);  // what was short may not have been room
    }
}

template <class Memory>
WorkerStarter::Block save_bytes(const HeapBuffer& buffer, Memory& memory) {
    WorkerStarter::Block block = memory(std::max<std::size_t>(buffer.size(), 1));
    std::copy_n(buffer.begin(), buffer.size(), block.data);
    return block;
}

template <class Memory>
void save_hook(const WorkerHook& hook, HookSetup& setup, TaskDescriptors& fds, Memory& memory) {
    if (!hook) return;
    HeapBuffer buffer;
    OutputArchive archive(buffer, &fds);
    hook.save(archive);
    setup.block = save_bytes(buffer, memory).id;
    setup.size = buffer.size();
    setup.module = hook.kind().id.where.module;
    setup.offset = hook.kind().id.where.offset;
    setup.signature = hook.kind().id.signature;
    setup.fds = fds.numbers.size();
    setup.lasting_fds = fds.lasting.size();
    setup.given = true;
}

}  // namespace

void WorkerStarter::save_hooks(const std::function<Block(std::size_t)>& memory) {
    if (const WorkerSettings settings(options_); settings.says_anything()) {
        HeapBuffer buffer;
        OutputArchive archive(buffer);
        archive(settings);
        settings_ = {save_bytes(buffer, memory).id, buffer.size()};
    }
    save_hook(options_.initializer, initializer_, initializer_fds_, memory);
    save_hook(options_.finalizer, finalizer_, finalizer_fds_, memory);
}

void WorkerStarter::make_launcher() {
    launch_options_.environment = added_environment(options_, {});
    const Timeout patience = options_.start_timeout;
    if (patience.count() > 0 && !patience.is_forever()) launch_options_.answer_within = patience;
    launcher_ = v0::make_launcher(options_.start_method, "a pool's worker", ServiceThread::count(),
                                  launch_options_);
}

RingLane::Parts WorkerStarter::start(std::uint32_t number) {
    RingLane::Parts parts;
    parts.memory = std::make_shared<WorkerMemory>(options_.arena_bytes);
    if (captures_output()) parts.output = std::make_unique<WorkerOutput>(options_.output_limit);
    parts.in_flight_tasks.assign(kRingCapacity, nullptr);
    parts.process.bell = ParentFd(sys::make_eventfd());
    if (!options_.env.empty()) launch_options_.environment = added_environment(options_, number);
    parts.process.launched = launcher_->launch(&worker_main, launch_options_);
    try {
        send_setup(number, parts);
    } catch (...) {
        discard(std::move(parts.process.launched));
        throw;
    }
    return parts;
}

void WorkerStarter::send_setup(std::uint32_t number, RingLane::Parts& parts) {
    WorkerSetup setup;
    setup.index = number;
    setup.parent_pid = shared_.parent_pid;
    setup.seed = options_.seed;
    setup.wake_ns = shared_.wake_ns;
    setup.spin = shared_.spin;
    setup.cpu = options_.pin_workers ? sys::nth_cpu(number) : -1;
    setup.inner_threads = *options_.inner_threads;
    setup.captures_output = options_.output == Output::pass ? 0 : 1;
    setup.settings = settings_;
    setup.initializer = initializer_;
    setup.finalizer = finalizer_;
    WorkerMemory& memory = *parts.memory;
    std::vector<int> fds = {memory.ring_segment.fd().get(), memory.results.fd().get(),
                            shared_.arguments.get(), shared_.control_page.fd().get(),
                            parts.process.bell.get()};
    if (const auto& output = parts.output)
        fds.insert(fds.end(), {output->out_fd(), output->err_fd()});
    LinePrinter::Ends lines;
    if (options_.output == Output::lines) {
        lines = lines_.add(number, parts.process.pid());
        fds.insert(fds.end(), {lines.out.get(), lines.err.get()});
        setup.marks_lines = lines.nonce ? 1 : 0;
        setup.line_nonce = lines.nonce.value_or(LineNonce());
    }
    int control = parts.process.control();
    send_to_new(control, setup, fds);
    sys::set_nonblocking(control, true);  // from here on nothing waits there
    send_hook_fds(control, parts.sent_fds, initializer_fds_, kInitializerFds);
    send_hook_fds(control, parts.sent_fds, finalizer_fds_, kFinalizerFds);
    memory.close_descriptors();
}

const char* shortage(const std::exception_ptr& error) noexcept {
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

}  // namespace sidestep::detail
