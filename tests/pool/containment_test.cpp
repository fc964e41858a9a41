// What one task, worker or callback does badly costs nobody else: stray writes, closed descriptors,
// workers that do not leave, what is left behind, and the ends of pools meanwhile.
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include <sidestep/value.hpp>

#include "policy_support.hpp"

namespace containment_test {

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

constexpr int kMostFds = 256;  // of a worker, by far

[[noreturn]] void hang() {
    for (;;) pause();
}
// Writes so much to each socket that the process has.
int write_to_sockets(std::size_t size) {
    std::vector<char> junk(size, 'x');
    for (int fd = 3; fd < kMostFds; ++fd) {
        struct stat file = {};
        if (fstat(fd, &file) == 0 && S_ISSOCK(file.st_mode))
            (void)!write(fd, junk.data(), junk.size());
    }
    hang();
}
std::uint64_t close_all(const std::string& path) {
    test::SharedWords::Word* words = test::SharedWords::attach(path);
    for (int fd = 3; fd < kMostFds; ++fd) close(fd);
    words[kTell] = 1;
    return test::await(words[kGate]);
}
int read_value(const mp::Value<int>& value) { return value.value(); }
void hang_at_end(const std::string& path) {
    test::bump(path, kExtra);
    hang();
}
int start_and_return() {
    pid_t child = fork();
    if (child == 0) hang();
    return child;
}
int fail_at_gate(const std::string& path) {
    test::wait_at(path, kCount, kExtra);
    if (mp::this_task::attempt() == 1) throw std::domain_error("once");
    return 7;
}
// Begins, hears that it is to stop, says so, and goes on.
int stay(const std::string& path) {
    (void)test::eventually([] { return mp::this_task::stop_requested(); });
    test::bump(path, kTell);
    hang();
}
void throw_from_third_on(const std::string& path) {
    if (test::bump(path, kCount) >= 2) throw std::domain_error("the third is one too many");
}
bool always(const std::exception_ptr&) { return true; }

// An application whose worker is busy, and a fork(2) of it that lives until kCount says so.
[[noreturn]] void be_application(mp::StartMethod method, test::SharedWords& words) {
    mp::Pool pool({.processes = 1, .start_method = method});
    auto busy = pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
    test::await(words[kTell]);
    if (fork() == 0) {
        (void)test::eventually([&] { return words[kCount] != 0; });
        _exit(0);
    }
    words[kExtra] = 1;
    hang();
}

}  // namespace

TEST_CASE("a stray write to the pool's socket costs the task that did it",
          "[pool][faults][scribble]") {
    auto method = GENERATE(from_range(methods()));
    std::size_t size = GENERATE(1u, 24u, 4096u);  // 24: as much as a worker writes
    CAPTURE(size);
    mp::Pool pool({.processes = 2, .start_method = method});
    for (int round = 0; round < 3; ++round) {
        auto error = error_of<mp::WorkerLost>(pool.submit(write_to_sockets, size));
        CHECK_THAT(error.what(), Catch::Contains("so the pool stopped it"));
        for (int i = 0; i < 10; ++i) CHECK(get(pool.submit(test::add, i, 1)) == i + 1);
    }
}

TEST_CASE("a task that closes the worker's descriptors keeps no other task waiting",
          "[pool][faults][handles]") {
    auto method = GENERATE(from_range(methods()));
    unsigned workers = GENERATE(1u, 2u);
    bool ends_first = workers == 1 || GENERATE(true, false);
    CAPTURE(workers, ends_first);
    test::SharedWords words(test::kWords);
    mp::Value<int> value(5);
    mp::Pool pool({.processes = workers, .start_method = method});
    auto closes = pool.submit(close_all, words.path());
    test::await(words[kTell]);
    if (ends_first) words[kGate] = 9;
    if (ends_first) CHECK(get(closes) == 9);
    std::vector<mp::Future<int>> others;
    for (int i = 0; i < 6; ++i) {
        others.push_back(pool.submit(read_value, value));
        others.push_back(pool.submit(test::add, 2, 3));
    }
    for (auto& f : others) CHECK(get(f) == 5);
    words[kGate] = 9;
    CHECK(get(closes) == 9);
}

TEST_CASE("a worker that does not leave is killed after leave_grace, and replaced",
          "[pool][recycle][idle][resize][finalizer]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::PoolOptions options{.processes = 1,
                            .start_method = method,
                            .finalizer = mp::bind(hang_at_end, words.path()),
                            .leave_grace = 20ms};
    SECTION("after max_tasks_per_child") {
        options.max_tasks_per_child = 1;
        mp::Pool pool(options);
        int first = get(pool.submit(test::own_pid));
        CHECK(get(pool.submit(test::own_pid)) != first);
    }
    SECTION("when it is too old") {
        options.max_age = 1ms;
        mp::Pool pool(options);
        int first = get(pool.submit(test::own_pid));
        CHECK(test::eventually([&] { return get(pool.submit(test::own_pid)) != first; }));
    }
    SECTION("when it is idle") {
        options.idle_timeout = 1ns;
        mp::Pool pool(options);
        int first = get(pool.submit(test::own_pid));
        CHECK(test::eventually([&] { return pool.worker_pids().empty(); }));
        CHECK(get(pool.submit(test::own_pid)) != first);
    }
    SECTION("when it is one too many") {
        options.processes = 2;
        mp::Pool pool(options);
        pool.resize(1);
        CHECK(test::eventually([&] { return pool.worker_pids().size() == 1; }));
        CHECK(get(pool.submit(test::add, 1, 2)) == 3);
    }
}

TEST_CASE("what a task left running ends with its worker, in order too", "[pool][shutdown]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    auto child = static_cast<pid_t>(get(pool.submit(start_and_return)));
    CHECK(test::process_exists(child));
    pool.shutdown();
    CHECK(test::eventually([&] { return !test::process_exists(child); }));
}

TEST_CASE("a callback may wait for a task about which Retry::when is asked",
          "[pool][callback][retry][when]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    std::atomic<bool> done{false};
    mp::Pool pool({.processes = 2, .start_method = method});
    auto first = pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
    auto second =
        pool.submit({.retry = {.max_attempts = 2, .when = always}}, fail_at_gate, words.path());
    first.add_done_callback([&](const auto&) {
        words[kExtra] = 1;  // from here on it fails
        done = second.wait_for(test::kPatience);
    });
    words[kGate] = 1;
    CHECK(get(second) == 7);
    CHECK(test::eventually([&] { return done.load(); }));
}

TEST_CASE("terminate() does not wait for the answer of Retry::when", "[pool][retry][when]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    std::atomic<bool> asked{false}, go_on{false};
    auto slow = [&](const std::exception_ptr&) {
        asked = true;
        return test::eventually([&] { return go_on.load(); });
    };
    mp::Pool pool({.processes = 1, .start_method = method});
    words[kExtra] = 1;
    auto judged =
        pool.submit({.retry = {.max_attempts = 2, .when = slow}}, fail_at_gate, words.path());
    CHECK(test::eventually([&] { return asked.load(); }));
    pool.terminate();
    CHECK(judged.ready());
    CHECK(judged.cancelled());
    CHECK_THROWS_AS(get(judged), mp::CancelledError);
    go_on = true;
    pool.join();
}

TEST_CASE("a task that is stopped to be run again fails with BrokenPool when its pool breaks",
          "[pool][retry][broken]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 2,
                   .start_method = method,
                   .initializer = mp::bind(throw_from_third_on, words.path()),
                   .stop_grace = 1h});
    auto late = pool.submit({.timeout = 1s, .retry = {.max_attempts = 2}}, stay, words.path());
    test::await(words[kTell]);
    CHECK_FALSE(late.ready());
    CHECK_THROWS_AS(get(pool.submit(test::die, SIGKILL)), mp::WorkerLost);
    CHECK_THROWS_AS(get(late), mp::BrokenPool);
}

TEST_CASE("the busy workers of an application that is killed end, though a fork(2) of it lives on",
          "[pool][faults]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    pid_t application = fork();
    if (application == 0) be_application(method, words);
    test::await(words[kExtra]);
    kill(application, SIGKILL);
    waitpid(application, nullptr, 0);
    auto worker = static_cast<pid_t>(words[kTell]);
    CHECK(test::eventually([&] { return !test::process_exists(worker); }));
    words[kGate] = words[kCount] = 1;
}

TEST_CASE("after resize() a key waits for the worker that had it before", "[pool][key][resize]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    auto index_and_gate = [](const std::string& path) {
        return std::pair(mp::this_worker::index(), test::SharedWords::attach(path)[kGate].load());
    };
    mp::Pool pool({.processes = 2, .start_method = method});
    auto held = pool.submit({.key = 2}, test::wait_at, words.path(), std::size_t(kTell),
                            std::size_t(kGate));
    test::await(words[kTell]);
    pool.resize(3);  // key 2 goes from worker 0 to worker 2
    CHECK(test::eventually([&] { return pool.worker_pids().size() == 3; }));
    auto next = pool.submit({.key = 2}, index_and_gate, words.path());
    auto other = pool.submit({.key = 1}, index_and_gate, words.path());
    CHECK(get(other) == std::pair(1, std::uint64_t(0)));  // nobody else waits
    CHECK_FALSE(next.wait_for(200ms));
    words[kGate] = 4;
    CHECK(get(held) == 4);
    CHECK(get(next) == std::pair(2, std::uint64_t(4)));
}

TEST_CASE("shutdown() with cancel_futures ends a map_async() that goes on", "[pool][shutdown]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    auto wait = [](const std::string& path) {
        test::bump(path, kCount);
        return test::wait_at(path, kTell, kGate);
    };
    mp::Pool pool({.processes = 2, .start_method = method});
    auto results = pool.map_async(wait, std::vector<std::string>(200, words.path()),
                                  {.chunksize = 1, .window = 4});
    test::await(words[kTell]);
    pool.shutdown({.wait = false, .cancel_futures = true});
    words[kGate] = 1;
    CHECK_THROWS_AS(get(results), mp::CancelledError);
    pool.join();
    CHECK(words[kCount] <= 2);  // one in each worker
}

TEST_CASE("an idle_timeout that is very long is never", "[pool][idle]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method, .idle_timeout = mp::kNoTimeout});
    int worker = get(pool.submit(test::own_pid));
    CHECK_FALSE(test::eventually([&] { return pool.worker_pids().empty(); }, 1000ms));
    CHECK(get(pool.submit(test::own_pid)) == worker);
}

TEST_CASE("global() may be asked for in a callback of a global pool that was closed",
          "[pool][global][callback]") {
    auto program = test::run_program({"global-in-callback", "spawn"});
    CHECK(program.exited_with(0));
    CHECK(program.output == "");
}

}  // namespace containment_test
