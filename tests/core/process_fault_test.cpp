// Process: starts that fail, statuses that are lost, signals, groups, the fork server's troubles.
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include <sidestep/process.hpp>
#include <sidestep/subprocess.hpp>

#include "process_support.hpp"
#include "sys/sys.hpp"

namespace process_fault_test {

namespace {

using namespace sidestep;
using namespace std::chrono_literals;
using Catch::Matchers::Contains;

void nothing() {}
void wait_for_signal() {
    for (;;) ::pause();
}

class Executable {
  public:
    explicit Executable(const std::string& path) { set_executable(path); }
    ~Executable() { set_executable({}); }
    Executable(const Executable&) = delete;
    Executable& operator=(const Executable&) = delete;
};

class Handler {
  public:
    Handler(int signal, void (*function)(int)) : signal_(signal) {
        struct sigaction action = {};
        action.sa_handler = function;
        ::sigaction(signal, &action, &former_);
    }
    ~Handler() { ::sigaction(signal_, &former_, nullptr); }
    Handler(const Handler&) = delete;
    Handler& operator=(const Handler&) = delete;

  private:
    int signal_;
    struct sigaction former_;
};

}  // namespace

// --- starts that fail --------------------------------------------------------------------------

TEST_CASE("an executable that is not there is an error of start(), with step and errno",
          "[process][fault]") {
    test::StopForkServer stop_at_the_end;
    auto method = GENERATE(StartMethod::spawn, StartMethod::forkserver);
    Process p({.start_method = method}, nothing);
    {
        Executable missing("/nonexistent/program");
        auto before = test::Resources::now();
        try {
            p.start();
            FAIL("it started");
        } catch (const subprocess::StartError& e) {
            CHECK(e.step() == subprocess::StartStep::exec);
            CHECK(e.code().value() == ENOENT);
        }
        CHECK(test::nothing_left_since(before));
    }
    p.start();  // and can be tried again
    CHECK(p.join().success());
}

TEST_CASE("a program that is not this one is found out, though it exits with 0",
          "[process][fault]") {
    Executable other("/bin/true");
    Process p({.start_method = StartMethod::spawn}, nothing);
    p.start();
    p.join();
    CHECK(p.exitcode() == 0);
    CHECK_THROWS_WITH(p.rethrow(), Contains("before it began"));
    Process by_server({.start_method = StartMethod::forkserver}, nothing);
    CHECK_THROWS_AS(by_server.start(), std::system_error);
    CHECK(forkserver_pid() == 0);
}

TEST_CASE("without descriptors a start fails, leaves nothing, and works when there are some again",
          "[process][fault]") {
    FOR_EACH_START_METHOD();
    Process warm_up({.start_method = method}, nothing);  // what is made once for all
    warm_up.start();
    warm_up.join();
    Process p({.daemon = true, .start_method = method}, nothing);
    auto before = test::Resources::now();
    struct rlimit former;
    ::getrlimit(RLIMIT_NOFILE, &former);
    int failures = 0;
    int lowest = ::dup(0);  // the first free number
    ::close(lowest);
    for (int room = 0; room < 12; ++room) {
        struct rlimit tight = {static_cast<rlim_t>(lowest + room), former.rlim_max};
        ::setrlimit(RLIMIT_NOFILE, &tight);
        try {
            p.start();
            ::setrlimit(RLIMIT_NOFILE, &former);
            break;
        } catch (const std::system_error& error) {
            ::setrlimit(RLIMIT_NOFILE, &former);
            ++failures;
            INFO(error.what());
            CHECK(error.code() == std::errc::too_many_files_open);
        }
        ::setrlimit(RLIMIT_NOFILE, &former);
        // A fork server that was killed because its child could not be taken over is replaced.
        if (method == StartMethod::forkserver) {
            start_forkserver();
            before = test::Resources::now();
        }
        CHECK(test::nothing_left_since(before));
    }
    CHECK(failures > 0);
    if (p.pid() == 0) p.start();
    p.join();
    CHECK(p.exitcode().has_value());
}

TEST_CASE("fork is refused beside other threads, and done where it is asked for by name",
          "[process][fault]") {
    std::atomic<bool> stop{false};
    std::jthread other([&] { stop.wait(false); });
    Process refused({.start_method = StartMethod::fork}, nothing);
    CHECK_THROWS_WITH(refused.start(), Contains("1 other threads"));
    Process risky({.start_method = StartMethod::fork_threaded}, nothing);
    risky.start();
    CHECK(risky.join().success());
    stop = true;
    stop.notify_all();
}

// --- statuses that are lost ----------------------------------------------------------------------

TEST_CASE("where SIGCHLD is ignored the status is lost, never 0, and nothing waits for ever",
          "[process][fault]") {
    FOR_EACH_START_METHOD();
    Handler ignored(SIGCHLD, SIG_IGN);
    Process p({.start_method = method}, nothing);
    p.start();
    CHECK(p.join().lost());
    CHECK(p.exitcode() == 255);
    CHECK_FALSE(p.is_alive());
    CHECK(active_children().empty());
    Process throws({.start_method = method}, [] { throw std::domain_error("seen all the same"); });
    throws.start();
    throws.join();
    CHECK_THROWS_AS(throws.rethrow(), std::domain_error);
    stop_forkserver();
}

TEST_CASE("a status that someone else has taken is lost", "[process][fault]") {
    FOR_EACH_START_METHOD();
    Process p({.start_method = method}, [] { exit_process(3); });
    p.start();
    CHECK(::waitpid(p.pid(), nullptr, 0) == p.pid());
    CHECK_FALSE(p.is_alive());
    CHECK(p.exit_status().lost());
    CHECK(p.exitcode() == 255);
    p.terminate();  // hits nobody
}

// --- signals -------------------------------------------------------------------------------------

namespace {
std::atomic<int> interruptions{0};
}

TEST_CASE("signals that are handled do not disturb join()", "[process][fault][eintr]") {
    test::StopForkServer stop_at_the_end;
    auto method = GENERATE(StartMethod::spawn, StartMethod::forkserver);
    Handler counting(SIGUSR1, [](int) { ++interruptions; });
    Process p({.start_method = method}, wait_for_signal);
    p.start();
    interruptions = 0;
    pthread_t waiter = ::pthread_self();
    std::jthread disturber([&] {
        for (int i = 0; i < 50; ++i) {
            int seen = interruptions;
            ::pthread_kill(waiter, SIGUSR1);
            (void)test::eventually([&] { return interruptions > seen; });
        }
        p.terminate();
    });
    CHECK(p.join().signal() == SIGTERM);
    disturber.join();
    CHECK(interruptions == 50);
}

TEST_CASE("a forked child has none of the application's handlers, and nothing is blocked",
          "[process][fault]") {
    FOR_EACH_START_METHOD();
    Handler own(SIGTERM, [](int) {});
    sigset_t blocked, former;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &blocked, &former);
    Process p({.start_method = method}, wait_for_signal);
    p.start();
    ::pthread_sigmask(SIG_SETMASK, &former, nullptr);
    p.terminate();
    REQUIRE(p.join_for(test::kPatience));
    CHECK(p.exitcode() == -SIGTERM);
}

namespace {

// Starts a child in the group, writes its pid to the file, and waits.
void lead(const std::string& path) {
    Process below(wait_for_signal);
    below.start();
    std::ofstream(path + ".new") << below.pid() << " " << ::getpgrp() << "\n";
    std::filesystem::rename(path + ".new", path);
    wait_for_signal();
}

}  // namespace

TEST_CASE("a daemon that must not be signalled any more ends with its owner all the same",
          "[process][fault]") {
    if (::geteuid() != 0) {
        WARN("only root can give up its rights: nothing was tested");
        return;
    }
    for (auto method : {StartMethod::spawn, StartMethod::fork, StartMethod::forkserver}) {
        INFO(to_string(method));
        pid_t pid = ::fork();
        if (pid == 0) {
            {
                Process daemon({.daemon = true, .start_method = method}, wait_for_signal);
                daemon.start();
                if (::setresuid(65533, 65533, 65533) < 0) ::_exit(1);
            }
            stop_forkserver();
            ::_exit(::waitpid(-1, nullptr, 0) < 0 && errno == ECHILD ? 0 : 2);
        }
        int status = 0;
        CHECK(::waitpid(pid, &status, 0) == pid);
        CHECK(status == 0);
    }
}

TEST_CASE("a process with a group of its own is signalled with all its children",
          "[process][fault]") {
    FOR_EACH_START_METHOD();
    const bool own_group = GENERATE(true, false);
    auto path =
        std::filesystem::temp_directory_path() / ("sidestep-group-" + std::to_string(::getpid()));
    Process p({.start_method = method, .own_group = own_group}, lead, path.string());
    p.start();
    REQUIRE(test::eventually([&] { return std::filesystem::exists(path); }));
    int below = 0, group = 0;
    std::ifstream(path) >> below >> group;
    std::filesystem::remove(path);
    CHECK(group == (own_group ? p.pid() : ::getpgrp()));
    p.terminate();
    CHECK(p.join().signal() == SIGTERM);
    if (!own_group) {
        CHECK(::kill(below, 0) == 0);
        ::kill(below, SIGKILL);
    }
    CHECK(test::eventually([&] {  // its zombie is init's to reap
        std::ifstream stat("/proc/" + std::to_string(below) + "/stat");
        std::string text(std::istreambuf_iterator<char>(stat), {});
        return text.empty() || text.find(") Z") != std::string::npos;
    }));
}

TEST_CASE("a child is where its parent is", "[process]") {
    FOR_EACH_START_METHOD();
    if (method == StartMethod::forkserver) start_forkserver();
    auto former = std::filesystem::current_path();
    std::filesystem::current_path("/usr");
    Process p({.start_method = method},
              [] { exit_process(std::filesystem::current_path() == "/usr" ? 0 : 1); });
    p.start();
    p.join();
    std::filesystem::current_path(former);
    CHECK(p.exitcode() == 0);
}

TEST_CASE("a process whose parent ends at once lives on", "[process][fault]") {
    for (auto method : {StartMethod::spawn, StartMethod::fork, StartMethod::forkserver}) {
        INFO(to_string(method));
        auto path = std::filesystem::temp_directory_path() /
                    ("sidestep-orphan-" + std::to_string(::getpid()));
        pid_t parent = ::fork();
        if (parent == 0) {
            Process orphan(
                {.start_method = method},
                [](const std::string& file) { std::ofstream(file) << "here"; }, path.string());
            orphan.start();
            ::_exit(0);
        }
        CHECK(::waitpid(parent, nullptr, 0) == parent);
        CHECK(test::eventually([&] { return std::filesystem::exists(path); }));
        std::filesystem::remove(path);
    }
}

// --- the fork server -----------------------------------------------------------------------------

namespace {

void refuse_to_preload() { throw std::domain_error("no preload today"); }
void leave_a_thread() { std::thread(wait_for_signal).detach(); }
void die_in_preload() { ::raise(SIGKILL); }

}  // namespace

TEST_CASE("what the preload function throws is thrown by the start, and there is no server",
          "[process][forkserver]") {
    Process p({.start_method = StartMethod::forkserver}, nothing);
    set_forkserver_preload(refuse_to_preload);
    CHECK_THROWS_AS(p.start(), std::domain_error);
    CHECK(forkserver_pid() == 0);
    set_forkserver_preload(leave_a_thread);
    CHECK_THROWS_WITH(start_forkserver(), Contains("left a thread running"));
    set_forkserver_preload(die_in_preload);
    CHECK_THROWS_AS(p.start(), std::system_error);
    CHECK_THROWS_WITH(p.start(), Contains("signal 9") && !Contains("No child processes"));
    set_forkserver_preload(nullptr);
    p.start();
    CHECK(p.join().success());
    stop_forkserver();
}

namespace {

using Hook = void (*)();

// A function of a library that is loaded here alone.
Hook hook_of(const char* path) {
    void* library = ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void* hook = library ? ::dlsym(library, "plugin_function") : nullptr;
    if (!hook) throw std::runtime_error(::dlerror());
    return reinterpret_cast<Hook>(hook);
}

constexpr const char* kPlugin = SIDESTEP_TEST_PLUGINS "/libplugin_newest.so";

std::string error_of_the_server() {
    try {
        start_forkserver();
    } catch (const std::exception& e) {
        return e.what();
    }
    stop_forkserver();
    return "no error";
}

// 0: this process's own fork server said that it lacks the library.
void ask_own_server() {
    bool told = Contains("is not loaded in this process").match(error_of_the_server());
    exit_process(told ? 0 : 3);
}

}  // namespace

TEST_CASE("a fork server that lacks the preload function's library says so, in a child's start too",
          "[process][forkserver]") {
    set_forkserver_preload(hook_of(kPlugin));
    CHECK_THAT(error_of_the_server(), Contains("the preload function is not in the fork server") &&
                                          Contains("is not loaded in this process") &&
                                          Contains("dlopen()"));
    CHECK(forkserver_pid() == 0);
    Process child({.start_method = StartMethod::spawn}, ask_own_server);
    child.start();
    child.join();
    CHECK(child.exitcode() == 0);
    set_forkserver_preload(nullptr);
}

#ifndef __SANITIZE_ADDRESS__  // its library has to be the first one
TEST_CASE("a fork server that has the preload function's library twice does not say it lacks it",
          "[process][forkserver]") {
    auto folder =
        std::filesystem::temp_directory_path() / ("sidestep-preload-" + std::to_string(::getpid()));
    std::filesystem::create_directory(folder);
    std::string twins[] = {folder / "a.so", folder / "b.so"};
    for (const std::string& twin : twins)
        std::filesystem::copy_file(SIDESTEP_TEST_PLUGINS "/libplugin_copied.so", twin);
    set_forkserver_preload(hook_of(twins[0].c_str()));
    ::setenv("LD_PRELOAD", (twins[0] + ":" + twins[1]).c_str(), 1);
    std::string error = error_of_the_server();
    ::unsetenv("LD_PRELOAD");
    set_forkserver_preload(nullptr);
    std::filesystem::remove_all(folder);
    CHECK_THAT(error, Contains("a.so and ") && Contains("b.so") &&
                          Contains("copies of one library") && !Contains("not loaded"));
}
#endif

TEST_CASE("the fork server starts once, stops, and starts again", "[process][forkserver]") {
    CHECK(forkserver_pid() == 0);
    stop_forkserver();
    start_forkserver();
    int first = forkserver_pid();
    CHECK(first > 0);
    start_forkserver();
    CHECK(forkserver_pid() == first);
    stop_forkserver();
    CHECK(forkserver_pid() == 0);
    start_forkserver();
    CHECK(forkserver_pid() != first);
    stop_forkserver();
}

TEST_CASE("a child of the fork server is a child of this process, and starts a server of its own",
          "[process][forkserver]") {
    test::StopForkServer stop_at_the_end;
    Process p(
        {.start_method = StartMethod::forkserver},
        [](int parent) {
            if (::getppid() != parent) exit_process(1);
            if (forkserver_pid() != 0) exit_process(2);
            Process below([] { exit_process(5); });
            below.start();
            below.join();
            if (below.exitcode() != 5 || forkserver_pid() == 0) exit_process(3);
        },
        ::getpid());
    p.start();
    p.join();
    CHECK(p.exitcode() == 0);
}

// --- a parent that is killed ---------------------------------------------------------------------

namespace {

// Starts a daemon, tells its number, forks a copy of itself that lives until `hold` is closed.
[[noreturn]] void be_parent(StartMethod method, sys::Pipe& report, sys::Pipe& hold) {
    hold.write_end.reset();
    Process daemon({.daemon = true, .start_method = method}, wait_for_signal);
    daemon.start();
    if (::fork() == 0) {
        char byte;
        while (::read(hold.read_end.get(), &byte, 1) < 0 && errno == EINTR) {
        }
        ::_exit(0);
    }
    int pid = daemon.pid();
    (void)!::write(report.write_end.get(), &pid, sizeof pid);
    for (;;) ::pause();
}

}  // namespace

TEST_CASE("the daemons of a parent that is killed end, though a fork(2) of it lives on",
          "[process][fault]") {
    auto method = GENERATE(StartMethod::spawn, StartMethod::fork);
    sys::Pipe report = sys::make_pipe(), hold = sys::make_pipe();
    pid_t parent = ::fork();
    if (parent == 0) be_parent(method, report, hold);
    report.write_end.reset();
    int daemon = 0;
    bool told = ::read(report.read_end.get(), &daemon, sizeof daemon) == sizeof daemon;
    Fd pidfd;
    if (told) (void)sys::find_process(daemon, pidfd);
    ::kill(parent, SIGKILL);
    while (::waitpid(parent, nullptr, 0) < 0 && errno == EINTR) {
    }
    REQUIRE(pidfd);
    CHECK(sys::wait_for_exit(pidfd.get(), sys::Clock::now() + test::kPatience));
    sys::pidfd_send_signal(pidfd.get(), SIGKILL);  // if it did not
}

}  // namespace process_fault_test
