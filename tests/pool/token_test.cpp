// Named tokens: how many tasks of a kind run at once, without workers that wait.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "both_pools.hpp"
#include "policy_support.hpp"
#include "pool_cases.hpp"

namespace token_test {

namespace mp = sidestep;
using test::get;
using test::kCount;
using test::kExtra;
using test::kGate;
using test::kTell;
using namespace std::chrono_literals;

namespace {

const std::vector<mp::Tokens> kTokens{{"gpu", 2}, {"disk", 3}};
const mp::TaskOptions kGpu{.uses = {{"gpu", 1}}};
const mp::TaskOptions kBothGpus{.uses = {{"gpu", 2}}};

struct TokenProcesses {
    mp::Pool pool{[] {
        mp::PoolOptions options = test::with_each_method();
        options.terminate_grace = 50ms;
        options.tokens = kTokens;
        return options;
    }()};
    static constexpr bool kMayDie = true;
};
struct TokenThreads {
    mp::ThreadPool pool{{.threads = 2, .tokens = kTokens}};
    static constexpr bool kMayDie = false;
};

constexpr std::size_t kTwice = 10, kOrder = 11;  // words

// While it lives, this task has so many of `most` places of its own, as the kernel counts it: those
// of a process that dies are free. Counts in kTwice who found none.
class Places {
  public:
    Places(const std::string& path, long first, long most, long count) {
        for (long i = 0; i < most && count > 0; ++i) {
            int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
            struct flock lock {};
            lock.l_type = F_WRLCK;
            lock.l_start = first + i;
            lock.l_len = 1;
            if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) {
                fds_.push_back(fd);
                --count;
            } else {
                ::close(fd);
            }
        }
        if (count > 0) test::bump(path, kTwice);
    }
    ~Places() {
        for (int fd : fds_) ::close(fd);
    }
    Places(const Places&) = delete;
    Places& operator=(const Places&) = delete;

  private:
    std::vector<int> fds_;
};

std::uint64_t wait_in_place(const std::string& path, std::size_t tell, std::size_t gate) {
    Places gpu(path, 0, 2, 1);
    return test::wait_at(path, tell, gate);
}
int keep_place(const std::string& path) {  // also if it is asked to stop
    Places gpu(path, 0, 2, 2);
    return test::ignore_sigterm(path);
}
int keep_place_and_memory(const std::string& path) {
    const std::vector<char> memory(std::size_t(64) << 20, 1);
    return keep_place(path) + memory.back();
}
int take_places(const std::string& path, long count) {
    Places gpu(path, 0, 2, count);
    return static_cast<int>(count);
}
std::uint64_t next_in_order(const std::string& path) { return 1 + test::bump(path, kOrder); }
int add_in_place(const std::string& path, int x) {
    Places gpu(path, 0, 2, 2);
    return x + 1;
}
unsigned wait_until_asked() {
    while (!mp::this_task::stop_requested()) std::this_thread::yield();
    return 0;
}
[[noreturn]] int fail() { throw std::domain_error("no"); }

// A task with `options` that runs until the gate opens; it has begun.
template <class Pool>
mp::Future<std::uint64_t> holder(Pool& pool, test::SharedWords& words,
                                 const mp::TaskOptions& options) {
    auto task =
        pool.submit(options, test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
    test::await(words[kTell]);
    return task;
}

// What std::invalid_argument says; empty: it was not thrown.
std::string refusal(const std::function<void()>& f) {
    try {
        f();
        return {};
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
}

}  // namespace

CASE_ON("Tasks", "a task waits for its tokens, takes no worker, and others go on",
        "[threads][tokens]", "without workers, threads that submit wait for tokens", TokenProcesses,
        TokenThreads) {
    TestType t;
    test::SharedWords words(test::kWords);
    auto first = holder(t.pool, words, kBothGpus);
    std::vector<mp::Future<int>> wait;
    for (int i = 0; i < 5; ++i) wait.push_back(t.pool.submit(kGpu, test::add, i, 1));
    for (int i = 0; i < 20; ++i) CHECK(get(t.pool.submit(test::add, i, 2)) == i + 2);
    CHECK(get(t.pool.submit({.uses = {{"disk", 3}}}, test::add, 3, 4)) == 7);
    for (auto& task : wait) CHECK_FALSE(task.ready());
    mp::PoolStats stats = t.pool.stats();
    REQUIRE(stats.tokens.size() == 2);
    CHECK(stats.tokens[0].name == "gpu");
    CHECK(stats.tokens[0].in_use == 2);
    CHECK(stats.tokens[0].waiting == 5);
    CHECK(stats.tokens[1].waiting == 0);
    CHECK(stats.waiting >= 5);
    CHECK_THAT(stats.describe(), Catch::Contains("tokens: 2 of 2 in use, 5 tasks wait: gpu\n"));
    words[kGate] = 1;
    for (int i = 0; i < 5; ++i) CHECK(get(wait[static_cast<std::size_t>(i)]) == i + 1);
    CHECK(get(first) == 1);
    CHECK(test::eventually([&] { return t.pool.stats().tokens[0].in_use == 0; }));
}

CASE_ON("Tasks", "who needs many tokens is not passed by; the higher priority comes first",
        "[threads][tokens]", "without workers, threads that submit wait for tokens", TokenProcesses,
        TokenThreads) {
    TestType t;
    test::SharedWords words(test::kWords);
    auto first = holder(t.pool, words, kGpu);
    auto many = t.pool.submit(kBothGpus, next_in_order, words.path());
    auto few = t.pool.submit(kGpu, next_in_order, words.path());
    auto urgent = t.pool.submit({.priority = 1, .uses = {{"gpu", 2}}}, next_in_order, words.path());
    CHECK(get(t.pool.submit(test::add, 1, 2)) == 3);
    CHECK(words[kOrder] == 0);
    words[kGate] = 1;
    CHECK(get(urgent) == 1);
    CHECK(get(many) == 2);
    CHECK(get(few) == 3);
}

CASE_ON("Tasks", "tokens come back however their task ends", "[threads][tokens]",
        "without workers, threads that submit wait for tokens", TokenProcesses, TokenThreads) {
    TestType t;
    test::SharedWords words(test::kWords);
    mp::Future<int> next;
    auto submit_next = [&] { next = t.pool.submit(kBothGpus, take_places, words.path(), 2L); };
    SECTION("an error") {
        auto task = t.pool.submit(kBothGpus, fail);
        submit_next();
        CHECK_THROWS_AS(get(task), std::domain_error);
    }
    SECTION("a timeout") {
        auto task = t.pool.submit({.timeout = 5ms, .uses = {{"gpu", 2}}}, wait_until_asked);
        submit_next();
        CHECK_THROWS_AS(get(task), mp::TaskTimeout);
    }
    SECTION("an attempt: none are kept in the pause") {
        if (!TestType::kMayDie) return;
        auto task = t.pool.submit(
            {.retry = {.max_attempts = 2, .backoff = 1h, .max_backoff = 1h}, .uses = {{"gpu", 2}}},
            fail);
        submit_next();
        CHECK(get(next) == 2);
        CHECK(task.cancel());
    }
    SECTION("cancelled before it began") {
        auto first = holder(t.pool, words, kGpu);
        auto task = t.pool.submit(kBothGpus, take_places, words.path(), 2L);
        auto behind = t.pool.submit(kGpu, take_places, words.path(), 1L);
        CHECK(task.cancel());
        CHECK(get(behind) == 1);  // while the first has one
        words[kGate] = 1;
        submit_next();
        CHECK(get(first) == 1);
    }
    SECTION("a worker that dies") {
        if (!TestType::kMayDie) return;
        auto task = t.pool.submit(kBothGpus, test::die, SIGKILL);
        submit_next();
        CHECK_THROWS_AS(get(task), mp::WorkerLost);
    }
    SECTION("workers that die, and an attempt that does not") {
        if (!TestType::kMayDie) return;
        auto task =
            t.pool.submit({.retry = {.max_attempts = 3, .max_crashes = 3}, .uses = {{"gpu", 2}}},
                          test::crash_first, words.path(), std::uint64_t(2));
        submit_next();
        CHECK(get(task) == 3);
    }
    SECTION("cancelled while it runs, and it heeds nothing: when its worker is dead") {
        if (!TestType::kMayDie) return;
        auto task = t.pool.submit(kBothGpus, keep_place, words.path());
        test::await(words[kTell]);
        submit_next();
        CHECK(task.cancel());
    }
    SECTION("too late, and it heeds nothing: when its worker is dead") {
        if (!TestType::kMayDie) return;
        auto task =
            t.pool.submit({.timeout = 5ms, .retry = {.max_attempts = 2}, .uses = {{"gpu", 2}}},
                          keep_place, words.path());
        submit_next();
        CHECK_THROWS_AS(get(task), mp::TaskTimeout);
    }
    SECTION("too much memory") {
        if (!TestType::kMayDie) return;
        auto task = t.pool.submit({.memory_limit = std::size_t(32) << 20, .uses = {{"gpu", 2}}},
                                  keep_place_and_memory, words.path());
        submit_next();
        CHECK_THROWS_AS(get(task), mp::OutOfMemory);
    }
    CHECK(get(next) == 2);
    CHECK(words[kTwice] == 0);
}

CASE_ON("Tasks", "a task that waits for a value has no tokens meanwhile", "[threads][tokens]",
        "without workers, threads that submit wait for tokens", TokenProcesses, TokenThreads) {
    TestType t;
    test::SharedWords words(test::kWords);
    mp::Promise<int> value, none;
    auto late = t.pool.submit(kBothGpus, add_in_place, words.path(), value.future());
    auto never = t.pool.submit(kBothGpus, add_in_place, words.path(), none.future());
    CHECK(get(t.pool.submit(kBothGpus, take_places, words.path(), 2L)) == 2);
    auto first = holder(t.pool, words, kBothGpus);
    value.set_value(4);
    none.set_exception(std::make_exception_ptr(std::domain_error("none")));
    CHECK_THROWS_AS(get(never), std::domain_error);  // at once, whoever has them
    CHECK_FALSE(late.ready());
    words[kGate] = 1;
    CHECK(get(late) == 5);
    CHECK(words[kTwice] == 0);
}

CASE_ON("Tasks", "each chunk of a map has the tokens, and each merge", "[threads][tokens]",
        "without workers, threads that submit wait for tokens", TokenProcesses, TokenThreads) {
    TestType t;
    test::SharedWords words(test::kWords);
    mp::MapOptions options;
    options.chunksize = 2;
    options.task.uses = {{"gpu", 2}};
    const std::string path = words.path();
    auto f = mp::bind(add_in_place, path);
    std::vector<int> items = test::numbers(20), expected = test::numbers(1, 21);
    CHECK(t.pool.map(f, items, options) == expected);
    std::vector<int> unordered;
    for (int each : t.pool.imap_unordered(f, items, options)) unordered.push_back(each);
    std::sort(unordered.begin(), unordered.end());
    CHECK(unordered == expected);
    CHECK(get(t.pool.map_async(f, items, options)) == expected);
    CHECK(t.pool.map_reduce(f, test::add, items, options) == 210);
    CHECK(words[kTwice] == 0);
    options.task.uses = {{"gpu", 3}};
    const char* too_many = "TaskOptions::uses wants 3 of \"gpu\", and the pool has 2";
    CHECK_THAT(refusal([&] { t.pool.map(f, items, options); }), Catch::Contains(too_many));
    CHECK_THAT(refusal([&] { (void)t.pool.imap(f, items, options); }), Catch::Contains(too_many));
    CHECK_THAT(refusal([&] { get(t.pool.map_async(f, items, options)); }),
               Catch::Contains(too_many));
    CHECK_THAT(refusal([&] { t.pool.map_reduce(f, test::add, items, options); }),
               Catch::Contains(too_many));
}

CASE_ON("Tasks", "tasks with a key have tokens, too", "[threads][tokens]",
        "without workers, threads that submit wait for tokens", TokenProcesses, TokenThreads) {
    TestType t;
    test::SharedWords words(test::kWords);
    std::vector<mp::Future<int>> tasks;
    for (std::uint64_t i = 0; i < 40; ++i)
        tasks.push_back(t.pool.submit({.key = i % 5, .uses = {{"gpu", 1 + i % 2}}}, take_places,
                                      words.path(), static_cast<long>(1 + i % 2)));
    for (int i = 0; i < 40; ++i) CHECK(get(tasks[static_cast<std::size_t>(i)]) == 1 + i % 2);
    CHECK(words[kTwice] == 0);
}

CASE_ON("Tasks", "what waits for tokens when the pool ends", "[threads][tokens]",
        "without workers, threads that submit wait for tokens", TokenProcesses, TokenThreads) {
    TestType t;
    test::SharedWords words(test::kWords);
    auto first = holder(t.pool, words, kBothGpus);
    std::vector<mp::Future<int>> wait;
    for (int i = 0; i < 3; ++i) wait.push_back(t.pool.submit(kGpu, test::add, i, 1));
    SECTION("is done, if it is closed") {
        t.pool.close();
        words[kGate] = 1;
        t.pool.join();
        for (int i = 0; i < 3; ++i) CHECK(get(wait[static_cast<std::size_t>(i)]) == i + 1);
        CHECK(get(first) == 1);
    }
    SECTION("is cancelled, if that is asked for") {
        t.pool.shutdown({.wait = false, .cancel_futures = true});
        for (auto& task : wait) CHECK_THROWS_AS(get(task), mp::CancelledError);
        words[kGate] = 1;
        CHECK(get(first) == 1);
        t.pool.join();
    }
    SECTION("is cancelled, if it is terminated") {
        t.pool.terminate();
        words[kGate] = 1;
        for (auto& task : wait) CHECK_THROWS_AS(get(task), mp::CancelledError);
        t.pool.join();
    }
}

TEST_CASE("a pool that is resized keeps what waits for tokens", "[pool][tokens]") {
    mp::PoolOptions options{.processes = 2, .tokens = kTokens};
    test::SharedWords words(test::kWords);
    mp::Pool pool(options);
    auto first = holder(pool, words, kBothGpus);
    std::vector<mp::Future<int>> wait;
    for (std::uint64_t i = 0; i < 6; ++i)
        wait.push_back(pool.submit({.key = i, .uses = {{"gpu", 1}}}, test::add, int(i), 1));
    pool.resize(3);
    CHECK(test::eventually([&] { return pool.worker_pids().size() == 3; }));
    words[kGate] = 1;
    for (int i = 0; i < 6; ++i) CHECK(get(wait[static_cast<std::size_t>(i)]) == i + 1);
}

CASE_ON("Tasks", "what waits for tokens takes room", "[threads][tokens]",
        "without workers, threads that submit wait for tokens", mp::Pool, mp::ThreadPool) {
    auto options = [] {
        if constexpr (std::is_same_v<TestType, mp::Pool>)
            return mp::PoolOptions{.processes = 1, .max_pending = 2, .tokens = kTokens};
        else
            return mp::ThreadPoolOptions{.threads = 1, .max_pending = 2, .tokens = kTokens};
    }();
    TestType pool(options);
    test::SharedWords words(test::kWords);
    auto first = holder(pool, words, kBothGpus);
    auto waits = pool.try_submit(kGpu, test::add, 1, 1);
    REQUIRE(waits);
    CHECK_FALSE(pool.try_submit(kGpu, test::add, 1, 1));
    words[kGate] = 1;
    CHECK(get(*waits) == 2);
}

CASE_ON("Tasks", "tokens that make no sense are refused", "[threads][tokens]",
        "without workers, threads that submit wait for tokens", TokenProcesses, TokenThreads) {
    TestType t;
    auto uses = [&](const std::vector<mp::Tokens>& tokens) {
        return refusal([&] { t.pool.submit({.uses = tokens}, test::add, 1, 2); });
    };
    CHECK_THAT(uses({{"gpux", 1}}),
               Catch::Equals("TaskOptions::uses names \"gpux\", and the pool has no tokens of that "
                             "name; its options say which there are: .tokens = {{\"gpux\", 1}}"));
    CHECK(uses({{"gpu", 2}, {"disk", 3}}).empty());
    CHECK_THAT(uses({{"gpu", 3}}), Catch::Contains("wants 3 of \"gpu\", and the pool has 2"));
    CHECK_THAT(uses({{"gpu", 0}}), Catch::Contains("0 of \"gpu\""));
    CHECK_THAT(uses({{"gpu", 1}, {"gpu", 1}}), Catch::Contains("\"gpu\" twice"));
    mp::Promise<int> late;
    CHECK_THAT(refusal([&] {
                   t.pool.submit({.uses = {{"gpux", 1}}}, test::add, late.future(), 2);
               }),
               Catch::Contains("gpux"));
    auto pool_of = [](const std::vector<mp::Tokens>& tokens) {
        return refusal([&] {
            if constexpr (TestType::kMayDie)
                mp::Pool({.processes = 1, .tokens = tokens});
            else
                mp::ThreadPool({.threads = 1, .tokens = tokens});
        });
    };
    CHECK_THAT(pool_of({{"", 1}}), Catch::Contains("without a name"));
    CHECK_THAT(pool_of({{"gpu", 0}}), Catch::Contains("0 of \"gpu\""));
    CHECK_THAT(pool_of({{"gpu", 1}, {"disk", 1}, {"gpu", 2}}), Catch::Contains("\"gpu\" twice"));
    CHECK_THAT(refusal([] {
                   if constexpr (TestType::kMayDie)
                       mp::Pool({.processes = 1, .tokens = kTokens, .task = kGpu});
                   else
                       mp::ThreadPool({.threads = 1, .tokens = kTokens, .task = kGpu});
               }),
               Catch::Contains("task.uses is set"));
}

TEST_CASE("without workers, threads that submit wait for tokens", "[pool][tokens]") {
    mp::Pool pool({.processes = 0, .tokens = kTokens});
    test::SharedWords words(test::kWords);
    std::thread first([&] {
        CHECK(get(pool.submit(kBothGpus, wait_in_place, words.path(), std::size_t(kTell),
                              std::size_t(kGate))) == 1);
    });
    test::await(words[kTell]);
    std::atomic<bool> done{false};
    std::thread second([&] {
        auto task = pool.submit(kBothGpus, take_places, words.path(), 2L);
        CHECK(task.ready());
        CHECK(get(task) == 2);
        done = true;
    });
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
    CHECK(test::eventually([&] { return pool.stats().tokens[0].waiting == 1; }));
    CHECK(pool.stats().running == 1);
    CHECK_FALSE(done);
    words[kGate] = 1;
    first.join();
    second.join();
    CHECK(done);
    CHECK(words[kTwice] == 0);
    CHECK(pool.map(test::square, test::numbers(3), {.task = kGpu}) == std::vector<long>{0, 1, 4});
    CHECK_FALSE(refusal([&] { pool.submit({.uses = {{"gpu", 3}}}, test::add, 1, 2); }).empty());
}

// --- random ------------------------------------------------------------------------------------

namespace {

enum Act : char { succeed = 's', throws = 't', dies = 'd', dawdles = 'w' };

int act_in_places(const std::string& path, char act, long gpus, long disks) {
    Places gpu(path, 0, 2, gpus), disk(path, 8, 3, disks);
    test::bump(path, kCount);
    if (act == throws) throw std::domain_error("no");
    if (act == dies) test::die(SIGKILL);
    if (act == dawdles) wait_until_asked();
    return 1;
}

template <class T>
void run_randomly(T& t, std::mt19937& random) {
    test::SharedWords words(test::kWords);
    std::vector<mp::Future<int>> tasks;
    const std::string acts = T::kMayDie ? "ssssssttdw" : "ssssssttw";
    for (int i = 0; i < 80; ++i) {
        const auto gpus = static_cast<long>(random() % 3), disks = static_cast<long>(random() % 4);
        const char act = acts[random() % acts.size()];
        mp::TaskOptions options;
        if (gpus > 0) options.uses.push_back({"gpu", static_cast<std::size_t>(gpus)});
        if (disks > 0) options.uses.push_back({"disk", static_cast<std::size_t>(disks)});
        options.priority = static_cast<int>(random() % 3);
        options.key = random() % 4 == 0 ? random() % 3 : 0;
        if (random() % 3 == 0) options.retry = {.max_attempts = 2, .backoff = 1ms};
        if (act == dawdles) options.timeout = 10ms;
        tasks.push_back(t.pool.submit(options, act_in_places, words.path(), act, gpus, disks));
        if (random() % 8 == 0) tasks[random() % tasks.size()].cancel();
    }
    for (auto& task : tasks) CHECK(task.wait_for(test::kPatience));
    CHECK(words[kTwice] == 0);
    CHECK(words[kCount] > 0);
    CHECK(test::eventually([&] {
        std::vector<mp::TokenStats> tokens = t.pool.stats().tokens;
        return std::all_of(tokens.begin(), tokens.end(), [](const mp::TokenStats& each) {
            return each.in_use == 0 && each.waiting == 0;
        });
    }));
}

}  // namespace

TEMPLATE_TEST_CASE("random tasks with tokens: never more at once than there are, and all end",
                   "[pool][threads][tokens][property]", TokenProcesses, TokenThreads) {
    const char* text = std::getenv("TOKEN_SEED");
    const auto seed =
        text ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : std::random_device()();
    INFO("TOKEN_SEED=" << seed);
    std::mt19937 random(seed);
    TestType t;
    for (int round = 0; round < 3; ++round) run_randomly(t, random);
}

}  // namespace token_test
