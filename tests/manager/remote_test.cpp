// Programs that use each other's objects: ManagerServer and Manager::connect().
#include <catch2/catch.hpp>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/connection.hpp>
#include <sidestep/event.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/pool_proxy.hpp>
#include <sidestep/process.hpp>

#include "process_support.hpp"
#include "remote_support.hpp"
#include "sandbox.hpp"
#include "support.hpp"

namespace remote_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;

namespace {

class Board {
  public:
    void post(int job) { jobs_.push_back(job); }
    int sum() const {
        int all = 0;
        for (int job : jobs_) all += job;
        return all;
    }
    int sum(int more) const { return sum() + more; }
    void fail(const std::string& why) { throw std::out_of_range(why); }
    int secret() const { return 42; }

  private:
    std::vector<int> jobs_;
};
using Sum = int (Board::*)() const;

struct Slow {
    Slow(mp::Event at, mp::Event on) : begun(std::move(at)), go_on(std::move(on)) {}
    int answer() {
        begun.set();
        go_on.wait();
        return 42;
    }
    mp::Event begun, go_on;
};
// Waits for nothing, and tells when that is given up.
struct Waiter {
    explicit Waiter(mp::Event event) : told(std::move(event)) {}
    void wait() {
        try {
            (void)mp::detail::wait_here([] { return false; }, {});
        } catch (const std::exception&) {
            told.set();
            throw;
        }
    }
    mp::Event told;
};

void expose_board(mp::ManagerServer& server) {
    server.expose<&Board::post, static_cast<Sum>(&Board::sum), &Board::fail>(
        "board", std::make_shared<Board>());
}
mp::Manager connect(const mp::ManagerServer& server) {
    return mp::Manager::connect(server.address(), {.authkey = "secret"});
}

// Each kind of address once.
#define FOR_EACH_ADDRESS()                                                      \
    const mp::Address address =                                                 \
        GENERATE(mp::Address(mp::UnixAddress{}), mp::Address(mp::TcpAddress{}), \
                 mp::Address(mp::TcpAddress{"::1"}));                           \
    INFO("address " << mp::to_string(address))

}  // namespace

TEST_CASE("exposed methods are called from outside, in order, and throw by type",
          "[manager][remote]") {
    FOR_EACH_ADDRESS();
    mp::ManagerServer server({.address = address, .authkey = "secret"});
    expose_board(server);
    server.start();
    mp::Manager manager = connect(server);
    CHECK(manager.pid() == ::getpid());
    CHECK(manager.is_alive());
    CHECK_FALSE(manager.exitcode());
    auto board = manager.get<Board>("board");
    for (int i = 1; i <= 100; ++i) board.submit<&Board::post>(i);
    board.flush();
    CHECK(board.call<static_cast<Sum>(&Board::sum)>() == 5050);
    CHECK_THROWS_AS(board.call<&Board::fail>("so"), std::out_of_range);
    CHECK(manager.get<Board>("board") == board);

    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&] {
            mp::Manager another = connect(server);
            auto same = another.get<Board>("board");
            for (int n = 0; n < 50; ++n) same.call<&Board::post>(1);
        });
    for (auto& thread : threads) thread.join();
    // The program's own proxy calls everything.
    auto own = server.object<Board>("board");
    CHECK(own.call<static_cast<Sum>(&Board::sum)>() == 5250);
    CHECK(own.call<&Board::secret>() == 42);
    CHECK(own.call([](Board& b) { return b.secret(); }) == 42);

    manager.shutdown();
    CHECK_FALSE(manager.is_alive());
    CHECK_THROWS_AS(board.call<&Board::post>(1), mp::Disconnected);
    server.stop();
    server.stop();
    CHECK_THROWS_AS(own.call<&Board::secret>(), mp::Disconnected);
    CHECK_THROWS_AS(server.object<Board>("board"), std::logic_error);
}

TEST_CASE("what is not exposed is refused, with what was asked and what there is",
          "[manager][remote]") {
    mp::ManagerServer server({.authkey = "secret"});
    expose_board(server);
    server.expose<mp::Lock>("lock");
    server.start();
    mp::Manager manager = connect(server);
    auto board = manager.get<Board>("board");
    try {
        (void)board.call<&Board::secret>();
        FAIL("it was called");
    } catch (const mp::NotExposed& error) {
        CHECK_THAT(error.what(),
                   Contains("Board::secret") && Contains("\"board\"") && Contains("Board::post"));
        CHECK_THAT(error.asked(), Contains("Board::secret"));
        CHECK(error.exposed().size() == 3);
    }
    // The other overload of one that is exposed.
    CHECK_THROWS_AS((board.call<static_cast<int (Board::*)(int) const>(&Board::sum)>(1)),
                    mp::NotExposed);
    // A function is no method: it is not even sent.
    CHECK_THROWS_AS(board.call([](Board& b) { return b.secret(); }), mp::NotExposed);
    try {
        (void)manager.get<Board>("bored");
        FAIL("it was found");
    } catch (const mp::NotExposed& error) {
        CHECK_THAT(error.what(), Contains("\"bored\"") && Contains("\"board\", \"lock\""));
    }
    try {
        (void)manager.get<Slow>("board");
        FAIL("it was found");
    } catch (const mp::NotExposed& error) {
        CHECK_THAT(error.what(), Contains("\"board\"") && Contains("Board"));
    }
    CHECK_THROWS_AS(manager.make<Board>(), mp::NotExposed);
    CHECK_THROWS_AS(manager.queue<int>(), mp::NotExposed);
    CHECK_THROWS_AS(expose_board(server), std::logic_error);
    CHECK_THROWS_AS(server.start(), std::logic_error);
    CHECK(board.call<static_cast<Sum>(&Board::sum)>() == 0);
    // A Manager of this process has no names.
    mp::Manager local;
    CHECK_THROWS_AS(local.get<Board>("board"), mp::NotExposed);
}

TEST_CASE("faces are exposed by name", "[manager][remote][py:_TestRemoteManager.test_remote]") {
    FOR_EACH_START_METHOD();
    mp::ManagerServer server({.address = mp::TcpAddress{}, .authkey = "secret"});
    server.expose<mp::Queue<std::string>>("words", 16);
    server.expose<mp::JoinableQueue<int>>("jobs");
    server.expose<mp::DictProxy<std::string, int>>("totals");
    server.expose<mp::ListProxy<int>>("list", std::vector{1, 2});
    server.expose<mp::SetProxy<int>>("set");
    server.expose<mp::ValueProxy<double>>("value", 1.5);
    server.expose<mp::RLock>("rlock");
    server.expose<mp::Condition>("condition");
    server.expose<mp::Semaphore>("semaphore", 2u);
    server.expose<mp::BoundedSemaphore>("bounded", 1u);
    server.expose<mp::Event>("event");
    server.expose<mp::Barrier>("barrier", 2u);
    auto words = server.object<mp::Queue<std::string>>("words");
    words.put("hello world");

    mp::Process client(
        {.start_method = method},
        [](mp::Address address) {
            mp::Manager manager = mp::Manager::connect(address, {.authkey = "secret"});
            auto queue = manager.get<mp::Queue<std::string>>("words");
            queue.put(queue.get() + ", and back");
            auto totals = manager.get<mp::DictProxy<std::string, int>>("totals");
            totals.insert("one", 1);
            for (auto& [word, n] : totals)
                if (n != 1) mp::exit_process(3);
            auto list = manager.get<mp::ListProxy<int>>("list");
            list.push_back(3);
            list.sort();
            (void)manager.get<mp::SetProxy<int>>("set").insert(7);
            manager.get<mp::ValueProxy<double>>("value").set(2.5);
            auto lock = manager.get<mp::RLock>("rlock");
            std::scoped_lock both(lock, lock);
            auto condition = manager.get<mp::Condition>("condition");
            condition.lock();
            condition.notify_all();
            condition.unlock();
            manager.get<mp::Semaphore>("semaphore").acquire();
            try {
                manager.get<mp::BoundedSemaphore>("bounded").release();
                mp::exit_process(4);
            } catch (const std::logic_error&) {
            }
            manager.get<mp::Event>("event").set();
            manager.get<mp::Barrier>("barrier").wait();
            manager.get<mp::JoinableQueue<int>>("jobs").put(5);
        },
        server.address());
    client.start();
    server.start();
    (void)server.object<mp::Barrier>("barrier").wait();
    auto jobs = server.object<mp::JoinableQueue<int>>("jobs");
    CHECK(jobs.get() == 5);
    jobs.task_done();
    jobs.join();
    client.join();
    CHECK(client.exitcode() == 0);
    CHECK(words.get() == "hello world, and back");
    CHECK(server.object<mp::DictProxy<std::string, int>>("totals").at("one") == 1);
    CHECK(server.object<mp::ListProxy<int>>("list").size() == 3);
    CHECK(server.object<mp::SetProxy<int>>("set").contains(7));
    CHECK(server.object<mp::ValueProxy<double>>("value").get() == 2.5);
    CHECK(server.object<mp::Event>("event").is_set());
    CHECK(server.object<mp::Semaphore>("semaphore").value() == 1);
    // update() is code of the client's.
    mp::Manager manager = connect(server);
    auto totals = manager.get<mp::DictProxy<std::string, int>>("totals");
    CHECK_THROWS_AS(totals.update("one", [](int& n) { ++n; }), mp::NotExposed);
}

TEST_CASE("a server is made again at the same address at once",
          "[manager][remote][py:_TestManagerRestart.test_rapid_restart]") {
    mp::TcpAddress address;
    mp::Proxy<Board> old;
    for (int round = 0; round < 3; ++round) {
        mp::ManagerServer server({.address = address, .authkey = "secret"});
        expose_board(server);
        server.start();
        address = std::get<mp::TcpAddress>(server.address());
        mp::Manager manager = connect(server);
        auto board = manager.get<Board>("board");
        board.call<&Board::post>(1);
        CHECK(board.call<static_cast<Sum>(&Board::sum)>() == 1);
        // The server that it is of is gone: it does not become the new one's.
        if (old) CHECK_THROWS_AS(old.call<&Board::post>(1), mp::Disconnected);
        old = board;
    }
    CHECK_THROWS_AS(mp::Manager::connect(address, {.authkey = "secret"}), std::system_error);
}

TEST_CASE("a pool of another program runs this one's tasks", "[manager][remote][pool]") {
    test::RemoteServer server([](mp::ManagerServer& s) {
        s.expose<mp::Pool>("cores", 2u);
        s.expose<&Board::post>("board", std::make_shared<Board>());
    });
    mp::Manager manager = server.connect();
    auto pool = manager.get<mp::Pool>("cores");
    CHECK(pool.processes() == 2);
    auto doubled = pool.submit([](int n) { return 2 * n; }, 21);
    auto of = pool.submit([] { return ::getppid(); });
    auto throws = pool.submit([](int n) -> int { throw std::out_of_range(std::to_string(n)); }, 7);
    auto dies = pool.submit([] { ::raise(SIGKILL); });
    CHECK(doubled.get() == 42);
    CHECK(of.get() == server.pid());
    CHECK_THROWS_AS(throws.get(), std::out_of_range);
    try {
        dies.get();
        FAIL("it did not die");
    } catch (const mp::WorkerLost& error) {
        CHECK(error.exit_status().signal() == SIGKILL);
        CHECK_THAT(error.what(), Contains("SIGKILL"));
    }
    // Of the board, it is still methods only.
    auto board = manager.get<Board>("board");
    CHECK_THROWS_AS(board.call([](Board& b) { b.post(1); }), mp::NotExposed);
}

TEST_CASE("stop() finishes and answers what runs, and gives up what waits", "[manager][remote]") {
    FOR_EACH_ADDRESS();
    mp::Event begun, go_on, told;
    mp::ManagerServer server({.address = address, .authkey = "secret"});
    server.expose<&Slow::answer>("slow", std::make_shared<Slow>(begun, go_on));
    server.expose<&Waiter::wait>("waiter", std::make_shared<Waiter>(told));
    server.start();
    mp::Manager manager = connect(server);
    auto slow = manager.get<Slow>("slow");
    auto waiter = manager.get<Waiter>("waiter");
    auto waiting = waiter.submit<&Waiter::wait>();
    auto running = slow.submit<&Slow::answer>();
    auto queued = slow.submit<&Slow::answer>();
    begun.wait();
    std::thread stops([&] { server.stop(); });
    told.wait();
    go_on.set();
    CHECK(running.get() == 42);
    CHECK_THROWS_AS(queued.get(), mp::Disconnected);
    CHECK_THROWS_AS(waiting.get(), mp::Disconnected);
    stops.join();
}

TEST_CASE("serve() stays until another thread stops it", "[manager][remote]") {
    mp::ManagerServer server({.authkey = "secret"});
    expose_board(server);
    std::thread user([&] {
        connect(server).get<Board>("board").call<&Board::post>(1);
        server.stop();
    });
    server.serve();
    user.join();
    server.serve();  // it was stopped: returns
}

TEST_CASE("options and addresses that cannot be are refused", "[manager][remote]") {
    using Options = mp::ManagerServerOptions;
    for (const char* host : {"", "0.0.0.0", "::", "192.0.2.1", "example.org"}) {
        INFO(host);
        CHECK_THROWS_AS(mp::ManagerServer(Options{.address = mp::TcpAddress{host, 0}}),
                        std::invalid_argument);
    }
    for (const char* host : {"127.0.0.1", "localhost"})
        CHECK_NOTHROW(mp::ManagerServer(Options{.address = mp::TcpAddress{host, 0}}));
    CHECK_NOTHROW(mp::ManagerServer({.address = mp::TcpAddress{"", 0}, .authkey = "secret"}));
    CHECK_THROWS_AS(mp::ManagerServer(Options{.lost_after = 0s}), std::invalid_argument);
    CHECK_THROWS_AS(mp::ManagerServer(Options{.max_call_bytes = 0}), std::invalid_argument);
    CHECK_THROWS_AS(mp::ManagerServer(Options{.max_handshakes = 0}), std::invalid_argument);
    mp::ManagerServer server;
    CHECK_THROWS_AS(mp::ManagerServer(Options{.address = server.address()}), std::system_error);
    using Connect = mp::ConnectOptions;
    CHECK_THROWS_AS(mp::Manager::connect(server.address(), Connect{.timeout = 0s}),
                    std::invalid_argument);
    CHECK_THROWS_AS(mp::Manager::connect(server.address(), Connect{.lost_after = 0s}),
                    std::invalid_argument);
    // It listens, but does not serve.
    CHECK_THROWS_AS(mp::Manager::connect(server.address(), Connect{.timeout = 50ms}),
                    std::system_error);
}

TEST_CASE("a server without a key is refused where localhost is the network", "[manager][remote]") {
    CHECK(test::in_sandbox([] {
              constexpr const char* kHosts = "/tmp/hosts";
              if (!test::enter_namespace(CLONE_NEWNS) ||
                  ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
                  ::mount("none", "/tmp", "tmpfs", 0, nullptr) != 0)
                  return 98;
              std::ofstream(kHosts) << "0.0.0.0 localhost\n";
              if (::mount(kHosts, "/etc/hosts", nullptr, MS_BIND, nullptr) != 0) return 97;
              const mp::TcpAddress localhost{"localhost", 0};
              const mp::ManagerServer with_key({.address = localhost, .authkey = "secret"});
              try {
                  const mp::ManagerServer server({.address = localhost});
              } catch (const std::invalid_argument& error) {
                  const std::string text = error.what();
                  return text.find("which is 0.0.0.0:") != std::string::npos ? 0 : 1;
              }
              return 2;
          }) == 0);
}

TEST_CASE("without a key, on this machine, it works all the same", "[manager][remote]") {
    const mp::Address address =
        GENERATE(mp::Address(mp::UnixAddress{}), mp::Address(mp::TcpAddress{}));
    mp::ManagerServer server({.address = address});
    expose_board(server);
    server.start();
    mp::Manager manager = mp::Manager::connect(server.address());
    auto board = manager.get<Board>("board");
    board.call<&Board::post>(3);
    CHECK(board.call<static_cast<Sum>(&Board::sum)>() == 3);
}

TEST_CASE("proxies of a session are arguments of tasks and processes", "[manager][remote]") {
    // fork: a session has a thread, beside which a Pool forks, and a Process is not forked.
    FOR_EACH_START_METHOD();
    test::RemoteServer server([](mp::ManagerServer& s) { expose_board(s); });
    mp::Manager manager = server.connect();
    auto board = manager.get<Board>("board");
    const auto process_method =
        method == mp::StartMethod::fork ? mp::StartMethod::fork_threaded : method;
    mp::Process other(
        {.start_method = process_method}, [](mp::Proxy<Board> b) { b.call<&Board::post>(5); },
        board);
    other.start();
    other.join();
    CHECK(other.exitcode() == 0);
    {
        mp::Pool pool({.processes = 2, .start_method = method});
        std::vector<mp::Future<void>> all;
        for (int i = 0; i < 10; ++i)
            all.push_back(pool.submit([](mp::Proxy<Board> b) { b.call<&Board::post>(1); }, board));
        for (auto& one : all) one.get();
    }
    CHECK(board.call<static_cast<Sum>(&Board::sum)>() == 15);
}

TEST_CASE("a forked child makes a session of its own at its first use", "[manager][remote][fork]") {
    test::RemoteServer server([](mp::ManagerServer& s) {
        expose_board(s);
        s.expose<mp::Lock>("lock");
    });
    mp::Manager manager = server.connect();
    auto board = manager.get<Board>("board");
    auto lock = manager.get<mp::Lock>("lock");
    lock.lock();
    const int child = ::fork();
    if (child == 0) {
        int status = 1;
        try {
            board.call<&Board::post>(7);
            // The parent's lock is not this process's.
            if (!lock.try_lock()) status = 0;
        } catch (...) {
        }
        ::_exit(status);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(status == 0);
    CHECK(board.call<static_cast<Sum>(&Board::sum)>() == 7);
    lock.unlock();
}

TEST_CASE("a program of another compiler is called by the methods' names",
          "[manager][remote][abi]") {
#ifndef OTHER_COMPILERS_SERVER
    SUCCEED("there is no other compiler");
#else
    test::OtherServer server(OTHER_COMPILERS_SERVER);
    mp::Manager manager = mp::Manager::connect(server.address(), {.authkey = "secret"});
    auto shared = manager.get<other::Shared>("shared");
    shared.call<static_cast<void (other::Shared::*)(int)>(&other::Shared::add)>(4);
    CHECK(shared.call<&other::Shared::sum>() == 4);
    CHECK(shared.call<&other::Shared::pair>("x").at("x") == std::vector{4});
    try {
        shared.call<static_cast<void (other::Shared::*)(double)>(&other::Shared::add)>(4.0);
        FAIL("the other overload was called");
    } catch (const mp::NotExposed& error) {
        CHECK_THAT(error.what(), Contains("add(double)") && Contains("add(int)"));
    }
    CHECK_THROWS_AS(shared.call([](other::Shared& s) { s.add(1); }), mp::NotExposed);
    CHECK_THROWS_AS(shared.call<&other::Shared::fail>(), std::domain_error);
    CHECK(manager.get<mp::Queue<int>>("queue").get() == 1);
#endif
}

}  // namespace remote_test
