// What a pool says about its workers and tasks: stats(), and the histograms in it.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/histogram.hpp>
#include <sidestep/thread_pool.hpp>

#include "pool_support.hpp"

namespace stats_test {

namespace mp = sidestep;
using test::methods;
using namespace std::chrono_literals;

namespace {

// So long by its own clock: it works all the time.
int work_for(int ms) {
    auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
    while (std::chrono::steady_clock::now() < end) {
    }
    return ms;
}
int refuse(int x) { throw std::domain_error("refused " + std::to_string(x)); }
void initialize_for(int ms) { work_for(ms); }

// Takes long to read, and nothing else.
struct SlowToRead {
    int value = 0;
    template <class Archive>
    void save(Archive& archive) const {
        archive(value);
    }
    template <class Archive>
    void load(Archive& archive) {
        archive(value);
        work_for(value);
    }
};
int value_of(const SlowToRead& s) { return s.value; }

std::uint64_t tasks_of(const mp::PoolStats& stats) {
    std::uint64_t sum = 0;
    for (const mp::WorkerStats& w : stats.workers) sum += w.tasks;
    return sum;
}

}  // namespace

TEST_CASE("stats() counts tasks, failures and what each worker ran", "[pool][stats]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<mp::Future<int>> futures;
    for (int i = 0; i < 50; ++i) futures.push_back(pool.submit(test::add, i, 1));
    auto failing = pool.submit(refuse, 1);
    for (auto& f : futures) f.get();
    CHECK_THROWS_AS(failing.get(), std::domain_error);

    mp::PoolStats stats = pool.stats();
    CHECK(stats.submitted == 51);
    CHECK(stats.completed == 51);
    CHECK(stats.failed == 1);
    CHECK(stats.cancelled == 0);
    CHECK(stats.retried == 0);
    CHECK(stats.worker_deaths == 0);
    CHECK(stats.waiting == 0);
    CHECK(stats.running == 0);
    CHECK(stats.run.count() == 51);
    CHECK(stats.wait.count() >= 1);
    CHECK(stats.wait.count() <= 51);
    CHECK(tasks_of(stats) == 51);
    REQUIRE(stats.workers.size() == 2);
    std::vector<int> pids = pool.worker_pids();
    for (const mp::WorkerStats& w : stats.workers) {
        CHECK(w.pid == pids[w.index]);
        CHECK(w.restarts == 0);
        CHECK(w.resident > 0);
        CHECK(w.proportional > 0);
        CHECK(w.serialize <= w.work);
        CHECK(w.init == 0ns);
    }
}

TEST_CASE("a worker's time is start, initializer, work and wait", "[pool][stats]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool(
        {.processes = 1, .start_method = method, .initializer = mp::bind(initialize_for, 20)});
    auto before = std::chrono::steady_clock::now();
    pool.apply(work_for, 30);
    // That it is ready the supervisor may hear after the task's end.
    CHECK(test::eventually([&] { return pool.stats().workers.at(0).start > 0ns; }));
    mp::WorkerStats worker = pool.stats().workers.at(0);
    CHECK(worker.init >= 20ms);
    CHECK(worker.start >= worker.init);
    CHECK(worker.work >= 30ms);
    CHECK(worker.work <= std::chrono::steady_clock::now() - before);
    CHECK(worker.serialize <= worker.work);
    CHECK(test::eventually([&] { return pool.stats().workers[0].wait > worker.wait; }));
}

TEST_CASE("the time to read arguments is told apart from the work", "[pool][stats]") {
    mp::Pool pool({.processes = 1});
    CHECK(pool.apply(value_of, SlowToRead{20}) == 20);
    mp::WorkerStats worker = pool.stats().workers.at(0);
    CHECK(worker.serialize <= worker.work);
    CHECK(worker.serialize > worker.work / 4);
}

TEST_CASE("a task that runs and those that wait for it are seen", "[pool][stats]") {
    test::SharedWords words(2);
    mp::Pool pool({.processes = 1});
    auto first = pool.submit(test::wait_at, words.path(), 0, 1);
    auto second = pool.submit(test::add, 1, 2);
    test::await(words[0]);
    mp::PoolStats stats = pool.stats();
    CHECK(stats.running == 1);
    CHECK(stats.waiting == 1);
    CHECK(stats.completed == 0);
    auto work = stats.workers.at(0).work;
    CHECK(test::eventually([&] { return pool.stats().workers[0].work > work; }));
    words[1] = 1;
    second.get();
    stats = pool.stats();
    CHECK(stats.running + stats.waiting == 0);
    CHECK(stats.wait.count() == 2);
    CHECK(stats.wait.max() >= stats.run.quantile(0));
}

TEST_CASE("what a killed worker had done is not lost, and its successor is counted",
          "[pool][stats]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    pool.apply(work_for, 20);
    CHECK_THROWS_AS(pool.apply(test::die, SIGKILL), mp::WorkerLost);
    CHECK(pool.apply(test::add, 1, 2) == 3);
    mp::PoolStats stats = pool.stats();
    CHECK(stats.worker_deaths == 1);
    CHECK(stats.failed == 1);
    CHECK(stats.run.count() == 3);
    const mp::WorkerStats& worker = stats.workers.at(0);
    CHECK(worker.restarts == 1);
    CHECK(worker.tasks == 2);
    CHECK(worker.work >= 20ms);
    CHECK(worker.pid == pool.worker_pids().at(0));
}

TEST_CASE("retries and cancelled tasks are counted, and a worker that left is no death",
          "[pool][stats]") {
    mp::Pool pool({.processes = 1, .max_tasks_per_child = 1});
    auto f = pool.submit({.retry = {.max_attempts = 3}}, refuse, 1);
    CHECK_THROWS_AS(f.get(), std::domain_error);
    CHECK(pool.stats().retried == 2);
    CHECK(pool.stats().failed == 1);
    CHECK(pool.stats().workers.at(0).tasks == 3);
    CHECK(pool.stats().workers.at(0).restarts >= 2);
    CHECK(pool.stats().worker_deaths == 0);

    test::SharedWords words(2);
    auto running = pool.submit(test::wait_at, words.path(), 0, 1);
    auto waiting = pool.submit(test::add, 1, 2);
    test::await(words[0]);
    CHECK(waiting.cancel());
    words[1] = 1;
    running.get();
    CHECK(pool.stats().cancelled == 1);
    CHECK(pool.stats().failed == 1);
}

TEST_CASE("the slowest tasks come first, by name, and are ten at most", "[pool][stats]") {
    mp::Pool pool({.processes = 2});
    for (int i = 0; i < 30; ++i) pool.apply(test::add, i, i);
    pool.apply(work_for, 40);
    auto stopped = pool.submit({.timeout = 30ms}, work_for, 60'000);
    CHECK_THROWS_AS(stopped.get(), mp::TaskTimeout);
    mp::PoolStats stats = pool.stats();
    REQUIRE(stats.slowest.size() == 10);
    CHECK(std::is_sorted(stats.slowest.begin(), stats.slowest.end(),
                         [](const auto& a, const auto& b) { return a.duration > b.duration; }));
    int named = 0;
    for (const mp::SlowTask& task : stats.slowest) {
        CHECK(task.worker < 2);
        if (task.number == 31 || task.number == 32) {
            CHECK_THAT(task.name, Catch::Contains("work_for(int)"));
            CHECK(task.duration >= 30ms);
            ++named;
        }
    }
    CHECK(named == 2);
    CHECK(stats.run.max() == stats.slowest.front().duration);
    CHECK(stats.run.count() == 32);
}

TEST_CASE("the chunks of a map are tasks, and lambdas have their type as name", "[pool][stats]") {
    mp::Pool pool({.processes = 2});
    auto results = pool.map([](int x) { return x + 1; }, test::numbers(100), {.chunksize = 10});
    CHECK(results.size() == 100);
    mp::PoolStats stats = pool.stats();
    CHECK(stats.submitted == 10);
    CHECK(stats.completed == 10);
    CHECK(stats.failed == 0);
    CHECK(tasks_of(stats) == 10);
    REQUIRE(stats.slowest.size() == 10);
    CHECK_THAT(stats.slowest[0].name, Catch::Contains("lambda"));
}

TEST_CASE("a pool without workers has statistics of its tasks", "[pool][stats]") {
    mp::Pool pool({.processes = 0});
    CHECK(pool.apply(work_for, 5) == 5);
    CHECK_THROWS_AS(pool.submit({.retry = {.max_attempts = 2}}, refuse, 1).get(),
                    std::domain_error);
    mp::PoolStats stats = pool.stats();
    CHECK(stats.workers.empty());
    CHECK(stats.completed == 2);
    CHECK(stats.failed == 1);
    CHECK(stats.retried == 1);
    CHECK(stats.run.count() == 3);
    CHECK(stats.run.max() >= 5ms);
    CHECK_THAT(stats.describe(), Catch::Contains("2 completed"));
}

TEST_CASE("statistics are there after the pool has ended, and not in a forked copy",
          "[pool][stats]") {
    mp::Pool pool({.processes = 1});
    pool.apply(test::add, 1, 2);
    pid_t child = fork();
    if (child == 0) {
        try {
            (void)pool.stats();
            _exit(1);
        } catch (const std::logic_error&) {
            _exit(0);
        }
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
    pool.close();
    pool.join();
    mp::PoolStats stats = pool.stats();
    CHECK(stats.completed == 1);
    CHECK(stats.workers.at(0).pid == 0);
    CHECK(stats.workers.at(0).resident == 0);
    CHECK(stats.workers.at(0).tasks == 1);
    CHECK(stats.workers.at(0).work > 0ns);
}

TEST_CASE("describe() is a table with a row for each worker", "[pool][stats]") {
    mp::Pool pool({.processes = 2});
    pool.apply(test::add, 1, 2);
    std::string text = pool.stats().describe();
    CAPTURE(text);
    for (const char* part :
         {"tasks (a chunk of a map is one): 1 submitted, 1 completed", "wait ", "run ", "99 %",
          "again", "serial", "PSS", "slowest:", "test::add(int, int)"})
        CHECK_THAT(text, Catch::Contains(part));
    for (int pid : pool.worker_pids()) CHECK_THAT(text, Catch::Contains(std::to_string(pid)));
}

TEST_CASE("describe() fits 80 columns, whatever the numbers are", "[pool][stats]") {
    mp::PoolStats stats;
    mp::WorkerStats worker;
    worker.index = 1023;
    worker.pid = 4'194'304;
    worker.stopped = true;
    worker.tasks = 99'999'999;
    worker.restarts = 99'999;
    worker.start = worker.init = worker.wait = worker.work = worker.serialize = 999'999us;
    worker.resident = worker.proportional = std::size_t(99'999) << 20;
    stats.workers = {worker, {}};
    stats.slowest = {{99'999'999, 1023, 999'900us, std::string(200, 'f')}};
    stats.submitted = stats.completed = stats.failed = stats.cancelled = 99'999'999;
    stats.retried = stats.waiting = stats.running = 99'999'999;
    for (auto time : {999ns, 999'600ns, 999'999'999ns, 999'999'999'999ns, 1'000'000'000'000'000ns})
        for (int i = 0; i < 1000; ++i) stats.wait.add(time), stats.run.add(time);
    const std::string text = stats.describe();
    CAPTURE(text);
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) CHECK(line.size() <= 80);
    CHECK_THAT(text,
               Catch::Contains("99999999") && Catch::Contains("1 s") && !Catch::Contains("e+"));
}

TEST_CASE("stats() tells what each worker runs now", "[pool][stats]") {
    test::SharedWords words(2);
    mp::Pool pool({.processes = 1});
    CHECK(pool.stats().workers.at(0).task == 0);
    auto task = pool.submit({.name = "wait for it"}, test::wait_at, words.path(), std::size_t(0),
                            std::size_t(1));
    test::await(words[0]);
    mp::WorkerStats worker = pool.stats().workers.at(0);
    CHECK(worker.task == 1);
    CHECK_THAT(worker.task_name, Catch::Contains("wait for it"));
    CHECK(test::eventually([&] { return pool.stats().workers.at(0).task_time > 1ms; }));
    words[1] = 1;
    CHECK(test::eventually([&] { return task.ready(); }));
    CHECK(pool.stats().workers.at(0).task == 0);
}

TEST_CASE("a histogram has the mean and the maximum exactly, and quantiles within an eighth",
          "[pool][stats][histogram]") {
    mp::Histogram h;
    CHECK(h.count() == 0);
    CHECK(h.mean() == 0ns);
    CHECK(h.quantile(0.5) == 0ns);
    CHECK(h.buckets().empty());
    for (int i = 1; i <= 1000; ++i) h.add(std::chrono::nanoseconds(i * 1000));
    CHECK(h.count() == 1000);
    CHECK(h.mean() == 500'500ns);
    CHECK(h.max() == 1'000'000ns);
    for (double part : {0.01, 0.1, 0.5, 0.9, 0.99, 1.0}) {
        double found = static_cast<double>(h.quantile(part).count());
        CAPTURE(part, found);
        CHECK(found >= 0.875 * part * 1e6);
        CHECK(found <= 1.125 * part * 1e6 + 1);
    }
    CHECK(h.quantile(0) <= h.quantile(1));
    CHECK_THROWS_AS(h.quantile(-0.1), std::invalid_argument);
    CHECK_THROWS_AS(h.quantile(1.1), std::invalid_argument);
}

TEST_CASE("every duration has its bucket in a histogram", "[pool][stats][histogram]") {
    auto longest = std::chrono::nanoseconds::max();
    for (auto ns : {0ns, 1ns, 3ns, 4ns, 5ns, 7ns, 8ns, 1023ns, 1024ns, 1025ns, longest}) {
        mp::Histogram h;
        h.add(ns);
        auto buckets = h.buckets();
        REQUIRE(buckets.size() == 1);
        CHECK(buckets[0].count == 1);
        CHECK(buckets[0].from <= ns);
        CHECK((ns < buckets[0].to || ns == longest));
        CHECK(h.quantile(1) <= ns);
    }
    mp::Histogram h;
    h.add(-5ns);
    CHECK(h.max() == 0ns);
    CHECK(h.count() == 1);
}

TEST_CASE("stats() of a thread pool count tasks, threads and what came of them", "[pool][stats]") {
    mp::ThreadPool pool({.threads = 2});
    std::atomic<bool> open{false};
    auto slow = pool.submit([&] {
        open.wait(false);
        return 1;
    });
    REQUIRE(test::eventually([&] { return slow.running(); }));  // in thread 0; the key is for 1
    auto sticky = pool.submit({.key = 7}, [] { return 2; });
    auto wrong = pool.submit({.retry = {.max_attempts = 3}},
                             []() -> int { throw std::runtime_error("no"); });
    CHECK(sticky.get() == 2);
    CHECK_THROWS_AS(wrong.get(), std::runtime_error);
    CHECK(test::eventually([&] { return pool.stats().completed == 2; }));
    mp::PoolStats stats = pool.stats();
    CHECK(stats.submitted == 3);
    CHECK(stats.running == 1);
    CHECK(stats.waiting == 0);
    CHECK(stats.failed == 1);
    CHECK(stats.retried == 2);
    open = true;
    open.notify_all();
    CHECK(slow.get() == 1);
    CHECK(test::eventually([&] { return pool.stats().completed == 3; }));
    stats = pool.stats();
    CHECK(stats.run.count() == 3);
    CHECK(stats.wait.count() == 3);
    CHECK(tasks_of(stats) == 3);
    REQUIRE(stats.slowest.size() == 3);
    CHECK(stats.slowest.front().number == 1);
    CHECK(stats.slowest.front().name.find("Job") != std::string::npos);
    CHECK(stats.describe().find("3 submitted") != std::string::npos);
}

TEST_CASE("stats() of a thread pool count what was cancelled", "[pool][stats]") {
    mp::ThreadPool pool({.threads = 1});
    std::atomic<bool> open{false};
    auto first = pool.submit([&] { open.wait(false); });
    auto second = pool.submit([] {});
    REQUIRE(second.cancel());
    pool.close();
    open = true;
    open.notify_all();
    pool.join();
    mp::PoolStats stats = pool.stats();
    CHECK(stats.cancelled == 1);
    CHECK(stats.completed == 2);
    CHECK(stats.run.count() == 1);
}

}  // namespace stats_test
