// Calls that close what their server's process is reached by, and processes that lack descriptors.
#include <catch2/catch.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <thread>

#include <sidestep/actor.hpp>
#include <sidestep/event.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/process.hpp>

#include "manager_support.hpp"
#include "process_support.hpp"
#include "remote_support.hpp"
#include "support.hpp"

namespace descriptor_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;
using test::text_of_error;

namespace {

constexpr int kMostFds = 256;  // of a server, by far

bool is_socket(int fd) {
    struct stat file = {};
    return ::fstat(fd, &file) == 0 && S_ISSOCK(file.st_mode);
}

enum class Harm { close_all, close_sockets, replace_by_file, replace_by_socket };

struct Careless {
    // As a library that makes a daemon of its process.
    int harm(Harm how) {
        int other[2] = {::open("/dev/null", O_RDWR), -1};
        if (how == Harm::replace_by_socket) (void)!::socketpair(AF_UNIX, SOCK_STREAM, 0, other);
        for (int fd = 3; fd < kMostFds; ++fd) {
            if (how != Harm::close_all && !is_socket(fd)) continue;
            if (fd == other[0] || fd == other[1]) continue;
            if (how == Harm::replace_by_file || how == Harm::replace_by_socket)
                ::dup2(other[0], fd);
            else
                ::close(fd);
        }
        return 1;
    }
    int touch() { return 1; }
    void die() { ::kill(::getpid(), SIGKILL); }
};

Harm any_harm() {
    return GENERATE(Harm::close_all, Harm::close_sockets, Harm::replace_by_file,
                    Harm::replace_by_socket);
}

bool is_gone(int pid) {
    return test::eventually([&] { return ::kill(pid, 0) == -1 && errno == ESRCH; });
}

// The process may open no more, while it lives.
class NoMoreFds {
  public:
    explicit NoMoreFds(int pid) : pid_(pid) {
        rlimit none = {};
        REQUIRE(::prlimit(pid, RLIMIT_NOFILE, nullptr, &before_) == 0);
        none = before_;
        none.rlim_cur = 3;
        REQUIRE(::prlimit(pid, RLIMIT_NOFILE, &none, nullptr) == 0);
    }
    ~NoMoreFds() { ::prlimit(pid_, RLIMIT_NOFILE, &before_, nullptr); }
    NoMoreFds(const NoMoreFds&) = delete;
    NoMoreFds& operator=(const NoMoreFds&) = delete;

  private:
    const int pid_;
    rlimit before_ = {};
};

// The process that the owner has started, which keeps the object's.
int keeper_of(const mp::Actor<Careless>& actor) {
    for (const auto& child : mp::active_children())
        if (child.name() == actor.name()) return child.pid();
    FAIL("there is no keeper");
    return 0;
}

}  // namespace

TEST_CASE("a call that closes its actor's descriptors, or replaces them, has ended it",
          "[manager][actor][death][descriptors]") {
    FOR_EACH_START_METHOD();
    const Harm harm = any_harm();
    CAPTURE(static_cast<int>(harm));
    mp::Actor<Careless> actor({.start_method = method});
    auto waiting = actor.submit<&Careless::harm>(harm);
    auto behind = actor.submit<&Careless::touch>();
    CHECK_THAT(text_of_error([&] { (void)waiting.get(); }),
               Contains("code 113") && Contains("Careless::harm") && Contains("close_range"));
    CHECK_THROWS_AS(behind.get(), mp::ActorLost);
    CHECK_THROWS_AS(actor.call<&Careless::touch>(), mp::ActorLost);
    CHECK_FALSE(actor.is_alive());
}

TEST_CASE("an actor whose descriptors a call has closed is started again",
          "[manager][actor][restart][descriptors]") {
    const Harm harm = any_harm();
    CAPTURE(static_cast<int>(harm));
    mp::Actor<Careless> actor({.max_restarts = 1});
    CHECK_THAT(text_of_error([&] { (void)actor.call<&Careless::harm>(harm); }),
               Contains("code 113") && Contains("Careless::harm") && Contains("close_range"));
    CHECK(actor.call<&Careless::touch>() == 1);
    CHECK(actor.restarts() == 1);
}

TEST_CASE("a call that closes its Manager's descriptors ends the calls of all who wait there",
          "[manager][death][descriptors]") {
    const Harm harm = any_harm();
    CAPTURE(static_cast<int>(harm));
    mp::Manager manager;
    auto never = manager.event();
    auto here = manager.semaphore(0);
    mp::Process other(
        [](mp::EventProxy event, mp::SemaphoreProxy ready) {
            try {
                auto waits =
                    event.submit<&mp::detail::EventObject::wait>(mp::Timeout::forever().time());
                ready.release();
                (void)waits.get();
            } catch (const mp::ActorLost&) {
                mp::exit_process(7);
            }
        },
        never, here);
    other.start();
    here.acquire();
    auto waits = never.submit<&mp::detail::EventObject::wait>(mp::Timeout::forever().time());
    auto careless = manager.make<Careless>();
    CHECK_THAT(text_of_error([&] { (void)careless.call<&Careless::harm>(harm); }),
               Contains("code 113") && Contains("close_range"));
    CHECK_THROWS_AS(waits.get(), mp::ActorLost);
    other.join();
    CHECK(other.exitcode() == 7);
}

TEST_CASE("a ManagerServer whose program's descriptors a call has closed ends",
          "[manager][session][descriptors]") {
    const Harm harm = any_harm();
    CAPTURE(static_cast<int>(harm));
    test::RemoteServer server(
        [](mp::ManagerServer& s) {
            s.expose<&Careless::harm, &Careless::touch>("careless", std::make_shared<Careless>());
        },
        mp::UnixAddress{}, 300ms);
    mp::Manager manager = server.connect(300ms);
    auto careless = manager.get<Careless>("careless");
    CHECK(careless.call<&Careless::touch>() == 1);
    CHECK_THROWS_AS(careless.call<&Careless::harm>(harm), mp::Disconnected);
}

TEST_CASE("an actor whose keeper lacks descriptors is started again when there are some",
          "[manager][actor][restart][descriptors]") {
    mp::Actor<Careless> actor({.max_restarts = 1});
    const int first = actor.pid();
    std::optional<NoMoreFds> shortage(keeper_of(actor));
    auto died = actor.submit<&Careless::die>();  // who comes after it tells its end
    CHECK(is_gone(first));
    auto waiting = actor.submit<&Careless::touch>();
    CHECK_FALSE(waiting.wait_for(100ms));
    SECTION("and its callers have waited") {
        shortage.reset();
        CHECK(waiting.get() == 1);
        CHECK_THAT(text_of_error([&] { died.get(); }), Contains("SIGKILL"));
        CHECK(actor.restarts() == 1);
    }
    SECTION("unless its owner ends it") {
        actor.shutdown();
        CHECK_THROWS_AS(waiting.get(), mp::ActorLost);
    }
    SECTION("or there are none for ten seconds, which the error says") {
        CHECK_THAT(text_of_error([&] { (void)waiting.get(); }),
                   Contains("could not be started again for 10 s") && Contains("open files"));
        CHECK_THAT(text_of_error([&] { actor.call<&Careless::touch>(); }),
                   Contains("max_restarts is 1"));
    }
}

}  // namespace descriptor_test
