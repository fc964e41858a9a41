// A pool behind a server: what its clients can ask of it, and what becomes of that.
#include <catch2/catch.hpp>

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <sidestep/event.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/pool_proxy.hpp>
#include <sidestep/process.hpp>
#include <sidestep/remote_error.hpp>

#include "manager_support.hpp"
#include "policy_support.hpp"
#include "process_support.hpp"
#include "remote_support.hpp"
#include "support.hpp"

namespace remote_pool_test {

namespace mp = sidestep;
namespace this_task = sidestep::this_task;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
using mp::TaskOptions;
using test::error_of;
using test::get;
using test::kCount;
using test::kExtra;
using test::kGate;
using test::kTell;
using test::text_of_error;
using namespace std::chrono_literals;

namespace {

struct OwnError : std::runtime_error {
    using std::runtime_error::runtime_error;
};
[[maybe_unused]] const bool registered = mp::register_exception<OwnError>();
struct UnknownError : std::range_error {
    using std::range_error::range_error;
};

int twice(int x) { return 2 * x; }
int stay() {
    (void)test::eventually([] { return this_task::stop_requested(); });
    return int(this_task::attempt());
}
int third_time(int x) {
    if (this_task::attempt() < 3) throw std::runtime_error("not yet");
    return x + int(this_task::attempt());
}
int throw_it(int x) { throw std::out_of_range("at " + std::to_string(x)); }
std::string text_of(std::size_t size) { return std::string(size, 'x'); }
std::size_t length(const std::string& text) { return text.size(); }

constexpr auto kExpose = [](mp::ManagerServer& server) {
    mp::PoolOptions options{.processes = 2, .tokens = {{"gpu", 1}}, .stop_grace = test::kPatience};
    server.expose<mp::Pool>("cores", std::make_shared<mp::Pool>(options));
};

// A pool of two workers: a Manager's own, or one of another program, over a Unix socket or TCP.
enum class Where { manager, unix_socket, tcp };
class Cores {
  public:
    explicit Cores(Where where) {
        if (where == Where::manager) {
            manager_.emplace();
            pool = manager_->pool(2);
            return;
        }
        server_.emplace(kExpose, where == Where::tcp ? mp::Address(mp::TcpAddress{})
                                                     : mp::Address(mp::UnixAddress{}));
        session_ = std::unique_ptr<mp::Manager>(new mp::Manager(server_->connect()));
        pool = session_->get<mp::Pool>("cores");
    }
    mp::PoolProxy pool;

  private:
    std::optional<mp::Manager> manager_;
    std::optional<test::RemoteServer> server_;
    std::unique_ptr<mp::Manager> session_;
};
Where anywhere() { return GENERATE(Where::manager, Where::unix_socket, Where::tcp); }

// A server with a pool of one worker in this process, and a client that is another one.
struct OneWorker {
    explicit OneWorker(const mp::Address& address)
        : server({.address = address, .authkey = "secret"}) {
        server.expose<mp::Pool>("cores", pool);
        server.start();
    }
    mp::PoolProxy proxy() const { return session().get<mp::Pool>("cores"); }
    mp::Manager session() const {
        return mp::Manager::connect(server.address(), {.authkey = "secret"});
    }
    const std::shared_ptr<mp::Pool> pool =
        std::make_shared<mp::Pool>(mp::PoolOptions{.processes = 1, .stop_grace = test::kPatience});
    mp::ManagerServer server;
};

// A client: gives the pool a task that runs for ever, and one that waits behind it; says so, and
// goes on as it is told.
enum class Then { die, let_go };
void give_two(mp::Address address, std::string path, Then then, mp::Event given) {
    test::SharedWords::Word* words = test::SharedWords::attach(path);
    {
        mp::Manager manager = mp::Manager::connect(address, {.authkey = "secret"});
        auto pool = manager.get<mp::Pool>("cores");
        auto runs = pool.submit(test::until_asked, path);
        auto waits = pool.submit(test::bump, path, std::size_t(kExtra));
        (void)test::await(words[kTell]);
        given.set();
        if (then == Then::die) (void)waits.get();
        manager.shutdown();
        if (!runs.exception() || !waits.exception()) mp::exit_process(3);
    }
    (void)test::await(words[kGate]);
}

}  // namespace

TEST_CASE("a task of another process's pool has the options that it was given",
          "[manager][pool][options]") {
    Cores cores(anywhere());
    auto late = cores.pool.submit({.timeout = 30ms, .name = "the late one"}, stay);
    auto in_time = cores.pool.submit({.timeout = 1h, .priority = 3, .name = "plain"}, twice, 21);
    auto asked = cores.pool.submit({.soft_timeout = 20ms}, stay);
    TaskOptions again{.retry = {.max_attempts = 3, .backoff = 1ms, .jitter = 0}};
    auto third = cores.pool.submit(again, third_time, 10);
    auto second = cores.pool.submit({.retry = {.max_attempts = 2}}, third_time, 10);
    const auto error = error_of<mp::TaskTimeout>(late);
    CHECK(error.timeout() == 30ms);
    CHECK(error.name() == "the late one");
    CHECK_THAT(error.what(), Contains("\"the late one\"") && Contains("its timeout of 30 ms"));
    CHECK(get(in_time) == 42);
    CHECK(get(asked) == 1);
    CHECK(get(third) == 13);
    CHECK_THROWS_WITH(get(second), "not yet");
}

TEST_CASE("what a task cannot have in another process's pool is refused by its name",
          "[manager][pool][options]") {
    Cores cores(GENERATE(Where::manager, Where::tcp));
    auto refused = [&](const TaskOptions& options) {
        try {
            (void)cores.pool.submit(options, twice, 1);
        } catch (const std::invalid_argument& error) {
            return std::string(error.what());
        }
        return std::string("taken");
    };
    CHECK_THAT(refused({.key = 7}), StartsWith("TaskOptions::key: "));
    CHECK_THAT(refused({.retry = {.max_attempts = 2, .when = [](const auto&) { return true; }}}),
               StartsWith("TaskOptions::retry.when "));
    CHECK_THAT(refused({.timeout = -1ns}), Contains("timeout is negative"));
    CHECK_THAT(error_of<std::invalid_argument>(
                   cores.pool.submit({.uses = {{"no such token", 1}}}, twice, 1))
                   .what(),
               Contains("no such token"));
    CHECK(get(cores.pool.submit(twice, 4)) == 8);
}

TEST_CASE("a task of another program's pool has the pool's tokens", "[manager][pool][options]") {
    Cores cores(Where::tcp);
    test::SharedWords words(test::kWords);
    auto alone = [](const std::string& path) {
        test::SharedWords::Word* shared = test::SharedWords::attach(path);
        const std::uint64_t before = shared[kTell].fetch_add(1);
        shared[kCount].fetch_add(1);
        shared[kTell].fetch_sub(1);
        return before;
    };
    std::vector<mp::Future<std::uint64_t>> all;
    for (int i = 0; i < 20; ++i)
        all.push_back(cores.pool.submit({.uses = {{"gpu", 1}}}, alone, words.path()));
    for (const auto& future : all) CHECK(get(future) == 0);
    CHECK(words[kCount] == 20);
}

TEST_CASE("what befalls a task in another process's pool arrives by its type",
          "[manager][pool][errors]") {
    Cores cores(anywhere());
    auto dies = cores.pool.submit({.name = "a mortal"}, test::die, SIGKILL);
    TaskOptions mortal{.retry = {.max_attempts = 9, .max_crashes = 2}};
    auto dies_again = cores.pool.submit(mortal, test::die, SIGSEGV);
    const auto lost = error_of<mp::WorkerLost>(dies);
    CHECK(lost.exit_status().signal() == SIGKILL);
    CHECK(lost.pid() > 0);
    CHECK(lost.name() == "a mortal");
    CHECK_THAT(lost.what(), Contains("SIGKILL") && Contains("\"a mortal\""));
    const auto again = error_of<mp::WorkerLost>(dies_again);
    CHECK(again.attempts() == 2);
    CHECK_THAT(again.what(), Contains("SIGSEGV") && Contains("Retry::max_crashes is 2"));
    // Of a server that is lost there would be an ActorLost.
    CHECK_THROWS_AS(get(cores.pool.submit(test::die, SIGKILL)), mp::WorkerLost);
    try {
        get(cores.pool.submit(test::die, SIGKILL));
    } catch (const mp::ActorLost&) {
        FAIL("it is no server");
    } catch (const mp::WorkerLost&) {
    }
    auto large = [](std::size_t size) {
        std::vector<char> memory(size, 'x');
        return stay() + int(memory.size() % 2);
    };
    TaskOptions small{.memory_limit = std::size_t(128) << 20};
    CHECK(error_of<mp::OutOfMemory>(cores.pool.submit(small, large, std::size_t(200) << 20))
              .limit() == std::size_t(128) << 20);
    CHECK(get(cores.pool.submit(twice, 3)) == 6);
}

TEST_CASE("what a task of another process's pool throws arrives by its type",
          "[manager][pool][errors]") {
    Cores cores(anywhere());
    CHECK_THAT(error_of<std::out_of_range>(cores.pool.submit(throw_it, 3)).what(),
               Contains("at 3"));
    auto own = cores.pool.submit([]() -> int { throw OwnError("its own"); });
    CHECK_THAT(error_of<OwnError>(own).what(), Contains("its own"));
    try {
        get(cores.pool.submit([]() -> int { throw UnknownError("not known here"); }));
        FAIL("it was not thrown");
    } catch (const std::exception& error) {
        CHECK_THAT(mp::remote_type_name(error), Contains("UnknownError"));
        CHECK_THAT(mp::remote_traceback(error), Contains("in task "));
    }
}

TEST_CASE("then() of a task in another process's pool is a task of that pool",
          "[manager][pool][then]") {
    Cores cores(anywhere());
    CHECK(get(cores.pool.submit(twice, 5).then(twice).then(twice)) == 40);
    CHECK(get(cores.pool.submit([] {}).then([] { return 3; })) == 3);
    auto worker = cores.pool.submit([] {}).then([] { return ::getppid(); });
    CHECK(get(worker) == get(cores.pool.submit([] { return ::getppid(); })));
    CHECK(get(cores.pool.submit(text_of, std::size_t(1'000'000)).then(length)) == 1'000'000);
    // One that is done, and what several wait for.
    auto first = cores.pool.submit(twice, 4);
    first.wait();
    auto a = first.then(twice), b = first.then([](int x) { return x + 1; });
    CHECK(get(a) * 100 + get(b) == 1609);
    // What befalls the one is that of the other, too.
    CHECK_THROWS_AS(get(cores.pool.submit(throw_it, 3).then(twice).then(twice)), std::out_of_range);
    CHECK_THROWS_AS(get(cores.pool.submit(twice, 4).then(throw_it)), std::out_of_range);
    CHECK_THROWS_AS(get(cores.pool.submit(test::die, SIGKILL).then(twice)), mp::WorkerLost);
    // What nobody asks for is not lost.
    cores.pool.submit(twice, 4).then(throw_it).wait();
    CHECK(test::eventually([&] {  // who reads it may have it still
        try {
            cores.pool.flush();
            return false;
        } catch (const std::out_of_range&) {
            return true;
        }
    }));
}

TEST_CASE("a task of another process's pool is cancelled, whether it runs or waits",
          "[manager][pool][cancel]") {
    Cores cores(anywhere());
    test::SharedWords words(test::kWords);
    auto hold = [&] {
        return cores.pool.submit(test::wait_at, words.path(), std::size_t(kTell),
                                 std::size_t(kGate));
    };
    auto one = hold(), two = hold();
    (void)test::await(words[kTell]);
    auto waits = cores.pool.submit(test::bump, words.path(), std::size_t(kExtra));
    auto next = one.then([](std::uint64_t) { return 1; }), after = next.then(twice);
    CHECK(after.cancel());
    CHECK(after.cancelled());
    CHECK(waits.cancel());
    CHECK(waits.cancelled());
    CHECK(one.cancel());
    CHECK(one.cancelled());
    CHECK_THROWS_AS(get(one), mp::CancelledError);
    CHECK_THROWS_AS(get(next), mp::CancelledError);
    CHECK(next.cancelled());
    words[kGate] = 5;
    CHECK(get(two) == 5);
    CHECK_FALSE(two.cancel());
    CHECK(get(cores.pool.submit(twice, 3)) == 6);
    CHECK(words[kExtra] == 0);
}

TEST_CASE("a task is cancelled at any time after it was submitted to another process's pool",
          "[manager][pool][cancel]") {
    using Clock = std::chrono::steady_clock;
    Cores cores(Where::manager);
    for (int i = 0; i < 100; ++i) {
        auto future = cores.pool.submit(stay);
        for (const auto then = Clock::now() + i * 10us; Clock::now() < then;) {
        }
        REQUIRE(future.cancel());
        CHECK_THROWS_AS(get(future), mp::CancelledError);
    }
    CHECK(get(cores.pool.submit(twice, 3)) == 6);
}

TEST_CASE("a client that is gone takes its tasks with it: what runs is asked to stop",
          "[manager][pool][death]") {
    OneWorker one(GENERATE(mp::Address(mp::UnixAddress{}), mp::Address(mp::TcpAddress{})));
    const auto then = GENERATE(Then::die, Then::let_go);
    test::SharedWords words(test::kWords);
    mp::Event given;
    mp::Process client(&give_two, one.server.address(), words.path(), then, given);
    client.start();
    given.wait();
    if (then == Then::die) client.kill();
    CHECK(test::eventually([&] { return words[kCount] == 100; }));
    words[kGate] = 1;
    client.join();
    CHECK(client.exitcode() == (then == Then::die ? -SIGKILL : 0));
    // Another client's task is begun when the others are out of its way.
    CHECK(get(one.proxy().submit(twice, 4)) == 8);
    CHECK(words[kExtra] == 0);
}

TEST_CASE("a server that stops takes what was submitted to its pool back", "[manager][pool][end]") {
    OneWorker one{mp::Address(mp::UnixAddress{})};
    test::SharedWords words(test::kWords);
    auto pool = one.proxy();
    auto runs = pool.submit(test::until_asked, words.path());
    auto waits = pool.submit(test::bump, words.path(), std::size_t(kExtra));
    (void)test::await(words[kTell]);
    one.server.stop();
    CHECK_THROWS_AS(get(runs), mp::ActorLost);
    CHECK_THROWS_AS(get(waits), mp::ActorLost);
    CHECK(test::eventually([&] { return words[kCount] == 100; }));
    CHECK(one.pool->submit(twice, 4).get() == 8);
    CHECK(words[kExtra] == 0);
}

TEST_CASE("a pool that is closed, or has ended, says so to its clients", "[manager][pool][end]") {
    OneWorker one{mp::Address(mp::UnixAddress{})};
    auto pool = one.proxy();
    CHECK(get(pool.submit(twice, 4)) == 8);
    one.pool->close();
    CHECK_THROWS_AS(get(pool.submit(twice, 4)), std::logic_error);
}

TEST_CASE("a map over another process's pool", "[manager][pool][map]") {
    Cores cores(anywhere());
    std::vector<int> items(100);
    std::iota(items.begin(), items.end(), 0);
    const std::vector<int> doubled = cores.pool.map(twice, items);
    REQUIRE(doubled.size() == 100);
    CHECK(doubled[99] == 198);
    CHECK_THROWS_AS(cores.pool.map(throw_it, items), std::out_of_range);
}

TEST_CASE("handles go to another process's pool over a Unix socket, and over no network",
          "[manager][pool][handles]") {
    mp::Event event;
    auto set = [](mp::Event one, int n, mp::Event other) {
        one.set();
        other.set();
        return n;
    };
    {
        Cores cores(GENERATE(Where::manager, Where::unix_socket));
        mp::Event other;
        CHECK(get(cores.pool.submit(set, event, 7, other)) == 7);
        CHECK(event.is_set());
        CHECK(other.is_set());
        CHECK(get(cores.pool.submit(twice, 4).then(mp::bind(
                  [](mp::Event one, int n) { return one.is_set() ? n : 0; }, event))) == 8);
    }
    Cores far(Where::tcp);
    CHECK_THAT(text_of_error([&] { (void)far.pool.submit(set, event, 7, event); }),
               Contains("not a Unix socket"));
    CHECK(get(far.pool.submit(twice, 4)) == 8);
}

}  // namespace remote_pool_test
