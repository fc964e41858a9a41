// Actors: timeouts, cancelling, mailboxes, readers; and what becomes of all when processes die.
#include <catch2/catch.hpp>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/actor.hpp>
#include <sidestep/event.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/this_task.hpp>

#include "manager_support.hpp"
#include "process_support.hpp"
#include "support.hpp"

namespace actor_limits_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;
using test::text_of_error;

namespace {

class Worker {
  public:
    int add(int n) { return sum_ += n; }
    int sum() const { return sum_; }
    int pid() const { return ::getpid(); }
    void hang() {
        for (;;) ::pause();
    }
    void hang_once(mp::Event hung) {
        if (hung.is_set()) return;
        hung.set();
        hang();
    }
    bool heed(mp::Event started) {
        started.set();
        while (!mp::this_task::stop_requested()) std::this_thread::yield();
        heeded_ = true;
        return true;
    }
    bool sleep(mp::Event started) {
        started.set();
        return mp::this_task::sleep_for(mp::Timeout::forever());  // style-ok: until it is stopped
    }
    bool has_heeded() const { return heeded_; }
    void block(mp::Event started, mp::Event end) {
        started.set();
        end.wait();
    }
    // Returns when another call is inside, too.
    bool meet(mp::Queue<int> here, mp::Queue<int> there) const {
        there.put(1);
        return here.get_for(test::kPatience).has_value();
    }
    void die() { ::kill(::getpid(), SIGKILL); }

  private:
    int sum_ = 0;
    bool heeded_ = false;
};

bool is_gone(int pid) {
    return test::eventually([&] { return ::kill(pid, 0) == -1 && errno == ESRCH; });
}

}  // namespace

TEST_CASE("a call that hangs ends its actor, which has been started again when that is told",
          "[manager][actor][timeout]") {
    FOR_EACH_START_METHOD();
    mp::Actor<Worker> worker({.start_method = method, .max_restarts = 1, .timeout_grace = 0s});
    const int pid = worker.pid();
    try {
        worker.with({.timeout = 20ms}).call<&Worker::hang>();
        FAIL("it was answered");
    } catch (const mp::TaskTimeout& error) {
        CHECK(worker.restarts() == 1);
        CHECK(error.timeout() == 20ms);
        CHECK_THAT(error.what(),
                   Contains("the actor actor_limits_test::Worker (process ") &&
                       Contains("did not answer actor_limits_test::Worker::hang() within 20 ms"));
    }
    CHECK(is_gone(pid));
    CHECK(worker.call<&Worker::add>(1) == 1);
}

TEST_CASE("without restarts it is told before the end", "[manager][actor][timeout]") {
    mp::Actor<Worker> worker({.timeout_grace = 0s});
    CHECK_THROWS_AS(worker.with({.timeout = 20ms}).call<&Worker::hang>(), mp::CallTimeout);
    CHECK_THAT(text_of_error([&] { worker.call<&Worker::sum>(); }), Contains("SIGKILL"));
}

TEST_CASE("a call that heeds stop_requested() ends alone", "[manager][actor][timeout]") {
    mp::Actor<Worker> worker({.max_restarts = 1, .timeout_grace = test::kPatience});
    mp::Event started;
    CHECK_THROWS_AS(worker.with({.timeout = 1ms}).call<&Worker::heed>(started), mp::CallTimeout);
    CHECK(worker.call<&Worker::has_heeded>() == started.is_set());
    CHECK(worker.restarts() == 0);
}

TEST_CASE("a call that sleeps is woken when its time is up, or when it is cancelled",
          "[manager][actor][timeout]") {
    mp::Actor<Worker> worker({.max_restarts = 1, .timeout_grace = test::kPatience});
    mp::Event started;
    CHECK_THROWS_AS(worker.with({.timeout = 1ms}).call<&Worker::sleep>(started), mp::CallTimeout);
    started.clear();
    auto sleeps = worker.submit<&Worker::sleep>(started);
    started.wait();
    CHECK_FALSE(sleeps.cancel());
    CHECK_FALSE(sleeps.get());  // it was not the time that ended it
    CHECK(worker.restarts() == 0);
}

TEST_CASE("an overdue call that waits is taken back, and nobody is ended for it",
          "[manager][actor][timeout]") {
    mp::Actor<Worker> worker({.max_restarts = 1, .timeout_grace = 0s});
    mp::Event started, end;
    auto first = worker.submit<&Worker::block>(started, end);
    started.wait();
    // Behind it, of the same thread; and in front of the object, of another one.
    CHECK_THROWS_AS(worker.with({.timeout = 1ms}).call<&Worker::add>(1), mp::CallTimeout);
    std::thread([&] {
        CHECK_THROWS_AS(worker.with({.timeout = 1ms}).call<&Worker::add>(1), mp::CallTimeout);
    }).join();
    end.set();
    first.get();
    CHECK(worker.call<&Worker::sum>() == 0);
    CHECK(worker.restarts() == 0);
}

TEST_CASE("an overdue call of a Manager's object is asked to stop, and the object lives on",
          "[manager][timeout]") {
    mp::Manager manager;
    auto worker = manager.make<Worker>();
    mp::Event started;
    CHECK_THAT(
        text_of_error([&] { worker.with({.timeout = 1ms}).call<&Worker::heed>(started); }),
        Contains("did not answer actor_limits_test::Worker::heed") && Contains("of the server"));
    CHECK(worker.call<&Worker::has_heeded>() == started.is_set());
    CHECK(manager.is_alive());
}

TEST_CASE("a hung call is run again if its Retry says so", "[manager][actor][timeout]") {
    mp::Actor<Worker> worker({.max_restarts = 4, .timeout_grace = 0s});
    mp::Event hung;
    worker.with({.timeout = 500ms, .retry = {.max_attempts = 3}}).call<&Worker::hang_once>(hung);
    CHECK(worker.restarts() >= 1);
    auto twice = worker.with({.timeout = 20ms, .retry = {.max_attempts = 2}});
    CHECK_THAT(text_of_error([&] { twice.call<&Worker::hang>(); }),
               Contains("within 20 ms, after 2 attempts"));
}

TEST_CASE("a call that waits can be cancelled, one that runs is asked to stop",
          "[manager][actor][cancel]") {
    mp::Actor<Worker> worker;
    mp::Event started;
    auto running = worker.submit<&Worker::heed>(started);
    auto waiting = worker.submit<&Worker::add>(1);
    auto last = worker.submit<&Worker::add>(2);
    started.wait();
    CHECK(waiting.cancel());
    CHECK(waiting.cancelled());
    CHECK(waiting.cancel());
    CHECK_THROWS_AS(waiting.get(), mp::CancelledError);
    CHECK_FALSE(running.cancel());
    CHECK(running.get());
    CHECK_FALSE(running.cancel());
    CHECK_FALSE(running.cancelled());
    CHECK(last.get() == 2);
}

TEST_CASE("a call of an actor that has died cannot be cancelled", "[manager][actor][cancel]") {
    const unsigned restarts = GENERATE(0u, 1u);
    mp::Actor<Worker> worker({.max_restarts = restarts});
    mp::Event started, end;
    auto running = worker.submit<&Worker::block>(started, end);
    auto waiting = worker.submit<&Worker::add>(1);
    started.wait();
    ::kill(worker.pid(), SIGKILL);
    CHECK_FALSE(running.cancel());
    CHECK_THROWS_AS(running.get(), mp::ActorLost);
    if (restarts == 0)
        CHECK_THROWS_AS(waiting.get(), mp::ActorLost);
    else
        CHECK(waiting.get() == 1);
    CHECK_FALSE(waiting.cancel());
}

TEST_CASE("calls that nobody waits for go to the next process, too", "[manager][actor][restart]") {
    mp::Actor<Worker> worker({.max_restarts = 1});
    const int pid = worker.pid();
    CHECK(worker.call<&Worker::add>(0) == 0);
    ::kill(pid, SIGKILL);
    CHECK(is_gone(pid));
    mp::Event done, go_on;
    go_on.set();
    auto future = worker.submit<&Worker::block>(done, go_on);
    done.wait();  // it runs, and nobody has read
    future.get();
    CHECK(worker.restarts() == 1);
}

TEST_CASE("a mailbox has a bound for each process: try_submit says no, submit waits",
          "[manager][actor][mailbox]") {
    mp::Actor<Worker> worker({.max_pending = 2});
    mp::Event started, end;
    auto first = worker.submit<&Worker::block>(started, end);
    auto second = worker.try_submit<&Worker::add>(1);
    REQUIRE(second);
    CHECK_FALSE(worker.try_submit<&Worker::add>(2));
    auto proxy = worker.proxy();
    CHECK_FALSE(proxy.try_submit<&Worker::add>(2));
    started.wait();
    int later = 0;  // another caller's: before the second, or after it
    std::thread third([&] { later = worker.submit<&Worker::add>(4).get(); });
    end.set();
    first.get();
    third.join();
    CHECK((later == 4 ? second->get() == 5 : later == 5 && second->get() == 1));
    auto room = worker.try_submit<&Worker::add>(8);
    REQUIRE(room);
    CHECK(room->get() == 13);
}

TEST_CASE("who waits for an actor's death, or takes a call back, needs no place in the mailbox",
          "[manager][actor][mailbox]") {
    mp::Actor<Worker> worker({.max_pending = 1});
    auto death = worker.death();
    mp::Event started;
    auto running = worker.try_submit<&Worker::heed>(started);
    REQUIRE(running);
    CHECK_FALSE(worker.try_submit<&Worker::add>(1));
    started.wait();
    CHECK_FALSE(running->cancel());
    CHECK(running->get());
    CHECK(worker.call<&Worker::add>(1) == 1);
    CHECK_FALSE(death.ready());
}

TEST_CASE("readers are in the object at the same time, and nobody else with them",
          "[manager][actor][readers]") {
    mp::Actor<Worker> worker({.readers = 2});
    mp::Queue<int> a(4), b(4);
    std::thread other([&] { CHECK(worker.read<&Worker::meet>(a, b)); });
    CHECK(worker.read<&Worker::meet>(b, a));
    other.join();
    auto nested = [](Worker& w) { return w.add(1); };
    CHECK(worker.call(nested) == 1);
    CHECK(worker.read<&Worker::sum>() == 1);
    // Without readers it is a call like any other.
    mp::Actor<Worker> single;
    CHECK(single.read<&Worker::sum>() == 0);
}

TEST_CASE("kill -9 of the actor fails or restarts what is under way in all processes",
          "[manager][actor][death]") {
    const unsigned restarts = GENERATE(0u, 1u);
    INFO(restarts << " restarts");
    mp::Actor<Worker> worker({.max_restarts = restarts});
    mp::Event started, end;
    mp::Queue<std::string> told;
    mp::Process caller(
        [](mp::Proxy<Worker> w, mp::Event s, mp::Event e, mp::Queue<std::string> out) {
            auto running = w.submit<&Worker::block>(s, e);
            auto waiting = w.submit<&Worker::add>(1);
            out.put(text_of_error([&] { running.get(); }));
            out.put(text_of_error([&] { (void)waiting.get(); }));
        },
        worker.proxy(), started, end, told);
    caller.start();
    started.wait();
    ::kill(worker.pid(), SIGKILL);
    if (restarts == 0) {
        CHECK_THAT(told.get(), Contains("cannot be reached") &&
                                   Contains("in actor_limits_test::Worker::block"));
        CHECK_THAT(told.get(), Contains("before it began actor_limits_test::Worker::add(int)"));
    } else {
        CHECK_THAT(told.get(),
                   Contains("SIGKILL") && Contains("in actor_limits_test::Worker::block"));
        CHECK(told.get() == "nothing was thrown");
        CHECK(worker.call<&Worker::sum>() == 1);
    }
    caller.join();
}

TEST_CASE("kill -9 of the keeper ends the actor for good", "[manager][actor][death]") {
    mp::Actor<Worker> worker({.max_restarts = 5});
    const int pid = worker.pid();
    int keeper = 0;
    for (const auto& child : mp::active_children())
        if (child.name() == "actor_limits_test::Worker") keeper = child.pid();
    REQUIRE(keeper != 0);
    REQUIRE(keeper != pid);
    ::kill(keeper, SIGKILL);
    CHECK_THAT(text_of_error([&] { worker.call<&Worker::hang>(); }),
               Contains("the actor actor_limits_test::Worker"));
    CHECK(is_gone(pid));
    CHECK_FALSE(worker.is_alive());
}

TEST_CASE("kill -9 of a caller ends nothing but what it had queued, and the actor goes on",
          "[manager][actor][death]") {
    mp::Actor<Worker> worker({.max_restarts = 1});
    mp::Event started, end;
    mp::Process caller(
        [](mp::Proxy<Worker> w, mp::Event s, mp::Event e) {
            auto running = w.submit<&Worker::block>(s, e);
            auto waiting = w.submit<&Worker::add>(1);
            running.get();
        },
        worker.proxy(), started, end);
    caller.start();
    started.wait();
    caller.kill();
    caller.join();
    auto mine = worker.submit<&Worker::add>(2);
    end.set();
    // (What it had queued runs if its turn comes before the news of the caller's end.)
    CHECK((mine.get() == 2 || worker.call<&Worker::sum>() == 3));
    CHECK(worker.restarts() == 0);
    CHECK(worker.call<&Worker::add>(1) > 2);
}

TEST_CASE("the actor and its keeper die with their owner", "[manager][actor][death]") {
    FOR_EACH_START_METHOD();
    auto [here, there] = mp::Pipe();
    mp::Process owner(
        [](mp::Connection out, int how) {
            const auto start = static_cast<mp::StartMethod>(how);
            mp::Actor<Worker> plain({.start_method = start});
            mp::Actor<Worker> kept({.start_method = start, .max_restarts = 1});
            std::vector<int> pids{plain.pid(), kept.pid()};
            for (const auto& child : mp::active_children()) pids.push_back(child.pid());
            out.send(pids);
            ::kill(::getpid(), SIGKILL);
        },
        std::move(there), static_cast<int>(method));
    owner.start();
    const auto pids = here.recv<std::vector<int>>();
    CHECK(pids.size() >= 4);
    owner.join();
    for (int pid : pids) CHECK(is_gone(pid));
}

TEST_CASE("a call that never ends is ended with its actor", "[manager][actor][end]") {
    const unsigned restarts = GENERATE(0u, 1u);
    mp::Event started, end;
    std::optional<mp::Future<void>> hung;
    int pid = 0;
    {
        mp::Actor<Worker> worker({.max_restarts = restarts, .stop_grace = 10ms});
        pid = worker.pid();
        hung = worker.submit<&Worker::block>(started, end);
        started.wait();
    }
    CHECK_THROWS_AS(hung->get(), mp::ActorLost);
    CHECK(is_gone(pid));
}

TEST_CASE("a forked child calls over a connection of its own, and ends nothing",
          "[manager][actor][fork]") {
    mp::Actor<Worker> worker({.max_restarts = 1});
    CHECK(worker.call<&Worker::add>(1) == 1);
    const int child = ::fork();
    if (child == 0) {
        const int sum = worker.call<&Worker::add>(10);
        worker.shutdown();
        ::_exit(sum);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WEXITSTATUS(status) == 11);
    CHECK(worker.call<&Worker::sum>() == 11);
}

}  // namespace actor_limits_test
