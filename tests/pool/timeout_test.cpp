// TaskOptions::timeout and memory_limit: when they fire, what they cost, and what they leave alone.
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <vector>

#include "policy_support.hpp"
#include "pool_cases.hpp"

namespace timeout_test {

namespace mp = sidestep;
using test::error_of;
using test::get;
using test::methods;
using namespace std::chrono_literals;

namespace {

constexpr auto kShort = 30ms;
constexpr auto kBegun = 2s;  // a task has told that it runs, on a busy machine too

// Starts a process in the worker's group that ignores SIGTERM, and waits.
int spin_with_child(const std::string& path, bool leave_politely) {
    pid_t child = fork();
    if (child == 0) {
        signal(SIGTERM, SIG_IGN);
        test::SharedWords::attach(path)[test::kExtra] = static_cast<std::uint64_t>(getpid());
        for (;;) pause();
    }
    if (leave_politely) signal(SIGTERM, [](int) { _exit(0); });
    test::await(test::SharedWords::attach(path)[test::kExtra]);
    return test::spin(path);
}
// Too slow the first time.
unsigned slow_at_first(const std::string& path) {
    if (mp::this_task::attempt() == 1) test::spin(path);
    return mp::this_task::attempt();
}
// Takes so much memory, touches it, and waits.
int take_memory(const std::string& path, std::size_t bytes) {
    test::bump(path, test::kCount);
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memset(p, 1, bytes);
    auto result = static_cast<int>(test::wait_at(path, test::kTell, test::kGate));
    munmap(p, bytes);
    return result;
}

}  // namespace

PROCESSES_CASE("Tasks", "a task that runs too long fails with TaskTimeout, which says what it was",
               "[timeout]", "without workers a task runs to its end, whatever its timeout",
               "a thread that is not told to stop runs on; its future has failed in time") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    int worker = pool.apply(test::own_pid);  // task 1
    auto error =
        error_of<mp::TaskTimeout>(pool.submit({.timeout = kShort}, test::spin, words.path()));
    CHECK(error.timeout() == kShort);
    CHECK(error.pid() == worker);
    CHECK(error.task() == 2);
    CHECK(error.worker_index() == 0);
    CHECK_THAT(error.what(), Catch::Contains("task 2 (test::spin(") &&
                                 Catch::Contains("timeout of 30 ms") &&
                                 Catch::Contains("worker " + std::to_string(worker)) &&
                                 Catch::Contains("give it less to do, or more time"));
    CHECK(get(pool.submit(test::own_pid)) != worker);
    CHECK(test::eventually([&] { return !test::process_exists(worker); }));
}

TEST_CASE("a timeout is a pool's default, and a task's own goes before it", "[pool][timeout]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 2, .start_method = method, .task = {.timeout = kShort}});
    auto patient = pool.submit({.timeout = mp::kNoTimeout}, test::wait_at, words.path(),
                               std::size_t(test::kExtra), std::size_t(test::kGate));
    CHECK_THROWS_AS(get(pool.submit(test::spin, words.path())), mp::TaskTimeout);
    CHECK(error_of<mp::TaskTimeout>(pool.submit({.timeout = 50ms}, test::spin, words.path()))
              .timeout() == 50ms);
    CHECK_FALSE(patient.ready());
    words[test::kGate] = 4;
    CHECK(get(patient) == 4);
}

TEST_CASE("the time a task waits does not count", "[pool][timeout]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    auto first = pool.submit(test::wait_at, words.path(), std::size_t(test::kTell),
                             std::size_t(test::kGate));
    test::await(words[test::kTell]);
    std::vector<mp::Future<int>> behind;
    for (int i = 0; i < 5; ++i) behind.push_back(pool.submit({.timeout = 3s}, test::add, i, 1));
    CHECK_FALSE(first.wait_for(3100ms));
    words[test::kGate] = 1;
    for (int i = 0; i < 5; ++i) CHECK(get(behind[static_cast<std::size_t>(i)]) == i + 1);
}

TEST_CASE("a task that looks at stop_requested() keeps its worker", "[pool][timeout][stop]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method, .stop_grace = 1h});
    int worker = pool.apply(test::own_pid);
    for (int round = 1; round <= 3; ++round) {
        auto late = pool.submit({.timeout = kShort}, test::until_asked, words.path());
        CHECK_THROWS_AS(get(late), mp::TaskTimeout);
        CHECK(get(pool.submit(test::own_pid)) == worker);
        CHECK(words[test::kCount] == static_cast<std::uint64_t>(round) * 100);
    }
    CHECK_FALSE(pool.apply([] { return mp::this_task::stop_requested(); }));  // that was for others
    CHECK_FALSE(mp::this_task::stop_requested());
}

TEST_CASE("a task that ignores SIGTERM gets SIGKILL", "[pool][timeout][ladder]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method, .terminate_grace = 20ms});
    auto late = pool.submit({.timeout = kBegun}, test::ignore_sigterm, words.path());
    auto worker = static_cast<pid_t>(test::await(words[test::kTell]));
    CHECK_THROWS_AS(get(late), mp::TaskTimeout);
    CHECK(test::eventually([&] { return !test::process_exists(worker); }));
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
}

TEST_CASE("the future is done when the time is up, however long the worker resists",
          "[pool][timeout][ladder]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1,
                   .start_method = method,
                   .stop_grace = std::chrono::nanoseconds::max(),  // for ever: no overflow
                   .terminate_grace = std::chrono::nanoseconds::max()});
    auto late = pool.submit({.timeout = kBegun}, test::ignore_sigterm, words.path());
    auto worker = static_cast<pid_t>(test::await(words[test::kTell]));
    CHECK_THROWS_AS(get(late), mp::TaskTimeout);
    CHECK(test::process_exists(worker));
    auto behind = pool.submit(test::own_pid);
    CHECK_FALSE(behind.wait_for(50ms));  // there is no other worker
    words[test::kGate] = 1;
    CHECK(get(behind) == worker);  // it finished after all
}

TEST_CASE("what a late task has started goes with it, however its worker leaves",
          "[pool][timeout][ladder]") {
    auto method = GENERATE(from_range(methods()));
    bool politely = GENERATE(false, true);
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    // Time enough for the child to be there, also under a sanitizer.
    auto late = pool.submit({.timeout = 3s}, spin_with_child, words.path(), politely);
    auto child = static_cast<pid_t>(test::await(words[test::kExtra]));
    CHECK_THROWS_AS(get(late), mp::TaskTimeout);
    CHECK(test::eventually([&] { return !test::process_exists(child); }));
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
}

TEST_CASE("the tasks behind a late one are run, once", "[pool][timeout]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords + 50);
    mp::Pool pool({.processes = 1, .start_method = method});
    for (int i = 0; i < 300; ++i) pool.apply(test::add, 1, 2);  // tiny: the ring is filled deep
    for (int round = 0; round < 3; ++round) {
        for (std::size_t i = 0; i < 50; ++i) words[test::kWords + i] = 0;
        auto late = pool.submit({.timeout = kShort}, test::spin, words.path());
        std::vector<mp::Future<std::uint64_t>> behind;
        for (std::size_t i = 0; i < 50; ++i)
            behind.push_back(pool.submit(test::bump, words.path(), test::kWords + i));
        CHECK_THROWS_AS(get(late), mp::TaskTimeout);
        for (auto& f : behind) CHECK(get(f) == 0);
        for (std::size_t i = 0; i < 50; ++i) CHECK(words[test::kWords + i] == 1);
    }
}

TEST_CASE("a task that is late may be run again", "[pool][timeout][retry]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    // The second one, in a new worker, has to be in time.
    mp::TaskOptions options{.timeout = 3s, .retry = {.max_attempts = 2}};
    CHECK(get(pool.submit(options, slow_at_first, words.path())) == 2);
    CHECK_THROWS_AS(get(pool.submit(options, test::spin, words.path())), mp::TaskTimeout);
}

TEST_CASE("a worker that is stopped is late, too", "[pool][timeout]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method, .terminate_grace = 10ms});
    auto late = pool.submit({.timeout = kBegun}, test::wait_at, words.path(),
                            std::size_t(test::kTell), std::size_t(test::kGate));
    auto worker = static_cast<pid_t>(test::await(words[test::kTell]));
    kill(worker, SIGSTOP);
    CHECK_THROWS_AS(get(late), mp::TaskTimeout);
    CHECK(get(pool.submit(test::own_pid)) != worker);
}

TEST_CASE("a generous timeout costs nothing, and the longest does not overflow",
          "[pool][timeout]") {
    auto method = GENERATE(from_range(methods()));
    auto timeout = GENERATE(std::chrono::nanoseconds(1h), mp::kNoTimeout - 1ns, mp::kNoTimeout);
    mp::Pool pool({.processes = 2, .start_method = method, .task = {.timeout = timeout}});
    std::vector<mp::Future<int>> futures;
    for (int i = 0; i < 1000; ++i) futures.push_back(pool.submit(test::add, i, 1));
    for (int i = 0; i < 1000; ++i) CHECK(get(futures[static_cast<std::size_t>(i)]) == i + 1);
    CHECK(test::becomes_quiet());
}

TEST_CASE("a pool whose late task has ended is quiet", "[pool][timeout]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method, .stop_grace = 20ms});
    auto late = pool.submit({.timeout = kShort}, test::until_asked, words.path());
    CHECK_THROWS_AS(get(late), mp::TaskTimeout);
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
    CHECK(test::becomes_quiet());
}

TEST_CASE("options that make no sense are refused, with the remedy", "[pool][timeout][options]") {
    mp::Pool pool({.processes = 0});
    auto refused = [&](const mp::TaskOptions& options) -> std::string {
        std::string own, by_default;
        try {
            pool.submit(options, test::add, 1, 2);
        } catch (const std::invalid_argument& error) {
            own = error.what();
        }
        try {
            mp::Pool other({.processes = 1, .task = options});
        } catch (const std::invalid_argument& error) {
            by_default = error.what();
        }
        CHECK(own == by_default);
        return own;
    };
    CHECK_THAT(refused({.timeout = -1ns}),
               Catch::Contains("timeout is negative") && Catch::Contains("kNoTimeout"));
    CHECK_THAT(refused({.memory_limit = 1000}), Catch::Contains("memory_limit is less than 1 MiB"));
    CHECK(refused({.memory_limit = 1 << 20}).empty());
    CHECK_THAT(refused({.retry = {.max_attempts = 65536}}),
               Catch::Contains("max_attempts is 65536"));
    CHECK(refused({.retry = {.max_attempts = 65535}}).empty());
    CHECK_THAT(refused({.retry = {.backoff = -1ns}}), Catch::Contains("retry.backoff"));
    CHECK_THAT(refused({.retry = {.max_backoff = -1ns}}), Catch::Contains("backoff"));
    CHECK_THAT(refused({.retry = {.factor = 0.9}}), Catch::Contains("factor is less than 1"));
    CHECK_THAT(refused({.retry = {.jitter = 1.1}}), Catch::Contains("not within 0 to 1"));
    CHECK_THAT(refused({.retry = {.jitter = -0.1}}), Catch::Contains("not within 0 to 1"));
    CHECK(refused({.retry = {.factor = 1, .jitter = 1}}).empty());
    auto refused_pool = [](mp::PoolOptions options) -> std::string {
        options.processes = 1;
        try {
            mp::Pool other(options);
        } catch (const std::invalid_argument& error) {
            return error.what();
        }
        return "";
    };
    CHECK_THAT(refused_pool({.max_age = -1ns}), Catch::Contains("max_age"));
    CHECK_THAT(refused_pool({.idle_timeout = -1ns}), Catch::Contains("idle_timeout"));
    CHECK_THAT(refused_pool({.stop_grace = -1ns}), Catch::Contains("stop_grace"));
    CHECK_THAT(refused_pool({.terminate_grace = -1ns}), Catch::Contains("terminate_grace"));
    CHECK_THAT(refused_pool({.leave_grace = -1ns}), Catch::Contains("leave_grace"));
}

PROCESSES_CASE("Tasks",
               "a task that takes too much memory fails with OutOfMemory; its neighbours do not",
               "[memory]", "without workers no limit of memory is looked at",
               "a ThreadPool refuses a limit of memory, which needs a process") {
    auto method = GENERATE(from_range(methods()));
    constexpr std::size_t kMiB = 1 << 20;
    test::SharedWords words(test::kWords), others(test::kWords);
    mp::Pool pool({.processes = 2, .start_method = method});
    auto neighbour = pool.submit(test::wait_at, others.path(), std::size_t(test::kTell),
                                 std::size_t(test::kGate));
    auto large = pool.submit({.memory_limit = 256 * kMiB}, take_memory, words.path(), 300 * kMiB);
    auto error = error_of<mp::OutOfMemory>(large);
    CHECK(error.limit() == 256 * kMiB);
    CHECK(error.used() > 256 * kMiB);
    CHECK(error.pid() > 0);
    CHECK_THAT(error.what(), Catch::Contains("memory_limit of 256 MiB") &&
                                 Catch::Contains("take_memory") &&
                                 Catch::Contains("give it less to do at a time, or a higher"));
    CHECK_FALSE(neighbour.ready());
    others[test::kGate] = 2;
    CHECK(get(neighbour) == 2);
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
}

TEST_CASE("a task that stays below its memory limit is left alone", "[pool][memory]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool(
        {.processes = 1, .start_method = method, .task = {.memory_limit = std::size_t(512) << 20}});
    auto small = pool.submit(take_memory, words.path(), std::size_t(32) << 20);
    test::await(words[test::kTell]);
    CHECK_FALSE(small.wait_for(100ms));  // it is looked at several times
    words[test::kGate] = 3;
    CHECK(get(small) == 3);
    words[test::kGate] = 0;
    words[test::kTell] = 0;
    auto unlimited = pool.submit({.memory_limit = mp::kNoLimit}, take_memory, words.path(),
                                 std::size_t(600) << 20);
    test::await(words[test::kTell]);
    CHECK_FALSE(unlimited.wait_for(100ms));
    words[test::kGate] = 3;
    CHECK(get(unlimited) == 3);
}

TEST_CASE("a task is not stopped when there is no descriptor to ask how large it is",
          "[pool][memory][faults]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    auto small = pool.submit({.memory_limit = std::size_t(512) << 20}, take_memory, words.path(),
                             std::size_t(32) << 20);
    test::await(words[test::kTell]);
    {
        rlimit former{};
        ::getrlimit(RLIMIT_NOFILE, &former);
        rlimit few{256, former.rlim_max};
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
        std::vector<int> all;
        for (int fd; (fd = ::dup(STDERR_FILENO)) >= 0;) all.push_back(fd);
        CHECK_FALSE(small.wait_for(100ms));  // it is looked at several times
        for (int fd : all) ::close(fd);
        ::setrlimit(RLIMIT_NOFILE, &former);
    }
    words[test::kGate] = 3;
    CHECK(get(small) == 3);
}

TEST_CASE("what was too large once is not run again, unless so many are allowed",
          "[pool][memory][retry]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    mp::TaskOptions options{.memory_limit = std::size_t(128) << 20, .retry = {.max_attempts = 5}};
    auto run = [&] {
        return pool.submit(options, take_memory, words.path(), std::size_t(200) << 20);
    };
    CHECK_THROWS_AS(get(run()), mp::OutOfMemory);
    CHECK(words[test::kCount] == 1);
    options.retry.max_out_of_memory = 3;
    CHECK_THROWS_AS(get(run()), mp::OutOfMemory);
    CHECK(words[test::kCount] == 4);
}

}  // namespace timeout_test
