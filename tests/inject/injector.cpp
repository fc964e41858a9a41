// Runs a program with chosen system calls of it made to fail, and says what was left behind.
//
//   injector [--calls N,N... --error E --first K --times T --in parent|children]
//            [--list] [--limit SECONDS] --report FILE -- PROGRAM ARGUMENT...
//
// The K-th call of the given numbers, and the T - 1 after it, fail with errno E; those of the
// program itself, or those of its worker processes. With --list nothing fails, and the calls are
// counted. Counted and failed is only what happens while the program is armed: it says so by the
// system call test::kArm, which the kernel does not have.
//
// How: a seccomp filter hands each such call to this process (seccomp_unotify(2)), which lets it go
// on or answers in the kernel's place. The program has a /dev/shm of its own, and its orphans
// become this process's children (PR_SET_CHILD_SUBREAPER): what is still there two seconds after
// its end is named.
//
// The report, a line each: LISTED number parent children | FAILED number | HANG | SURVIVOR name |
// NAME entry of /dev/shm | END wait-status failed seen
#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "arm.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

struct Plan {
    std::vector<unsigned> calls;
    int error = EIO;
    long first = 1, times = 1;
    bool in_children = false, list = false;
    std::chrono::seconds limit{20};
    std::FILE* report = stdout;
    char** program = nullptr;
};

[[noreturn]] void give_up(const char* what) {
    std::perror(what);
    std::exit(2);
}

// The words that follow "NAME:" in /proc/ID/status; empty for a thread that is gone.
std::string status_of(unsigned id, const std::string& name) {
    std::ifstream status("/proc/" + std::to_string(id) + "/status");
    for (std::string line; std::getline(status, line);)
        if (line.starts_with(name + ":"))
            return line.substr(line.find_first_not_of(" \t", name.size() + 1));
    return "";
}

std::string executable_of(unsigned id) {
    std::error_code gone;
    return std::filesystem::read_symlink("/proc/" + std::to_string(id) + "/exe", gone).string();
}

// --- in the program's place, before it is executed -----------------------------------------------

// What both sides look at until the filter's descriptor has been fetched: no system call is made
// then, since with --list each of them waits for an answer.
struct Handover {
    std::atomic<int> listener{-1};
    std::atomic<bool> fetched{false};
};

std::vector<sock_filter> filter_of(const Plan& plan) {
    sock_filter ask = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
    std::vector<sock_filter> filter{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
    auto ask_for = [&](unsigned number) {
        filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
        filter.push_back(ask);
    };
    ask_for(test::kArm);
    for (unsigned number : plan.calls) ask_for(number);
    filter.push_back(plan.list ? ask : sock_filter(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)));
    return filter;
}

[[noreturn]] void become_program(const Plan& plan, Handover& handover) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    auto filter = filter_of(plan);
    sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
    long listener =
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    handover.listener = listener < 0 ? INT_MAX : static_cast<int>(listener);
    while (!handover.fetched) {
    }
    execv(plan.program[0], plan.program);
    _exit(127);
}

// --- this process --------------------------------------------------------------------------------

class Injector {
  public:
    explicit Injector(const Plan& plan)
        : plan_(plan), executable_(std::filesystem::canonical(plan.program[0]).string()) {}

    void run() {
        start();
        auto begin = Clock::now();
        bool hung = false;
        while (waitpid(root_, &status_, WNOHANG) == 0) {
            answer(20);
            if (!hung && Clock::now() - begin > plan_.limit) {
                hung = true;
                std::fprintf(plan_.report, "HANG\n");
                kill(root_, SIGKILL);
            }
        }
        end_what_is_left(hung ? 0ms : 2000ms);
        for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
            std::fprintf(plan_.report, "NAME %s\n", entry.path().filename().c_str());
        for (auto [number, counts] : counted_)
            std::fprintf(plan_.report, "LISTED %u %ld %ld\n", number, counts.first, counts.second);
        std::fprintf(plan_.report, "END %d %ld %ld\n", status_, failed_, seen_);
    }

  private:
    void start() {
        void* shared = mmap(nullptr, sizeof(Handover), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (shared == MAP_FAILED) give_up("mmap");
        auto* handover = new (shared) Handover;
        root_ = fork();
        if (root_ < 0) give_up("fork");
        if (root_ == 0) become_program(plan_, *handover);
        while (handover->listener == -1) sched_yield();
        long pidfd = syscall(SYS_pidfd_open, root_, 0);
        listener_ =
            handover->listener == INT_MAX
                ? -1
                : static_cast<int>(syscall(SYS_pidfd_getfd, pidfd, handover->listener.load(), 0));
        if (listener_ < 0) {
            kill(root_, SIGKILL);
            give_up("a seccomp filter that asks");
        }
        close(static_cast<int>(pidfd));
        handover->fetched = true;
    }

    // Answers the calls that are asked about, for so many milliseconds or until there is none.
    void answer(int patience) {
        pollfd asked{listener_, POLLIN, 0};
        if (poll(&asked, 1, patience) <= 0 || !(asked.revents & POLLIN)) return;
        seccomp_notif request{};
        if (ioctl(listener_, SECCOMP_IOCTL_NOTIF_RECV, &request) != 0) return;
        seccomp_notif_resp reply{};
        reply.id = request.id;
        decide(request, reply);
        ioctl(listener_, SECCOMP_IOCTL_NOTIF_SEND, &reply);
    }

    void decide(const seccomp_notif& request, seccomp_notif_resp& reply) {
        auto number = static_cast<unsigned>(request.data.nr);
        bool is_root = status_of(request.pid, "Tgid") == std::to_string(root_);
        if (number == test::kArm) {
            if (is_root) armed_ = request.data.args[0] != 0;
            return;  // done, with the value 0
        }
        reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        bool to_terminal = number == SYS_write && request.data.args[0] - 1 <= 1;
        if (!armed_ || to_terminal || (!is_root && executable_of(request.pid) != executable_))
            return;
        if (plan_.list) {
            ++(is_root ? counted_[number].first : counted_[number].second);
            return;
        }
        if (is_root == plan_.in_children) return;
        ++seen_;
        if (seen_ < plan_.first || seen_ - plan_.first >= plan_.times) return;
        if (failed_++ == 0) std::fprintf(plan_.report, "FAILED %u\n", number);
        reply.flags = 0;
        reply.error = -plan_.error;
    }

    // Orphans of the program are this process's children by now.
    void end_what_is_left(std::chrono::milliseconds patience) {
        auto deadline = Clock::now() + patience;
        for (bool named = false;;) {
            int gone = waitpid(-1, nullptr, WNOHANG);
            if (gone < 0) return;  // no child
            if (gone == 0) answer(10);
            if (named || Clock::now() < deadline) continue;
            named = true;
            name_and_kill();
        }
    }

    void name_and_kill() {
        for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
            unsigned id = static_cast<unsigned>(std::atoi(entry.path().filename().c_str()));
            if (id == 0 || status_of(id, "PPid") != std::to_string(getpid())) continue;
            std::fprintf(plan_.report, "SURVIVOR %s %s\n", status_of(id, "Name").c_str(),
                         status_of(id, "State").c_str());
            kill(static_cast<pid_t>(id), SIGKILL);
        }
    }

    const Plan& plan_;
    std::string executable_;
    pid_t root_ = 0;
    int listener_ = -1, status_ = 0;
    bool armed_ = false;
    long seen_ = 0, failed_ = 0;
    std::map<unsigned, std::pair<long, long>> counted_;
};

Plan read_arguments(char** argument) {
    Plan plan;
    for (; *argument && std::string(*argument) != "--"; ++argument) {
        std::string option = *argument;
        if (option == "--list") {
            plan.list = true;
            continue;
        }
        const char* value = *++argument;
        if (!value) break;
        std::istringstream text(value);
        if (option == "--calls")
            for (std::string number; std::getline(text, number, ',');)
                plan.calls.push_back(static_cast<unsigned>(std::stoul(number)));
        else if (option == "--error")
            text >> plan.error;
        else if (option == "--first")
            text >> plan.first;
        else if (option == "--times")
            text >> plan.times;
        else if (option == "--in")
            plan.in_children = text.str() == "children";
        else if (option == "--limit")
            plan.limit = std::chrono::seconds(std::atoi(value));
        else if (option == "--report")
            plan.report = std::fopen(value, "we");
        else
            argument = nullptr;
        if (!argument) break;
    }
    if (!argument || !*argument || !argument[1] || !plan.report) {
        std::fprintf(stderr, "injector: see the head of injector.cpp for its arguments\n");
        std::exit(2);
    }
    plan.program = argument + 1;
    return plan;
}

}  // namespace

int main(int, char** argv) {
    Plan plan = read_arguments(argv + 1);
    if (unshare(CLONE_NEWNS) != 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777") != 0)
        give_up("a /dev/shm of its own");
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    Injector(plan).run();
    std::fclose(plan.report);
    return 0;
}
