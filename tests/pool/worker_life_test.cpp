// A worker's life: initializer and finalizer, and when it is replaced, leaves or comes back.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <set>
#include <vector>

#include <sidestep/lock.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/value.hpp>

#include "policy_support.hpp"

namespace worker_life_test {

namespace mp = sidestep;
using test::error_of;
using test::get;
using test::kCount;
using test::kExtra;
using test::kGate;
using test::kTell;
using test::methods;
using namespace std::chrono_literals;

namespace {

int status = 0;

void initialize(const std::string& path, int value) {
    test::bump(path, kCount);
    status = value;
}
int get_status() { return status; }
void put_pid(const mp::Queue<int>& queue) {
    mp::Queue<int>(queue).put(getpid());
    status = 7;
}
void count_with_handles(const mp::Queue<int>& queue, const mp::Value<int>& value,
                        const mp::RawValue<int>& raw, const mp::Lock& lock) {
    mp::Lock mine(lock);
    std::lock_guard guard(mine);
    value.value() += 1;
    raw.value() += 1;
    mp::Queue<int>(queue).put(-1);
}
int use_lock(const mp::Lock& lock) {
    mp::Lock mine(lock);
    std::lock_guard guard(mine);
    return 1;
}
// What a hook sees: it is in a worker, but no task.
void look_around(const std::string& path) {
    bool right = !mp::this_task::stop_requested() && mp::this_task::number() == 0 &&
                 mp::this_task::attempt() == 0 && mp::this_worker::index() == 0;
    test::bump(path, right ? kCount : kExtra);
}
void throw_at_start() { throw std::domain_error("error in initializer"); }
void throw_from_third_on(const std::string& path) {
    if (test::bump(path, kCount) >= 2) throw std::domain_error("the third is one too many");
}
#ifndef TEST_SANITIZED  // they print stacks of their own
[[gnu::noinline]] int read_settings(const int* settings) { return *settings; }
[[gnu::noinline]] void crash_at_start() {
    const int* volatile nowhere = nullptr;
    volatile int read = read_settings(nowhere);
    (void)read;
}
#endif
void die_at_start(int how) {
    if (how == 0) _exit(3);
    test::die(how);
}
void hang_at_start(const std::string& path) {
    signal(SIGTERM, SIG_IGN);
    test::wait_at(path, kTell, kGate);
}
void count_and_throw(const std::string& path) {
    test::bump(path, kExtra);
    throw std::domain_error("error in finalizer");
}

std::vector<int> pids_of(mp::Pool& pool, std::size_t tasks) {
    std::vector<int> pids;
    for (std::size_t i = 0; i < tasks; ++i) pids.push_back(get(pool.submit(test::own_pid)));
    return pids;
}
bool differs(const std::vector<int>& a, const std::vector<int>& b) {
    return std::none_of(a.begin(), a.end(),
                        [&](int pid) { return std::find(b.begin(), b.end(), pid) != b.end(); });
}

// The pool is broken and says why, in the task's error and in every later submit().
// Why it is; empty: it is not.
std::string broken_text(mp::Pool& pool) {
    try {
        get(pool.submit(test::add, 1, 2));
    } catch (const mp::BrokenPool& error) {
        return error.what();
    }
    return {};
}
void check_broken(mp::Pool& pool, const std::string& why) {
    CHECK_THAT(broken_text(pool), Catch::Contains(why) && Catch::Contains("nothing"));
    CHECK_THROWS_AS(pool.submit(test::add, 1, 2), mp::BrokenPool);
    CHECK_THROWS_WITH(pool.map(test::square, std::vector<long>{1}), Catch::Contains(why));
    pool.close();
    pool.join();
    CHECK(pool.worker_pids().empty());
}

}  // namespace

TEST_CASE("the initializer has run in each worker before its first task",
          "[pool][initializer][py:TestInitializers.test_pool_initializer]"
          "[py:InitializerMixin.test_initializer]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    status = 0;
    mp::Pool pool({.processes = 2,
                   .start_method = method,
                   .initializer = mp::bind(initialize, words.path(), 42)});
    std::vector<mp::Future<int>> futures;
    for (int i = 0; i < 20; ++i) futures.push_back(pool.submit(get_status));
    for (auto& f : futures) CHECK(get(f) == 42);
    CHECK(test::eventually([&] { return words[kCount] == 2; }));
    CHECK(status == 0);                         // not here
    for (int round = 1; round <= 3; ++round) {  // each replacement, too
        CHECK_THROWS_AS(get(pool.submit(test::die, SIGKILL)), mp::WorkerLost);
        for (int i = 0; i < 4; ++i) CHECK(get(pool.submit(get_status)) == 42);
        CHECK(test::eventually(
            [&] { return words[kCount] == static_cast<std::uint64_t>(2 + round); }));
    }
}

TEST_CASE("an initializer gets handles, in replacements too", "[pool][initializer][handles]") {
    auto method = GENERATE(from_range(methods()));
    mp::Queue<int> queue(16);
    mp::Pool pool(
        {.processes = 2, .start_method = method, .initializer = mp::bind(put_pid, queue)});
    CHECK(get(pool.submit(get_status)) == 7);
    std::set<int> seen{queue.get(), queue.get()};
    std::vector<int> alive = pool.worker_pids();
    CHECK(seen == std::set<int>(alive.begin(), alive.end()));
    CHECK_THROWS_AS(get(pool.submit(test::die, SIGKILL)), mp::WorkerLost);
    int replacement = queue.get();
    CHECK(seen.count(replacement) == 0);
}

TEST_CASE("a finalizer gets handles: of queues, values and locks, in each worker that leaves",
          "[pool][finalizer][handles]") {
    auto method = GENERATE(from_range(methods()));
    mp::Queue<int> queue(16);
    mp::Value<int> value(0);
    mp::RawValue<int> raw(0);
    mp::Lock lock;
    std::vector<int> left;
    {
        mp::Pool pool({.processes = 1,
                       .start_method = method,
                       .initializer = mp::bind(put_pid, queue),
                       .finalizer = mp::bind(count_with_handles, queue, value, raw, lock),
                       .max_tasks_per_child = 100});
        CHECK(queue.get() == get(pool.submit(test::own_pid)));
        // More tasks with handles than a worker keeps descriptors for.
        for (int i = 0; i < 150; ++i) CHECK(get(pool.submit(use_lock, mp::Lock())) == 1);
        left.push_back(queue.get());
        CHECK(queue.get() == get(pool.submit(test::own_pid)));  // the replacement's
    }
    left.push_back(queue.get());
    CHECK(left == std::vector<int>{-1, -1});
    CHECK(value.value() == 2);
    CHECK(raw.value() == 2);
    lock.lock();
    lock.unlock();
}

TEST_CASE("initializer and finalizer are no tasks, and nobody asks them to stop",
          "[pool][initializer][finalizer]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    {
        auto look = mp::bind(look_around, words.path());
        mp::Pool pool(
            {.processes = 1, .start_method = method, .initializer = look, .finalizer = look});
        CHECK(get(pool.submit(test::add, 1, 2)) == 3);
    }
    CHECK(words[kCount] == 2);
    CHECK(words[kExtra] == 0);
}

TEST_CASE("an initializer that throws breaks the pool at once, with its error",
          "[pool][initializer][broken][py:FailingInitializerMixin.test_initializer]"
          "[py:FailingInitializerResourcesTest.test_spawn]"
          "[py:FailingInitializerResourcesTest.test_forkserver]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method, .initializer = throw_at_start});
    check_broken(pool, "error in initializer");  // and leaves nothing: the listener looks
}

TEST_CASE("an initializer that costs its worker breaks the pool at once",
          "[pool][initializer][broken]") {
    auto method = GENERATE(from_range(methods()));
    int how = GENERATE(0, SIGSEGV, SIGKILL);
    mp::Pool pool(
        {.processes = 2, .start_method = method, .initializer = mp::bind(die_at_start, how)});
    check_broken(pool, how == 0 ? "exited with code 3" : "died of signal");
}

#ifndef TEST_SANITIZED
TEST_CASE("an initializer that crashes tells its stack", "[pool][initializer][broken][stack]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method, .initializer = crash_at_start});
    const std::string text = broken_text(pool);
    CAPTURE(text);
    CHECK_THAT(text, Catch::Contains("before its initializer had ended; it reached for address "
                                     "0x0, by a null pointer; look at what that does"));
    CHECK_THAT(text, Catch::Contains("\n    in ") && Catch::Contains("read_settings(const int*)") &&
                         Catch::Contains("crash_at_start()"));
    CHECK_THAT(text, !Catch::Contains("HookRunner") && !Catch::Contains("worker_main"));
}
#endif

TEST_CASE("an initializer that fails in a replacement breaks the pool; what was running is told",
          "[pool][initializer][broken]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 2,
                   .start_method = method,
                   .initializer = mp::bind(throw_from_third_on, words.path())});
    auto held = pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
    test::await(words[kTell]);
    CHECK_THROWS_AS(get(pool.submit(test::die, SIGKILL)), mp::WorkerLost);
    CHECK_THROWS_AS(get(held), mp::BrokenPool);
    CHECK(words[kCount] == 3);  // no respawn loop
    check_broken(pool, "the third is one too many");
    CHECK(words[kCount] == 3);
}

TEST_CASE("a pool whose initializer hangs can be terminated, and tasks cancelled before",
          "[pool][initializer]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 2,
                   .start_method = method,
                   .initializer = mp::bind(hang_at_start, words.path())});
    auto first = pool.submit(test::add, 1, 2), second = pool.submit(test::add, 1, 2);
    test::await(words[kTell]);
    CHECK_FALSE(first.wait_for(20ms));
    CHECK_FALSE(first.running());
    CHECK(first.cancel());
    pool.terminate();
    pool.join();
    CHECK_THROWS_AS(get(second), mp::CancelledError);
    CHECK(second.cancelled());
}

TEST_CASE("tasks wait for a slow initializer", "[pool][initializer]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1,
                   .start_method = method,
                   .initializer = mp::bind(hang_at_start, words.path())});
    auto timed = pool.submit({.timeout = 5s}, test::add, 1, 2);  // that does not count as its time
    test::await(words[kTell]);
    CHECK_FALSE(timed.wait_for(5100ms));
    words[kGate] = 1;
    CHECK(get(timed) == 3);
}

TEST_CASE("the finalizer runs in each worker that leaves in order", "[pool][finalizer]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    {
        mp::Pool pool({.processes = 2,
                       .start_method = method,
                       .finalizer = mp::bind(test::bump, words.path(), std::size_t(kExtra)),
                       .max_tasks_per_child = 5});
        for (int i = 0; i < 10; ++i) CHECK(get(pool.submit(test::add, i, 1)) == i + 1);
        CHECK_THROWS_AS(get(pool.submit(test::die, SIGKILL)), mp::WorkerLost);
        CHECK(words[kExtra] <= 2);
        CHECK(test::eventually([&] { return pool.worker_pids().size() == 2; }));
    }
    CHECK(words[kExtra] >= 3);  // two at the end, one that was through at least; none that died
    CHECK(words[kExtra] <= 4);
    std::uint64_t before = words[kExtra];
    {
        mp::Pool pool({.processes = 2,
                       .start_method = method,
                       .finalizer = mp::bind(test::bump, words.path(), std::size_t(kExtra))});
        CHECK(get(pool.submit(test::add, 1, 2)) == 3);
        pool.terminate();
        pool.join();
    }
    CHECK(words[kExtra] == before);
}

TEST_CASE("a finalizer that throws is reported, and hinders nobody", "[pool][finalizer]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    test::CapturedStderr text;
    {
        mp::Pool pool({.processes = 2,
                       .start_method = method,
                       .finalizer = mp::bind(count_and_throw, words.path())});
        CHECK(get(pool.submit(test::add, 1, 2)) == 3);
    }
    CHECK(words[kExtra] == 2);
    CHECK_THAT(text.text(), Catch::Contains("finalizer of worker 0 threw error in finalizer") &&
                                Catch::Contains("worker 1"));
}

TEST_CASE("a worker is replaced after max_tasks_per_child, not sooner",
          "[pool][recycle][py:ProcessPoolExecutorTest.test_max_tasks_per_child]"
          "[py:ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context]") {
    auto method = GENERATE(from_range(methods()));
    CHECK(mp::PoolOptions{.max_tasks_per_child = 3}.start_method == mp::StartMethod::spawn);
    mp::Pool pool({.processes = 1, .start_method = method, .max_tasks_per_child = 3});
    std::vector<int> first = pids_of(pool, 3), second = pids_of(pool, 3), third = pids_of(pool, 1);
    CHECK(std::set<int>(first.begin(), first.end()).size() == 1);
    CHECK(std::set<int>(second.begin(), second.end()).size() == 1);
    CHECK(differs(first, second));
    CHECK(differs(second, third));
    CHECK(test::eventually([&] { return !test::process_exists(first[0]); }));
    CHECK(pool.worker_pids().size() == 1);
}

TEST_CASE("one task for each worker", "[pool][recycle]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method, .max_tasks_per_child = 1});
    std::vector<mp::Future<int>> futures;
    for (int i = 0; i < 30; ++i) futures.push_back(pool.submit(test::own_pid));
    std::set<int> pids;
    for (auto& f : futures) pids.insert(get(f));
    CHECK(pids.size() == 30);
    CHECK_THROWS_AS(get(pool.submit(test::die, SIGKILL)), mp::WorkerLost);
    CHECK(pool.map(test::square, std::vector<long>{1, 2, 3}) == std::vector<long>{1, 4, 9});
}

TEST_CASE("all workers are replaced while many tasks run, and nothing is lost",
          "[pool][recycle][py:_TestPoolWorkerLifetime.test_pool_worker_lifetime]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 3, .start_method = method, .max_tasks_per_child = 10});
    std::vector<int> before = pool.worker_pids();
    CHECK(before.size() == 3);
    std::vector<mp::Future<long>> results;
    for (long i = 0; i < 100; ++i) results.push_back(pool.apply_async(test::square, i));
    for (long i = 0; i < 100; ++i) CHECK(get(results[static_cast<std::size_t>(i)]) == i * i);
    CHECK(test::eventually([&] { return pool.worker_pids().size() == 3; }));
    std::vector<int> after = pool.worker_pids();
    std::sort(before.begin(), before.end());
    std::sort(after.begin(), after.end());
    CHECK(before != after);
    pool.close();
    pool.join();
}

TEST_CASE("a pool whose workers live briefly is closed before its tasks are done",
          "[pool][recycle][py:_TestPoolWorkerLifetime.test_pool_worker_lifetime_early_close]"
          "[py:ProcessPoolExecutorTest.test_max_tasks_early_shutdown]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 3, .start_method = method, .max_tasks_per_child = 1});
    std::vector<mp::Future<long>> results;
    for (long i = 0; i < 6; ++i) results.push_back(pool.submit(test::square, i));
    pool.close();
    pool.join();
    for (long i = 0; i < 6; ++i) {
        CHECK(results[static_cast<std::size_t>(i)].ready());
        CHECK(results[static_cast<std::size_t>(i)].get() == i * i);
    }
}

TEST_CASE("old workers are replaced, one after the other, and no task is lost", "[pool][recycle]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method, .max_age = 20ms});
    (void)get(pool.submit(test::add, 1, 2));
    std::vector<int> before = pool.worker_pids();
    int sum = 0, submitted = 0;
    CHECK(test::eventually([&] {
        for (int i = 0; i < 20; ++i) sum += get(pool.submit(test::add, i, 1)) - i;
        submitted += 20;
        std::vector<int> now = pool.worker_pids();
        return now.size() == 2 && differs(before, now);
    }));
    CHECK(sum == submitted);
}

TEST_CASE("a worker that has grown is replaced between two tasks", "[pool][recycle]") {
    auto method = GENERATE(from_range(methods()));
    auto leak = [](std::size_t bytes) {
        void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        std::memset(p, 1, bytes);
        return static_cast<int>(getpid());
    };
    mp::Pool pool(
        {.processes = 1, .start_method = method, .max_memory_growth = std::size_t(64) << 20});
    int small = get(pool.submit(leak, std::size_t(1) << 20));
    CHECK(get(pool.submit(test::own_pid)) == small);
    // From then on it is known from where it grows.
    REQUIRE(test::eventually([&] { return pool.stats().workers.at(0).start > 0ns; }));
    int large = get(pool.submit(leak, std::size_t(100) << 20));
    CHECK(test::eventually([&] { return get(pool.submit(test::own_pid)) != large; }));
    CHECK(test::eventually([&] { return !test::process_exists(large); }));
}

TEST_CASE("idle workers leave, and the next task wakes them", "[pool][idle]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 2,
                   .start_method = method,
                   .initializer = mp::bind(initialize, words.path(), 5),
                   .idle_timeout = 30ms});
    for (int round = 0; round < 3; ++round) {
        CHECK(test::eventually([&] { return pool.worker_pids().empty(); }));
        CHECK(get(pool.submit(get_status)) == 5);
        CHECK(pool.map(test::square, std::vector<long>{1, 2, 3}) == std::vector<long>{1, 4, 9});
    }
    CHECK(pool.processes() == 2);
    auto held = pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
    test::await(words[kTell]);
    CHECK_FALSE(held.wait_for(100ms));
    CHECK_FALSE(pool.worker_pids().empty());  // a pool with a task is not idle
    words[kGate] = 1;
    CHECK(get(held) == 1);
    CHECK(test::eventually([&] { return pool.worker_pids().empty(); }));
    CHECK(test::becomes_quiet());
    pool.close();
    pool.join();
}

TEST_CASE("a pool that sleeps is resized, terminated and destroyed", "[pool][idle]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method, .idle_timeout = 1ns});
    CHECK(test::eventually([&] { return pool.worker_pids().empty(); }));
    pool.resize(2);
    CHECK(get(pool.submit({.key = 1}, test::add, 1, 2)) == 3);
    for (int i = 0; i < 50; ++i) CHECK(get(pool.submit(test::add, i, 1)) == i + 1);
    CHECK(test::eventually([&] { return pool.worker_pids().empty(); }));
    pool.terminate();
    pool.join();
    CHECK_THROWS_AS(pool.submit(test::add, 1, 2), std::logic_error);
    mp::Pool other({.processes = 1, .start_method = method, .idle_timeout = 1ns});
}

TEST_CASE("a worker that heeds a cancel while its pool falls asleep leaves, too", "[pool][idle]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method, .idle_timeout = 20ms, .stop_grace = 1h});
    auto held = pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
    auto worker = static_cast<pid_t>(test::await(words[kTell]));
    CHECK(held.cancel());  // it is not asked: the pool has nothing to do, but its worker has
    (void)test::eventually([&] { return !test::process_exists(worker); }, 300ms);
    words[kGate] = 1;
    CHECK(test::eventually([&] { return pool.worker_pids().empty(); }));
    CHECK(get(pool.submit(test::own_pid)) != worker);
}

TEST_CASE("max_tasks_per_child that is no count of tasks is refused by its type",
          "[pool][recycle][py:_TestPoolWorkerLifetime.test_pool_maxtasksperchild_invalid]") {
    // 0 is "never" here, where Python says None. What Python refuses when it runs (-1, 0.5, "12")
    // does not compile: the braces of PoolOptions take no narrowing conversion.
    STATIC_REQUIRE(std::is_same_v<decltype(mp::PoolOptions::max_tasks_per_child), std::size_t>);
    mp::Pool pool(
        {.processes = 1, .start_method = mp::StartMethod::fork, .max_tasks_per_child = 0});
    std::vector<int> pids = pids_of(pool, 50);
    CHECK(std::set<int>(pids.begin(), pids.end()).size() == 1);
}

}  // namespace worker_life_test
