// What may go wrong around an actor: its forked children, its clients' connections and descriptors,
// and calls that nobody waits for.
#include <catch2/catch.hpp>

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <sidestep/actor.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/event.hpp>
#include <sidestep/futures.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/shared_memory.hpp>

#include "fake_actor.hpp"
#include "manager_support.hpp"
#include "object_frame.hpp"
#include "process_support.hpp"
#include "support.hpp"

namespace actor_fault_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;
using mp::detail::FrameKind;
using mp::detail::ObjectFrame;
using mp::detail::ServerName;
using test::FakeActor;
using test::proxy_at;
using test::server_of_proxy;
using test::text_of_error;

namespace {

// A child that has copies of all that its parent had open, until `end`.
int fork_until(mp::Event end) {
    const int child = ::fork();
    if (child == 0) {
        end.wait();
        ::_exit(0);
    }
    return child;
}

class Parent {
  public:
    Parent() = default;
    // Dies in the constructor.
    Parent(mp::Event end, mp::Queue<int> children) {
        children.put(fork_until(end));
        ::kill(::getpid(), SIGKILL);
    }
    int have_child(mp::Event end) { return fork_until(end); }
    void die() { ::kill(::getpid(), SIGKILL); }
};

class Worker {
  public:
    int add(int n) { return sum_ += n; }
    int sum() const { return sum_; }
    void hang(mp::Event started) {
        started.set();
        for (;;) ::pause();
    }
    void die() { ::kill(::getpid(), SIGKILL); }

  private:
    int sum_ = 0;
};

struct Peer {
    bool ask(mp::Proxy<Peer> other, mp::Proxy<Peer> self) {
        return other.call<&Peer::ask_back>(self);
    }
    bool ask_back(mp::Proxy<Peer> first) {
        try {
            first.with({.timeout = 20ms}).call<&Peer::touch>();
        } catch (const mp::CallTimeout&) {
            return true;
        }
        return false;
    }
    int touch() { return 1; }
};

// Names a descriptor that is not open: the system refuses to send it.
struct NoDescriptor {
    void save(mp::OutputArchive& archive) const { (void)archive.fds()->put(1 << 28); }
    void load(mp::InputArchive&) {}
};
struct Taker {
    int take(NoDescriptor) { return 1; }
    int answer() const { return 42; }
};

bool is_gone(int pid) {
    return test::eventually([&] { return ::kill(pid, 0) == -1 && errno == ESRCH; });
}

// What a client of an actor sends, by hand.
class ByHand {
  public:
    explicit ByHand(const ServerName& server)
        : connection(mp::Client(server.address, {.authkey = server.authkey})) {}
    void resume(std::uint64_t session) {
        send({FrameKind::resume, 0, 0, 0, {}}, session, std::uint64_t(0));
        CHECK(connection.recv<ObjectFrame>().head.kind == FrameKind::serves);
    }
    template <class... Values>
    void send(const mp::detail::FrameHead& head, const Values&... values) {
        mp::detail::HeapBuffer body;
        mp::OutputArchive archive(body);
        archive(values...);
        connection.send(ObjectFrame{head, body.bytes(), {}, {}, {}});
    }
    void add(std::uint64_t request, int n) {
        using Body = mp::detail::MethodBody<Worker, &Worker::add, int>;
        send({FrameKind::call, request, 1, 1, mp::detail::task_id<Body>()}, std::tuple(n));
    }
    FrameKind answer() { return connection.recv<ObjectFrame>().head.kind; }

    mp::Connection connection;
};

// The link to it ends when its process finds that nobody is there, and goes when another is made.
void leave(std::optional<FakeActor>& fake) {
    auto proxy = proxy_at<Worker>(fake->name());
    fake.reset();
    CHECK_THROWS_AS(proxy.call<&Worker::sum>(), mp::ActorLost);
    proxy = {};
    mp::Manager next;
}

// No descriptor is to be had, while it lives.
class NoDescriptors {
  public:
    NoDescriptors() {
        REQUIRE(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
        const int next = ::dup(0);
        REQUIRE(next >= 0);
        ::close(next);
        rlimit none = before_;
        none.rlim_cur = static_cast<rlim_t>(next);
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
    }
    ~NoDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

  private:
    rlimit before_ = {};
};

}  // namespace

TEST_CASE("a forked child of an actor does not hide its death", "[manager][actor][fork]") {
    const unsigned restarts = GENERATE(0u, 1u);
    INFO(restarts << " restarts");
    mp::Actor<Parent> actor({.max_restarts = restarts});
    mp::Event end;
    const int child = actor.call<&Parent::have_child>(end);
    auto dies = actor.submit<&Parent::die>();
    CHECK(dies.wait_for(test::kPatience));
    end.set();
    CHECK_THROWS_AS(dies.get(), mp::ActorLost);
    CHECK(is_gone(child));
}

TEST_CASE("a forked child of its constructor does not hide that an actor died there",
          "[manager][actor][fork]") {
    mp::Event end;
    mp::Queue<int> children;
    std::thread watchdog([&] {
        (void)children.get();
        (void)end.wait_for(test::kPatience);
        end.set();
    });
    CHECK_THAT(text_of_error([&] { mp::Actor<Parent> actor(end, children); }),
               Contains("SIGKILL") && Contains("its constructor"));
    CHECK_FALSE(end.is_set());
    end.set();
    watchdog.join();
}

namespace {
// The child lives until somebody says that it shall end, or says so itself after a while.
void fork_and_die(const std::string& name) {
    mp::SharedMemory said(mp::open_only, name);
    if (::fork() == 0) {
        if (!test::eventually([&] { return said.bytes()[0] != std::byte{0}; }, 15s))
            said.bytes()[1] = std::byte{1};
        ::_exit(0);
    }
    ::kill(::getpid(), SIGKILL);
}

// Ends the children that wait for `end` in any case, after a while that nothing here takes.
class Watchdog {
  public:
    explicit Watchdog(mp::Event end) : end_(std::move(end)), thread_([this] { watch(); }) {}
    ~Watchdog() {
        end_.set();
        thread_.join();
    }
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;
    bool had_to() const { return end_.is_set(); }

  private:
    void watch() {
        (void)end_.wait_for(15s);
        end_.set();
    }
    mp::Event end_;
    std::thread thread_;
};
}  // namespace

TEST_CASE("a forked child of its initializer does not hide that a manager's server died there",
          "[manager][fork]") {
    mp::SharedMemory end(mp::create_only, 2);
    CHECK_THAT(
        text_of_error([&] { mp::Manager({.initializer = mp::bind(fork_and_die, end.name())}); }),
        Contains("SIGKILL") && Contains("before it served"));
    CHECK(end.bytes()[1] == std::byte{0});
    end.bytes()[0] = std::byte{1};
}

TEST_CASE("a forked child of a server does not listen in its place", "[manager][fork]") {
    mp::Event end;
    Watchdog watchdog(end);
    mp::Manager manager;
    auto parent = manager.make<Parent>();
    (void)parent.call<&Parent::have_child>(end);
    auto [here, there] = mp::Pipe();
    here.send(parent);
    ::kill(manager.pid(), SIGKILL);
    CHECK_THROWS_AS(parent.call<&Parent::die>(), mp::ActorLost);
    CHECK_THROWS_AS(there.recv<mp::Proxy<Parent>>(), mp::ActorLost);  // it connects
    CHECK_FALSE(watchdog.had_to());
}

TEST_CASE("a forked child of an actor does not hold up its end", "[manager][actor][fork]") {
    mp::Event end;
    Watchdog watchdog(end);
    mp::Actor<Parent> actor({.max_restarts = 1, .stop_grace = test::kPatience});
    (void)actor.call<&Parent::have_child>(end);
    for (int deaths = 0; deaths < 2; ++deaths)
        CHECK_THROWS_AS(actor.call<&Parent::die>(), mp::ActorLost);
    actor.shutdown();
    CHECK_FALSE(watchdog.had_to());
}

TEST_CASE("a hung call ends its actor although its client has died", "[manager][actor][timeout]") {
    mp::Actor<Worker> actor({.max_restarts = 1, .timeout_grace = 0s});
    mp::Event started;
    mp::Process client([](mp::Proxy<Worker> worker,
                          mp::Event s) { worker.with({.timeout = 1s}).call<&Worker::hang>(s); },
                       actor.proxy(), started);
    client.start();
    started.wait();
    client.kill();
    client.join();
    CHECK(test::eventually([&] { return actor.restarts() == 1; }, 20s));
    if (actor.restarts() == 0) ::kill(actor.pid(), SIGKILL);  // or the end would wait for it
    CHECK(actor.call<&Worker::add>(1) == 1);
}

TEST_CASE("an actor is ended for a hung call although its client does not read",
          "[manager][actor][timeout]") {
    mp::Actor<Worker> actor({.timeout_grace = 0s});
    ByHand deaf(server_of_proxy(actor.proxy()));
    for (std::uint64_t request = 1; request <= 2000; ++request) deaf.add(request, 1);
    mp::Event started;
    using Body = mp::detail::MethodBody<Worker, &Worker::hang, mp::Event>;
    mp::detail::FrameHead head{FrameKind::call, 2001, 2, 1, mp::detail::task_id<Body>()};
    head.timeout = 100'000'000;
    mp::detail::HeapBuffer body;
    mp::detail::OutgoingFds fds(true);
    mp::OutputArchive archive(body, &fds);
    archive(std::tuple(started));
    // One that does not begin in time is taken back.
    for (bool hangs = false; !hangs; ++head.request) {
        deaf.connection.send(ObjectFrame{head, body.bytes(), fds.fds(), {}, {}});
        hangs = started.wait_for(1s);
    }
    CHECK(test::eventually([&] { return !actor.is_alive(); }, 20s));
    if (actor.is_alive()) ::kill(actor.pid(), SIGKILL);
}

TEST_CASE("a proxy that arrives while its actor is started again waits for that",
          "[manager][actor][restart]") {
    std::optional<FakeActor> fake(std::in_place);
    int sum = 0;
    std::string error;
    std::thread client([&] {
        error = text_of_error([&] { sum = proxy_at<Worker>(fake->name()).call<&Worker::add>(1); });
    });
    (void)fake->accept();  // and dies
    auto connection = fake->serve(1);
    const auto call = connection.recv<ObjectFrame>();
    CHECK(call.head.kind == FrameKind::call);
    FakeActor::answer(connection, FrameKind::value, call.head.request, 7);
    client.join();
    CHECK(error == "nothing was thrown");
    CHECK(sum == 7);
    connection.close();
    leave(fake);
}

TEST_CASE("a client without descriptors loses its calls, and goes on when it has some",
          "[manager][actor][restart]") {
    mp::Actor<Worker> actor({.max_restarts = 1});
    auto death = actor.death();
    const int pid = actor.pid();
    CHECK(actor.call<&Worker::add>(1) == 1);
    {
        NoDescriptors none;
        ::kill(pid, SIGKILL);
        CHECK(is_gone(pid));
        CHECK_THAT(text_of_error([&] { actor.call<&Worker::add>(2); }),
                   Contains("Too many open files"));
        CHECK_THAT(text_of_error([&] { actor.submit<&Worker::add>(2).get(); }),
                   Contains("Too many open files"));
    }
    CHECK(actor.call<&Worker::add>(4) == 4);
    CHECK(death.get().pid == pid);
}

TEST_CASE("what this process cannot send costs that call alone", "[manager][actor]") {
    const unsigned restarts = GENERATE(0u, 1u);
    mp::Actor<Taker> actor({.max_restarts = restarts});
    mp::Event begun;
    for (int i = 0; i < 2; ++i) {
        CHECK_THROWS_AS(actor.call<&Taker::take>(NoDescriptor()), std::system_error);
        CHECK(actor.call<&Taker::answer>() == 42);
    }
    CHECK(actor.restarts() == 0);
}

TEST_CASE("a call that comes by two connections of a client runs once",
          "[manager][actor][restart]") {
    mp::Actor<Worker> actor({.max_restarts = 1});
    const ServerName server = server_of_proxy(actor.proxy());
    ByHand former(server), later(server);
    former.resume(4711);
    later.resume(4711);
    later.add(5, 1);
    CHECK(later.answer() == FrameKind::value);
    former.add(5, 1);
    CHECK(former.answer() == FrameKind::lost);
    later.add(6, 1);
    CHECK(later.answer() == FrameKind::value);
    former.add(7, 1);
    CHECK(former.answer() == FrameKind::value);
    later.add(7, 1);
    CHECK(later.answer() == FrameKind::lost);
    CHECK(actor.call<&Worker::sum>() == 3);
}

TEST_CASE("a call that was taken back is not sent to the next process",
          "[manager][actor][cancel]") {
    std::optional<FakeActor> fake(std::in_place);
    std::thread actor([&] {
        auto connection = fake->serve(0);
        const auto first = connection.recv<ObjectFrame>();
        const auto second = connection.recv<ObjectFrame>();
        const auto cancel = connection.recv<ObjectFrame>();
        CHECK(cancel.head.kind == FrameKind::cancel);
        FakeActor::answer(connection, FrameKind::value, cancel.head.request, true);
        connection.close();
        connection = fake->serve(1);
        const auto again = connection.recv<ObjectFrame>();
        CHECK(again.head.request == first.head.request);
        FakeActor::answer(connection, FrameKind::value, again.head.request, 1);
        const auto last = connection.recv<ObjectFrame>();
        CHECK(last.head.request > cancel.head.request);  // and not the second one
        FakeActor::answer(connection, FrameKind::value, last.head.request, 2);
    });
    auto proxy = proxy_at<Worker>(fake->name());
    auto first = proxy.submit<&Worker::add>(1), second = proxy.submit<&Worker::add>(1);
    std::thread reader([&] { CHECK(first.get() == 1); });  // who reads on beside cancel()
    CHECK(second.cancel());
    CHECK(second.cancelled());
    reader.join();
    CHECK(proxy.call<&Worker::add>(1) == 2);
    actor.join();
    leave(fake);
}

TEST_CASE("a server reads on while its client does not read what it is told", "[manager][actor]") {
    mp::Actor<Worker> actor;
    ByHand client(server_of_proxy(actor.proxy()));
    constexpr std::uint64_t kMany = 4000;  // answers to these are more than sockets keep
    std::atomic<std::uint64_t> sent{0};
    std::thread sender([&] {
        try {
            for (std::uint64_t request = 1; request <= kMany; ++request, ++sent)
                client.send({FrameKind::cancel, request, 0, 0, {}}, std::uint64_t(0));
        } catch (const std::system_error&) {  // it was cut off below
        }
    });
    const bool all = test::eventually([&] { return sent == kMany; }, 20s);
    CHECK(all);
    if (!all) ::shutdown(client.connection.fd(), SHUT_RDWR);
    sender.join();
    std::vector<bool> told(kMany + 1);
    for (std::uint64_t i = 0; all && i < kMany; ++i)
        told.at(client.connection.recv<ObjectFrame>().head.request) = true;
    CHECK(std::count(told.begin(), told.end(), true) == (all ? std::ptrdiff_t(kMany) : 0));
    CHECK(actor.call<&Worker::add>(1) == 1);
}

TEST_CASE("who waited for a server's death, and does not any more, keeps no session there",
          "[manager][death]") {
    const bool by_another_thread = GENERATE(false, true);
    INFO(by_another_thread);
    mp::ManagerServer server;
    server.expose<&Worker::sum>("worker", std::make_shared<Worker>());
    server.start();
    auto open_files = [] {
        std::filesystem::directory_iterator all("/proc/self/fd");
        return std::distance(begin(all), end(all));
    };
    const auto before = open_files();
    {
        auto there = mp::Manager::connect(server.address());
        std::vector<mp::Future<mp::ActorDeath>> death{there.get<Worker>("worker").death()};
        CHECK_FALSE(death.front().ready());
        if (by_another_thread)
            CHECK(mp::wait(death, mp::ReturnWhen::all_completed, 1ms).done.empty());
    }
    CHECK(test::eventually([&] { return open_files() <= before; }, 20s));
}

TEST_CASE("a callback is called at a death whose Future nobody has", "[manager][actor][death]") {
    const unsigned restarts = GENERATE(0u, 1u);
    std::atomic<int> told{0};
    mp::Actor<Worker> actor({.max_restarts = restarts});
    const int pid = actor.pid();
    actor.death().add_done_callback(
        [&](mp::Future<mp::ActorDeath> death) { told = death.get().pid; });
    CHECK_THROWS_AS(actor.call<&Worker::die>(), mp::ActorLost);
    CHECK(test::eventually([&] { return told == pid; }));
}

TEST_CASE("of two actors that call each other, the one with a timeout goes on",
          "[manager][actor][timeout]") {
    mp::Actor<Peer> first({.max_restarts = 1}), second({.max_restarts = 1});
    CHECK(first.call<&Peer::ask>(second.proxy(), first.proxy()));
    CHECK(first.call<&Peer::touch>() + second.call<&Peer::touch>() == 2);
    CHECK(first.restarts() + second.restarts() == 0);
}

}  // namespace actor_fault_test
