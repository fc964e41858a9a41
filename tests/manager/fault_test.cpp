// What becomes of calls, locks and references when a server or a client dies, or lies.
#include <catch2/catch.hpp>

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/connection.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/process.hpp>
#include <sidestep/remote_error.hpp>

#include "manager_support.hpp"
#include "object_frame.hpp"
#include "process_support.hpp"
#include "support.hpp"

namespace fault_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;
using test::server_of;

namespace {

struct Sleeper {
    void sleep(mp::EventProxy started) {
        started.set();
        for (;;) ::pause();
    }
    int answer() const { return 42; }
};
struct Tombstone {
    explicit Tombstone(mp::EventProxy event) : gone(std::move(event)) {}
    ~Tombstone() { gone.set(); }
    void touch() {}
    mp::EventProxy gone;
};

[[noreturn]] void die() {
    ::kill(::getpid(), SIGKILL);
    std::abort();
}

mp::Connection connect(const mp::detail::ServerName& server) {
    return mp::Client(server.address, {.authkey = server.authkey});
}
mp::detail::ObjectFrame frame(mp::detail::FrameKind kind, std::uint64_t object) {
    mp::detail::ObjectFrame made;
    made.head.kind = kind;
    made.head.request = 7;
    made.head.object = object;
    return made;
}
// What the server answers, as the error that it tells.
std::string error_of(mp::Connection& connection) {
    auto answer = connection.recv<mp::detail::ObjectFrame>();
    CHECK(answer.head.kind == mp::detail::FrameKind::error);
    CHECK(answer.head.request == 7);
    mp::InputArchive archive(answer.bytes);
    try {
        std::rethrow_exception(mp::detail::load_exception(archive));
    } catch (const std::exception& error) {
        return error.what();
    }
    return {};
}

}  // namespace

TEST_CASE("a server that is killed fails all calls, and says which had begun", "[manager][death]") {
    FOR_EACH_START_METHOD();
    mp::Manager manager({.start_method = method});
    auto sleeper = manager.make<Sleeper>();
    auto started = manager.event();
    auto first = sleeper.submit<&Sleeper::sleep>(started);
    auto second = sleeper.submit<&Sleeper::answer>();
    std::thread([&] { started.wait(); }).join();
    ::kill(manager.pid(), SIGKILL);
    try {
        first.get();
        FAIL("it was answered");
    } catch (const mp::ActorLost& lost) {
        CHECK(lost.began());
        CHECK(lost.pid() == manager.pid());
        CHECK(lost.exit_status().signal() == SIGKILL);
        CHECK(lost.object() == sleeper.number());
        CHECK_THAT(lost.method(), Contains("Sleeper::sleep"));
        CHECK_THAT(lost.what(), Contains("SIGKILL") && Contains("may have run"));
    }
    try {
        (void)second.get();
        FAIL("it was answered");
    } catch (const mp::WorkerLost& error) {
        const auto& lost = dynamic_cast<const mp::ActorLost&>(error);
        CHECK_FALSE(lost.began());
        CHECK_THAT(lost.what(), Contains("had not begun"));
    }
    CHECK_THROWS_AS(sleeper.call<&Sleeper::answer>(), mp::ActorLost);
    CHECK_THROWS_AS(manager.make<Sleeper>(), mp::ActorLost);
    CHECK(manager.exitcode() == -SIGKILL);
}

TEST_CASE("a server that is killed fails the calls of other processes and threads that wait",
          "[manager][death]") {
    mp::Manager manager;
    auto never = manager.event();
    auto inside = manager.semaphore(0);
    auto waiter = [](mp::EventProxy event, mp::SemaphoreProxy here) {
        try {
            here.release();
            event.wait();
        } catch (const mp::ActorLost&) {
            return;
        }
        mp::exit_process(3);
    };
    mp::Process other(waiter, never, inside);
    other.start();
    std::vector<std::thread> threads;
    std::atomic<int> lost{0};
    for (int i = 0; i < 3; ++i)
        threads.emplace_back([&] {
            try {
                inside.release();
                never.wait();
            } catch (const mp::ActorLost&) {
                ++lost;
            }
        });
    for (int i = 0; i < 4; ++i) inside.acquire();
    ::kill(manager.pid(), SIGKILL);
    for (auto& thread : threads) thread.join();
    other.join();
    CHECK(lost == 3);
    CHECK(other.exitcode() == 0);
}

TEST_CASE("a killed client's locks are free, its waits are over, its references are gone",
          "[manager][death]") {
    mp::Manager manager;
    auto lock = manager.lock();
    auto ready = manager.event();
    auto gone = manager.event();
    auto condition = manager.condition();
    auto barrier = manager.barrier(2);
    mp::Process holder(
        [](mp::LockProxy l, mp::EventProxy r, mp::Proxy<Tombstone> reference, mp::BarrierProxy b) {
            reference.call<&Tombstone::touch>();
            l.lock();
            (void)b.submit<&mp::detail::BarrierObject::wait>(mp::Timeout::forever().time());
            std::thread([&] {
                while (b.n_waiting() == 0) {
                }
                r.set();
            }).join();
            for (;;) ::pause();
        },
        lock, ready, manager.make<Tombstone>(gone), barrier);
    holder.start();
    ready.wait();
    CHECK_FALSE(lock.try_lock());
    CHECK_FALSE(gone.is_set());
    holder.kill();
    lock.lock();
    CHECK(lock.owner_died());
    lock.unlock();
    gone.wait();
    CHECK(test::eventually([&] { return barrier.broken(); }));
    holder.join();
}

TEST_CASE("a call of a killed client that waits for the lock which it held does not get it",
          "[manager][death]") {
    mp::Manager manager;
    auto lock = manager.lock();
    for (int round = 0; round < 10; ++round) {
        auto ready = manager.event();
        mp::Process holder(
            [](mp::LockProxy l, mp::EventProxy r) {
                l.lock();
                std::thread([&] {
                    (void)l.submit<&mp::detail::LockObject::lock>(mp::Timeout::forever().time());
                    r.set();
                }).join();
                for (;;) ::pause();
            },
            lock, ready);
        holder.start();
        ready.wait();
        holder.kill();
        REQUIRE(lock.try_lock_for(test::kPatience));
        lock.unlock();
        holder.join();
    }
}

TEST_CASE("a forked child's copy of a Manager leaves its parent's session alone",
          "[manager][fork]") {
    mp::Manager manager;
    auto list = manager.list<int>();
    const int child = ::fork();
    if (child == 0) {
        manager.shutdown();
        ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
    list.push_back(1);
    CHECK(list.size() == 1);
}

TEST_CASE("a forked child with a copy of its parent's socket keeps none of its locks",
          "[manager][death][fork]") {
    mp::Manager manager({.start_method = mp::StartMethod::spawn});
    auto lock = manager.lock();
    auto ready = manager.event();
    auto end = manager.event();
    mp::Process holder(
        [](mp::LockProxy l, mp::EventProxy r, mp::EventProxy e) {
            l.lock();
            if (::fork() == 0) {
                try {
                    r.set();
                    e.wait();  // outlives its parent
                } catch (const mp::ActorLost&) {
                }
                ::_exit(0);
            }
            r.wait();
            die();
        },
        lock, ready, end);
    holder.start();
    holder.join();
    lock.lock();
    CHECK(lock.owner_died());
    end.set();
}

TEST_CASE("the server dies with its owner", "[manager][death]") {
    auto [here, there] = mp::Pipe();
    mp::Process owner(
        [](mp::Connection out) {
            mp::Manager manager;
            out.send(manager.pid());
            die();
        },
        std::move(there));
    owner.start();
    const int server = here.recv<int>();
    owner.join();
    CHECK(test::eventually([&] { return ::kill(server, 0) == -1; }));
}

TEST_CASE("a call that never ends is ended with the server", "[manager][end]") {
    mp::Manager manager({.stop_grace = 50ms});
    auto sleeper = manager.make<Sleeper>();
    auto started = manager.event();
    auto never = manager.event();
    auto call = sleeper.submit<&Sleeper::sleep>(started);
    std::thread([&] { started.wait(); }).join();
    auto queued = never.submit<&mp::detail::EventObject::wait>(mp::Timeout::forever().time());
    std::atomic<bool> lost{false};
    std::thread waiting([&] {
        try {
            never.wait();
        } catch (const mp::ActorLost&) {
            lost = true;
        }
    });
    manager.shutdown();
    CHECK_THROWS_AS(call.get(), mp::ActorLost);
    CHECK_THROWS_AS(queued.get(), mp::ActorLost);
    waiting.join();
    CHECK(lost);
    CHECK(manager.exitcode() == -SIGKILL);
}

TEST_CASE("SIGINT is for the owner: the server goes on", "[manager][end]") {
    mp::Manager manager;
    auto value = manager.value<int>(1);
    ::kill(manager.pid(), SIGINT);
    CHECK(value.get() == 1);
    CHECK(manager.is_alive());
}

TEST_CASE("a client without the key gets nowhere, and nobody is held up", "[manager][hostile]") {
    mp::Manager manager;
    auto event = manager.event();
    const auto server = server_of(event);
    CHECK_THROWS_AS(mp::Client(server.address, {.authkey = "wrong"}), mp::AuthenticationError);
    auto silent = mp::Client(server.address, {.any_user = true});  // no handshake
    silent.send(frame(mp::detail::FrameKind::call, event.number()));
    event.set();
    CHECK(event.is_set());
}

TEST_CASE("what a client may send that is no call is refused, and hurts nobody",
          "[manager][hostile]") {
    mp::Manager manager;
    auto event = manager.event();
    const auto server = server_of(event);
    using mp::detail::FrameKind;

    auto client = connect(server);
    client.send(frame(FrameKind::call, 987654));
    CHECK_THAT(error_of(client), Contains("no object 987654"));
    client.send(frame(FrameKind::pin, 987654));
    CHECK_FALSE(error_of(client).empty());
    client.send(frame(FrameKind::release, event.number()));  // that is not its own
    client.send(frame(FrameKind::call, event.number()));     // no method
    CHECK_THAT(error_of(client), Contains("method"));
    // A method of another type than the object's.
    auto wrong = frame(FrameKind::call, event.number());
    wrong.head.task = mp::detail::task_id<mp::detail::MethodBody<Sleeper, &Sleeper::answer>>();
    client.send(wrong);
    CHECK_THAT(error_of(client), Contains("type"));
    // Arguments cut short, and what is no argument.
    auto cut = frame(FrameKind::call, event.number());
    cut.head.task = mp::detail::task_id<mp::detail::MethodBody<
        mp::detail::EventObject, &mp::detail::EventObject::wait, std::chrono::nanoseconds>>();
    const std::byte three[3] = {};
    cut.body = three;
    client.send(cut);
    CHECK_FALSE(error_of(client).empty());

    auto answers_itself = connect(server);
    answers_itself.send(frame(FrameKind::value, 0));
    CHECK_THROWS(answers_itself.recv<mp::detail::ObjectFrame>());
    auto talks = connect(server);
    talks.send_bytes("this is no frame");
    CHECK_THROWS(talks.recv<mp::detail::ObjectFrame>());

    // A length of 2^63, of which little comes: nothing is allocated for it.
    auto floods = connect(server);
    const unsigned char huge[] = {0xff, 0xff, 0xff, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0};
    REQUIRE(::send(floods.fd(), huge, sizeof huge, MSG_NOSIGNAL) == sizeof huge);
    // One that stops in the middle of a frame.
    auto stops = connect(server);
    REQUIRE(::send(stops.fd(), huge, 2, MSG_NOSIGNAL) == 2);

    // One that trickles: the others go on between its bytes, and it is answered when it is done.
    auto trickles = connect(server);
    auto slow = frame(FrameKind::call, event.number());
    slow.head.task = mp::detail::task_id<
        mp::detail::MethodBody<mp::detail::EventObject, &mp::detail::EventObject::is_set>>();
    for (char byte : test::bytes_of(slow)) {
        REQUIRE(::send(trickles.fd(), &byte, 1, MSG_NOSIGNAL) == 1);
        CHECK_FALSE(event.is_set());
    }
    CHECK(trickles.recv<mp::detail::ObjectFrame>().head.kind == FrameKind::value);

    event.set();
    CHECK(event.is_set());
    CHECK(manager.is_alive());
}

TEST_CASE("of a client that is gone nothing is left in the server", "[manager][death]") {
    mp::Manager manager;
    auto event = manager.event();
    const auto server = server_of(event);
    auto descriptors = [&] {
        std::size_t count = 0;
        for ([[maybe_unused]] const auto& entry :
             std::filesystem::directory_iterator("/proc/" + std::to_string(manager.pid()) + "/fd"))
            ++count;
        return count;
    };
    const std::size_t before = descriptors();
    for (int i = 0; i < 50; ++i) (void)connect(server);
    CHECK(test::eventually([&] {
        event.set();
        return descriptors() <= before;
    }));
}

}  // namespace fault_test
