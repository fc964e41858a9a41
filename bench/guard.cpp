// The hot path, counted: what tools/guard compares with the budget in bench/guard.budget. Time is
// not measured here.
//
// usage: guard count|run one_by_one|policies|own_policies|threads|map|held TASKS
//        guard bytes TASKS
//   one_by_one   submit() in a loop, 256 in flight, each result taken
//   policies     the same with a timeout, a memory limit, retries and a priority
//   own_policies the same with what is a task's own: a name, a soft timeout and a token; in a pool
//                with max_pending
//   threads      one_by_one, in a ThreadPool
//   map          one map over so many ints
//   held         submit() in a loop, all in flight, then all results taken
//   count        prints the instructions (in user space) and the allocations of the loop, in the
//                thread that submits; it is single-stepped (ptrace): valgrind knows no pidfds
//   bytes        prints by how much this process grows for each future that is held, with its
//                result taken
//   run          just runs it, for strace; getsid(0) marks where the loop begins and ends
// Warm-up, start and end are not counted.
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <new>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

namespace {

thread_local long allocations = 0;  // of this thread

void* allocate(std::size_t size) {
    ++allocations;
    if (void* memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

int same(int x) { return x; }

template <class Submit>
void one_by_one(long tasks, Submit submit) {
    std::deque<sidestep::Future<int>> flying;
    long sum = 0;
    for (long i = 0; i < tasks; ++i) {
        if (flying.size() == 256) {
            sum += flying.front().get();
            flying.pop_front();
        }
        flying.push_back(submit());
    }
    for (auto& future : flying) sum += future.get();
    if (sum != tasks) std::abort();
}
void one_by_one(sidestep::Pool& pool, long tasks) {
    one_by_one(tasks, [&pool] { return pool.submit(same, 1); });
}
void one_by_one_with_own(sidestep::Pool& pool, long tasks) {
    const sidestep::TaskOptions own{
        .soft_timeout = std::chrono::minutes(1), .name = "a name", .uses = {{"token", 1}}};
    one_by_one(tasks, [&] { return pool.submit(own, same, 1); });
}

using Futures = std::vector<sidestep::Future<long>>;
long same_long(long x) { return x; }

void submit_all(sidestep::Pool& pool, Futures& futures, long tasks) {
    for (long i = 0; i < tasks; ++i) futures.push_back(pool.submit(same_long, 1L));
    long sum = 0;
    for (auto& future : futures) sum += future.get();
    if (sum != tasks) std::abort();
}

void held(sidestep::Pool& pool, long tasks) {
    Futures futures;
    submit_all(pool, futures, tasks);
}

long resident_bytes() {
    long all = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> all >> resident;
    return resident * sysconf(_SC_PAGESIZE);
}

void print_bytes(long tasks) {
    sidestep::Pool pool({.processes = 1});
    held(pool, 2000);
    Futures futures(static_cast<std::size_t>(tasks));
    futures.clear();  // its memory is there
    long before = resident_bytes();
    submit_all(pool, futures, tasks);
    long grown = resident_bytes() - before + tasks * static_cast<long>(sizeof futures[0]);
    std::printf("%ld bytes\n", grown / tasks);
}

void map(sidestep::Pool& pool, long tasks) {
    std::vector<int> items(static_cast<std::size_t>(tasks), 1);
    std::vector<int> results = pool.map(same, items, {.chunksize = 1000});
    if (std::accumulate(results.begin(), results.end(), 0L) != tasks) std::abort();
}

using Loop = void (*)(sidestep::Pool& pool, long tasks);

// What the thread that is stepped and its debugger share.
struct Progress {
    volatile bool within = false;
    volatile long allocations = 0;
};

// A debugger and its victim hand over to each other ten times faster on one CPU.
void pin_this_thread() {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    (void)sched_setaffinity(0, sizeof one, &one);  // where it is not allowed, it is slower
}

sidestep::TaskOptions all_policies() {
    return {.timeout = std::chrono::minutes(1),
            .memory_limit = std::size_t(8) << 30,
            .retry = {.max_attempts = 3},
            .priority = 1};
}

struct Mode {
    Loop loop = nullptr;  // null: one_by_one in threads
    sidestep::PoolOptions pool = {.processes = 1};
};

std::optional<Mode> mode_named(const std::string& name) {
    if (name == "one_by_one") return Mode{one_by_one};
    if (name == "policies") return Mode{one_by_one, {.processes = 1, .task = all_policies()}};
    if (name == "own_policies")
        return Mode{one_by_one_with_own,
                    {.processes = 1, .max_pending = 1000, .tokens = {{"token", 1000}}}};
    if (name == "threads") return Mode{};
    if (name == "map") return Mode{map};
    if (name == "held") return Mode{held};
    return {};
}

// The loop is called with how many tasks.
template <class Call>
void run_loop(Call loop, long tasks, Progress* progress) {
    loop(2000);
    if (progress) {
        pin_this_thread();
        ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
        progress->within = true;
        raise(SIGSTOP);
    }
    (void)getsid(0);
    long before = allocations;
    loop(tasks);
    if (progress) {
        progress->allocations = allocations - before;
        progress->within = false;
    }
    (void)getsid(0);
}

void run(const Mode& mode, long tasks, Progress* progress) {
    if (mode.loop) {
        sidestep::Pool pool(mode.pool);
        return run_loop([&](long n) { mode.loop(pool, n); }, tasks, progress);
    }
    sidestep::ThreadPool pool({.threads = 1});
    auto submit = [&pool] { return pool.submit(same, 1); };
    run_loop([&](long n) { one_by_one(n, submit); }, tasks, progress);
}

// How many instructions the child executes while it is within its loop.
long step_through(pid_t child, const Progress& progress) {
    long steps = 0;
    int status = 0;
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        bool within = progress.within;
        steps += within;
        if (ptrace(within ? PTRACE_SINGLESTEP : PTRACE_DETACH, child, nullptr, nullptr) != 0) break;
        if (!within) waitpid(child, &status, 0);
        if (!within) break;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        std::fputs("guard: the loop did not get to its end; may this process use ptrace?\n",
                   stderr);
        std::exit(1);
    }
    return steps;
}

void count(const Mode& mode, long tasks) {
    void* page =
        mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) throw std::bad_alloc();
    auto* progress = new (page) Progress;
    pid_t child = fork();
    if (child == 0) {
        run(mode, tasks, progress);
        std::exit(0);
    }
    pin_this_thread();
    long steps = step_through(child, *progress);
    std::printf("%ld instructions, %ld allocations\n", steps, progress->allocations);
}

}  // namespace

int main(int argc, char** argv) {
    sidestep::init();
    std::string what = argc > 1 ? argv[1] : "";
    if (what == "bytes" && argc == 3 && std::atol(argv[2]) > 0) {
        print_bytes(std::atol(argv[2]));
        return 0;
    }
    const std::optional<Mode> mode = mode_named(argc > 2 ? argv[2] : "");
    long tasks = argc > 3 ? std::atol(argv[3]) : 0;
    if ((what != "count" && what != "run") || !mode || tasks <= 0) {
        std::fputs(
            "usage: guard count|run one_by_one|policies|own_policies|threads|map|held TASKS\n"
            "       guard bytes TASKS\n",
            stderr);
        return 2;
    }
    if (what == "count")
        count(*mode, tasks);
    else
        run(*mode, tasks, nullptr);
}
