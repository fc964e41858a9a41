#define CATCH_CONFIG_EXTERNAL_INTERFACES  // for the listener
#include "py_support.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "spawn/spawn_description.hpp"
#include "sys/sys.hpp"

namespace py {
namespace {

std::atomic<int> signals_seen{0};

void count_signal(int) { signals_seen.fetch_add(1); }

// The state letter of /proc/.../stat; 0 if there is no such thing.
char state_letter(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    std::size_t name_end = line.rfind(')');
    return name_end == std::string::npos ? '\0' : line[name_end + 2];
}

// The same contracts on each way to start children: SIDESTEP_TEST_PRIMITIVE=clone|fork forces one.
struct PrimitiveListener : Catch::TestEventListenerBase {
    using TestEventListenerBase::TestEventListenerBase;
    void testRunStarting(const Catch::TestRunInfo& info) override {
        TestEventListenerBase::testRunStarting(info);
        using sidestep::spawn::Primitive;
        const std::map<std::string, Primitive> primitives = {{"automatic", Primitive::automatic},
                                                             {"clone", Primitive::clone},
                                                             {"fork", Primitive::fork}};
        if (const char* name = std::getenv("SIDESTEP_TEST_PRIMITIVE"))
            sidestep::spawn::set_internals({.primitive = primitives.at(name)});
    }
};
CATCH_REGISTER_LISTENER(PrimitiveListener)

}  // namespace

bool is_root() { return geteuid() == 0; }

bool contains(std::string_view text, std::string_view part) {
    return text.find(part) != std::string_view::npos;
}

bool contains_all(std::string_view text, std::initializer_list<std::string_view> parts) {
    for (std::string_view part : parts)
        if (!contains(text, part)) return false;
    return true;
}

Fd file_with(std::string_view text) {
    Fd file(memfd_create("sidestep-test", MFD_CLOEXEC));
    if (write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
        throw std::runtime_error("cannot write the test's file");
    lseek(file.get(), 0, SEEK_SET);
    return file;
}

std::string contents(int fd) {
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = pread(fd, buffer, sizeof buffer, static_cast<off_t>(text.size()))) > 0;)
        text.append(buffer, static_cast<std::size_t>(n));
    return text;
}

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }
bool is_inheritable(int fd) { return (fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0; }
void set_inheritable(int fd, bool on) { fcntl(fd, F_SETFD, on ? 0 : FD_CLOEXEC); }

std::set<int> parse_fds(std::string_view comma_separated) {
    std::set<int> fds;
    std::istringstream in{std::string(comma_separated)};
    for (std::string number; std::getline(in, number, ',');)
        if (!number.empty() && number != "\n") fds.insert(std::stoi(number));
    return fds;
}

std::set<int> fds_in_child(sp::Options options) {
    options.std_out = sp::PIPE;
    sp::Popen child({kChild, "fds"}, options);
    return parse_fds(child.communicate().std_out);
}

Values parse_values(std::string_view lines) {
    Values values;
    std::istringstream in{std::string(lines)};
    for (std::string line; std::getline(in, line);)
        if (std::size_t sign = line.find('='); sign != std::string::npos)
            values[line.substr(0, sign)] = line.substr(sign + 1);
    return values;
}

TemporaryFolder::TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "sidestep-test-XXXXXX").native();
    if (!mkdtemp(name.data())) throw std::runtime_error("cannot make a temporary folder");
    path_ = fs::canonical(name);
}

TemporaryFolder::~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
}

fs::path TemporaryFolder::script(const std::string& name, const std::string& text) const {
    fs::path file = path_ / name;
    std::ofstream(file) << "#!/bin/sh\n" << text;
    fs::permissions(file, fs::perms::owner_all);
    return file;
}

SavedStdio::SavedStdio() {
    for (int fd = 0; fd < 3; ++fd) {
        auto index = static_cast<std::size_t>(fd);
        inheritable_[index] = is_inheritable(fd);
        saved_[index] = fcntl(fd, F_DUPFD_CLOEXEC, 10);
    }
}

SavedStdio::~SavedStdio() {
    for (int fd = 0; fd < 3; ++fd) {
        auto index = static_cast<std::size_t>(fd);
        if (saved_[index] < 0) {
            close(fd);
            continue;
        }
        dup2(saved_[index], fd);
        set_inheritable(fd, inheritable_[index]);
        close(saved_[index]);
    }
}

Gate::Gate() {
    auto [reader, writer] = sidestep::sys::make_pipe();
    child_end_ = std::move(reader);
    our_end_ = std::move(writer);
}

bool is_zombie(int pid) {
    siginfo_t info = {};
    return waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == pid;
}

bool is_reaped(int pid) {
    siginfo_t info = {};
    return waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) < 0 &&
           errno == ECHILD;
}

bool is_dead(int pid) {
    char state = state_letter("/proc/" + std::to_string(pid) + "/stat");
    return state == '\0' || state == 'Z' || state == 'X';
}

bool is_asleep(int tid) {
    return state_letter("/proc/self/task/" + std::to_string(tid) + "/stat") == 'S';
}

bool process_sleeps(int pid) {
    return state_letter("/proc/" + std::to_string(pid) + "/stat") == 'S';
}

int this_thread_id() { return static_cast<int>(syscall(SYS_gettid)); }

struct CountedSignal::Saved {
    struct sigaction action;
};

CountedSignal::CountedSignal(int signal) : signal_(signal), saved_(std::make_unique<Saved>()) {
    signals_seen.store(0);
    struct sigaction counting = {};
    counting.sa_handler = count_signal;
    sigaction(signal, &counting, &saved_->action);
}

CountedSignal::~CountedSignal() { sigaction(signal_, &saved_->action, nullptr); }

int CountedSignal::count() const { return signals_seen.load(); }

struct IgnoredSignal::Saved {
    struct sigaction action;
};

IgnoredSignal::IgnoredSignal(int signal) : signal_(signal), saved_(std::make_unique<Saved>()) {
    struct sigaction ignoring = {};
    ignoring.sa_handler = SIG_IGN;
    sigaction(signal, &ignoring, &saved_->action);
}

IgnoredSignal::~IgnoredSignal() { sigaction(signal_, &saved_->action, nullptr); }

FdLimit::FdLimit(std::size_t limit) {
    rlimit now = {};
    getrlimit(RLIMIT_NOFILE, &now);
    before_ = now.rlim_cur;
    now.rlim_cur = limit;
    setrlimit(RLIMIT_NOFILE, &now);
}

FdLimit::~FdLimit() {
    rlimit now = {};
    getrlimit(RLIMIT_NOFILE, &now);
    now.rlim_cur = before_;
    setrlimit(RLIMIT_NOFILE, &now);
}

}  // namespace py
