// What is lost with a host, and that it is never taken for a result.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <variant>
#include <vector>

#include <catch2/catch.hpp>

#include "no_threads.hpp"
#include "pool_support.hpp"
#include "thread_job.hpp"

namespace host_loss_test {

namespace {

using namespace std::chrono_literals;
using sidestep::Pool;
using test::SharedWords;
using test::ThreadJob;

constexpr std::uint64_t kOnHost1 = 1, kOnHost2 = 3;

// Once a host is cut off, it is lost at the second look.
const sidestep::detail::HubTimes kSoon{.welcome = 60s, .ping = 50ms, .lost = 10s};

int begins_and_stays(const std::string& path) {
    ++SharedWords::attach(path)[0];
    sidestep::this_task::sleep_for(sidestep::Timeout::forever());  // style-ok: until it is to stop
    return 0;
}
std::string why_lost(sidestep::Future<int>& future) {
    try {
        (void)future.get();
        return "(it was not)";
    } catch (const sidestep::HostLost& error) {
        return error.what();
    }
}
// What a lane is told.
struct Listener final : sidestep::detail::HostListener {
    void hosts_told(std::uint32_t, std::vector<sidestep::detail::HostEvent> events) override {
        for (const auto& event : events)
            gone = gone || std::holds_alternative<sidestep::detail::HostGone>(event);
    }
    std::atomic<bool> gone = false;
};

bool begun(SharedWords& words, std::uint64_t count) {
    return test::eventually([&] { return words[0] >= count; });
}

}  // namespace

TEST_CASE("The tasks of a host that has ended fail with HostLost, the others go on", "[cluster]") {
    ThreadJob job(2);
    SharedWords words(1);
    Pool pool(job.options());
    auto lost = pool.submit({.key = kOnHost1}, begins_and_stays, words.path());
    REQUIRE(begun(words, 1));
    job.end(1);
    try {
        (void)lost.get();
        FAIL("its host is lost");
    } catch (const sidestep::HostLost& error) {
        CHECK(error.host() == "host1");
        CHECK_THAT(error.what(), Catch::Contains("host1 is lost"));
    }
    CHECK(pool.submit({.key = kOnHost2}, test::add, 1, 2).get() == 3);
    // Its keys have gone to this host.
    CHECK(pool.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
    CHECK(pool.map(test::square, test::numbers(0L, 100L)).back() == 99 * 99);
    CHECK(pool.stats().hosts[1].lost);
}

TEST_CASE("A pool that begins when a host is lost has no workers there", "[cluster]") {
    ThreadJob job(2);
    SharedWords words(1);
    {
        Pool pool(job.options());
        auto lost = pool.submit({.key = kOnHost1}, begins_and_stays, words.path());
        REQUIRE(begun(words, 1));
        job.end(1);
        CHECK_THAT(why_lost(lost), Catch::Contains("host1 is lost"));
    }
    Pool pool(job.options({.processes = 4}));
    CHECK(pool.processes() == 4);
    REQUIRE(pool.hosts().size() == 2);
    CHECK(pool.hosts()[1].name == "host2");
    for (std::uint64_t key = 1; key < 9; ++key)
        CHECK(pool.submit({.key = key}, test::add, 1, 2).get() == 3);
    pool.close();
    pool.join();
    // It is told so, where the host was lost while the pool began.
    auto listener = std::make_shared<Listener>();
    sidestep::PoolOptions options = job.options();
    auto lane = options.hosts->open(1, options, 1, 0, listener);
    CHECK(test::eventually([&] { return listener->gone.load(); }));
}

TEST_CASE("A host that is cut off is lost when it has been silent for long", "[cluster]") {
    auto times = kSoon;
    times.lost = 200ms;
    ThreadJob job(1, 2, times);
    SharedWords words(1);
    Pool pool(job.options());
    auto lost = pool.submit({.key = kOnHost1}, begins_and_stays, words.path());
    REQUIRE(begun(words, 1));
    job.cut_off(1);
    CHECK_THROWS_AS(lost.get(), sidestep::HostLost);
    pool.close();
    pool.join();  // which does not wait for it
}

TEST_CASE("What cannot be taken of what hosts say costs the tasks that they have", "[cluster]") {
    ThreadJob job(1, 2, kSoon);
    SharedWords words(1);
    Pool pool(job.options());
    auto lost = pool.submit({.key = kOnHost1}, begins_and_stays, words.path());
    REQUIRE(begun(words, 1));
    job.fail_with(std::length_error("a reason of its own"));
    CHECK_THAT(why_lost(lost), Catch::Contains("could not take what it said: a reason of its own"));
    CHECK(pool.map(test::square, test::numbers(0L, 100L)).back() == 99 * 99);
}

TEST_CASE("What there is no memory for in one moment is taken in the next", "[cluster]") {
    ThreadJob job(1, 2, kSoon);
    Pool pool(job.options());
    job.fail_with(std::bad_alloc());
    CHECK(pool.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
    CHECK_FALSE(pool.stats().hosts[1].lost);
}

TEST_CASE("A host that answers, however long its tasks run, is not lost", "[cluster]") {
    ThreadJob job(1, 1, kSoon);
    SharedWords words(1);
    Pool pool(job.options());
    auto future = pool.submit({.timeout = 500ms, .key = kOnHost1}, begins_and_stays, words.path());
    CHECK_THROWS_AS(future.get(), sidestep::TaskTimeout);
    CHECK_FALSE(pool.stats().hosts[1].lost);
}

TEST_CASE("A host whose workers do not say where they are goes on answering", "[cluster]") {
    // An agent that waits for each of these, a tenth of a second, hears nothing for longer than it
    // may be silent. They are killed later than that: who is dead tells nothing, and is known to.
    constexpr unsigned kStopped = 24;
    auto times = kSoon;
    times.lost = 1200ms;
    ThreadJob job(1, kStopped, times);
    SharedWords words(1);
    Pool pool(job.options({.processes = kStopped + 1, .terminate_grace = 2400ms}));
    auto stop = [](const std::string& path) {
        ++SharedWords::attach(path)[0];
        return ::raise(SIGSTOP);
    };
    std::vector<sidestep::Future<int>> late;
    for (std::uint64_t key = 1; key <= kStopped; ++key)
        late.push_back(pool.submit({.timeout = 1s, .key = key}, stop, words.path()));
    for (auto& future : late) CHECK_THROWS_AS(future.get(), sidestep::TaskTimeout);
    CHECK(words[0] == kStopped);
    CHECK_FALSE(pool.stats().hosts[1].lost);
}

TEST_CASE("A task whose host is lost is run again elsewhere, if its options say so", "[cluster]") {
    ThreadJob job(2);
    SharedWords words(1);
    Pool pool(job.options());
    auto second_time = [](const std::string& path) {
        if (sidestep::this_task::attempt() > 1) return sidestep::this_task::attempt();
        return static_cast<unsigned>(begins_and_stays(path));
    };
    auto future =
        pool.submit({.retry = {.max_attempts = 2}, .key = kOnHost1}, second_time, words.path());
    REQUIRE(begun(words, 1));
    job.end(1);
    CHECK(future.get() == 2);
}

TEST_CASE("An agent that talks nonsense is given up", "[cluster]") {
    ThreadJob job(1);
    SharedWords words(1);
    Pool pool(job.options());
    auto lost = pool.submit({.key = kOnHost1}, begins_and_stays, words.path());
    REQUIRE(begun(words, 1));
    SECTION("of no known kind") { job.say(1, {std::byte(200)}); }
    SECTION("nothing at all") { job.say(1, {}); }
    SECTION("a reply that breaks off") {
        job.say(1, {std::byte(int(sidestep::detail::MessageKind::reply)), std::byte(1)});
    }
    CHECK_THROWS_AS(lost.get(), sidestep::HostLost);
}

TEST_CASE("An answer to what nobody asked is dropped", "[cluster]") {
    ThreadJob job(1);
    Pool pool(job.options());
    using namespace sidestep::detail;
    job.say(1, packed(MessageKind::reply,
                      WiredReply{.pool = 1, .number = 77, .is_value = true, .output = {}}));
    job.say(1, packed(MessageKind::reply,
                      WiredReply{.pool = 99, .number = 1, .is_value = true, .output = {}}));
    job.say(1, packed(MessageKind::closed, PoolWord{99, {}}));
    CHECK(pool.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
}

namespace {

// The ends of an agent and of the first process, which has opened a pool there.
struct AgentAlone {
    std::shared_ptr<test::Wires> wires = std::make_shared<test::Wires>(2);
    test::ThreadTransport first{wires, 0}, second{wires, 1};

    AgentAlone() {
        sidestep::detail::OpenPool open;
        open.pool = 1;
        open.processes = 2;
        first.send(1, framed(sidestep::detail::MessageKind::open, open));
    }
};

}  // namespace

TEST_CASE("Without the first process an agent ends its pools and goes", "[cluster]") {
    AgentAlone job;
    int exit_code = 0;
    std::thread agent(
        [&] { exit_code = sidestep::detail::Agent(job.second).run(ThreadJob::hello(1, 2)); });
    using namespace sidestep::detail;
    job.first.send(1, framed(MessageKind::ping, Ping{}));
    bool answered = test::eventually([&] {
        auto frame = job.first.receive();
        if (!frame) return false;
        sidestep::InputArchive archive(frame->head);
        return kind_of(archive) == MessageKind::pong;
    });
    CHECK(answered);
    {
        std::lock_guard lock(job.wires->mutex);
        job.wires->gone.insert(0);
    }
    agent.join();
    CHECK(exit_code == 1);  // and no worker is left: the listener looks
}

TEST_CASE("The job ends where the launcher has ended on the first process's host", "[cluster]") {
    std::atomic<int> times{0};
    auto soon = kSoon;
    soon.ping = 500ms;  // the first look comes at once
    std::atomic<bool> lives = true;
    ThreadJob job(2, 2, soon, {.has_ended = [&] { return !lives; }, .gone = [&] { ++times; }});
    Pool pool(job.options());
    SharedWords words(1);
    auto lost = pool.submit({.key = kOnHost1}, begins_and_stays, words.path());
    REQUIRE(begun(words, 1));
    CHECK(times == 0);
    lives = false;
    CHECK_THAT(why_lost(lost), Catch::Contains("the launcher's process on host"));
    CHECK(times == 1);
    // The agents were told, and have ended: ThreadJob joins them, and would wait for ever.
}

TEST_CASE("An agent whose launcher has ended on its host ends its pools and goes", "[cluster]") {
    using namespace sidestep::detail;
    AgentAlone job;
    // A process that is not the parent; the first process may say what it likes.
    CHECK(Agent(job.second, {.launcher = ::getpid()}).run(test::ThreadJob::hello(1, 2)) == 1);
}

TEST_CASE("An agent that hears nonsense resigns, and stays until the job is over", "[cluster]") {
    using namespace sidestep::detail;
    AgentAlone job;
    job.first.send(1, framed(MessageKind::farewell, Nothing{}));  // as only agents say it
    job.first.send(1, framed(MessageKind::ping, Ping{.silence_ns = 3'600'000'000'000}));
    job.first.send(1, framed(MessageKind::submit, SubmitTask{.pool = 1, .number = 1, .id = {}}));
    job.first.send(1, framed(MessageKind::goodbye, Nothing{}));
    CHECK(Agent(job.second).run(test::ThreadJob::hello(1, 2)) == 0);
    std::vector<MessageKind> said;
    std::string why;
    while (auto frame = job.first.receive()) {
        sidestep::InputArchive archive(frame->head);
        said.push_back(kind_of(archive));
        if (said.back() == MessageKind::resigned) why = unpacked<Refusal>(archive).why;
    }
    CHECK(why == "the first process sent what only agents send");
    // No worker is left: the listener looks.
    CHECK(said.front() == MessageKind::hello);
    CHECK(said.back() == MessageKind::farewell);
    CHECK(std::count(said.begin(), said.end(), MessageKind::pong) == 1);
    CHECK(std::count(said.begin(), said.end(), MessageKind::failure) == 0);
}

TEST_CASE("A host that resigns costs its tasks, and the job ends in order", "[cluster]") {
    ThreadJob job(2);
    SharedWords words(1);
    Pool pool(job.options());
    auto lost = pool.submit({.key = kOnHost1}, begins_and_stays, words.path());
    REQUIRE(begun(words, 1));
    job.confuse(1);
    CHECK_THAT(why_lost(lost), Catch::Contains("host1 is lost: the first process sent what only"));
    CHECK(pool.submit({.key = kOnHost2}, test::add, 1, 2).get() == 3);
    CHECK(pool.stats().hosts[1].lost);
    Pool after(job.options());
    CHECK(after.hosts().size() == 2);
    CHECK(after.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
    after.close();
    after.join();
    pool.close();
    pool.join();
    CHECK(job.stop());
}

TEST_CASE("Arguments for which a host has no memory cost their task", "[cluster]") {
    ThreadJob job(1);
    Pool pool(job.options());
    job.limit_bodies(1, 10'000);
    auto size = [](const std::string& text) { return text.size(); };
    auto large = pool.submit({.key = kOnHost1}, size, std::string(20'000, 'x'));
    auto small = pool.submit({.key = kOnHost1}, size, std::string(1000, 'x'));
    try {
        (void)large.get();
        FAIL("its arguments did not arrive");
    } catch (const std::bad_alloc& error) {
        CHECK_THAT(error.what(), Catch::Contains("task 1: host") &&
                                     Catch::Contains("has no memory for its arguments (20"));
    }
    CHECK(small.get() == 1000);
}

TEST_CASE("A result for which the first process has no memory costs its task", "[cluster]") {
    ThreadJob job(1);
    Pool pool(job.options());
    job.limit_bodies(0, 10'000);
    auto text = [](std::size_t size) { return std::string(size, 'x'); };
    auto large = pool.submit({.key = kOnHost1}, text, std::size_t(20'000));
    auto small = pool.submit({.key = kOnHost1}, text, std::size_t(1000));
    try {
        (void)large.get();
        FAIL("its result did not arrive");
    } catch (const std::bad_alloc& error) {
        CHECK_THAT(error.what(),
                   Catch::Contains("task 1 has run on host host1, and the first process has no "
                                   "memory for its answer (20"));
    }
    CHECK(small.get().size() == 1000);
    CHECK_FALSE(pool.stats().hosts[1].lost);
}

TEST_CASE("An agent that has no thread for a pool's end gets one later", "[cluster]") {
    auto wires = std::make_shared<test::Wires>(2);
    test::ThreadTransport first(wires, 0), second(wires, 1);
    int exit_code = -1;
    std::thread agent(
        [&] { exit_code = sidestep::detail::Agent(second).run(ThreadJob::hello(1, 2)); });
    using namespace sidestep::detail;
    bool closed = false;
    auto hears = [&](MessageKind wanted) {
        return test::eventually([&] {
            auto frame = first.receive();
            if (!frame) return false;
            sidestep::InputArchive archive(frame->head);
            MessageKind kind = kind_of(archive);
            closed = closed || kind == MessageKind::closed;
            return kind == wanted;
        });
    };
    OpenPool open;
    open.pool = 1;
    open.processes = 2;
    first.send(1, framed(MessageKind::open, open));
    first.send(1, framed(MessageKind::ping, Ping{}));
    CHECK(hears(MessageKind::pong));  // the pool has its threads
    {
        test::NoThreads none;
        first.send(1, framed(MessageKind::close, PoolWord{1, {}}));
        first.send(1, framed(MessageKind::ping, Ping{}));
        CHECK(hears(MessageKind::pong));  // so it has tried, and goes on
        CHECK_FALSE(closed);
    }
    CHECK(hears(MessageKind::closed));
    first.send(1, framed(MessageKind::goodbye, Nothing{}));
    agent.join();
    CHECK(exit_code == 0);
}

TEST_CASE("An agent whose first process falls silent ends its pools and goes", "[cluster]") {
    auto wires = std::make_shared<test::Wires>(2);
    test::ThreadTransport first(wires, 0), second(wires, 1);
    using namespace sidestep::detail;
    OpenPool open;
    open.pool = 1;
    open.processes = 2;
    first.send(1, framed(MessageKind::open, open));
    std::atomic<bool> interrupted = false;
    SECTION("for as long as it said") {
        first.send(1, framed(MessageKind::ping, Ping{.silence_ns = 50'000'000}));
    }
    SECTION("for a short time after Ctrl-C") {
        first.send(1, framed(MessageKind::ping, Ping{.silence_ns = 3'600'000'000'000}));
        interrupted = true;
    }
    CHECK(Agent(second, {.interrupt = &interrupted, .patience = 50ms})
              .run(test::ThreadJob::hello(1, 2)) == 1);
    // No worker is left: the listener looks. It was heard, and has said no farewell.
    bool answered = false, parted = false;
    while (auto frame = first.receive()) {
        sidestep::InputArchive archive(frame->head);
        MessageKind kind = kind_of(archive);
        answered = answered || kind == MessageKind::pong;
        parted = parted || kind == MessageKind::farewell;
    }
    CHECK(answered);
    CHECK_FALSE(parted);
}

}  // namespace host_loss_test
