#include "launch.hpp"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <string>

#include <sidestep/init.hpp>

#include "error.hpp"
#include "spawn.hpp"
#include "sys.hpp"
#include "zygote.hpp"

namespace sidestep {
namespace {

void require_init(const char* purpose) {
    if (initialized()) return;
    throw std::logic_error(fmt::format(
        "{} cannot be started: sidestep::init() was not called. Make it the first statement of "
        "main(); workers are this program started again, and take over there. (Objects that start "
        "workers cannot be created before main() begins, in a worker neither.)",
        purpose));
}

// A thread that was joined is still listed for a moment: join() returns before the kernel has
// removed it.
std::size_t settled_thread_count(std::size_t allowed) {
    auto give_up = sys::Clock::now() + std::chrono::milliseconds(100);
    std::size_t threads;
    while ((threads = sys::thread_count()) > allowed && sys::Clock::now() < give_up) sched_yield();
    return threads;
}

void require_single_thread(const char* purpose, std::size_t own_threads) {
    std::size_t threads = settled_thread_count(1 + own_threads);
    if (threads <= 1 + own_threads) return;
    throw std::logic_error(fmt::format(
        "{} cannot be forked: this process has {} other threads, and a lock that one of them holds "
        "would stay locked in the child for ever. Use StartMethod::spawn or forkserver, create it "
        "before the threads, or take the risk by name with StartMethod::fork_threaded",
        purpose, threads - 1 - own_threads));
}

// What this program was called as.
std::string program_name() {
    auto command_line = sys::read_file("/proc/self/cmdline");
    return command_line ? command_line->c_str() : "sidestep-worker";
}

// Starts this program afresh. /proc/self/exe is the file that runs, even if its name was given to
// another one since.
class Spawner final : public Launcher {
  public:
    Launched launch(BootMain entry) override {
        constexpr int kControlFd = 3;
        sys::SocketPair control = sys::make_socketpair();
        sys::Pipe lifeline = sys::make_pipe();
        subprocess::Options options;
        options.executable = "/proc/self/exe";
        options.std_in = subprocess::DEVNULL;
        options.env =
            subprocess::Environment::extend({{kBootVariable, std::to_string(kControlFd)}});
        options.pass_fds = {{control.second.get(), kControlFd}};
        options.process_group = 0;
        options.blocked_signals = std::vector<int>{};
        spawn::Child child = spawn::start({program_name_}, options);
        Launched launched{child.pid, std::move(child.pidfd), std::move(control.first),
                          std::move(lifeline.write_end)};
        send_boot_message(launched, entry, lifeline.read_end);
        return launched;
    }

  private:
    std::string program_name_ = program_name();
};

}  // namespace

void send_boot_message(const Launched& child, BootMain entry, const Fd& lifeline) {
    BootMessage message;
    message.entry = locate(reinterpret_cast<const void*>(entry));
    message.parent_pid = getpid();
    int fd = lifeline.get();
    try {
        sys::send_message(child.control.get(), std::as_bytes(std::span(&message, 1)), {&fd, 1});
    } catch (const std::system_error&) {
        // It is dead already: that is seen by its pidfd, with the status that tells why.
    }
}

std::unique_ptr<Launcher> make_launcher(StartMethod method, const char* purpose,
                                        std::size_t own_threads) {
    switch (method) {
        case StartMethod::spawn:
            require_init(purpose);
            return std::make_unique<Spawner>();
        case StartMethod::fork:
            require_single_thread(purpose, own_threads);
            break;
        case StartMethod::fork_threaded:
            break;
        case StartMethod::forkserver:
            require_init(purpose);
            return std::make_unique<Zygote>(Spawner().launch(&zygote_main));
    }
    return Zygote::fork_here();
}

}  // namespace sidestep
