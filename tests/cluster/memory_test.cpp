// Memory that is used up in the threads that carry a job's messages: this program's operator new
// fails there when it is told to. (A program of its own.)
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "failing_new.hpp"
#include "pool_support.hpp"
#include "thread_job.hpp"

namespace memory_test {

namespace mp = sidestep;
using namespace std::chrono_literals;
using test::ThreadJob;

namespace {

std::atomic<const char*> failing{nullptr};  // the name of the threads; null: none
std::atomic<bool> lasting{false};           // all fail from then on
std::atomic<long> until_failure{0};
std::atomic<long> failures{0};

}  // namespace

}  // namespace memory_test

bool test::allocation_fails(std::size_t) noexcept {
    using namespace memory_test;
    const char* name = failing.load(std::memory_order_relaxed);
    if (!name) return false;
    char own[16] = {};
    ::prctl(PR_GET_NAME, own);
    if (std::strcmp(own, name) != 0) return false;
    const long left = until_failure.fetch_sub(1);
    if (left == 0 || (left < 0 && lasting)) return failures.fetch_add(1), true;
    return false;
}

namespace memory_test {

namespace {

constexpr const char* kHubThread = "sidestep-hosts";
constexpr const char* kSupervisor = "sidestep-pool";
constexpr std::uint64_t kOnHost1 = 1;

// While it lives, the n-th allocation of these threads fails; for good: and all after it.
class Exhausted {
  public:
    Exhausted(const char* threads, long n, bool for_good = false) {
        lasting = for_good;
        failures = 0;
        until_failure = n;
        failing = threads;
    }
    ~Exhausted() { failing = nullptr; }
    Exhausted(const Exhausted&) = delete;
    Exhausted& operator=(const Exhausted&) = delete;
};

int most_rounds() {
    const char* wanted = std::getenv("NO_MEMORY_ROUNDS");
    return wanted ? std::atoi(wanted) : 40;
}

int fragile(int i) { return i == 7 ? ::raise(SIGKILL) : 10 * i; }
int throws() { throw std::domain_error("no such thing"); }
int prints() {
    std::puts("a line");
    return 5;
}
int stays() {
    mp::this_task::sleep_for(mp::Timeout::forever());  // style-ok: until it is to stop
    return 0;
}
int process() { return ::getpid(); }

// How many of the futures have ended for want of memory; all others have what they should.
struct Tally {
    int lost = 0;
    template <class Expected>
    void look(mp::Future<int>& future, const char* what) {
        INFO(what);
        if (!future.wait_for(test::kPatience)) FAIL("it hangs");
        try {
            (void)future.get();
            FAIL("it did not throw");
        } catch (const std::bad_alloc&) {
            ++lost;
        } catch (const Expected&) {
        }
    }
    void look(mp::Future<int>& future, int expected) {
        if (!future.wait_for(test::kPatience)) FAIL("it hangs");
        try {
            const int value = future.get();
            CHECK(value == expected);
        } catch (const std::bad_alloc&) {
            ++lost;
        }
    }
};

// All kinds of answers. False: no allocation failed, since there are not so many.
bool use_without(const char* threads, long n) {
    CAPTURE(n);
    ThreadJob job(1);
    Tally tally;
    {
        Exhausted memory(threads, n);
        mp::Pool pool(job.options({.output = mp::Output::capture}));
        auto value = pool.submit({.key = kOnHost1}, test::add, 1, 2);
        auto printed = pool.submit({.key = kOnHost1}, prints);
        auto thrown = pool.submit({.key = kOnHost1}, throws);
        auto died = pool.submit({.key = kOnHost1}, fragile, 7);
        auto late = pool.submit({.timeout = 20ms, .key = kOnHost1}, stays);
        tally.look(value, 3);
        tally.look(printed, 5);
        tally.look<std::domain_error>(thrown, "one that throws");
        tally.look<mp::WorkerLost>(died, "one that dies");
        tally.look<mp::TaskTimeout>(late, "one that is late");
        unsigned values = 0, missing = 0, without = 0;
        for (auto& item : pool.imap(fragile, test::numbers(32), {.chunksize = 16}).outcomes()) {
            if (item)
                ++values;
            else if (item.index() == 7)
                ++missing;
            else
                ++without;
        }
        CHECK(values + missing + without == 32);
        tally.lost += without > 0 ? 1 : 0;
        CHECK(tally.lost <= 1);
        CHECK_FALSE(pool.stats().hosts[1].lost);
        pool.close();
        pool.join();
    }
    CHECK(job.stop());
    return failures > 0;
}

}  // namespace

TEST_CASE("an allocation that fails in an agent, or in the first process, costs one task at most",
          "[cluster][no_memory]") {
    const char* threads = GENERATE(ThreadJob::kAgentThread, kHubThread);
    CAPTURE(threads);
    int rounds = 0;
    long n = 0;
    for (; rounds < most_rounds() && use_without(threads, n); ++rounds) n += 1 + n / 8;
    CHECK(rounds > 20);
}

TEST_CASE("an agent whose memory is used up for long resigns: its host is lost, the job goes on",
          "[cluster][no_memory]") {
    ThreadJob job(1, 2, {}, {}, {.most_short = 1s});
    mp::Pool pool(job.options());
    const int worker = pool.submit({.key = kOnHost1}, process).get();
    auto lost = pool.submit({.key = kOnHost1}, stays);
    {
        Exhausted memory(ThreadJob::kAgentThread, 0, true);
        CHECK(test::eventually([&] { return ::kill(worker, 0) != 0; }));
    }
    CHECK_THROWS_WITH(lost.get(), Catch::Contains("host1 is lost: it had no memory left"));
    CHECK(pool.submit(test::add, 1, 2).get() == 3);
    pool.close();
    pool.join();
    CHECK(job.stop());
}

TEST_CASE("a first process whose memory is used up for long loses its hosts, and goes on",
          "[cluster][no_memory]") {
    ThreadJob job(1, 2, {.welcome = 60s, .ping = 50ms, .lost = 500ms});
    mp::Pool pool(job.options());
    auto lost = pool.submit({.key = kOnHost1}, stays);
    {
        Exhausted memory(kHubThread, 0, true);
        CHECK(lost.wait_for(test::kPatience));  // nobody waits until there is some again
    }
    CHECK_THROWS_WITH(lost.get(), Catch::Contains("host") && Catch::Contains("is lost"));
    CHECK(pool.submit(test::add, 1, 2).get() == 3);
}

TEST_CASE("a first process that has only to ask whether its hosts are there loses them as well",
          "[cluster][no_memory]") {
    ThreadJob job(1, 2, {.welcome = 60s, .ping = 50ms, .lost = 500ms});
    mp::Pool pool(job.options());
    CHECK(pool.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
    Exhausted memory(kHubThread, 0, true);
    CHECK(test::eventually([&] { return pool.stats().hosts[1].lost; }));
}

TEST_CASE("a pool ends on other hosts, though its supervisor has no memory to tell them",
          "[cluster][no_memory]") {
    ThreadJob job(1);
    mp::Pool pool(job.options());
    CHECK(pool.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
    pool.close();
    Exhausted memory(kSupervisor, 0, true);
    CHECK(pool.join_for(test::kPatience));
}

}  // namespace memory_test
