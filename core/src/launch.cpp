#include "launch.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <string>

#include <sidestep/init.hpp>

#include "error.hpp"
#include "fork_child.hpp"
#include "spawn.hpp"
#include "start_defaults.hpp"
#include "sys.hpp"
#include "zygote.hpp"

namespace sidestep {
namespace {

// What this program was called as.
std::string program_name() {
    static const std::string* const name = [] {
        auto command_line = sys::read_file("/proc/self/cmdline");
        return new std::string(command_line ? command_line->c_str() : "sidestep-worker");
    }();
    return *name;
}

// /proc/self/exe is the file that runs, even if its name was given to another one since.
class Spawner final : public Launcher {
  public:
    using Launcher::launch;
    Launched launch(BootMain entry, const LaunchOptions& how) override {
        constexpr int kControlFd = 3;
        sys::SocketPair control = sys::make_socketpair();
        sys::Pipe lifeline;
        if (how.dies_with_us) lifeline = sys::make_pipe();
        std::string program = executable();
        subprocess::Options options;
        options.executable = program.empty() ? "/proc/self/exe" : program;
        options.std_in = subprocess::DEVNULL;
        options.env =
            subprocess::Environment::extend({{kBootVariable, std::to_string(kControlFd)}});
        for (const auto& [name, value] : how.environment) options.env->set(name, value);
        options.pass_fds = {{control.second.get(), kControlFd}};
        if (how.own_group) options.process_group = 0;
        options.blocked_signals = std::vector<int>{};
        spawn::Child child = spawn::start({program.empty() ? program_name() : program}, options);
        Launched launched{child.pid, std::move(child.pidfd), std::move(control.first),
                          std::move(lifeline.write_end)};
        send_boot_message(launched, entry, lifeline.read_end);
        return launched;
    }
};

class Forker final : public Launcher {
  public:
    using Launcher::launch;
    Launched launch(BootMain entry, const LaunchOptions& how) override {
        sys::SocketPair control = sys::make_socketpair();
        sys::Pipe lifeline;
        if (how.dies_with_us) lifeline = sys::make_pipe();
        int pid = fork_child();
        if (pid == 0) {
            control.first.reset();
            lifeline = {};
            if (how.own_group) enter_group(0);
            boot(std::move(control.second));
        }
        if (how.own_group) (void)::setpgid(pid, pid);  // whoever is faster
        Fd pidfd;
        try {
            pidfd = sys::pidfd_open(pid);
        } catch (...) {
            discard_child(pid);
            throw;
        }
        Launched launched{pid, std::move(pidfd), std::move(control.first),
                          std::move(lifeline.write_end)};
        send_boot_message(launched, entry, lifeline.read_end);
        return launched;
    }
};

}  // namespace

void require_init(const char* purpose) {
    if (initialized()) return;
    if (std::string copies = copies_of_this_library(); !copies.empty())
        throw std::logic_error(fmt::format(
            "{} cannot be started: sidestep::init() was not called in this copy of Sidestep. {}",
            purpose, copies));
    throw std::logic_error(fmt::format(
        "{} cannot be started: sidestep::init() was not called. Make it the first statement of "
        "main(); workers are this program started again, and take over there. (Objects that start "
        "workers cannot be created before main() begins, in a worker neither.)",
        purpose));
}

void require_single_thread(const char* purpose, std::size_t own_threads) {
    std::size_t threads = sys::thread_count();
    if (threads <= 1 + own_threads) return;
    throw std::logic_error(fmt::format(
        "{} cannot be forked: this process has {} other threads, and a lock that one of them holds "
        "would stay locked in the child for ever. Use StartMethod::spawn or forkserver, create it "
        "before the threads, or take the risk by name with StartMethod::fork_threaded",
        purpose, threads - 1 - own_threads));
}

void send_boot_message(const Launched& child, BootMain entry, const Fd& lifeline) {
    BootMessage message;
    message.entry = locate(reinterpret_cast<const void*>(entry));
    message.parent_pid = getpid();
    message.has_lifeline = lifeline ? 1 : 0;
    int fd = lifeline.get();
    std::span<const int> fds(&fd, message.has_lifeline);
    try {
        sys::send_message(child.control.get(), std::as_bytes(std::span(&message, 1)), fds);
    } catch (const std::system_error&) {
        // It is dead already: that is seen by its pidfd, with the status that tells why.
    }
}

std::unique_ptr<Launcher> make_spawner() { return std::make_unique<Spawner>(); }
std::unique_ptr<Launcher> make_forker() { return std::make_unique<Forker>(); }

std::unique_ptr<Launcher> make_launcher(StartMethod method, const char* purpose,
                                        std::size_t own_threads, const LaunchOptions& server) {
    switch (method) {
        case StartMethod::spawn:
            require_init(purpose);
            return std::make_unique<Spawner>();
        case StartMethod::fork:
            require_single_thread(purpose, own_threads);
            break;
        case StartMethod::fork_threaded:
            break;
        case StartMethod::forkserver: {
            require_init(purpose);
            auto start = [server] { return make_spawner()->launch(&zygote_main, server); };
            return std::make_unique<Zygote>(start(), start);
        }
    }
    return Zygote::fork_here();
}

}  // namespace sidestep
