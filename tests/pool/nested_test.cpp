// this_task::pool(): tasks that submit to the pool that runs them, and wait.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <sidestep/queue.hpp>
#include <sidestep/task_pool.hpp>

#include "both_pools.hpp"
#include "policy_support.hpp"

namespace nested_test {

namespace {

using sidestep::Future;
namespace this_task = sidestep::this_task;
using test::get;
using test::SharedWords;

long fib(int n) {
    if (n < 2) return n;
    Future<long> left = this_task::pool().submit(fib, n - 1);
    Future<long> right = this_task::pool().submit(fib, n - 2);
    return left.get() + right.get();
}
long chain(int n) { return n == 0 ? 0 : 1 + this_task::pool().submit(chain, n - 1).get(); }

std::vector<int> sorted(const std::vector<int>& items) {
    if (items.size() < 200) {
        std::vector<int> all = items;
        std::sort(all.begin(), all.end());
        return all;
    }
    std::vector<int> below, above;
    for (int item : items) (item < items[items.size() / 2] ? below : above).push_back(item);
    if (below.empty() || above.empty()) {
        std::sort(above.begin(), above.end());
        return above;
    }
    Future<std::vector<int>> left = this_task::pool().submit(sorted, below);
    std::vector<int> right = this_task::pool().submit(sorted, above).get();
    std::vector<int> all = left.get();
    all.insert(all.end(), right.begin(), right.end());
    return all;
}

int fail(const std::string& text) { throw std::out_of_range(text); }
std::string what_it_throws(const std::string& text) {
    try {
        return std::to_string(this_task::pool().submit(fail, text).get());
    } catch (const std::out_of_range& error) {
        return error.what();
    }
}

int signal_of(const Future<int>& future) {
    try {
        return future.get();
    } catch (const sidestep::WorkerLost& lost) {
        return 1000 + lost.exit_status().signal();
    }
}

// Waits for one that waits at the gate.
std::uint64_t wait_for_gate(const std::string& path) {
    SharedWords::attach(path)[test::kExtra] = std::uint64_t(::getpid());
    return this_task::pool().submit(test::wait_at, path, test::kTell, test::kGate).get();
}

std::size_t words_of(std::size_t size) {
    return this_task::pool()
        .submit([](std::vector<std::string> all) { return all.size(); },
                std::vector<std::string>(size, "word"))
        .get();
}

}  // namespace

TEST_CASE("tasks that submit to their own pool, and wait, come to an end", "[pool][nested]") {
    const auto method = GENERATE(from_range(test::methods()));
    const unsigned processes = GENERATE(1u, 2u);
    sidestep::Pool pool({.processes = processes, .start_method = method});
    CHECK(get(pool.submit(fib, 10)) == 55);
    CHECK(get(pool.submit(chain, 30)) == 30);
}

TEMPLATE_TEST_CASE("nested tasks run in threads, and in the thread that submits", "[pool][nested]",
                   test::Threads, test::Inline) {
    TestType kind;
    CHECK(get(kind.pool.submit(fib, 10)) == 55);
    CHECK(get(kind.pool.submit(chain, 30)) == 30);
    CHECK(get(kind.pool.submit(what_it_throws, "nested")) == "nested");
    CHECK(get(kind.pool.submit([] {
              return this_task::pool().map([](int x) { return x * x; }, std::vector{1, 2, 3});
          })) == std::vector{1, 4, 9});
}

TEST_CASE("many tasks that wait are as good as few, and the pool has twice its workers at most",
          "[pool][nested]") {
    sidestep::Pool pool({.processes = 2});
    std::vector<Future<long>> futures;
    for (int i = 0; i < 40; ++i) futures.push_back(pool.submit(fib, 5));
    std::size_t most = 0;
    CHECK(test::eventually([&] {
        most = std::max(most, pool.worker_pids().size());
        return std::all_of(futures.begin(), futures.end(), [](auto& f) { return f.ready(); });
    }));
    for (auto& future : futures) CHECK(get(future) == 5);
    CHECK(most > 2);
    CHECK(most <= 4);
    CHECK(pool.processes() == 2);
    CHECK(test::eventually([&] { return pool.worker_pids().size() == 2; }));  // the others leave
    CHECK(get(pool.submit(fib, 8)) == 21);
}

TEST_CASE("while one worker is busy for long, those that wait run what nobody has begun",
          "[pool][nested]") {
    SharedWords words(test::kWords);
    sidestep::Pool pool({.processes = 2});
    auto busy = pool.submit(test::wait_at, words.path(), test::kTell, test::kGate);
    (void)test::await(words[test::kTell]);
    std::vector<Future<long>> futures;
    for (int i = 0; i < 20; ++i) futures.push_back(pool.submit(fib, 7));
    for (auto& future : futures) CHECK(get(future) == 13);
    words[test::kGate] = 1;
    CHECK(get(busy) == 1);
}

TEST_CASE("values travel to nested tasks and back", "[pool][nested]") {
    sidestep::Pool pool({.processes = 1});
    std::vector<int> items(20'000);
    for (std::size_t i = 0; i < items.size(); ++i)
        items[i] = static_cast<int>((i * 7919) % items.size());
    std::vector<int> expected = items;
    std::sort(expected.begin(), expected.end());
    CHECK(get(pool.submit(sorted, items)) == expected);
    CHECK(get(pool.submit(words_of, std::size_t(100'000))) == 100'000);
}

TEST_CASE("a nested map has its results in order", "[pool][nested]") {
    sidestep::Pool pool({.processes = 2});
    auto squares = pool.submit(
        [](int count) {
            return this_task::pool().map([](int x) { return long(x) * x; }, test::numbers(count));
        },
        1000);
    std::vector<long> expected;
    for (long x = 0; x < 1000; ++x) expected.push_back(x * x);
    CHECK(get(squares) == expected);
    CHECK(get(pool.submit([] {
              return this_task::pool().map(test::square, std::vector<long>()).size();
          })) == 0);
    SharedWords words(1);
    get(pool.submit(
        [](const std::string& path) {
            this_task::pool().map(
                sidestep::bind([](const std::string& at, std::size_t) { test::bump(at, 0); }, path),
                test::numbers(std::size_t(0), std::size_t(50)));
        },
        words.path()));
    CHECK(words[0] == 50);
    CHECK(get(pool.submit([] {
              try {
                  (void)this_task::pool().map(fail, std::vector<std::string>{"first", "second"});
              } catch (const std::out_of_range& error) {
                  return std::string(error.what());
              }
              return std::string();
          })) == "first");
}

TEST_CASE("what a nested task throws is thrown by get() in the outer one, by type",
          "[pool][nested]") {
    sidestep::Pool pool({.processes = GENERATE(1u, 2u)});
    CHECK(get(pool.submit(what_it_throws, "nested")) == "nested");
    CHECK_THROWS_AS(get(pool.submit([] { return this_task::pool().submit(fail, "x").get(); })),
                    std::out_of_range);
}

TEST_CASE("the death of a nested task's worker is WorkerLost in the outer one", "[pool][nested]") {
    sidestep::Pool pool({.processes = 1, .start_method = GENERATE(from_range(test::methods()))});
    auto outer = pool.submit(
        [](int signal) { return signal_of(this_task::pool().submit(test::die, signal)); }, SIGKILL);
    CHECK(get(outer) == 1000 + SIGKILL);
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
}

TEST_CASE("when all workers wait, the nested task that crashes takes those with it that wait there",
          "[pool][nested]") {
    sidestep::Pool pool({.processes = 1});
    auto outer = pool.submit([] {
        return signal_of(this_task::pool().submit(
            [] { return signal_of(this_task::pool().submit(test::die, SIGKILL)); }));
    });
    CHECK(get(outer) == 1000 + SIGKILL);
    CHECK(get(pool.submit(fib, 5)) == 5);
}

TEST_CASE("what the tasks of a dead worker waited for is cancelled", "[pool][nested]") {
    SharedWords words(test::kWords);
    sidestep::Pool pool({.processes = 1});
    auto outer = pool.submit(wait_for_gate, words.path());
    const auto inner = static_cast<pid_t>(test::await(words[test::kTell]));
    REQUIRE(inner != static_cast<pid_t>(words[test::kExtra].load()));
    ::kill(static_cast<pid_t>(words[test::kExtra].load()), SIGKILL);
    CHECK(test::error_of<sidestep::WorkerLost>(outer).exit_status().signal() == SIGKILL);
    CHECK(test::eventually([&] { return !test::process_exists(inner); }));
    CHECK(words[test::kGate] == 0);
    CHECK(get(pool.submit(fib, 5)) == 5);
}

TEST_CASE("a task that waits for a nested one can be cancelled, and the pool terminated",
          "[pool][nested]") {
    SharedWords words(test::kWords);
    sidestep::Pool pool({.processes = 1});
    auto outer = pool.submit(wait_for_gate, words.path());
    (void)test::await(words[test::kTell]);
    SECTION("cancelled") {
        CHECK(outer.cancel());
        CHECK_THROWS_AS(get(outer), sidestep::CancelledError);
        CHECK(get(pool.submit(fib, 5)) == 5);
    }
    SECTION("terminated") {
        pool.terminate();
        pool.join();
        CHECK_THROWS_AS(get(outer), sidestep::CancelledError);
    }
    SECTION("closed: both are finished") {
        pool.close();
        words[test::kGate] = 7;
        pool.join();
        CHECK(get(outer) == 7);
    }
}

TEST_CASE("a pool that is closed takes the nested tasks of those that it has", "[pool][nested]") {
    SharedWords words(test::kWords);
    sidestep::Pool pool({.processes = 1});
    auto outer = pool.submit(
        [](const std::string& path) {
            (void)test::wait_at(path, test::kTell, test::kGate);
            return fib(6);
        },
        words.path());
    (void)test::await(words[test::kTell]);
    pool.close();
    words[test::kGate] = 1;
    pool.join();
    CHECK(get(outer) == 8);
}

TEST_CASE("nested tasks that nobody waits for go on when their outer one ends", "[pool][nested]") {
    SharedWords words(test::kWords);
    sidestep::Pool pool({.processes = 1, .max_tasks_per_child = GENERATE(0u, 1u)});
    get(pool.submit(
        [](const std::string& path) {
            for (int i = 0; i < 10; ++i) this_task::pool().submit(test::bump, path, test::kCount);
        },
        words.path()));
    pool.close();
    pool.join();
    CHECK(words[test::kCount] == 10);
}

TEST_CASE("a nested task is cancelled by its future", "[pool][nested]") {
    SharedWords words(test::kWords);
    sidestep::Pool pool({.processes = 1});
    auto outer = pool.submit(
        [](const std::string& path) {
            sidestep::TaskPool own = this_task::pool();
            auto first = own.submit(test::wait_at, path, test::kTell, test::kGate);
            auto second = own.submit(test::bump, path, test::kCount);
            const bool waiting = second.cancel();
            const bool in_time = first.wait_for(std::chrono::milliseconds(1));
            const bool running = first.cancel();
            return std::vector<bool>{waiting, second.cancelled(), in_time,
                                     running, first.cancelled(),  first.cancel()};
        },
        words.path());
    CHECK(get(outer) == std::vector<bool>{true, true, false, true, true, true});
    CHECK(words[test::kCount] == 0);
    CHECK(get(pool.submit(fib, 5)) == 5);
}

TEST_CASE("get() of a nested task with a timeout throws when that is over", "[pool][nested]") {
    SharedWords words(test::kWords);
    sidestep::Pool pool({.processes = 1});
    auto outer = pool.submit(
        [](const std::string& path) {
            auto nested = this_task::pool().submit(test::wait_at, path, test::kTell, test::kGate);
            std::string text;
            try {
                nested.get(std::chrono::milliseconds(1));
            } catch (const sidestep::TimeoutError&) {
                text = "late";
            }
            SharedWords::attach(path)[test::kGate] = 3;
            return text + std::to_string(nested.get());
        },
        words.path());
    CHECK(get(outer) == "late3");
}

TEST_CASE("nested tasks are waited for in the order in which they end", "[pool][nested]") {
    sidestep::Pool pool({.processes = GENERATE(1u, 2u)});
    auto outer = pool.submit([] {
        std::vector<Future<long>> futures;
        for (long i = 0; i < 20; ++i)
            futures.push_back(this_task::pool().submit([](long x) { return chain(3) + x; }, i));
        long sum = 0;
        for (const Future<long>& done : sidestep::as_completed(futures)) sum += done.get();
        return sum;
    });
    CHECK(get(outer) == 20 * 3 + 190);
}

TEST_CASE("callbacks of nested tasks may submit and wait", "[pool][nested]") {
    sidestep::Pool pool({.processes = 1});
    auto outer = pool.submit([] {
        sidestep::TaskPool own = this_task::pool();
        sidestep::Promise<long> promise;
        own.submit(chain, 2).add_done_callback([&](const Future<long>& done) {
            promise.set_value(done.get() + own.submit(chain, 3).get());
        });
        return promise.future().get();
    });
    CHECK(get(outer) == 5);
}

TEST_CASE("handles are arguments of nested tasks", "[pool][nested]") {
    sidestep::Pool pool({.processes = GENERATE(0u, 1u, 2u)});
    sidestep::Queue<int> queue(256);
    // Each is given on to two more, until the last ones run inside of others.
    struct Give {
        static void on(sidestep::Queue<int> to, int depth) {
            to.put(depth);
            if (depth == 0) return;
            auto left = this_task::pool().submit(&on, to, depth - 1);
            this_task::pool().submit(&on, to, depth - 1).get();
            left.get();
        }
    };
    get(pool.submit(&Give::on, queue, 5));
    int count = 0, sum = 0;
    while (auto item = queue.try_get()) {
        ++count;
        sum += *item;
    }
    CHECK(count == 63);
    CHECK(sum == 5 + 2 * 4 + 4 * 3 + 8 * 2 + 16 * 1);
}

TEST_CASE("this_task::pool() outside of a task says that there is none", "[pool][nested]") {
    CHECK_THROWS_AS(this_task::pool(), std::logic_error);
    sidestep::Pool pool({.processes = 1, .initializer = [] {
                             try {
                                 (void)this_task::pool();
                                 std::abort();
                             } catch (const std::logic_error&) {
                             }
                         }});
    CHECK(get(pool.submit([] { return this_task::pool().processes(); })) == 1);
}

TEST_CASE("a forked copy of a worker cannot submit", "[pool][nested]") {
    sidestep::Pool pool({.processes = 1});
    auto outer = pool.submit([] {
        sidestep::TaskPool own = this_task::pool();
        auto before = own.submit(test::square, 3);
        const pid_t child = ::fork();
        if (child == 0) {
            try {
                (void)own.submit(test::square, 4);
            } catch (const std::logic_error&) {
                ::_exit(7);
            }
            ::_exit(1);
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        return WEXITSTATUS(status) * 100 + int(before.get());
    });
    CHECK(get(outer) == 709);
}

TEST_CASE("a task that has closed its worker's descriptors is told so", "[pool][nested]") {
    sidestep::Pool pool({.processes = 1});
    auto outer = pool.submit([] {
        auto before = this_task::pool().submit(test::square, 3);
        for (int fd = 3; fd < 1000; ++fd) ::close(fd);
        try {
            (void)this_task::pool().submit(test::square, 4).get();
        } catch (const std::exception&) {
            return true;
        }
        return false;
    });
    CHECK(get(outer));
    CHECK(test::eventually([&] {  // that worker is replaced
        auto next = pool.submit(fib, 5);
        return !next.exception() && next.get() == 5;
    }));
}

namespace {

// While it lives, this process gets no descriptor.
class NoDescriptors {
  public:
    NoDescriptors() {
        getrlimit(RLIMIT_NOFILE, &before_);
        const int free = dup(0);
        close(free);
        const rlimit none = {static_cast<rlim_t>(free), before_.rlim_max};
        setrlimit(RLIMIT_NOFILE, &none);
    }
    ~NoDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }
    NoDescriptors(const NoDescriptors&) = delete;
    NoDescriptors& operator=(const NoDescriptors&) = delete;

  private:
    rlimit before_ = {};
};

bool fails_then_works(const std::string& path) {
    bool failed = false;
    test::wait_at(path, test::kTell, test::kGate);
    try {
        (void)this_task::pool().submit(test::square, 3).get();
    } catch (const sidestep::PoolError&) {
        failed = true;
    }
    test::wait_at(path, test::kCount, test::kExtra);
    return failed && this_task::pool().submit(test::square, 4).get() == 16;
}

}  // namespace

TEST_CASE("a pool's process that is out of descriptors fails a nested task, and the next one goes",
          "[pool][nested][shortage]") {
    const auto method = GENERATE(from_range(test::methods()));
    SharedWords words(test::kWords);
    sidestep::Pool pool({.processes = 1, .start_method = method});
    auto outer = pool.submit(fails_then_works, words.path());
    test::await(words[test::kTell]);
    {
        NoDescriptors none;
        words[test::kGate] = 1;
        test::await(words[test::kCount]);
    }
    words[test::kExtra] = 1;
    CHECK(get(outer));
}

TEST_CASE("nested tasks have numbers and seeds of their own, wherever they run", "[pool][nested]") {
    struct Look {
        static std::set<std::uint64_t> at(int depth) {
            std::set<std::uint64_t> seeds{this_task::random_seed()};
            if (depth == 0) return seeds;
            for (int i = 0; i < 2; ++i) seeds.merge(this_task::pool().submit(&at, depth - 1).get());
            return seeds;
        }
    };
    sidestep::Pool pool({.processes = 1, .seed = 42});
    CHECK(get(pool.submit(&Look::at, 4)).size() == 31);
}

TEST_CASE("a pool is resized while its tasks wait", "[pool][nested]") {
    SharedWords words(test::kWords);
    sidestep::Pool pool({.processes = 2});
    auto outer = pool.submit(wait_for_gate, words.path());
    (void)test::await(words[test::kTell]);
    const unsigned size = GENERATE(1u, 3u);
    pool.resize(size);
    if (size > 1) CHECK(get(pool.submit(fib, 8)) == 21);
    words[test::kGate] = 5;
    CHECK(get(outer) == 5);
    CHECK(get(pool.submit(fib, 8)) == 21);
}

}  // namespace nested_test
