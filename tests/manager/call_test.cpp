// Objects of users' types: calls, order, errors, references, forks.
#include <catch2/catch.hpp>

#include <sidestep/connection.hpp>
#include <sidestep/futures.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/pool.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "process_support.hpp"
#include "support.hpp"

namespace call_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;

namespace {

struct Base {
    virtual ~Base() = default;
    int inherited(int by) { return by + 1; }
    virtual std::string who() const { return "base"; }
};
struct Counter : Base {
    explicit Counter(int start = 0) : n(start) {
        if (start < 0) throw std::domain_error("a counter begins at zero");
    }
    void add(int by) { n += by; }
    int value() const noexcept { return n; }
    const std::string& name() const { return text; }
    void rename(const std::string& to) { text = to; }
    void remember(int i) { seen.push_back(i); }
    std::vector<int> remembered() const { return seen; }
    std::string who() const override { return "counter"; }
    int process() const { return ::getpid(); }
    void fail(const std::string& why) { throw std::invalid_argument(why); }
    int ask_other(mp::Proxy<Counter> other, mp::Proxy<Counter> me) {
        other.call<&Counter::add>(1);
        return other.call<&Counter::value>() + me.call<&Counter::value>();
    }
    int n;
    std::string text = "counter";
    std::vector<int> seen;
};
struct Mourned {
    explicit Mourned(mp::ValueProxy<int> how_many) : gone(std::move(how_many)) {}
    Mourned(Mourned&&) = default;
    ~Mourned() {
        if (gone) gone.update([](int& n) { ++n; });
    }
    void touch() {}
    mp::ValueProxy<int> gone;
};
struct Holder {
    explicit Holder(mp::Proxy<Counter> counter) : held(std::move(counter)) {}
    mp::Proxy<Counter> held;
    mp::Proxy<Counter> get() const { return held; }
    void drop() { held = {}; }
};
// All of the server's together.
struct Meeting {
    int meet(int how_many) {
        static std::atomic<int> here{0};
        ++here;
        while (here < how_many) std::this_thread::yield();
        return how_many;
    }
};

void add_many(mp::Proxy<Counter> counter, int n) {
    for (int i = 0; i < n; ++i) counter.submit<&Counter::add>(1);
    counter.flush();
}
int ask(mp::Proxy<Counter> counter) { return counter.call<&Counter::value>(); }

}  // namespace

TEST_CASE("a method of an object in the server is called by each start method", "[manager][call]") {
    FOR_EACH_START_METHOD();
    mp::Manager manager({.start_method = method});
    auto counter = manager.make<Counter>(4);
    counter.call<&Counter::add>(3);
    CHECK(counter.call<&Counter::value>() == 7);
    CHECK(counter.call<&Counter::process>() == manager.pid());
    mp::Process a({.start_method = method}, add_many, counter, 100);
    a.start();
    a.join();
    CHECK(a.exitcode() == 0);
    CHECK(counter.call<&Counter::value>() == 107);
}

TEST_CASE("virtual, inherited, const and noexcept methods, references and functions",
          "[manager][call]") {
    mp::Manager manager;
    auto counter = manager.make<Counter>();
    CHECK(counter.call<&Base::inherited>(4) == 5);
    CHECK(counter.call<&Base::who>() == "counter");
    counter.call<&Counter::rename>("steps");  // converted to the method's parameter here
    CHECK(counter.call<&Counter::name>() == "steps");
    CHECK(counter.call([](Counter& c, int by) { return c.n += by; }, 9) == 9);
    CHECK(counter.call([](const Counter& c) -> const std::string& { return c.text; }) == "steps");
}

TEST_CASE("what a method, a constructor or an initializer throws arrives by type",
          "[manager][error]") {
    mp::Manager manager;
    auto counter = manager.make<Counter>();
    CHECK_THROWS_AS(counter.call<&Counter::fail>("no"), std::invalid_argument);
    try {
        counter.call<&Counter::fail>("no");
    } catch (const std::exception& error) {
        CHECK_THAT(error.what(), Contains("no"));
        CHECK_THAT(mp::remote_traceback(error),
                   Contains("in the server of objects " + std::to_string(manager.pid())));
    }
    CHECK_THROWS_AS(manager.make<Counter>(-1), std::domain_error);
    counter.call<&Counter::add>(1);
    CHECK(counter.call<&Counter::value>() == 1);  // the object lives on
    CHECK_THROWS_AS(mp::Manager({.initializer = [] { throw std::length_error("too long"); }}),
                    std::length_error);
    CHECK_THROWS_AS(mp::Proxy<Counter>().call<&Counter::value>(), std::logic_error);
}

TEST_CASE("the calls of one thread keep their order, and flush waits for them",
          "[manager][order]") {
    mp::Manager manager;
    auto counter = manager.make<Counter>();
    std::vector<int> expected;
    for (int i = 0; i < 6000; ++i) {  // more than may be under way
        counter.submit<&Counter::remember>(i);
        expected.push_back(i);
    }
    counter.flush();
    CHECK(counter.call<&Counter::remembered>() == expected);
}

TEST_CASE("a call that goes on holds up no call of another thread of its client",
          "[manager][order]") {
    mp::Manager manager;
    auto one = manager.make<Meeting>(), other = manager.make<Meeting>();
    for (int expected = 2; expected <= 40; expected += 2) {
        auto first = one.submit<&Meeting::meet>(expected);
        auto second =
            std::async(std::launch::async, [&] { return other.call<&Meeting::meet>(expected); });
        CHECK(first.get() == expected);
        CHECK(second.get() == expected);
    }
}

TEST_CASE("flush throws what a call threw whose future was dropped, once", "[manager][error]") {
    mp::Manager manager;
    auto counter = manager.make<Counter>();
    counter.submit<&Counter::fail>("first");
    counter.submit<&Counter::fail>("second");
    auto kept = counter.submit<&Counter::fail>("kept");
    CHECK_THROWS_WITH(counter.flush(), Contains("first"));
    CHECK_NOTHROW(counter.flush());
    CHECK_THROWS_WITH(kept.get(), Contains("kept"));
    CHECK_NOTHROW(counter.flush());
}

TEST_CASE("what a call threw whose future was dropped goes to stderr at the end of the process",
          "[manager][error]") {
    mp::Manager manager;
    auto counter = manager.make<Counter>();
    auto [here, there] = mp::Pipe();
    mp::Process careless(
        [](mp::Connection out, mp::Proxy<Counter> mine) {
            if (::dup2(out.fd(), STDERR_FILENO) < 0) mp::exit_process(1);
            mine.submit<&Counter::fail>("dropped");
            mine.call<&Counter::value>();
        },
        std::move(there), counter);
    careless.start();
    careless.join();
    CHECK(careless.exitcode() == 0);
    char text[400] = {};
    CHECK(::read(here.fd(), text, sizeof text - 1) > 0);
    CHECK_THAT(text, Contains("whose result was dropped: dropped"));
}

TEST_CASE("futures of calls can be waited for together, and have callbacks", "[manager][future]") {
    mp::Manager manager;
    auto counter = manager.make<Counter>();
    auto slow = manager.event();
    auto waits = slow.submit<&mp::detail::EventObject::wait>(std::chrono::nanoseconds::max());
    std::atomic<int> from_callback{0};
    auto future = counter.submit<&Counter::value>();
    future.add_done_callback([&](const mp::Future<int>&) {
        counter.call<&Counter::add>(5);  // a callback may call
        from_callback = counter.call<&Counter::value>();
    });
    CHECK(test::eventually([&] { return from_callback == 5; }));
    CHECK_FALSE(waits.ready());
    CHECK_FALSE(waits.wait_for(1ms));
    std::thread setter([&] { slow.set(); });
    std::vector<mp::Future<bool>> both{waits};
    CHECK(mp::wait(both, mp::ReturnWhen::all_completed, test::kPatience).done.size() == 1);
    setter.join();
    CHECK(waits.get());
}

TEST_CASE("a proxy is an argument of tasks, processes, calls and messages", "[manager][travel]") {
    mp::Manager manager;
    auto counter = manager.make<Counter>(1);
    mp::Pool pool({.processes = 2});
    std::vector<mp::Future<void>> futures;
    for (int i = 0; i < 8; ++i) futures.push_back(pool.submit(add_many, counter, 10));
    for (auto& future : futures) future.get();
    CHECK(counter.call<&Counter::value>() == 81);

    auto [here, there] = mp::Pipe();
    here.send(counter);
    auto arrived = there.recv<mp::Proxy<Counter>>();
    CHECK(arrived == counter);
    CHECK(arrived.call<&Counter::value>() == 81);

    // Objects that call others, and themselves.
    auto other = manager.make<Counter>(10);
    CHECK(other.call<&Counter::ask_other>(counter, other) == 92);
    mp::Manager elsewhere;
    auto stranger = elsewhere.make<Counter>(100);
    CHECK(stranger.call<&Counter::ask_other>(counter, counter) == 166);
}

TEST_CASE("the last proxy frees the object, and one on its way counts", "[manager][reference]") {
    mp::Manager manager;
    auto gone = manager.value<int>(0);
    auto freed = [&](int n) { return test::eventually([&] { return gone.get() == n; }); };
    {
        auto first = manager.make<Mourned>(gone);
        auto second = first;
        first = {};
        second.call<&Mourned::touch>();
        CHECK(gone.get() == 0);
    }
    CHECK(freed(1));
    // Nobody but the message has it; then it is read, and then dropped.
    auto [here, there] = mp::Pipe();
    here.send(manager.make<Mourned>(gone));
    CHECK(gone.get() == 1);
    there.recv<mp::Proxy<Mourned>>().call<&Mourned::touch>();
    CHECK(freed(2));
    // A call that waits in the queue keeps its object, although the proxy is gone.
    manager.make<Mourned>(gone).submit<&Mourned::touch>().get();
    CHECK(freed(3));
    // A process whose argument it was.
    mp::Process user([](mp::Proxy<Mourned> m) { m.call<&Mourned::touch>(); },
                     manager.make<Mourned>(gone));
    user.start();
    user.join();
    CHECK(user.exitcode() == 0);
    CHECK(freed(4));
}

TEST_CASE("objects hold proxies: a nested one keeps its object until it is let go",
          "[manager][reference]") {
    mp::Manager manager;
    auto holder = manager.make<Holder>(manager.make<Counter>(7));
    auto inner = holder.call<&Holder::get>();
    CHECK(inner.call<&Counter::value>() == 7);
    holder.call<&Holder::drop>();
    CHECK(inner.call<&Counter::value>() == 7);
    CHECK_FALSE(holder.call<&Holder::get>());
}

TEST_CASE("10,000 objects made and dropped leave nothing", "[manager][reference]") {
    mp::Manager manager;
    auto gone = manager.value<int>(0);
    const auto before = test::Resources::now();
    for (int i = 0; i < 10'000; ++i) (void)manager.make<Mourned>(gone);
    CHECK(test::eventually([&] { return gone.get() == 10'000; }));
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("a forked child makes a connection of its own", "[manager][fork]") {
    mp::Manager manager({.start_method = mp::StartMethod::spawn});
    auto counter = manager.make<Counter>(1);
    auto unused = manager.make<Counter>(2);
    CHECK(ask(counter) == 1);
    mp::Process child(
        {.start_method = mp::StartMethod::fork},
        [](mp::Proxy<Counter> mine) {
            for (int i = 0; i < 50; ++i) mine.call<&Counter::add>(1);
        },
        counter);
    child.start();
    for (int i = 0; i < 50; ++i) counter.call<&Counter::add>(1);
    child.join();
    CHECK(child.exitcode() == 0);
    CHECK(ask(counter) == 101);

    // fork(2) by the application: copies in memory, used and unused.
    const int pid = ::fork();
    if (pid == 0) {
        int value = 0;
        try {
            value = ask(counter);
        } catch (...) {
        }
        ::_exit(value == 101 ? 0 : 1);
    }
    int status = -1;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    CHECK(status == 0);
    CHECK(ask(counter) == 101);
    CHECK(ask(unused) == 2);
}

}  // namespace call_test
