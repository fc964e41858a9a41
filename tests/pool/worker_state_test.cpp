// The state in which a child begins: one and the same by all start methods (process.hpp).
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cereal/types/string.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include <catch2/catch.hpp>
#include <sidestep/pool.hpp>
#include <sidestep/process.hpp>

#include "support.hpp"

namespace worker_state_test {

using namespace sidestep;
namespace fs = std::filesystem;

namespace {

constexpr StartMethod kMethods[] = {StartMethod::spawn, StartMethod::fork, StartMethod::forkserver};
constexpr int kMarker = 77;  // a descriptor of the application

// Workers of a pool tell of crashes by handlers of their own.
bool is_crash(int signal) {
    for (int crash : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS})
        if (signal == crash) return true;
    return false;
}

std::string signals(bool with_crashes) {
    std::ostringstream text;
    sigset_t blocked;
    ::sigprocmask(SIG_SETMASK, nullptr, &blocked);
    for (int number = 1; number < NSIG; ++number) {
        struct sigaction action = {};
        if (::sigaction(number, nullptr, &action) < 0) continue;
        if (action.sa_handler == SIG_IGN)
            text << "ignored " << number << "\n";
        else if (action.sa_handler != SIG_DFL && (with_crashes || !is_crash(number)))
            text << "handled " << number << "\n";
        if (::sigismember(&blocked, number) == 1) text << "blocked " << number << "\n";
    }
    return text.str();
}

std::string umask_of_this() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.starts_with("Umask:")) return line;
    return {};
}

std::string state(bool with_crashes) {
    std::ostringstream text;
    struct rlimit core = {};
    ::getrlimit(RLIMIT_CORE, &core);
    itimerval timer = {};
    ::getitimer(ITIMER_REAL, &timer);
    text << signals(with_crashes) << umask_of_this() << "\nnice " << ::getpriority(PRIO_PROCESS, 0)
         << "\ncwd " << fs::current_path().native() << "\ncore " << core.rlim_cur << "\ntimer "
         << (timer.it_value.tv_sec != 0) << "\nsession " << ::getsid(0) << "\n";
    for (int fd : {0, 1, 2}) {
        std::error_code error;
        text << fd << " " << fs::read_symlink("/proc/self/fd/" + std::to_string(fd), error).native()
             << "\n";
    }
    text << "next of stdin " << std::getchar() << "\n";
    std::set<std::string> variables;
    for (char** variable = environ; *variable; ++variable) variables.insert(*variable);
    for (const std::string& variable : variables) text << variable << "\n";
    return text.str();
}

std::string state_of_worker() { return state(false); }
bool has_marker() { return ::fcntl(kMarker, F_GETFD) >= 0; }
bool ignores(int number) {
    struct sigaction action = {};
    return ::sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}
[[noreturn]] void die() {
    ::raise(SIGKILL);
    std::abort();
}

void write_state(const std::string& path) {
    std::ofstream(path) << state(true) << "marker " << has_marker() << "\n";
}

std::string state_of_process(StartMethod method) {
    fs::path path = fs::temp_directory_path() / ("sidestep-state-" + std::to_string(::getpid()));
    Process child({.start_method = method}, write_state, path.string());
    child.start();
    child.join();
    std::ifstream file(path);
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    fs::remove(path);
    return text;
}

// An application with something of everything.
void be_odd() {
    for (int number : {SIGPIPE, SIGUSR1, SIGTSTP, SIGXFSZ}) ::signal(number, SIG_IGN);
    for (int number : {SIGUSR2, SIGTERM, SIGSEGV, SIGFPE}) ::signal(number, [](int) {});
    sigset_t blocked;
    ::sigemptyset(&blocked);
    for (int number : {SIGUSR1, SIGWINCH, SIGHUP}) ::sigaddset(&blocked, number);
    ::sigprocmask(SIG_BLOCK, &blocked, nullptr);
    ::umask(027);
    (void)::setpriority(PRIO_PROCESS, 0, 3);  // whatever it was
    fs::current_path("/usr");
    ::setenv("SIDESTEP_TEST_STATE", "odd", 1);
    struct rlimit core = {0, 0};
    ::setrlimit(RLIMIT_CORE, &core);
    itimerval timer = {{0, 0}, {3600, 0}};
    ::setitimer(ITIMER_REAL, &timer, nullptr);
    ::dup2(1, kMarker);
    // stdin with a rest that was read ahead.
    fs::path path = fs::temp_directory_path() / ("sidestep-stdin-" + std::to_string(::getpid()));
    std::ofstream(path) << "abc";
    if (std::freopen(path.c_str(), "r", stdin)) (void)std::getchar();
    fs::remove(path);
}

// Runs `body` in a fork of this process; what it returns is what is wrong.
std::string in_fork(const std::function<std::string()>& body) {
    int ends[2];
    if (::pipe(ends) < 0) return "no pipe";
    pid_t pid = ::fork();
    if (pid == 0) {
        std::string wrong = "an exception";
        try {
            wrong = body();
        } catch (const std::exception& error) {
            wrong = error.what();
        }
        (void)!::write(ends[1], wrong.data(), wrong.size());
        ::_exit(wrong.empty() ? 0 : 1);
    }
    ::close(ends[1]);
    std::string wrong;
    char bytes[4096];
    for (ssize_t n; (n = ::read(ends[0], bytes, sizeof bytes)) > 0;)
        wrong.append(bytes, static_cast<std::size_t>(n));
    ::close(ends[0]);
    int status = 0;
    ::waitpid(pid, &status, 0);
    if (wrong.empty() && status != 0) wrong = "it died";
    return wrong;
}

// The lines of `text` that are not in `other`. (Not all: environments have secrets.)
std::string only_in(const std::string& text, const std::string& other) {
    std::istringstream lines(text);
    std::string found;
    for (std::string line; std::getline(lines, line);)
        if (("\n" + other).find("\n" + line + "\n") == std::string::npos) found += line + "\n";
    return found;
}

std::string lacks(const std::string& text, const std::string& part) {
    return text.find(part) == std::string::npos ? "no \"" + part + "\"" : "";
}

}  // namespace

TEST_CASE("a process begins in the same state by each start method", "[process][state]") {
    CHECK(in_fork([] {
              be_odd();
              std::string first;
              for (StartMethod method : kMethods) {
                  std::string text = state_of_process(method);
                  // With fork the application's descriptors come along, as its memory does.
                  std::string wrong =
                      lacks(text, method == StartMethod::fork ? "marker 1\n" : "marker 0\n");
                  if (!wrong.empty()) return wrong;
                  text.resize(text.rfind("marker"));
                  if (first.empty()) first = text;
                  if (text != first)
                      return std::string(to_string(method)) + ":\n" + only_in(text, first) +
                             "spawn:\n" + only_in(first, text);
              }
              for (const char* part :
                   {"ignored 10\nignored 13\nignored 20\nignored 25\n", "Umask:\t0027\n",
                    "nice 3\n", "cwd /usr\n", "core 0\n", "timer 0\n", "0 /dev/null\n",
                    "SIDESTEP_TEST_STATE=odd\n", "next of stdin -1\n"})
                  if (std::string wrong = lacks(first, part); !wrong.empty()) return wrong;
              for (const char* part : {"blocked", "handled"})
                  if (first.find(part) != std::string::npos) return std::string("there is ") + part;
              stop_forkserver();
              return std::string();
          }) == "");
}

TEST_CASE("a pool's worker begins in the same state by each start method", "[pool][state]") {
    CHECK(in_fork([] {
              be_odd();
              std::string first;
              for (StartMethod method : kMethods) {
                  Pool pool({.processes = 1, .start_method = method});
                  std::string text = pool.submit(state_of_worker).get();
                  if (first.empty()) first = text;
                  if (text != first)
                      return std::string(to_string(method)) + ":\n" + only_in(text, first) +
                             "spawn:\n" + only_in(first, text);
                  if (pool.submit(has_marker).get() != (method == StartMethod::fork))
                      return std::string(to_string(method)) + ": wrong descriptors";
              }
              for (const char* part : {"ignored 13\n", "Umask:\t0027\n", "0 /dev/null\n"})
                  if (std::string wrong = lacks(first, part); !wrong.empty()) return wrong;
              return std::string();
          }) == "");
}

TEST_CASE("a child ignores what its parent ignores when it starts", "[process][pool][state]") {
    CHECK(in_fork([] {
              start_forkserver();
              for (StartMethod method : kMethods) {
                  std::string name(to_string(method));
                  ::signal(SIGPIPE, SIG_DFL);
                  Pool pool({.processes = 1, .start_method = method});
                  if (pool.submit(ignores, SIGPIPE).get()) return name + ": ignored from the start";
                  ::signal(SIGPIPE, SIG_IGN);
                  auto dies = pool.submit(die);
                  dies.wait();
                  if (!pool.submit(ignores, SIGPIPE).get()) return name + ": the next one does not";
                  if (std::string wrong = lacks(
                          state_of_process(method == StartMethod::fork ? StartMethod::fork_threaded
                                                                       : method),
                          "ignored 13\n");
                      !wrong.empty())
                      return wrong;
              }
              stop_forkserver();
              return std::string();
          }) == "");
}

}  // namespace worker_state_test
