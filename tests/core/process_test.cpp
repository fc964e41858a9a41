// Process: its states, its errors, its end; under each start method.
#include <sidestep/process.hpp>

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "process_support.hpp"

namespace process_test {

namespace {

using namespace sidestep;
using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using Catch::Matchers::Message;

void nothing() {}
void wait_for_signal() {
    for (;;) ::pause();
}
void ignore_sigterm(int ready) {
    ::signal(SIGTERM, SIG_IGN);
    (void)!::write(ready, "x", 1);
    wait_for_signal();
}

bool exists(int pid) { return ::kill(pid, 0) == 0; }

}  // namespace

TEST_CASE("a process that was made but not started: what works and what does not", "[process]") {
    Process p(nothing);
    CHECK_FALSE(p.is_alive());
    CHECK_FALSE(p.exitcode());
    CHECK(p.exit_status().running());
    CHECK(p.pid() == 0);
    CHECK_THROWS_AS(p.join(), std::logic_error);
    CHECK_THROWS_AS(p.join_for(0s), std::logic_error);
    CHECK_THROWS_AS(p.terminate(), std::logic_error);
    CHECK_THROWS_AS(p.sentinel(), std::logic_error);
    CHECK_THROWS_AS(p.rethrow(), std::logic_error);
    p.close();
    CHECK_THROWS_AS(p.start(), std::logic_error);
}

TEST_CASE("a process is started once", "[process]") {
    FOR_EACH_START_METHOD();
    Process p({.start_method = method}, nothing);
    p.start();
    CHECK_THROWS_WITH(p.start(), Contains("cannot be started twice"));
    p.join();
    CHECK_THROWS_AS(p.start(), std::logic_error);
    CHECK(p.exitcode() == 0);
}

TEST_CASE("names count the processes, unless they are given; a NUL is refused", "[process]") {
    Process first(nothing), second(nothing);
    int number = std::stoi(first.name().substr(8));
    CHECK(second.name() == "Process-" + std::to_string(number + 1));
    CHECK_THROWS_AS(Process({.name = std::string("a\0b", 3)}, nothing), std::invalid_argument);

    FOR_EACH_START_METHOD();
    Process p(
        {.start_method = method},
        [](const std::string& mine) {
            if (current_process().name != mine) exit_process(1);
            if (Process(nothing).name() != mine + ":1") exit_process(2);
        },
        "Process-" + std::to_string(number + 3));
    p.start();
    p.join();
    CHECK(p.exitcode().has_value());
}

TEST_CASE("a moved-from or detached process says so", "[process]") {
    Process a(nothing);
    Process b(std::move(a));
    CHECK_THROWS_WITH(a.start(), Contains("moved from"));  // NOLINT(bugprone-use-after-move)
    b.detach();
    CHECK_THROWS_AS(b.name(), std::logic_error);
}

TEST_CASE("a name, the authkey and the daemon flag are what the options say", "[process]") {
    Process p({.name = "n", .daemon = true, .authkey = "k"}, nothing);
    CHECK(p.name() == "n");
    CHECK(p.daemon());
    CHECK(p.authkey() == "k");
    std::string former = current_process().authkey;
    set_authkey("other");
    CHECK(Process(nothing).authkey() == "other");
    CHECK(p.authkey() == "k");
    set_authkey(former);
}

// --- what it throws ------------------------------------------------------------------------------

namespace {

struct Quota : std::runtime_error {
    Quota() : std::runtime_error("quota") {}
    explicit Quota(int l) : std::runtime_error("quota"), left(l) {}
    template <class Archive>
    void serialize(Archive& archive) {
        archive(left);
    }
    int left = 0;
};
const bool quota_registered = register_exception<Quota>();

void throw_one(int which) {
    switch (which) {
        case 0:
            throw Quota(42);
        case 1:
            throw std::filesystem::filesystem_error(
                "no", "/a", std::make_error_code(std::errc::no_such_file_or_directory));
        case 2:
            throw 7;
        default:
            try {
                throw std::out_of_range("inner");
            } catch (...) {
                std::throw_with_nested(std::logic_error("outer"));
            }
    }
}

}  // namespace

TEST_CASE("what the function throws is thrown again by rethrow(), by type, every time",
          "[process]") {
    FOR_EACH_START_METHOD();
    auto ended = [&](int which) {
        Process p({.name = "thrower", .start_method = method}, throw_one, which);
        p.start();
        p.join();
        CHECK(p.exitcode() == 1);
        return p;
    };
    auto quota = ended(0);
    for (int i = 0; i < 2; ++i) {
        try {
            quota.rethrow();
            FAIL("nothing thrown");
        } catch (const Quota& e) {
            CHECK(e.left == 42);
            CHECK_THAT(remote_traceback(e),
                       Contains("in process thrower (" + std::to_string(quota.pid()) + ")"));
        }
    }
    CHECK_THROWS_AS(ended(1).rethrow(), std::filesystem::filesystem_error);
    CHECK_THROWS_AS(ended(2).rethrow(), RemoteError);
    try {
        ended(3).rethrow();
        FAIL("nothing thrown");
    } catch (const std::logic_error& e) {
        CHECK_THROWS_AS(std::rethrow_if_nested(e), std::out_of_range);
    }
}

TEST_CASE("rethrow() throws nothing for a process that returned, exited or was killed",
          "[process]") {
    FOR_EACH_START_METHOD();
    Process running({.start_method = method}, wait_for_signal);
    running.start();
    CHECK_THROWS_WITH(running.rethrow(), Contains("while it runs"));
    running.kill();
    running.join();
    CHECK_NOTHROW(running.rethrow());
    CHECK(running.exit_status().signal() == SIGKILL);
    Process exits({.start_method = method}, [] { exit_process(4); });
    exits.start();
    exits.join();
    CHECK_NOTHROW(exits.rethrow());
}

namespace {

struct Awkward {
    int how = 0;  // 1: throws when it is written, 2: when it is read
    void save(OutputArchive& archive) const {
        if (how == 1) throw std::range_error("cannot write this");
        archive(how);
    }
    void load(InputArchive& archive) {
        archive(how);
        if (how == 2) throw std::range_error("cannot read this");
    }
};
void take_awkward(const Awkward&) {}

}  // namespace

TEST_CASE("an argument that cannot be written makes start() throw, and nothing is started",
          "[process]") {
    FOR_EACH_START_METHOD();
    Process p({.start_method = method}, take_awkward, Awkward{1});
    auto before = test::Resources::now();
    for (int i = 0; i < 2; ++i) CHECK_THROWS_AS(p.start(), std::range_error);
    CHECK(p.pid() == 0);
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("an argument that cannot be read ends the child with 1, and the parent is told why",
          "[process]") {
    FOR_EACH_START_METHOD();
    Process p({.start_method = method}, take_awkward, Awkward{2});
    p.start();
    p.join();
    CHECK(p.exitcode() == 1);
    CHECK_THROWS_AS(p.rethrow(), std::range_error);
}

// --- arguments -----------------------------------------------------------------------------------

namespace {

// FNV-1a
std::uint64_t sum_of(const std::string& bytes) {
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    return hash;
}
void check_sum(const std::string& bytes, std::uint64_t expected) {
    if (sum_of(bytes) != expected) exit_process(1);
}

}  // namespace

TEST_CASE("arguments of any size arrive: below, at and above what a message holds, and large ones",
          "[process]") {
    FOR_EACH_START_METHOD();
    std::size_t size = GENERATE(0u, 1u, 32700u, (32u << 10) - 1, 32u << 10, (32u << 10) + 1, 65536u,
                                1u << 20, (48u << 20) + 7);
    std::string text(size, 'a');
    for (std::size_t i = 0; i < size; i += 97) text[i] = static_cast<char>(i);
    Process p({.start_method = method}, check_sum, text, sum_of(text));
    p.start();
    p.join();
    CHECK(p.exitcode() == 0);
}

TEST_CASE("no size around the limit of a message is lost", "[process]") {
    test::StopForkServer stop_at_the_end;
    for (std::size_t size = (32u << 10) - 900; size < (32u << 10) + 40; size += 47) {
        std::string text(size, 'b');
        Process p({.start_method = StartMethod::forkserver}, check_sum, text, sum_of(text));
        p.start();
        p.join();
        CHECK(p.exitcode() == 0);
    }
}

TEST_CASE("what a child throws may be large, too", "[process]") {
    FOR_EACH_START_METHOD();
    std::size_t size = GENERATE(100u, 5u << 20);
    Process p(
        {.start_method = method},
        [](std::size_t n) {
            ::close(STDERR_FILENO);  // it goes there, too
            throw std::length_error(std::string(n, 'x'));
        },
        size);
    p.start();
    p.join();
    CHECK_THROWS_MATCHES(p.rethrow(), std::length_error, Message(std::string(size, 'x')));
}

TEST_CASE("bind and captureless lambdas are functions of a process like any other", "[process]") {
    FOR_EACH_START_METHOD();
    Process p({.start_method = method}, bind([](int a, int b) { exit_process(10 * a + b); }, 4), 2);
    p.start();
    p.join();
    CHECK(p.exitcode() == 42);
}

// --- the end -----------------------------------------------------------------------------------

TEST_CASE("the destructor waits for a process, and ends a daemonic one", "[process]") {
    FOR_EACH_START_METHOD();
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    int pid = 0;
    {
        Process daemon({.daemon = true, .start_method = method}, wait_for_signal);
        daemon.start();
        pid = daemon.pid();
        CHECK(exists(pid));
    }
    CHECK_FALSE(exists(pid));
    {
        Process plain({.start_method = method}, [] { std::jthread([] {}); });
        plain.start();
        pid = plain.pid();
    }
    CHECK_FALSE(exists(pid));
    if (method == StartMethod::fork) {  // it has our pipe
        Process deaf({.daemon = true, .start_method = method}, ignore_sigterm, ends[1]);
        deaf.start();
        char byte;
        CHECK(::read(ends[0], &byte, 1) == 1);
        pid = deaf.pid();
    }
    CHECK_FALSE(exists(pid));
    ::close(ends[0]);
    ::close(ends[1]);
}

TEST_CASE("the destructor ends any process while an exception unwinds the stack", "[process]") {
    FOR_EACH_START_METHOD();
    int pid = 0;
    try {
        Process plain({.start_method = method}, wait_for_signal);
        plain.start();
        pid = plain.pid();
        throw std::runtime_error("out of here");
    } catch (const std::runtime_error&) {
    }
    CHECK_FALSE(exists(pid));
}

TEST_CASE("assigning to a running process ends it first, as its destructor would", "[process]") {
    FOR_EACH_START_METHOD();
    Process p({.daemon = true, .start_method = method}, wait_for_signal);
    p.start();
    int pid = p.pid();
    p = Process({.start_method = method}, nothing);
    CHECK_FALSE(exists(pid));
    p.start();
    CHECK(p.join().success());
}

TEST_CASE("a detached process runs on, and is among the active children", "[process]") {
    FOR_EACH_START_METHOD();
    Process p({.name = "loose", .start_method = method}, wait_for_signal);
    p.start();
    p.detach();
    auto children = active_children();
    REQUIRE(children.size() == 1);
    CHECK(children[0].name() == "loose");
    children[0].terminate();
    CHECK(children[0].join().signal() == SIGTERM);
    CHECK(active_children().empty());
}

TEST_CASE("any number of threads may wait for one process, and all see the same end",
          "[process][threads]") {
    test::StopForkServer stop_at_the_end;
    auto method = GENERATE(StartMethod::spawn, StartMethod::forkserver);
    Process p({.start_method = method}, wait_for_signal);
    p.start();
    {
        std::vector<std::jthread> waiters;
        std::atomic<int> seen{0};
        for (int i = 0; i < 8; ++i)
            waiters.emplace_back([&] { seen += p.join().signal() == SIGTERM ? 1 : 100; });
        p.terminate();
        waiters.clear();
        CHECK(seen == 8);
    }
}

TEST_CASE("threads start processes side by side", "[process][threads]") {
    test::StopForkServer stop_at_the_end;
#ifdef TEST_SANITIZED  // their allocators do not work in the child of a process with threads
    auto method = GENERATE(StartMethod::spawn, StartMethod::forkserver);
#else
    auto method = GENERATE(StartMethod::spawn, StartMethod::forkserver, StartMethod::fork_threaded);
#endif
    std::atomic<int> good{0};
    {
        std::vector<std::jthread> starters;
        for (int i = 0; i < 4; ++i)
            starters.emplace_back([&] {
                for (int k = 0; k < 5; ++k) {
                    Process p(
                        {.daemon = k % 2 == 0, .start_method = method},
                        [](int n) { exit_process(n); }, k);
                    p.start();
                    p.join();
                    if (p.exitcode() == k) ++good;
                }
            });
    }
    CHECK(good == 20);
}

}  // namespace process_test
