#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <chrono>
#include <csignal>
#include <fstream>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include <sidestep/barrier.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/lock.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/shared_memory.hpp>
#include <sidestep/value.hpp>

#include "pool_support.hpp"

namespace handles_test {

// Handles of shared objects as arguments of tasks, also to workers that were started before the
// object existed.

namespace {

int put_twice(sidestep::Queue<int> queue, int value) {
    queue.put(value);
    queue.put(value);
    return value;
}
int lock_and_count(sidestep::Lock lock, sidestep::Queue<int> counter) {
    std::scoped_lock guard(lock);
    int n = counter.get();
    counter.put(n + 1);
    return n;
}
int wait_for_item(sidestep::Queue<int> queue) { return queue.get(); }
int if_open(const sidestep::Connection& connection, int i) { return connection.fd() >= 0 ? i : -1; }
long work_for_milliseconds() {
    volatile long sum = 0;
    for (long i = 0; i < 1'000'000; ++i) sum = sum + i;
    return sum;
}
void put_one(const sidestep::Queue<int>::Producer& producer) {
    const_cast<sidestep::Queue<int>::Producer&>(producer).put(1);
}
void greet(const sidestep::Connection& connection) {
    const_cast<sidestep::Connection&>(connection).send(std::string("hello"));
}

}  // namespace

TEST_CASE("a queue that was made after the workers started is an argument of tasks",
          "[pool][handles]") {
    for (sidestep::StartMethod method : test::methods()) {
        sidestep::Pool pool({.processes = 2, .start_method = method});
        pool.apply([](int x) { return x; }, 1);
        sidestep::Queue<int> queue(64);
        std::vector<sidestep::Future<int>> futures;
        for (int i = 0; i < 20; ++i) futures.push_back(pool.submit(put_twice, queue, i));
        int sum = 0;
        for (int i = 0; i < 40; ++i) {
            auto item = queue.get_for(test::kPatience);
            REQUIRE(item);
            sum += *item;
        }
        CHECK(sum == 2 * 190);
        for (auto& f : futures) f.get();
    }
}

TEST_CASE("a lock that tasks share excludes them from each other", "[pool][handles]") {
    sidestep::Pool pool({.processes = 2});
    sidestep::Lock lock;
    sidestep::Queue<int> counter(2);
    counter.put(0);
    std::vector<std::tuple<sidestep::Lock, sidestep::Queue<int>>> items(100, {lock, counter});
    std::vector<int> seen = pool.starmap(lock_and_count, items);
    CHECK(std::set<int>(seen.begin(), seen.end()).size() == 100);
    CHECK(counter.get() == 100);
}

TEST_CASE("a connection is an argument of a task", "[pool][handles]") {
    sidestep::Pool pool({.processes = 1});
    auto [here, there] = sidestep::Pipe();
    auto done = pool.submit(greet, there);
    CHECK(here.recv<std::string>() == "hello");
    done.get();
}

TEST_CASE("handles that no default constructor makes are arguments of a task", "[pool][handles]") {
    sidestep::Pool pool({.processes = 2});
    sidestep::SharedMemory memory(sidestep::create_only, 2);
    auto meet = [](sidestep::Barrier barrier, sidestep::SharedMemory shared, std::size_t place) {
        barrier.wait();
        shared.bytes()[place] = std::byte{1};
    };
    sidestep::Barrier barrier(2);
    auto first = pool.submit(meet, barrier, memory, std::size_t(0));
    auto second = pool.submit(meet, barrier, memory, std::size_t(1));
    first.get();
    second.get();
    CHECK(memory.bytes()[0] == std::byte{1});
    CHECK(memory.bytes()[1] == std::byte{1});
}

TEST_CASE("thousands of tasks with handles wait their turn and leave no descriptor behind",
          "[pool][handles]") {
    sidestep::Pool pool({.processes = 2});
    sidestep::Queue<int> queue(10'000);
    std::vector<sidestep::Future<int>> futures;
    for (int i = 0; i < 2000; ++i) futures.push_back(pool.submit(put_twice, queue, i));
    for (int i = 0; i < 2000; ++i) REQUIRE(futures[static_cast<std::size_t>(i)].get() == i);
    CHECK(queue.size() == 4000);
}

TEST_CASE("hundreds of tasks with connections wait their turn behind a longer one",
          "[pool][handles]") {
    auto method = GENERATE(from_range(test::methods()));
    sidestep::Pool pool({.processes = 1, .start_method = method});
    auto [end, other] = sidestep::Pipe();
    for (int round = 0; round < 10; ++round) {
        // Tasks that are tiny: hundreds are then sent ahead.
        for (int i = 0; i < 1000; ++i) pool.submit(test::add, i, 1).wait();
        auto longer = pool.submit(work_for_milliseconds);
        std::vector<sidestep::Future<int>> futures;
        for (int i = 0; i < 300; ++i) futures.push_back(pool.submit(if_open, end, i));
        for (int i = 0; i < 300; ++i) REQUIRE(futures[static_cast<std::size_t>(i)].get() == i);
        longer.wait();
    }
}

TEST_CASE("a handle in a result is refused with a reason", "[pool][handles]") {
    sidestep::Pool pool({.processes = 1});
    auto task = pool.submit([](sidestep::Lock lock) { return lock; }, sidestep::Lock());
    CHECK_THROWS_AS(task.get(), sidestep::SerializationError);
}

// --- what a worker keeps ----------------------------------------------------------------------

namespace {

using Large = sidestep::Array<char>;  // beyond 16 KiB it has a segment of its own
constexpr std::size_t kLarge = 64 << 10;

char first_of(Large array) { return array[0]; }
int segments_here() {
    std::ifstream maps("/proc/self/maps");
    int count = 0;
    for (std::string line; std::getline(maps, line);)
        count += line.find("sidestep-data") != std::string::npos;
    return count;
}
void limit_descriptors(unsigned most) {
    rlimit limit = {};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = most;
    if (::setrlimit(RLIMIT_NOFILE, &limit) < 0) throw std::runtime_error("setrlimit");
}
int next_descriptor() {
    int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::close(fd);
    return fd;
}

}  // namespace

TEST_CASE("a worker keeps a shared object that came with a task until the parent drops it",
          "[pool][handles]") {
    sidestep::Pool pool({.processes = 1});
    std::optional<Large> array(std::in_place, kLarge);
    (*array)[0] = 'a';
    CHECK(pool.apply(first_of, *array) == 'a');
    CHECK(pool.apply(segments_here) == 1);
    (*array)[0] = 'b';  // it is the same memory
    CHECK(pool.apply(first_of, *array) == 'b');
    SECTION("while the worker is idle") {
        array.reset();
        CHECK(test::eventually([&] { return pool.apply(segments_here) == 0; }));
    }
    SECTION("while it is busy") {
        array.reset();
        auto begin = std::chrono::steady_clock::now();
        while (pool.apply(segments_here) != 0)
            REQUIRE(std::chrono::steady_clock::now() - begin < test::kPatience);
    }
}

TEST_CASE("thousands of short-lived shared objects do not use up a worker's descriptors",
          "[pool][handles]") {
    sidestep::Pool pool({.processes = 1});
    pool.apply(limit_descriptors, 200u);
    for (int i = 0; i < 2000; ++i) {
        Large array(kLarge);
        array[0] = static_cast<char>(i);
        REQUIRE(pool.apply(first_of, array) == static_cast<char>(i));
    }
}

TEST_CASE("more shared objects than a socket holds descriptors wait their turn",
          "[pool][handles]") {
    sidestep::Pool pool({.processes = 1});
    std::vector<sidestep::Future<char>> futures;
    for (int i = 0; i < 400; ++i) {  // each is the task's alone when it waits
        Large array(kLarge);
        array[0] = static_cast<char>(i);
        futures.push_back(pool.submit(first_of, array));
    }
    for (std::size_t i = 0; i < futures.size(); ++i)
        REQUIRE(futures[i].get() == static_cast<char>(i));
}

TEST_CASE("a worker without descriptors says so, and gets the shared object again later",
          "[pool][handles]") {
    sidestep::Pool pool({.processes = 1});
    Large array(kLarge);
    array[0] = 'x';
    int next = pool.apply(next_descriptor);
    pool.apply(limit_descriptors, static_cast<unsigned>(next));
    CHECK_THROWS_WITH(pool.apply(first_of, array), Catch::Contains("RLIMIT_NOFILE"));
    pool.apply(limit_descriptors, static_cast<unsigned>(next) + 20);
    CHECK(pool.apply(first_of, array) == 'x');
}

TEST_CASE("the successor of a worker that died gets the shared objects too", "[pool][handles]") {
    sidestep::Pool pool({.processes = 1});
    Large array(kLarge);
    array[0] = 'y';
    CHECK(pool.apply(first_of, array) == 'y');
    CHECK_THROWS_AS(pool.apply([] { std::raise(SIGKILL); }), sidestep::WorkerLost);
    CHECK(pool.apply(first_of, array) == 'y');
}

TEST_CASE("shared objects are arguments in a pool without workers, and of an initializer",
          "[pool][handles]") {
    Large array(kLarge);
    array[0] = 'z';
    CHECK(sidestep::Pool({.processes = 0}).apply(first_of, array) == 'z');
    sidestep::Pool pool(
        {.processes = 1, .initializer = sidestep::bind([](Large own) { own[1] = own[0]; }, array)});
    CHECK(pool.apply([](Large own) { return own[1]; }, array) == 'z');
}

TEST_CASE("a queue ends though a task with a producer of it was taken back from its worker",
          "[pool][handles]") {
    sidestep::Pool pool({.processes = 1});
    sidestep::Queue<int> gate, queue;
    auto front = pool.submit(wait_for_item, gate);
    // The first is in the ring, behind the one that runs; its descriptor is with the worker.
    for (int i = 0; i < 3; ++i) {
        auto behind = pool.submit(put_one, queue.producer());
        CHECK(behind.cancel());
    }
    // Again with one that is run in the end.
    auto last = pool.submit(put_one, queue.producer());
    gate.put(7);
    CHECK(front.get() == 7);
    last.get();
    last = {};
    auto has_ended = [&] {
        try {
            (void)queue.try_get();
            return false;
        } catch (const sidestep::QueueShutDown&) {
            return true;
        }
    };
    CHECK(test::eventually(has_ended));
    CHECK(pool.apply([](int x) { return x; }, 5) == 5);  // the worker goes on
}

}  // namespace handles_test
