// What servers of objects tell of themselves: stats() and trace().
#include <catch2/catch.hpp>

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>

#include <sidestep/actor.hpp>
#include <sidestep/event.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/manager_server.hpp>
#include <sidestep/process.hpp>
#include <sidestep/server_stats.hpp>

#include "manager_support.hpp"
#include "support.hpp"

namespace insight_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;
using Catch::Matchers::StartsWith;
using namespace std::chrono_literals;
using test::text_of_error;

namespace {

class Account {
  public:
    double deposit(double amount) {
        if (amount <= 0) throw std::invalid_argument("a deposit is positive");
        return balance_ += amount;
    }
    double balance() const { return balance_; }
    void audit(mp::Event started, mp::Event end) {
        started.set();
        end.wait();
    }
    void die() { ::kill(::getpid(), SIGKILL); }

  private:
    double balance_ = 0;
};

class Trace {
  public:
    Trace() = default;
    ~Trace() { std::filesystem::remove(path_); }
    Trace(const Trace&) = delete;
    Trace& operator=(const Trace&) = delete;
    const std::string& path() const { return path_; }
    std::string text() const {
        std::ifstream file(path_);
        return {std::istreambuf_iterator<char>(file), {}};
    }

  private:
    const std::string path_ =
        (std::filesystem::temp_directory_path() / "sidestep-objects-trace.json").string();
};

template <class Server>
bool eventually_shows(const Server& server, bool (*shows)(const mp::ServerStats&)) {
    return test::eventually([&] { return shows(server.stats()); });
}

}  // namespace

TEST_CASE("an actor's statistics have its name, and count its calls", "[manager][actor][stats]") {
    const unsigned restarts = GENERATE(0u, 1u);
    mp::Actor<Account> actor({.name = "ada", .max_restarts = restarts});
    CHECK(actor.call<&Account::deposit>(1.0) == 1);
    CHECK_THROWS_AS(actor.call<&Account::deposit>(-1.0), std::invalid_argument);
    CHECK(actor.read<&Account::balance>() == 1);
    const mp::ServerStats stats = actor.stats();
    CHECK(stats.pid == actor.pid());
    CHECK(stats.restarts == 0);
    CHECK(stats.clients == 1);
    CHECK(stats.waiting == 0);
    CHECK(stats.now.empty());
    REQUIRE(stats.objects.size() == 1);
    const mp::ObjectStats& object = stats.objects.front();
    CHECK(object.name == "ada");
    CHECK_THAT(object.type, EndsWith("Account"));
    CHECK(object.number == actor.proxy().number());
    CHECK(object.calls == 3);
    CHECK(object.failed == 1);
    CHECK(object.overdue == 0);
    CHECK(object.run >= object.longest_run);
    CHECK(object.longest_run.count() > 0);
    CHECK_THAT(stats.describe(), Contains("ada: ") && Contains("Account"));
}

TEST_CASE("statistics are told while a call hangs: which, whose, and who waits for it",
          "[manager][actor][stats]") {
    mp::Actor<Account> actor({.name = "eve"});
    mp::Event started, end;
    auto hangs = actor.submit<&Account::audit>(started, end);
    started.wait();
    auto behind = actor.submit<&Account::deposit>(1.0);  // its turn is after that
    std::thread other([&] { CHECK(actor.call<&Account::deposit>(1.0) > 0); });
    CHECK(eventually_shows(actor, [](const auto& stats) { return stats.waiting == 2; }));
    const mp::ServerStats stats = actor.stats();
    REQUIRE(stats.now.size() == 1);
    CHECK_THAT(stats.now.front().method, EndsWith("Account::audit"));
    CHECK(stats.now.front().object == 1);
    CHECK(stats.now.front().client == ::getpid());
    CHECK(stats.now.front().run.count() > 0);
    CHECK_FALSE(stats.now.front().overdue);
    CHECK_THAT(stats.describe(), Contains("Account::audit of object 1"));
    end.set();
    other.join();
    hangs.get();
    behind.get();
    CHECK(eventually_shows(actor, [](const auto& s) { return s.now.empty() && s.waiting == 0; }));
    CHECK(actor.stats().objects.front().wait.count() > 0);
}

TEST_CASE("a call that goes on though its caller was told that it is late is shown",
          "[manager][stats][timeout]") {
    mp::Manager manager;
    auto account = manager.make<Account>();
    mp::Event started, end;
    // One whose time is up before it has begun does not begin any more.
    std::chrono::milliseconds limit = 1ms;
    do {
        auto late = account.with({.timeout = limit}).submit<&Account::audit>(started, end);
        CHECK_THROWS_AS(late.get(), mp::CallTimeout);
        limit *= 2;
    } while (!started.wait_for(300ms));
    auto stats = manager.stats();
    REQUIRE(stats.now.size() == 1);
    CHECK(stats.now.front().overdue);
    CHECK_THAT(stats.describe(), Contains("overdue"));
    end.set();
    account.flush();
    CHECK(eventually_shows(manager, [](const auto& s) { return s.now.empty(); }));
    CHECK(manager.stats().objects.front().overdue >= 1);
}

TEST_CASE("a call of a client that has died is shown as long as it runs",
          "[manager][stats][death]") {
    mp::Manager manager;
    auto account = manager.make<Account>();
    mp::Event started, end;
    mp::Process client([](mp::Proxy<Account> of, mp::Event begun,
                          mp::Event over) { of.call<&Account::audit>(begun, over); },
                       account, started, end);
    client.start();
    started.wait();
    const int pid = client.pid();
    client.kill();
    client.join();
    CHECK(eventually_shows(manager, [](const auto& stats) { return stats.clients == 1; }));
    const auto stats = manager.stats();
    REQUIRE(stats.now.size() == 1);
    CHECK(stats.now.front().client == pid);
    end.set();
    CHECK(eventually_shows(manager, [](const auto& s) { return s.now.empty(); }));
}

TEST_CASE("a call that waits within is shown so", "[manager][stats]") {
    mp::Manager manager;
    auto queue = manager.queue<int>();
    std::thread getter([&] { CHECK(queue.get() == 1); });
    CHECK(eventually_shows(manager, [](const auto& stats) {
        return stats.now.size() == 1 && stats.now.front().waits;
    }));
    queue.put(1);
    getter.join();
}

TEST_CASE("statistics of an actor that was started again begin anew, and say so",
          "[manager][actor][stats][restart]") {
    mp::Actor<Account> actor({.max_restarts = 1});
    CHECK(actor.call<&Account::deposit>(1.0) == 1);
    CHECK_THROWS_AS(actor.call<&Account::die>(), mp::ActorLost);
    const auto stats = actor.stats();
    CHECK(stats.restarts == 1);
    CHECK(stats.pid == actor.pid());
    CHECK(stats.objects.front().calls == 0);
    CHECK_THROWS_AS(actor.call<&Account::die>(), mp::ActorLost);
    CHECK_THAT(text_of_error([&] { (void)actor.stats(); }), Contains("SIGKILL"));
    CHECK_THAT(text_of_error([&] { actor.trace("/tmp/never"); }), Contains("SIGKILL"));
}

TEST_CASE("an actor that is dead has no statistics", "[manager][actor][stats]") {
    mp::Actor<Account> actor;
    CHECK_THROWS_AS(actor.call<&Account::die>(), mp::ActorLost);
    CHECK_THROWS_AS(actor.stats(), mp::ActorLost);
}

TEST_CASE("a ManagerServer tells its own program what it does, and its clients nothing",
          "[manager][remote][stats]") {
    mp::ManagerServer server;
    server.expose<&Account::deposit>("account", std::make_shared<Account>());
    server.start();
    auto there = mp::Manager::connect(server.address());
    CHECK(there.get<Account>("account").call<&Account::deposit>(1.0) == 1);
    CHECK(server.object<Account>("account").call<&Account::deposit>(1.0) == 2);
    const auto stats = server.stats();
    CHECK(stats.pid == ::getpid());
    REQUIRE(stats.objects.size() == 1);
    CHECK(stats.objects.front().name == "account");
    CHECK(stats.objects.front().calls == 2);
    CHECK_THROWS_AS(there.stats(), mp::NotExposed);
    CHECK_THROWS_AS(there.trace("/tmp/never"), mp::NotExposed);
    CHECK_FALSE(std::filesystem::exists("/tmp/never"));
    there.shutdown();
    server.stop();
}

TEST_CASE("an actor's trace has its name, and its calls with theirs", "[manager][actor][trace]") {
    Trace trace;
    {
        mp::Actor<Account> actor({.name = "ada", .max_restarts = GENERATE(0u, 1u)});
        actor.trace(trace.path());
        actor.call<&Account::deposit>(1.0);
        CHECK_THROWS(actor.call<&Account::deposit>(-1.0));
        actor.trace_stop();
        actor.call<&Account::balance>();  // is not in it
        actor.trace_stop();               // there is none: nothing happens
    }
    const std::string text = trace.text();
    CHECK_THAT(text, StartsWith("[\n") && EndsWith("\n]\n"));
    CHECK_THAT(text, Contains("sidestep actor ada of process"));
    CHECK_THAT(text, Contains("Account::deposit\"") && Contains("\"outcome\":\"value\"") &&
                         Contains("\"outcome\":\"error\""));
    CHECK_THAT(text, !Contains("Account::balance"));
}

TEST_CASE("a trace ends with its server, whole", "[manager][trace]") {
    Trace trace;
    {
        mp::Manager manager;
        manager.trace(trace.path());
        manager.make<Account>().call<&Account::deposit>(1.0);
    }
    CHECK_THAT(trace.text(), Contains("Account::deposit\"") && EndsWith("\n]\n"));
}

TEST_CASE("a trace of a ManagerServer has the exposed methods' names", "[manager][remote][trace]") {
    Trace trace;
    mp::ManagerServer server;
    server.expose<&Account::deposit>("account", std::make_shared<Account>());
    server.start();
    server.trace(trace.path());
    mp::Manager::connect(server.address()).get<Account>("account").call<&Account::deposit>(1.0);
    server.trace_stop();
    CHECK_THAT(trace.text(), Contains("Account::deposit\"") && EndsWith("\n]\n"));
    CHECK_THROWS_AS(server.trace("/no/such/folder/trace.json"), std::system_error);
    server.stop();
}

TEST_CASE("a file that cannot be made for a trace is named", "[manager][actor][trace]") {
    mp::Actor<Account> actor;
    CHECK_THAT(text_of_error([&] { actor.trace("/no/such/folder/trace.json"); }),
               Contains("/no/such/folder/trace.json") && Contains("No such file"));
    CHECK(actor.call<&Account::deposit>(1.0) == 1);
}

}  // namespace insight_test
