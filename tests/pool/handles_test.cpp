#include <catch2/catch.hpp>

#include <mutex>
#include <set>

#include <sidestep/connection.hpp>
#include <sidestep/lock.hpp>
#include <sidestep/queue.hpp>

#include "pool_support.hpp"

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

TEST_CASE("thousands of tasks with handles wait their turn and leave no descriptor behind",
          "[pool][handles]") {
    sidestep::Pool pool({.processes = 2});
    sidestep::Queue<int> queue(10'000);
    std::vector<sidestep::Future<int>> futures;
    for (int i = 0; i < 2000; ++i) futures.push_back(pool.submit(put_twice, queue, i));
    for (int i = 0; i < 2000; ++i) REQUIRE(futures[static_cast<std::size_t>(i)].get() == i);
    CHECK(queue.size() == 4000);
}

TEST_CASE("a handle in a result is refused with a reason", "[pool][handles]") {
    sidestep::Pool pool({.processes = 1});
    auto task = pool.submit([](sidestep::Lock lock) { return lock; }, sidestep::Lock());
    CHECK_THROWS_AS(task.get(), sidestep::SerializationError);
}
