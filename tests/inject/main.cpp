// subjects NAME: runs one of the programs of subjects.hpp.
//
// Environment: ALLOCATION=N SCOPE=main|threads  makes the N-th allocation of the main thread, or of
// the other threads, fail; LASTING=1 all from that one on. SCOPE=workers: that of the process with
// this program's code, other than the subject itself, that comes first to its N-th; ONCE=FILE goes
// then. CLOSE=N instead of ALLOCATION=N: the N-th close(2), which closes all the same, as the
// kernel does it. PATIENCE=N: see subjects::patience().
#include <dirent.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <new>
#include <string>
#include <utility>

#include <sidestep/init.hpp>
#include <sidestep/process.hpp>

#include "arm.hpp"
#include "subjects.hpp"

namespace {

// --- allocations and close(2) that fail ----------------------------------------------------------

constexpr const char* kSubject = "INJECTED_SUBJECT";  // tells children whose they are

// A kind of call, in one process.
struct Countdown {
    std::atomic<long> left{-1}, counted{0};
};
Countdown allocations, closes;
std::atomic<bool> counting{false};
enum class Scope { main, threads, workers } scope = Scope::main;
bool lasting = false;
const char* once = nullptr;  // a file; null: this fault needs none
pid_t own_pid = 0;
thread_local bool is_main = false, exempt = false;

bool is_meant() {
    if (!counting || exempt) return false;
    const bool is_worker = ::getpid() != own_pid;
    if (scope == Scope::workers) return is_worker;
    return !is_worker && is_main == (scope == Scope::main);
}

bool fails_now(Countdown& calls) {
    if (!is_meant()) return false;
    ++calls.counted;
    const long before = calls.left.fetch_sub(1);
    if (before == 1) return !once || ::syscall(SYS_unlinkat, AT_FDCWD, once, 0) == 0;
    return lasting && before < 1 && calls.left.load() < 0;
}

void* allocate(std::size_t size, std::size_t alignment) {
    if (fails_now(allocations)) return nullptr;
    if (size == 0) size = 1;
    return alignment == 0
               ? std::malloc(size)
               : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}
void* allocate_or_throw(std::size_t size, std::size_t alignment) {
    void* memory = allocate(size, alignment);
    if (!memory) throw std::bad_alloc();
    return memory;
}

// While what the subject said is written down, nothing fails.
struct Exempt {
    bool before = std::exchange(exempt, true);
    ~Exempt() { exempt = before; }
};

void say(const std::string& line) {
    std::string text = line;
    for (char& c : text)
        if (c == '\n') c = '|';
    text += '\n';
    if (write(1, text.data(), text.size()) < 0) std::abort();
}

// --- what is left ------------------------------------------------------------------------------

void say_what_is_left() {
    Exempt guard;
    std::map<std::string, int> kinds;
    int fds = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
        std::error_code gone;
        std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
        if (gone || target.ends_with("/fd")) continue;
        ++fds;
        ++kinds[target.substr(0, target.find(":["))];
    }
    std::string list;
    for (const auto& [kind, count] : kinds) list += " " + kind + "*" + std::to_string(count);
    say("FDS " + std::to_string(fds) + ":" + list);
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
        if (std::atoi(entry.path().filename().c_str()) == 0) continue;
        std::ifstream status(entry.path() / "status");
        std::string name, state, parent;
        for (std::string line; std::getline(status, line);) {
            if (line.starts_with("Name:")) name = line.substr(6);
            if (line.starts_with("State:")) state = line.substr(7);
            if (line.starts_with("PPid:")) parent = line.substr(6);
        }
        if (parent == std::to_string(getpid())) say("CHILD " + name + " " + state);
    }
    say("ALLOCATIONS " + std::to_string(allocations.counted.load()));
    say("CLOSES " + std::to_string(closes.counted.load()));
}

}  // namespace

extern "C" int close(int fd) {
    const long result = ::syscall(SYS_close, fd);
    if (result == 0 && !fails_now(closes)) return 0;
    if (result == 0) errno = EIO;
    return -1;
}

void* operator new(std::size_t n) { return allocate_or_throw(n, 0); }
void* operator new[](std::size_t n) { return allocate_or_throw(n, 0); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { return allocate(n, 0); }
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept { return allocate(n, 0); }
void* operator new(std::size_t n, std::align_val_t a) {
    return allocate_or_throw(n, static_cast<std::size_t>(a));
}
void* operator new[](std::size_t n, std::align_val_t a) {
    return allocate_or_throw(n, static_cast<std::size_t>(a));
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

bool subjects::step(std::string_view name, const std::function<void()>& action) {
    auto tell = [&](const char* outcome, const char* what) {
        Exempt guard;
        say(std::string(outcome) + std::string(name) + (*what ? ": " : "") + what);
    };
    try {
        action();
        tell("OK ", "");
        return true;
    } catch (const Wrong& e) {
        tell("WRONG ", e.what());
    } catch (const std::exception& e) {
        tell("ERROR ", e.what());
    }
    return false;
}

bool subjects::step_twice(std::string_view name, const std::function<void()>& action) {
    if (step(name, action)) return true;
    std::string again;
    {
        Exempt guard;
        again = std::string(name) + "/again";
    }
    return step(again, action);
}

std::chrono::seconds subjects::patience() {
    const char* wanted = std::getenv("PATIENCE");
    return std::chrono::seconds(wanted ? std::atoi(wanted) : 10);
}

namespace {

void read_plan() {
    if (const char* n = std::getenv("ALLOCATION")) allocations.left = std::atol(n);
    if (const char* n = std::getenv("CLOSE")) closes.left = std::atol(n);
    const std::string wanted = std::getenv("SCOPE") ? std::getenv("SCOPE") : "main";
    scope = wanted == "workers"   ? Scope::workers
            : wanted == "threads" ? Scope::threads
                                  : Scope::main;
    lasting = std::getenv("LASTING") != nullptr;
    once = std::getenv("ONCE");
}

}  // namespace

int main(int argc, char** argv) {
    is_main = true;
    read_plan();
    if (const char* subject = std::getenv(kSubject)) {  // this is a worker
        own_pid = std::atoi(subject);
        counting = true;
    }
    sidestep::init();
    const std::map<std::string, std::function<void()>> all{
        {"pool-spawn", [] { subjects::use_pool(sidestep::StartMethod::spawn); }},
        {"pool-forkserver", [] { subjects::use_pool(sidestep::StartMethod::forkserver); }},
        {"pool-fork", [] { subjects::use_pool(sidestep::StartMethod::fork); }},
        {"pool-insight", [] { subjects::use_pool_insight(sidestep::StartMethod::forkserver); }},
        {"pool-options-spawn", [] { subjects::use_pool_options(sidestep::StartMethod::spawn); }},
        {"pool-options-forkserver",
         [] { subjects::use_pool_options(sidestep::StartMethod::forkserver); }},
        {"thread-pool", [] { subjects::use_thread_pool(); }},
        {"nested-spawn", [] { subjects::use_nested(sidestep::StartMethod::spawn); }},
        {"nested-forkserver", [] { subjects::use_nested(sidestep::StartMethod::forkserver); }},
        {"tokens", [] { subjects::use_tokens(); }},
        {"lines-spawn", [] { subjects::use_lines(sidestep::StartMethod::spawn); }},
        {"lines-forkserver", [] { subjects::use_lines(sidestep::StartMethod::forkserver); }},
        {"hosts", [] { subjects::use_hosts(); }},
        {"process", [] { subjects::use_process(); }},
        {"subprocess", [] { subjects::use_subprocess(); }},
        {"locks", [] { subjects::use_locks(); }},
        {"connections", [] { subjects::use_connections(); }},
        {"shared-memory", [] { subjects::use_shared_memory(); }},
        {"manager", [] { subjects::use_manager(); }},
        {"actor", [] { subjects::use_actor(); }},
        {"manager-server", [] { subjects::use_server(); }},
    };
    auto chosen = all.find(argc == 2 ? argv[1] : "");
    if (chosen == all.end()) {
        for (const auto& [name, program] : all) std::printf("%s\n", name.c_str());
        return argc == 2 ? 2 : 0;
    }
    own_pid = getpid();
    ::setenv(kSubject, std::to_string(own_pid).c_str(), 1);
    auto action = chosen->second;
    test::arm_injector(true);
    counting = true;
    try {
        action();
    } catch (const std::exception& e) {  // of what stands between steps
        Exempt guard;
        say(std::string("ERROR between steps: ") + e.what());
    }
    subjects::step("the end of the fork server", [] { sidestep::stop_forkserver(); });
    counting = false;
    test::arm_injector(false);
    subjects::remove_what_is_kept();
    say_what_is_left();
    return 0;
}
