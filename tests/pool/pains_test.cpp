// What users of Python's pools suffer from, by name: each of these hangs, fails, or lies there.
//
// Elsewhere: workers that outlive a killed parent, statuses taken by others and closed stdio
// (process_test.cpp); failed starts and crash loops (process_test.cpp); every place where a task
// can misbehave (deadlock_test.cpp).
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "policy_support.hpp"

namespace pains_test {

namespace mp = sidestep;
using test::get;
using test::kCount;
using test::kGate;
using test::kTell;
using test::methods;
using namespace std::chrono_literals;

namespace {

std::mutex held_elsewhere;

int take_lock() {
    std::lock_guard lock(held_elsewhere);
    return 1;
}
void refuse_to_start(const std::string& path) {
    test::bump(path, kCount);
    throw std::domain_error("no licence");
}
struct Unreadable {
    int fill = 1;
    template <class Archive>
    void save(Archive& archive) const {
        archive(fill);
    }
    template <class Archive>
    void load(Archive&) {
        throw std::domain_error("cannot be read back");
    }
};
int nested(int depth) {
    if (depth == 0) return 1;
    mp::Pool pool({.processes = 2, .start_method = mp::StartMethod::spawn});
    return get(pool.submit(nested, depth - 1)) + get(pool.submit(nested, depth - 1));
}
int throw_int() { throw 42; }
int leave(int code) { _exit(code); }

}  // namespace

TEST_CASE("pain 1: nobody waits for ever for the task of a dead worker", "[pool][pain]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    auto dies_at_five = [](int x) { return x == 5 ? test::die(SIGKILL) : x; };
    std::vector<int> items(20);
    std::iota(items.begin(), items.end(), 0);
    auto map = pool.map_async(dies_at_five, items, {.chunksize = 1});
    REQUIRE(map.wait_for(test::kPatience));
    CHECK_THROWS_AS(map.get(), mp::WorkerLost);
    CHECK(pool.map(test::square, std::vector<long>{2}) == std::vector<long>{4});
}

TEST_CASE("pain 2: the only worker, killed while it waits for a task, takes no lock along",
          "[pool][pain]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    for (int round = 0; round < 5; ++round) {
        int worker = get(pool.submit(test::own_pid));
        REQUIRE(test::eventually([&] { return test::process_state(worker) == 'S'; }));
        kill(worker, SIGKILL);
        // It may be handed a task that it does not live to begin: that is begun by the next one.
        CHECK(get(pool.submit(test::own_pid)) != worker);
    }
}

TEST_CASE("pain 4: a lock that another thread holds when the workers start is free in them",
          "[pool][pain]") {
    auto method = GENERATE(mp::StartMethod::spawn, mp::StartMethod::forkserver);
    std::atomic<bool> held{false}, release{false};
    std::thread thread([&] {
        std::lock_guard lock(held_elsewhere);
        held = true;
        (void)test::eventually([&] { return release.load(); });
    });
    REQUIRE(test::eventually([&] { return held.load(); }));
    {
        mp::Pool pool({.processes = 2, .start_method = method});
        CHECK(get(pool.submit(take_lock)) == 1);
        CHECK_THROWS_AS(get(pool.submit(test::die, SIGKILL)), mp::WorkerLost);
        CHECK(get(pool.submit(take_lock)) == 1);
        CHECK_THROWS_AS(mp::Pool({.processes = 1, .start_method = mp::StartMethod::fork}),
                        std::logic_error);  // loudly, not a deadlock later
    }
    release = true;
    thread.join();
}

TEST_CASE("pain 5: one crash is one task's, and says who, how and where", "[pool][pain]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<mp::Future<int>> innocent;
    for (int i = 0; i < 50; ++i) innocent.push_back(pool.submit(test::add, i, 1));
    auto guilty = pool.submit(test::die, SIGSEGV);
    for (int i = 50; i < 100; ++i) innocent.push_back(pool.submit(test::add, i, 1));
    auto error = test::error_of<mp::WorkerLost>(guilty);
    CHECK_THAT(error.what(), Catch::Contains("SIGSEGV") && Catch::Contains("die(int)") &&
                                 Catch::Contains(std::to_string(error.pid())));
    for (int i = 0; i < 100; ++i) CHECK(get(innocent[static_cast<std::size_t>(i)]) == i + 1);
}

TEST_CASE("pain 6: a result that cannot be read back fails its own get()", "[pool][pain]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    auto innocent = pool.submit(test::add, 1, 2);
    auto bad = pool.submit([] { return Unreadable(); });
    auto late = pool.submit(test::add, 3, 4);
    CHECK_THROWS_AS(get(bad), std::domain_error);
    CHECK(get(innocent) == 3);
    CHECK(get(late) == 7);
}

TEST_CASE("pain 7: a task that exits or throws no exception, a callback that throws or terminates",
          "[pool][pain]") {
    auto method = GENERATE(from_range(methods()));
    test::CapturedStderr quiet;
    mp::Pool pool({.processes = 2, .start_method = method});
    CHECK_THROWS_AS(get(pool.submit(throw_int)), mp::RemoteError);
    CHECK_THROWS_AS(get(pool.submit(leave, 0)), mp::WorkerLost);
    auto f = pool.submit(test::add, 1, 2);
    f.add_done_callback([](const auto&) { throw 42; });
    CHECK(get(f) == 3);
    pool.submit(test::add, 1, 2).add_done_callback([&](const auto&) { pool.terminate(); });
    REQUIRE(test::eventually([&] { return pool.worker_pids().empty(); }));
    pool.join();
}

TEST_CASE("pain 8: a failing initializer fails the pool, not process after process",
          "[pool][pain]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 2,
                   .start_method = method,
                   .initializer = mp::bind(refuse_to_start, words.path())});
    CHECK_THROWS_AS(test::eventually([&] {
                        get(pool.submit(test::add, 1, 2));
                        return false;
                    }),
                    mp::BrokenPool);
    REQUIRE(test::eventually([&] { return pool.worker_pids().empty(); }));
    CHECK(words[kCount] <= 2);
}

TEST_CASE("pain 9: one task has a timeout, and one that runs is cancelled; the others go on",
          "[pool][pain]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords late_words(test::kWords), words(test::kWords), other_words(test::kWords);
    mp::Pool pool({.processes = 3, .start_method = method});
    auto other =
        pool.submit(test::wait_at, other_words.path(), std::size_t(kTell), std::size_t(kGate));
    auto late = pool.submit({.timeout = 30ms}, test::spin, late_words.path());
    auto endless = pool.submit(test::spin, words.path());
    test::await(words[kTell]);
    CHECK(endless.cancel());
    CHECK_THROWS_AS(get(late), mp::TaskTimeout);
    CHECK_FALSE(other.ready());
    other_words[kGate] = 8;
    CHECK(get(other) == 8);
}

TEST_CASE("pain 10: a pool ends while it is full, while workers die, and while others submit",
          "[pool][pain]") {
    auto method = GENERATE(from_range(methods()));
    for (int round = 0; round < 6; ++round) {
        mp::Pool pool({.processes = 2, .start_method = method});
        std::vector<mp::Future<int>> futures;
        std::thread submitter([&] {
            try {
                for (int i = 0; i < 3000; ++i)
                    futures.push_back(i % 500 == 77 ? pool.submit(test::die, SIGKILL)
                                                    : pool.submit(test::add, i, 1));
            } catch (const std::logic_error&) {  // it ended meanwhile
            }
        });
        (void)get(pool.submit(test::add, 1, 2));
        if (round % 3 == 0)
            pool.close();
        else if (round % 3 == 1)
            pool.terminate();
        else
            pool.shutdown({.wait = false, .cancel_futures = true});
        submitter.join();
        pool.join();
        CHECK(std::all_of(futures.begin(), futures.end(), [](auto& f) { return f.ready(); }));
    }
}

namespace {

// 0, 1, 2, ... without an end; tells how many were taken.
struct Endless {
    struct Iterator {
        using value_type = long;
        using difference_type = std::ptrdiff_t;
        Endless* range;
        long operator*() const {
            range->pulled = std::max(range->pulled, range->next + 1);
            return range->next;
        }
        Iterator& operator++() {
            ++range->next;
            return *this;
        }
        void operator++(int) { ++*this; }
        bool operator==(std::default_sentinel_t) const { return false; }
    };
    Iterator begin() { return {this}; }
    std::default_sentinel_t end() const { return {}; }
    long next = 0, pulled = 0;
};

}  // namespace

TEST_CASE("pain 13: an endless input is taken piece by piece", "[pool][pain]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    Endless endless;
    long seen = 0;
    for (long x : pool.imap(test::square, endless, {.chunksize = 1, .window = 8})) {
        CHECK(x == seen * seen);
        CHECK(endless.pulled <= seen + 9);
        if (++seen == 100) break;
    }
}

TEST_CASE("pain 14: lambdas and functions of this file are tasks; captures go by bind",
          "[pool][pain]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    CHECK(get(pool.submit([](int x) { return x + 1; }, 1)) == 2);
    auto scale = [](double factor, double x) { return factor * x; };
    CHECK(pool.map(mp::bind(scale, 3.0), std::vector<double>{1, 2}) == std::vector<double>{3, 6});
}

TEST_CASE("pain 17: a pool that is killed with everything leaves no name behind", "[pool][pain]") {
    auto method = GENERATE(from_range(methods()));
    test::Resources before = test::Resources::now();
    {
        test::Program program({"wait-for-death", test::name_of(method)});
        CHECK_FALSE(program.read_line().empty());
        kill(program.pid(), SIGKILL);
    }
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("pain 19: Ctrl-C reaches the application alone; its workers end with it, silently",
          "[pool][pain]") {
    auto method = GENERATE(from_range(methods()));
    test::Program program({"wait-for-death", test::name_of(method)});
    std::istringstream line(program.read_line());
    std::vector<pid_t> children;
    for (pid_t pid; line >> pid;) children.push_back(pid);
    CHECK(children.size() >= 4);
    for (pid_t pid : children) CHECK(getpgid(pid) != getpgid(program.pid()));
    kill(program.pid(), SIGINT);
    auto result = program.finish();
    CHECK(WIFSIGNALED(result.status));
    CHECK(result.output.empty());
    CHECK(test::eventually([&] {
        return std::none_of(children.begin(), children.end(),
                            [](pid_t pid) { return test::process_exists(pid); });
    }));
}

TEST_CASE("pain 20: pools nest", "[pool][pain]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    CHECK(get(pool.submit(nested, 2)) == 4);
}

}  // namespace pains_test
