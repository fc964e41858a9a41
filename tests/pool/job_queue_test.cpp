// What waits until a thread of a ThreadPool can have it. White box: the class alone, with threads
// that were never started.
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include "threads/job_queue.hpp"

namespace job_queue_test {

using namespace sidestep;
using namespace sidestep::detail;

namespace {

void nothing() {}

struct Waiting {
    explicit Waiting(std::vector<Tokens> tokens = {})
        : pool(ThreadPoolOptions{.threads = 3, .tokens = std::move(tokens)}) {
        for (unsigned index = 0; index < 3; ++index)
            pool.threads.push_back(std::make_unique<PoolThread>(index));
    }
    PoolThread& thread(std::size_t index) POOL_LOCKED { return *pool.threads[index]; }
    ThreadJobPtr make(std::uint64_t number) {
        ThreadJobPtr job = CallJob<void, void (*)()>::make(&nothing);
        job->number = number;
        return job;
    }
    ThreadJobPtr make(std::uint64_t number, TaskOptions options) {
        ThreadJobPtr job = make(number);
        job->extra = std::make_unique<JobExtra>();
        job->extra->options = std::move(options);
        queue.prepare(*job->extra);
        return job;
    }
    void push(std::uint64_t first, std::uint64_t last) POOL_LOCKED {
        for (std::uint64_t number = first; number <= last; ++number) queue.push(make(number));
    }
    // The numbers of what the thread is given: what it may take next.
    std::vector<std::uint64_t> give(PoolThread& thread, std::size_t sharers = 0) POOL_LOCKED {
        std::vector<std::uint64_t> numbers;
        if (!queue.give_next(thread, sharers)) return numbers;
        for (JobList jobs = thread.take_back(); ThreadJobPtr job = jobs.pop();)
            numbers.push_back(job->number);
        queue.take_back(thread);  // it has begun all of them
        return numbers;
    }

    ThreadPoolState pool;
    JobQueue queue{pool};
};
using Numbers = std::vector<std::uint64_t>;

}  // namespace

TEST_CASE("of jobs the higher priority is begun first, then what came first",
          "[pool][rooms][job_queue]") {
    Waiting waiting;
    PoolLock lock(waiting.pool.mutex);
    JobQueue& queue = waiting.queue;
    PoolThread& thread = waiting.thread(0);
    queue.push(waiting.make(1));
    queue.push_in_order(waiting.make(2, {.priority = 1}));
    queue.push_in_order(waiting.make(3, {.name = "equal"}));
    queue.push_in_order(waiting.make(4, {.priority = -1}));
    queue.push(waiting.make(5));
    CHECK(queue.ready() == 5);
    for (std::uint64_t number : {2u, 1u, 3u, 5u, 4u})
        CHECK(waiting.give(thread) == Numbers{number});
    CHECK_FALSE(queue.give_next(thread, 0));
}

TEST_CASE("jobs of the least priorities are begun, and come last", "[pool][rooms][job_queue]") {
    constexpr int kLeast = std::numeric_limits<int>::min();
    const bool with_tokens = GENERATE(false, true);
    Waiting waiting({{"one", 1}});
    PoolLock lock(waiting.pool.mutex);
    JobQueue& queue = waiting.queue;
    PoolThread& thread = waiting.thread(0);
    auto push = [&](std::uint64_t number, int priority) POOL_LOCKED {
        if (!with_tokens) return queue.push_in_order(waiting.make(number, {.priority = priority}));
        queue.push_at_gate(waiting.make(number, {.priority = priority, .uses = {{"one", 1}}}));
    };
    push(1, kLeast);
    push(2, kLeast + 1);
    push(3, std::numeric_limits<int>::max());
    push(4, -1);
    for (std::uint64_t number : {3u, 4u, 2u, 1u}) {
        REQUIRE(queue.give_next(thread, 0));
        ThreadJobPtr job = thread.take_back().pop();
        CHECK(job->number == number);
        if (with_tokens) queue.give_back(*job->extra->tokens);
        queue.take_back(thread);
    }
    CHECK_FALSE(queue.give_next(thread, 0));
}

TEST_CASE("a job with a key waits for its own thread", "[pool][rooms][job_queue]") {
    Waiting waiting;
    PoolLock lock(waiting.pool.mutex);
    JobQueue& queue = waiting.queue;
    queue.push_own(waiting.thread(1), waiting.make(1, {.key = 4}));
    queue.push_in_order(waiting.make(2, {.name = "anybody's"}));
    CHECK(queue.ready() == 1);
    CHECK(waiting.give(waiting.thread(0)) == Numbers{2});
    CHECK(waiting.give(waiting.thread(0)).empty());
    CHECK(waiting.give(waiting.thread(1)) == Numbers{1});
}

TEST_CASE("several jobs are given at once if they are shared, and no others wait",
          "[pool][rooms][job_queue]") {
    Waiting waiting;
    PoolLock lock(waiting.pool.mutex);
    JobQueue& queue = waiting.queue;
    PoolThread& thread = waiting.thread(0);
    waiting.push(1, 10);
    CHECK(waiting.give(thread) == Numbers{1});
    CHECK(waiting.give(thread, 3) == Numbers{2, 3, 4});
    CHECK(waiting.give(thread, 100) == Numbers{5});
    queue.push_own(waiting.thread(1), waiting.make(11, {.priority = 1, .key = 1}));
    CHECK(waiting.give(thread, 2) == Numbers{6});
    CHECK(waiting.give(waiting.thread(1)) == Numbers{11});
    queue.push_in_order(waiting.make(12, {.priority = -1}));
    CHECK(waiting.give(thread, 2) == Numbers{7});
    waiting.push(13, 300);
    JobQueue::Contents all;
    queue.move_everything(all);
    CHECK(all.plain.size() == 3 + 288);
    CHECK(all.others.size() == 1);
    CHECK(queue.size() == 0);
    waiting.push(301, 500);
    CHECK(waiting.give(thread, 1).size() == 64);
}

TEST_CASE("what a thread took and has not begun waits again, in its order",
          "[pool][rooms][job_queue]") {
    Waiting waiting;
    PoolLock lock(waiting.pool.mutex);
    JobQueue& queue = waiting.queue;
    PoolThread& thread = waiting.thread(0);
    waiting.push(1, 4);
    REQUIRE(queue.give_next(thread, 1));
    CHECK(queue.has_batches());
    CHECK(thread.begin()->number == 1);
    CHECK(queue.ready() == 0);
    waiting.push(5, 5);
    CHECK(waiting.give(waiting.thread(1)) == Numbers{5});  // nobody looked for more
    CHECK(waiting.give(waiting.thread(1)) == Numbers{2});
    waiting.push(6, 6);
    for (std::uint64_t number : {3u, 4u, 6u})
        CHECK(waiting.give(waiting.thread(1)) == Numbers{number});
    queue.take_back(thread);
    CHECK_FALSE(queue.has_batches());
}

TEST_CASE("a job waits at the gate until its tokens are given back", "[pool][rooms][job_queue]") {
    Waiting waiting({{"gpu", 1}});
    PoolLock lock(waiting.pool.mutex);
    JobQueue& queue = waiting.queue;
    PoolThread& thread = waiting.thread(0);
    CHECK_THROWS_AS(waiting.make(1, {.uses = {{"cpu", 1}}}), std::invalid_argument);
    for (std::uint64_t number : {1u, 2u})
        queue.push_at_gate(waiting.make(number, {.uses = {{"gpu", 1}}}));
    waiting.push(3, 3);
    CHECK(queue.waits_at_gate());
    REQUIRE(queue.give_next(thread, 0));
    ThreadJobPtr first = thread.begin();
    CHECK(first->number == 1);
    CHECK(queue.ready() == 1);
    CHECK(waiting.give(waiting.thread(1)) == Numbers{3});
    CHECK(waiting.give(waiting.thread(1)).empty());
    queue.give_back(*first->extra->tokens);
    CHECK(waiting.give(waiting.thread(1)) == Numbers{2});
    CHECK_FALSE(queue.waits_at_gate());
}

}  // namespace job_queue_test
