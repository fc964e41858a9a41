// max_pending: submit() that waits for room, and try_submit() that does not.
#include <atomic>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "both_pools.hpp"
#include "policy_support.hpp"
#include "pool_cases.hpp"

namespace bounded_test {

namespace mp = sidestep;
using test::get;
using test::kGate;
using test::kTell;
using namespace std::chrono_literals;

namespace {

// Pools that take two tasks at a time.
struct TwoInProcesses {
    mp::Pool pool{[] {
        mp::PoolOptions options = test::with_each_method();
        options.max_pending = 2;
        return options;
    }()};
};
struct TwoInThreads {
    mp::ThreadPool pool{{.threads = 2, .max_pending = 2}};
};

// Two tasks that run until the gate opens.
template <class Pool>
struct Full {
    explicit Full(Pool& pool) {
        for (test::Word tell : {kTell, test::kExtra})
            tasks.push_back(
                pool.submit(test::wait_at, words.path(), std::size_t(tell), std::size_t(kGate)));
    }
    ~Full() { open(); }
    void open() { words[kGate] = 1; }
    test::SharedWords words{test::kWords};
    std::vector<mp::Future<std::uint64_t>> tasks;
};

// Counts how often it was moved from.
struct Untouched {
    std::string text = "here";
    template <class Archive>
    void serialize(Archive& archive) {
        archive(text);
    }
};
std::size_t length(const Untouched& u) { return u.text.size(); }

// Has something else happen while it is written, or copied, to be an argument.
struct Interlude {
    static inline std::function<void()> happens;
    Interlude() = default;
    Interlude(const Interlude&) { happen(); }
    Interlude& operator=(const Interlude&) = default;
    template <class Archive>
    void save(Archive&) const {
        happen();
    }
    template <class Archive>
    void load(Archive&) {}
    static void happen() {
        if (auto once = std::exchange(happens, nullptr)) once();
    }
};
int four(const Interlude&) { return 4; }

}  // namespace

CASE_ON("Tasks", "a full pool: try_submit says no, submit waits until there is room",
        "[threads][max_pending]", "a pool without workers is never full", TwoInProcesses,
        TwoInThreads) {
    TestType t;
    Full full(t.pool);
    CHECK_FALSE(t.pool.try_submit(test::add, 1, 2));
    CHECK_FALSE(t.pool.try_submit({.priority = 1}, test::add, 1, 2));
    Untouched argument;
    CHECK_FALSE(t.pool.try_submit(length, std::move(argument)));
    CHECK(argument.text == "here");
    std::atomic<bool> submitted{false};
    mp::Future<int> late;
    std::thread producer([&] {
        late = t.pool.submit(test::add, 1, 2);
        submitted = true;
    });
    CHECK_FALSE(full.tasks[0].wait_for(20ms));  // and the producer has time to be wrong
    CHECK_FALSE(submitted);
    full.open();
    producer.join();
    CHECK(submitted);
    CHECK(get(late) == 3);
    for (auto& task : full.tasks) CHECK(get(task) == 1);
    auto room = t.pool.try_submit(test::add, 3, 4);
    REQUIRE(room);
    CHECK(get(*room) == 7);
    auto with_options = t.pool.try_submit({.priority = 1}, test::add, 5, 6);
    REQUIRE(with_options);
    CHECK(get(*with_options) == 11);
}

CASE_ON("Tasks", "try_submit has its place from the beginning: no other thread takes it meanwhile",
        "[threads][max_pending]", "a pool without workers is never full", TwoInProcesses,
        TwoInThreads) {
    TestType t;
    test::SharedWords words(test::kWords);
    auto held = t.pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
    const Interlude argument;
    std::optional<mp::Future<int>> other;
    Interlude::happens = [&] {
        std::thread([&] { other = t.pool.try_submit(test::add, 1, 2); }).join();
    };
    auto mine = t.pool.try_submit(four, argument);
    CHECK_FALSE(Interlude::happens);
    CHECK_FALSE(other);
    REQUIRE(mine);
    CHECK(get(*mine) == 4);
    // The place is free again, also if nothing came of it.
    Interlude::happens = [] { throw std::domain_error("no"); };
    // (A thread is through with a task a moment after its result is there.)
    CHECK(test::eventually([&] {
        try {
            (void)t.pool.try_submit(four, argument);
            return false;
        } catch (const std::domain_error&) {
            return true;
        }
    }));
    auto next = t.pool.try_submit(test::add, 1, 2);
    REQUIRE(next);
    CHECK(get(*next) == 3);
    words[kGate] = 1;
    CHECK(get(held) == 1);
}

CASE_ON("Tasks", "many producers keep to the bound, and all is done", "[threads][max_pending]",
        "a pool without workers is never full", TwoInProcesses, TwoInThreads) {
    TestType t;
    std::atomic<long> sum{0};
    std::vector<std::thread> producers;
    for (int each = 0; each < 4; ++each)
        producers.emplace_back([&] {
            std::vector<mp::Future<int>> futures;
            for (int i = 0; i < 50; ++i) futures.push_back(t.pool.submit(test::add, i, 0));
            for (auto& future : futures) sum += get(future);
        });
    for (std::thread& producer : producers) producer.join();
    CHECK(sum == 4 * (49 * 50 / 2));
}

CASE_ON("Tasks", "whoever waits for room is told of the pool's end", "[threads][max_pending]",
        "a pool without workers is never full", TwoInProcesses, TwoInThreads) {
    TestType t;
    bool terminates = GENERATE(false, true);
    Full full(t.pool);
    std::atomic<bool> waits{false};
    std::string what;
    std::thread producer([&] {
        waits = true;
        try {
            t.pool.submit(test::add, 1, 2);
        } catch (const std::logic_error& error) {
            what = error.what();
        }
    });
    CHECK(test::eventually([&] { return waits.load(); }));
    if (terminates)
        t.pool.terminate();
    else
        t.pool.close();
    producer.join();
    CHECK_THAT(what, Catch::Contains(terminates ? "terminated" : "closed"));
    CHECK_THROWS_AS(t.pool.try_submit(test::add, 1, 2), std::logic_error);
}

CASE_ON("Tasks", "a callback never waits for room, and a map has its own", "[threads][max_pending]",
        "a pool without workers is never full", TwoInProcesses, TwoInThreads) {
    TestType t;
    Full full(t.pool);
    std::vector<mp::Future<int>> more;
    std::atomic<bool> called{false};
    full.tasks[0].add_done_callback([&](const auto&) {
        for (int i = 0; i < 5; ++i) more.push_back(t.pool.submit(test::add, i, 1));
        if (auto one = t.pool.try_submit(test::add, 5, 1)) more.push_back(*one);
        called = true;
    });
    full.open();
    CHECK(test::eventually([&] { return called.load(); }));
    CHECK(more.size() == 6);
    for (int i = 0; i < 6; ++i) CHECK(get(more[static_cast<std::size_t>(i)]) == i + 1);
    std::vector<long> squares = t.pool.map(test::square, test::numbers(100), {.chunksize = 1});
    CHECK(std::accumulate(squares.begin(), squares.end(), 0L) == 328350);
}

CASE_ON("Tasks", "a task that waits for another one takes room, too", "[threads][max_pending]",
        "a pool without workers is never full", TwoInProcesses, TwoInThreads) {
    TestType t;
    mp::Promise<int> promise;
    auto first = t.pool.submit(test::add, promise.future(), 1);
    auto second = t.pool.submit(test::add, first, 1);
    CHECK_FALSE(t.pool.try_submit(test::add, second, 1));
    promise.set_value(5);
    CHECK(get(t.pool.submit(test::add, second, 1)) == 8);
}

TEST_CASE("a task of a ThreadPool never waits for room in its own pool", "[threads][max_pending]") {
    mp::ThreadPool pool({.threads = 1, .max_pending = 1});
    auto outer = pool.submit([&pool] { return pool.submit(test::add, 1, 2); });
    CHECK(get(get(outer)) == 3);
}

TEST_CASE("a pool without workers is never full", "[pool][max_pending]") {
    mp::Pool pool({.processes = 0, .max_pending = 1});
    for (int i = 0; i < 3; ++i) CHECK(get(pool.submit(test::add, i, 1)) == i + 1);
    CHECK(pool.try_submit(test::add, 1, 2));
}

}  // namespace bounded_test
