// How calls end that do not return: with their thread, or when their time is up; and what is known
// of clients that may come again.
#include <catch2/catch.hpp>

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/actor.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/manager_server.hpp>
#include <sidestep/process.hpp>

#include "call_stage.hpp"
#include "manager_support.hpp"
#include "process_support.hpp"
#include "session_table.hpp"
#include "support.hpp"

namespace call_end_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using mp::detail::CallStage;
using mp::detail::SessionTable;
using test::text_of_error;

namespace {

class Quitter {
  public:
    Quitter() = default;
    explicit Quitter(bool quits) {
        if (quits) ::pthread_exit(nullptr);
    }
    int add(int n) { return sum_ += n; }
    void quit() { ::pthread_exit(nullptr); }

  private:
    int sum_ = 0;
};

void quit_here() { ::pthread_exit(nullptr); }

// A child of this process that has ended, and one that has not.
int ended_process() {
    const int child = ::fork();
    if (child == 0) ::_exit(0);
    REQUIRE(::waitpid(child, nullptr, 0) == child);
    return child;
}

}  // namespace

// --- pthread_exit() ----------------------------------------------------------------------------

TEST_CASE("a method that ends its thread costs its call alone", "[manager][actor][thread]") {
    const unsigned restarts = GENERATE(0u, 1u);
    mp::Actor<Quitter> actor({.max_restarts = restarts});
    const int pid = actor.pid();
    CHECK(actor.call<&Quitter::add>(1) == 1);
    // What comes after it from the same thread is in the same strand.
    auto lost = actor.submit<&Quitter::quit>();
    std::vector<mp::Future<int>> next;
    for (int i = 0; i < 3; ++i) next.push_back(actor.submit<&Quitter::add>(1));
    CHECK_THAT(text_of_error([&] { lost.get(); }), Contains("pthread_exit"));
    for (int i = 0; i < 3; ++i) CHECK(next[std::size_t(i)].get() == 2 + i);
    std::thread([&] { CHECK(actor.call<&Quitter::add>(1) == 5); }).join();
    CHECK(actor.pid() == pid);
    CHECK(actor.restarts() == 0);
}

TEST_CASE("a Manager's object, a function and a constructor that end their thread",
          "[manager][thread]") {
    mp::Manager manager;
    auto quitter = manager.make<Quitter>();
    CHECK_THAT(text_of_error([&] { quitter.call<&Quitter::quit>(); }), Contains("pthread_exit"));
    CHECK_THAT(text_of_error([&] { quitter.call([](Quitter& q) { q.quit(); }); }),
               Contains("pthread_exit"));
    CHECK_THAT(text_of_error([&] { (void)manager.make<Quitter>(true); }), Contains("pthread_exit"));
    CHECK(quitter.call<&Quitter::add>(1) == 1);
    CHECK(manager.is_alive());
}

TEST_CASE("a ManagerServer outlives the threads that its methods end",
          "[manager][remote][thread]") {
    mp::ManagerServer server;
    server.expose<&Quitter::add, &Quitter::quit>("quitter", std::make_shared<Quitter>());
    server.start();
    {
        auto there = mp::Manager::connect(server.address());
        auto quitter = there.get<Quitter>("quitter");
        CHECK_THAT(text_of_error([&] { quitter.call<&Quitter::quit>(); }),
                   Contains("pthread_exit"));
        CHECK(quitter.call<&Quitter::add>(1) == 1);
    }
    // In the server's own program it is the thread that calls.
    std::atomic<bool> came_back{false};
    std::thread([&] {
        server.object<Quitter>("quitter").call<&Quitter::quit>();
        came_back = true;
    }).join();
    CHECK_FALSE(came_back);
    CHECK(server.object<Quitter>("quitter").call<&Quitter::add>(1) == 2);
    server.stop();
}

TEST_CASE("an actor whose constructor ends its thread was not made", "[manager][actor][thread]") {
    const unsigned restarts = GENERATE(0u, 1u);
    const test::Resources before = test::Resources::now();
    CHECK_THAT(text_of_error([&] { mp::Actor<Quitter>({.max_restarts = restarts}, true); }),
               Contains("pthread_exit"));
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("a Manager whose initializer ends its thread was not made", "[manager][thread]") {
    const test::Resources before = test::Resources::now();
    CHECK_THAT(text_of_error([] { mp::Manager({.initializer = quit_here}); }),
               Contains("pthread_exit"));
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("a Process whose function ends its thread says so", "[process][thread]") {
    mp::Process process(quit_here);
    process.start();
    process.join();
    CHECK(process.exitcode() == 1);
    CHECK_THAT(text_of_error([&] { process.rethrow(); }), Contains("pthread_exit"));
}

// --- white box: how far a call has come ---------------------------------------------------------

TEST_CASE("a call that is over does not begin, and one that has begun tells where",
          "[manager][timeout]") {
    CallStage stage;
    CHECK_FALSE(stage.has_begun());
    CHECK(stage.begin(7));
    CHECK(stage.has_begun());
    CHECK_FALSE(stage.end_unbegun());
    CHECK(stage.unbegin() == CallStage::Place(7));
    CHECK(stage.unbegin() == std::nullopt);
    CHECK(stage.begin(CallStage::kUnnoted));
    CHECK(stage.end() == CallStage::kUnnoted);
    CHECK(stage.end() == std::nullopt);
    CHECK(stage.unbegin() == std::nullopt);  // its place is whose that ended it
    CHECK_FALSE(stage.begin(8));
    CHECK(stage.end_unbegun());

    CallStage waits;
    CHECK(waits.end_unbegun());
    CHECK_FALSE(waits.begin(7));
    CHECK_FALSE(waits.has_begun());
}

TEST_CASE("of a call and who ends it, exactly one has its place", "[manager][timeout]") {
    constexpr int kRounds = 20000;
    std::vector<CallStage> stages(kRounds);
    std::vector<std::optional<CallStage::Place>> by_call(kRounds), by_end(kRounds);
    std::vector<char> began(kRounds);
    std::atomic<int> at{0};
    std::thread call([&] {
        for (int i = 0; i < kRounds; ++i) {
            while (at < i) {
            }
            const auto n = std::size_t(i);
            began[n] = stages[n].begin(n);
            if (began[n]) by_call[n] = stages[n].unbegin();
        }
    });
    for (int i = 0; i < kRounds; ++i) {
        at = i;
        by_end[std::size_t(i)] = stages[std::size_t(i)].end();
    }
    call.join();
    int wrong = 0;
    for (std::size_t n = 0; n < kRounds; ++n)
        wrong += began[n] ? by_call[n].has_value() == by_end[n].has_value()
                          : by_call[n].has_value() || by_end[n].has_value();
    CHECK(wrong == 0);
}

// --- white box: sessions ------------------------------------------------------------------------

TEST_CASE("a session is known while its client may come again, and no longer",
          "[manager][actor][session]") {
    SessionTable table;
    const int gone = ended_process();
    auto mine = table.open(1, ::getpid());
    REQUIRE(mine);
    CHECK(mine->take(5));
    mine = nullptr;
    REQUIRE(table.open(1, ::getpid()));
    CHECK_FALSE(table.open(1, ::getpid())->take(5));  // it is the same
    CHECK(table.open(1, ::getpid())->take(6));
    // Nobody waits for what comes late of a process that has ended.
    CHECK(table.open(2, gone) == nullptr);
    CHECK(table.size() == 1);
}

TEST_CASE("of clients that have ended nothing is kept", "[manager][actor][session]") {
    SessionTable table;
    constexpr std::uint64_t kMany = 200, kProcesses = 10;
    std::shared_ptr<mp::detail::SessionCalls> connected;
    std::vector<int> children;
    int end[2];
    REQUIRE(::pipe(end) == 0);
    for (std::uint64_t i = 1; i <= kProcesses; ++i) {
        const int child = ::fork();
        if (child == 0) {
            ::close(end[1]);
            char byte;
            ::_exit(int(::read(end[0], &byte, 1)));
        }
        children.push_back(child);
    }
    for (std::uint64_t i = 1; i <= kMany; ++i) {
        auto calls = table.open(i, children[i % kProcesses]);
        REQUIRE(calls);
        if (i == 1) connected = calls;
    }
    CHECK(table.size() == kMany);
    ::close(end[1]);
    ::close(end[0]);
    for (int child : children) REQUIRE(::waitpid(child, nullptr, 0) == child);
    // Who comes finds out, sooner or later: what is left are these, and whose connection is there.
    std::uint64_t came = 0;
    while (came < kMany && table.size() >= kMany) (void)table.open(kMany + ++came, ::getpid());
    CHECK(table.size() == came + 1);
    CHECK(connected.use_count() == 2);
}

TEST_CASE("of clients that cannot be seen the latest are known", "[manager][actor][session]") {
    SessionTable table;
    constexpr std::uint64_t kMany = 3 * SessionTable::kMostUnseen;
    for (std::uint64_t i = 1; i <= kMany; ++i) {
        auto calls = table.open(i, 0);
        REQUIRE(calls);
        (void)calls->take(1);
    }
    CHECK(table.size() <= 2 * SessionTable::kMostUnseen + 1);
    CHECK(table.open(1, 0)->take(1));  // it was forgotten
    CHECK_FALSE(table.open(kMany, 0)->take(1));
}

}  // namespace call_end_test
