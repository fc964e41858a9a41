// What a program that uses the library does, a line for each part of it: "ok NAME", or "FAIL NAME:
// why". For tools/sandboxes, which runs it where something is refused, short or not there.
//
//     sandbox_check [NAME...]    these checks; else all but "cpus"
//     sandbox_check --list       their names
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <cereal/types/string.hpp>
#include <cereal/types/vector.hpp>

#include <sidestep/init.hpp>
#include <sidestep/lock.hpp>
#include <sidestep/pool.hpp>
#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/shared_memory.hpp>
#include <sidestep/subprocess.hpp>
#include <sidestep/value.hpp>

namespace {

using namespace std::chrono_literals;
using sidestep::StartMethod;
namespace subprocess = sidestep::subprocess;

constexpr auto kPatience = 40s;

void require(bool holds, const std::string& what) {
    if (!holds) throw std::runtime_error(what);
}

bool eventually(const std::function<bool()>& condition) {
    auto give_up = std::chrono::steady_clock::now() + kPatience;
    while (!condition() && std::chrono::steady_clock::now() < give_up)
        std::this_thread::sleep_for(1ms);  // style-ok: no library is linked that could wait
    return condition();
}

// --- what runs in children ---------------------------------------------------------------------

int twice(int x) { return 2 * x; }
std::string repeat(const std::string& text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) all += text;
    return all;
}
void fail_with(int) { throw std::domain_error("as it should"); }
int die(int signal) {
    ::raise(signal);
    return 0;
}
void produce(sidestep::Queue<std::string> queue, int count) {
    for (int i = 0; i < count; ++i) queue.put("item " + std::to_string(i));
}
void count_up(sidestep::Lock lock, sidestep::RawValue<int> value) {
    for (int i = 0; i < 200; ++i) {
        std::lock_guard held(lock);
        value.value() = value.value() + 1;
    }
}
void hold_for_ever(sidestep::Lock lock, sidestep::RawValue<int> held) {
    lock.lock();
    held.value() = 1;
    for (;;) ::pause();
}
void die_holding(sidestep::Lock lock) {
    lock.lock();
    ::raise(SIGKILL);
}
std::size_t use_memory(std::size_t bytes, sidestep::RawValue<int> go_on) {
    std::string much(bytes, 'x');
    while (go_on.value() == 0) ::usleep(1000);  // style-ok: until it is killed
    return much.size();
}

// --- the checks --------------------------------------------------------------------------------

void check_run() {
    auto done = subprocess::run({"/bin/echo", "hi"}, {.capture_output = true, .check = true});
    require(done.std_out == "hi\n", "echo said " + done.std_out);
    try {
        subprocess::run({"/bin/sh", "-c", "exit 3"}, {.check = true});
        require(false, "exit status 3 was not seen");
    } catch (const subprocess::CalledProcessError&) {
    }
    try {
        subprocess::run({"/nowhere/at/all"});
        require(false, "a program that is not there was started");
    } catch (const subprocess::StartError& error) {
        require(std::strstr(error.what(), "exec") != nullptr, error.what());
    }
}

void check_kill() {
    subprocess::Options options{.kill_tree = true};
    options.process_group = 0;
    subprocess::Popen child({"/bin/sh", "-c", "sleep 1000 & exec sleep 1000"}, options);
    child.kill_tree();
    require(child.wait() == -SIGKILL, "the child was not killed");
    int group = child.pid();
    bool ended = eventually([&] {
        if (::getpid() == 1) ::waitpid(-group, nullptr, WNOHANG);  // they are ours to reap
        return ::kill(-group, 0) < 0;
    });
    require(ended, "its group lives on");
    subprocess::Popen other({"/bin/sleep", "1000"});
    other.terminate();
    require(other.wait() == -SIGTERM, "the child was not terminated");
}

void check_pool(StartMethod method) {
    sidestep::Pool pool({.processes = 2, .start_method = method});
    std::vector<int> numbers(200);
    for (int i = 0; i < 200; ++i) numbers[static_cast<std::size_t>(i)] = i;
    auto results = pool.map(twice, numbers);
    for (int i = 0; i < 200; ++i)
        require(results[static_cast<std::size_t>(i)] == 2 * i, "a wrong result");
    require(pool.submit(repeat, std::string("xyz"), 500'000).get().size() == 1'500'000,
            "a result was cut");
    try {
        pool.submit(fail_with, 0).get();
        require(false, "no exception");
    } catch (const std::domain_error&) {
    }
    try {
        pool.submit(die, SIGKILL).get();
        require(false, "a dead worker gave a result");
    } catch (const sidestep::WorkerLost&) {
    }
    require(pool.submit(twice, 4).get() == 8, "a wrong result after a death");
    try {
        pool.submit({.timeout = 50ms}, [] { ::pause(); }).get();
        require(false, "no timeout");
    } catch (const sidestep::TaskTimeout&) {
    }
    require(pool.submit(twice, 5).get() == 10, "a wrong result after a timeout");
}

void check_process(StartMethod method) {
    sidestep::ProcessOptions options{.start_method = method};
    sidestep::Queue<std::string> queue(64);
    sidestep::Process producer(options, produce, queue, 100);
    producer.start();
    for (int i = 0; i < 100; ++i) {
        auto item = queue.get_for(kPatience);
        require(item && *item == "item " + std::to_string(i), "a wrong item");
    }
    producer.join();
    require(producer.exitcode() == 0, "the producer failed");
    sidestep::Process failing(options, fail_with, 0);
    failing.start();
    failing.join();
    try {
        failing.rethrow();
        require(false, "no exception");
    } catch (const std::domain_error&) {
    }
    sidestep::Process dying(options, die, SIGKILL);
    dying.start();
    dying.join();
    require(dying.exitcode() == -SIGKILL, "a killed process has another exit code");
}

// Nobody is robbed, everybody gets in, and the dead are found out.
void check_lock() {
    sidestep::ProcessOptions options{.start_method = StartMethod::fork};
    sidestep::Lock lock;
    sidestep::RawValue<int> value(0);
    {
        sidestep::Process first(options, count_up, lock, value),
            second(options, count_up, lock, value);
        first.start();
        second.start();
        first.join();
        second.join();
    }
    require(value.value() == 400, "two were in the lock at once");
    sidestep::RawValue<int> held(0);
    sidestep::Process holder(options, hold_for_ever, lock, held);
    holder.start();
    require(eventually([&] { return held.value() == 1; }), "nobody took the lock");
    require(!lock.try_lock_for(300ms), "a living holder was robbed");
    holder.kill();
    holder.join();
    require(lock.try_lock_for(kPatience), "a dead holder's lock was not taken");
    lock.unlock();
    sidestep::Process dying(options, die_holding, lock);
    dying.start();
    dying.join();
    require(lock.try_lock_for(kPatience), "a dead holder's lock was not taken");
    lock.unlock();
}

void check_names() {
    sidestep::SharedMemory block(sidestep::create_only, 10'000);
    sidestep::SharedMemory same(sidestep::open_only, block.name());
    block.bytes()[9'999] = std::byte{7};
    require(same.bytes()[9'999] == std::byte{7}, "two memories of one name");
}

// Workers of a parent that is killed: none stays.
void check_orphans(StartMethod method) {
    void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    auto* workers = new (page) std::atomic<int>[2]();
    int parent = ::fork();
    if (parent == 0) {
        try {
            sidestep::Pool pool({.processes = 2, .start_method = method});
            auto busy = pool.submit([] {
                for (;;) ::pause();
            });
            auto pids = pool.worker_pids();
            workers[0] = pids[0];
            workers[1] = pids[1];
            for (;;) ::pause();
        } catch (const std::exception& error) {
            std::fprintf(stderr, "%s\n", error.what());
        }
        ::_exit(1);
    }
    bool began = eventually(
        [&] { return workers[1] != 0 || ::waitpid(parent, nullptr, WNOHANG) == parent; });
    ::kill(parent, SIGKILL);
    ::waitpid(parent, nullptr, 0);
    int pids[2] = {workers[0], workers[1]};
    ::munmap(page, 4096);
    require(began && pids[1] != 0, "there were no workers");
    // As PID 1 they are ours to reap.
    bool gone = eventually([&] {
        return std::all_of(std::begin(pids), std::end(pids), [](int pid) {
            if (::getpid() == 1) ::waitpid(pid, nullptr, WNOHANG);
            return ::kill(pid, 0) < 0;
        });
    });
    for (int pid : pids)
        if (!gone) ::kill(pid, SIGKILL);
    require(gone, "a worker outlived its parent");
}

// It is kept, or the task says that it cannot be.
void check_memory_limit() {
    sidestep::Pool pool({.processes = 1});
    sidestep::RawValue<int> go_on(0);
    auto large = pool.submit({.memory_limit = std::size_t(80) << 20}, use_memory,
                             std::size_t(200) << 20, go_on);
    bool done = large.wait_for(kPatience);
    go_on.value() = 1;
    require(done, "nobody looked at the memory limit");
    try {
        large.get();
        require(false, "the memory limit was not kept");
    } catch (const sidestep::OutOfMemory&) {
    }
}

void check_threads() {
    std::atomic<bool> over{false};
    std::thread other([&] {
        while (!over) std::this_thread::yield();
    });
    std::string outcome = "a process with threads was forked";
    try {
        sidestep::Pool pool({.processes = 1, .start_method = StartMethod::fork});
    } catch (const std::logic_error&) {
        outcome.clear();
    } catch (const std::exception& error) {
        outcome = error.what();
    }
    over = true;
    other.join();
    require(outcome.empty(), outcome);
}

void check_cpus() { std::printf("cpus %u\n", sidestep::process_cpu_count()); }

struct Check {
    const char* name;
    std::function<void()> run;
};

std::vector<Check> all_checks() {
    std::vector<Check> checks = {{"run", check_run}, {"kill", check_kill}};
    struct Named {
        StartMethod method;
        const char *pool, *process, *orphans;
    };
    static constexpr Named kMethods[] = {
        {StartMethod::spawn, "pool-spawn", "process-spawn", "orphans-spawn"},
        {StartMethod::fork, "pool-fork", "process-fork", "orphans-fork"},
        {StartMethod::forkserver, "pool-forkserver", "process-forkserver", "orphans-forkserver"}};
    for (const Named& named : kMethods) {
        checks.push_back({named.pool, [named] { check_pool(named.method); }});
        checks.push_back({named.process, [named] { check_process(named.method); }});
        checks.push_back({named.orphans, [named] { check_orphans(named.method); }});
    }
    checks.push_back({"lock", check_lock});
    checks.push_back({"names", check_names});
    checks.push_back({"memory-limit", check_memory_limit});
    checks.push_back({"threads", check_threads});
    checks.push_back({"cpus", check_cpus});
    return checks;
}

}  // namespace

int main(int argc, char** argv) {
    sidestep::init();
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    std::vector<std::string> wanted(argv + std::min(argc, 1), argv + argc);
    bool list = wanted == std::vector<std::string>{"--list"};
    if (list) wanted.clear();
    int failed = 0;
    for (const Check& check : all_checks()) {
        bool named = std::find(wanted.begin(), wanted.end(), check.name) != wanted.end();
        if (!named && (!wanted.empty() || std::strcmp(check.name, "cpus") == 0)) continue;
        if (list) {
            std::printf("%s\n", check.name);
            continue;
        }
        try {
            check.run();
            std::printf("ok %s\n", check.name);
        } catch (const std::exception& error) {
            ++failed;
            std::printf("FAIL %s: %s\n", check.name, error.what());
        }
    }
    sidestep::stop_forkserver();
    return failed == 0 ? 0 : 1;
}
