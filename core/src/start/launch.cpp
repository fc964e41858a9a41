#include "start/launch.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <stdexcept>
#include <string>
#include <system_error>

#include <sidestep/init.hpp>

#include "spawn/copy_process.hpp"
#include "spawn/fork_child.hpp"
#include "spawn/spawn.hpp"
#include "start/hidden_variables.hpp"
#include "start/init_place.hpp"
#include "start/own_program.hpp"
#include "start/privileges.hpp"
#include "start/start_defaults.hpp"
#include "start/zygote.hpp"
#include "sys/error.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

class Spawner final : public Launcher {
  public:
    using Launcher::launch;
    Launched launch(BootMain entry, const LaunchOptions& how) override {
        constexpr int kControlFd = 3;
        ParentEnds control = make_control_pair(), lifeline;
        if (how.dies_with_us) lifeline = make_lifeline();
        std::string named = executable();
        OwnProgram program = named.empty() ? own_program() : OwnProgram{named, {named}};
        subprocess::Options options;
        options.executable = program.executable;
        options.std_in = subprocess::DEVNULL;
        options.env =
            subprocess::Environment::extend({{kBootVariable, std::to_string(kControlFd)}});
        for (const std::string& name : hidden_variables()) options.env->remove(name);
        for (const auto& [name, value] : how.environment) options.env->set(name, value);
        options.pass_fds = {{control.theirs.get(), kControlFd}};
        if (how.own_group) options.process_group = 0;
        options.blocked_signals = std::vector<int>{};
        options.restore_signals = false;  // what is ignored stays ignored, as with fork
        spawn::Child child = spawn::start(program.arguments, options);
        return take_over(
            {{child.pid, std::move(child.pidfd)}, std::move(control.ours), std::move(lifeline)},
            entry);
    }
};

class Forker final : public Launcher {
  public:
    using Launcher::launch;
    Launched launch(BootMain entry, const LaunchOptions& how) override {
        ParentEnds control = make_control_pair(), lifeline;
        if (how.dies_with_us) lifeline = make_lifeline();
        sys::ProcessHandle<Fd> made = fork_child_with_pidfd();
        int pid = made.pid;
        if (pid == 0) {  // where the parent's ends are closed
            lifeline.theirs.reset();
            if (how.own_group) enter_group(0);
            boot(std::move(control.theirs));
        }
        if (how.own_group) (void)::setpgid(pid, pid);  // whoever is faster
        return take_over({std::move(made), std::move(control.ours), std::move(lifeline)}, entry);
    }
};

void send_boot_message(const Launched& child, BootMain entry, const Fd& lifeline) {
    SIDESTEP_ASSERT(BootEntry::exists(reinterpret_cast<const void*>(entry)));
    BootMessage message;
    message.entry = locate(reinterpret_cast<const void*>(entry));
    message.parent_pid = getpid();
    message.has_lifeline = lifeline ? 1 : 0;
    int fd = lifeline.get();
    std::span<const int> fds(&fd, message.has_lifeline);
    try {
        sys::send_message(child.control.get(), std::as_bytes(std::span(&message, 1)), fds);
    } catch (const std::system_error& error) {
        // It is dead already: that is seen by its pidfd, with the status that tells why.
        int code = error.code().value();
        if (code != EPIPE && code != ECONNRESET) throw;
    }
}

constexpr const char* kForkInstead =
    "use StartMethod::fork, or forkserver (it is forked from this process then: start_forkserver() "
    "does that early)";

// Why a child that is spawned could not go on with this program's code, and what to do. Empty: it
// could.
std::string why_not_spawn() {
    if (has_file_privileges())
        return fmt::format(
            "this program got privileges from its file when it was executed (set-uid, set-gid or "
            "capabilities), and one that is started again could not tell whether its parent is "
            "honest; {}",
            kForkInstead);
    std::string program = executable();
    std::string raised = why_file_gives_privileges(program.empty() ? "/proc/self/exe" : program);
    if (!raised.empty())
        return fmt::format(
            "{}, so it would be started with other privileges than its caller's, and could not "
            "tell whether that is honest; {}",
            raised, kForkInstead);
    if (!program.empty()) return {};  // another one, or the word that this one comes to init()
    if (init_place().before_main)
        return fmt::format(
            "sidestep::init() was called before main() began, by the constructor of a global "
            "object; a child that takes over there would lack the global objects of other files. "
            "Call it first in main(): int main(int argc, char** argv) {{ sidestep::init(); ... }}; "
            "or {}",
            kForkInstead);
    if (!init_place().library.empty())
        return fmt::format(
            "sidestep::init() was called by {}, a library that was loaded when the program ran; "
            "started again, the program would not come to it: {}; or name a program that calls "
            "init() first in main() with set_executable()",
            init_place().library, kForkInstead);
    return {};
}

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

void require_spawn(const char* purpose) {
    require_init(purpose);
    std::string reason = why_not_spawn();
    if (reason.empty()) return;
    throw std::logic_error(fmt::format("{} cannot be spawned: {}", purpose, reason));
}

void require_single_thread(const char* purpose, std::size_t own_threads) {
    auto threads = sys::thread_count();
    if (threads && *threads <= 1 + own_threads) return;
    std::string who = threads
                          ? fmt::format(
                                "this process has {} other threads, and a lock that one "
                                "of them holds",
                                *threads - 1 - own_threads)
                          : "this process's threads cannot be counted without /proc, and a lock "
                            "that one of them held";
    throw std::logic_error(fmt::format(
        "{} cannot be forked: {} would stay locked in the child for ever. Use StartMethod::spawn "
        "or forkserver, create it before the threads, or take the risk by name with "
        "StartMethod::fork_threaded",
        purpose, who));
}

Launched take_over(NewChild child, BootMain entry) {
    try {
        auto& [pid, pidfd] = child.process;
        if (!pidfd) pidfd = sys::pidfd_open(pid);
        Launched launched{
            {pid, std::move(pidfd)}, std::move(child.control), std::move(child.lifeline.ours)};
        send_boot_message(launched, entry, child.lifeline.theirs);
        return launched;
    } catch (...) {
        // Closed first: then it ends even where it must not be signalled.
        child.control.reset();
        child.lifeline = {};
        discard_child(child.process.pid);
        throw;
    }
}

void discard(Launched child) noexcept {
    (void)::kill(-child.pid, SIGKILL);  // its group, if it leads one by now
    child.control.reset();
    child.lifeline.reset();
    try {
        (void)child.signal(SIGKILL);
    } catch (const std::system_error&) {  // of another user: it ends as its sockets are closed
    }
    try {
        (void)child.wait();
    } catch (const std::system_error&) {
    }
}

std::unique_ptr<Launcher> make_spawner() { return std::make_unique<Spawner>(); }
std::unique_ptr<Launcher> make_forker() { return std::make_unique<Forker>(); }

std::unique_ptr<Launcher> make_server_starter(const char* purpose, std::size_t own_threads) {
    require_init(purpose);
    if (why_not_spawn().empty()) return make_spawner();
    require_single_thread(purpose, own_threads);
    return make_forker();
}

std::unique_ptr<Launcher> make_launcher(StartMethod method, const char* purpose,
                                        std::size_t own_threads, const LaunchOptions& server) {
    switch (method) {
        case StartMethod::spawn:
            require_spawn(purpose);
            return std::make_unique<Spawner>();
        case StartMethod::fork:
            require_single_thread(purpose, own_threads);
            break;
        case StartMethod::fork_threaded:
            break;
        case StartMethod::forkserver: {
            // One that is forked is a template, as with fork: there is no second one like it.
            std::function<Launched()> again;
            if (why_not_spawn().empty())
                again = [server] { return make_spawner()->launch(&zygote_main, server); };
            Launched first =
                make_server_starter(purpose, own_threads)->launch(&zygote_main, server);
            return Zygote::of(std::move(first), std::move(again));
        }
    }
    return Zygote::fork_here();
}

}  // namespace sidestep
