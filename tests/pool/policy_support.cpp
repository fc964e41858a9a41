#include "policy_support.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include <sidestep/this_task.hpp>

namespace test {

CapturedStderr::CapturedStderr()
    : file_(memfd_create("test-stderr", MFD_CLOEXEC)), before_(dup(STDERR_FILENO)) {
    fcntl(file_, F_SETFL, O_APPEND);  // workers write to it, too
    dup2(file_, STDERR_FILENO);
}

CapturedStderr::~CapturedStderr() {
    dup2(before_, STDERR_FILENO);
    close(before_);
    close(file_);
}

std::string CapturedStderr::text() const {
    std::string text;
    char buffer[4096];
    off_t at = 0;
    for (ssize_t n; (n = pread(file_, buffer, sizeof buffer, at)) > 0; at += n)
        text.append(buffer, static_cast<std::size_t>(n));
    return text;
}

std::chrono::nanoseconds processor_time() {
    timespec time = {};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

std::uint64_t processor_ticks(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string text;
    std::getline(file, text);
    std::istringstream rest(text.substr(std::min(text.size(), text.rfind(')') + 2)));
    std::string skipped;
    for (int field = 3; field < 14; ++field) rest >> skipped;  // see proc_pid_stat(5)
    std::uint64_t user = 0, system = 0;
    rest >> user >> system;
    return user + system;
}

bool becomes_quiet() {
    SharedWords never(1);
    return eventually([&] {
        auto used = processor_time();
        auto begin = std::chrono::steady_clock::now();
        (void)eventually([&] { return never[0] != 0; }, 100ms);
        return processor_time() - used < (std::chrono::steady_clock::now() - begin) / 4;
    });
}

int ignore_sigterm(const std::string& path) {
    signal(SIGTERM, SIG_IGN);
    return static_cast<int>(wait_at(path, kTell, kGate));
}

int until_asked(const std::string& path) {
    SharedWords::Word* words = SharedWords::attach(path);
    words[kTell] = static_cast<std::uint64_t>(getpid());
    if (!eventually([] { return sidestep::this_task::stop_requested(); })) return -1;
    words[kCount] += 100;
    return 1;
}

int spin(const std::string& path) {
    SharedWords::attach(path)[kTell] = static_cast<std::uint64_t>(getpid());
    for (volatile unsigned i = 0;;) i = i + 1;
}

unsigned fail_first(const std::string& path, std::uint64_t failures) {
    if (bump(path, kCount) < failures)
        throw std::domain_error("attempt " + std::to_string(sidestep::this_task::attempt()));
    return sidestep::this_task::attempt();
}

unsigned crash_first(const std::string& path, std::uint64_t crashes) {
    if (bump(path, kCount) < crashes) die(SIGKILL);
    return sidestep::this_task::attempt();
}

std::string variable(const std::string& name) {
    const char* value = std::getenv(name.c_str());
    return value ? value : "(none)";
}

std::string variable_at_start(const std::string& name) {
    std::ifstream file("/proc/self/environ");
    for (std::string entry; std::getline(file, entry, '\0');)
        if (entry.starts_with(name + "=")) return entry.substr(name.size() + 1);
    return "(none)";
}

}  // namespace test
