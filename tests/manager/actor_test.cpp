// Actors: what their calls do, and what becomes of those when an actor dies, or hangs.
#include <catch2/catch.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <sidestep/actor.hpp>
#include <sidestep/event.hpp>
#include <sidestep/pool.hpp>
#include <sidestep/queue.hpp>

#include "manager_support.hpp"
#include "process_support.hpp"
#include "support.hpp"
#include "sys/fd.hpp"

namespace actor_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;
using test::text_of_error;

namespace {

struct Overdrawn : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Account {
  public:
    explicit Account(std::string owner = "nobody") : owner_(std::move(owner)) {
        if (owner_.empty()) throw std::invalid_argument("an account has an owner");
        if (owner_ == "abort") std::abort();
    }
    int deposit(int amount) {
        if (amount <= 0) throw std::invalid_argument("a deposit is positive");
        return balance_ += amount;
    }
    int balance() const { return balance_; }
    std::string owner() const { return owner_; }
    int pid() const { return ::getpid(); }
    void crash() { std::abort(); }
    void crash_once(mp::Event crashed) {
        if (crashed.is_set()) return;
        crashed.set();
        std::abort();
    }
    void wait_for(mp::Event started, mp::Event end) {
        started.set();
        end.wait();
    }

    template <class Archive>
    void serialize(Archive& archive) {
        archive(owner_, balance_);
    }

  private:
    std::string owner_;
    int balance_ = 0;
};

struct Plain {
    int value = 0;
    explicit Plain(int n = 0) : value(n) {}
    int next() { return ++value; }
};

// Its process prints into a file, which is no terminal: what waits in buffers dies with it.
struct Printer {
    explicit Printer(std::string path) : own(std::fopen((path + ".own").c_str(), "w")) {
        if (!std::freopen(path.c_str(), "w", stdout)) std::abort();
        std::ios::sync_with_stdio(false);
        std::printf("made\n");
    }
    void say(std::string text) {
        std::printf("%s\n", text.c_str());
        std::cout << "out " << text << '\n';
        std::fprintf(own, "own %s\n", text.c_str());
    }
    void refuse() {
        std::printf("refused\n");
        throw std::runtime_error("no");
    }
    void crash() { std::abort(); }
    FILE* own;
};

std::string text_in(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

void print_and_crash(const mp::Proxy<Printer>& printer, const std::string& path) {
    CHECK(text_in(path) == "made\n");
    printer.call<&Printer::say>("one");
    CHECK_THROWS_AS(printer.call<&Printer::refuse>(), std::runtime_error);
    printer.call([](Printer& p) { p.say("two"); });
    CHECK_THROWS_AS(printer.call<&Printer::crash>(), mp::ActorLost);
    // In what order C and C++ write their buffers is nobody's promise.
    CHECK_THAT(text_in(path), Contains("one\n") && Contains("refused\n") && Contains("two\n") &&
                                  Contains("out one\n") && Contains("out two\n"));
    CHECK(text_in(path + ".own") == "own one\nown two\n");
    std::filesystem::remove(path);
    std::filesystem::remove(path + ".own");
}

// errno of reading the terminal, then of writing to it; 0: it works.
std::pair<int, int> use_terminal() {
    mp::Fd fd(::open("/dev/tty", O_RDWR | O_CLOEXEC));
    if (!fd) return {-errno, 0};
    char c = 'x';
    const int reads = ::read(fd.get(), &c, 1) < 0 ? errno : 0;
    return {reads, ::write(fd.get(), &c, 1) < 0 ? errno : 0};
}
// In a constructor, which is called in the process's first thread, and in a call.
struct TerminalUser {
    std::pair<int, int> first = use_terminal();
    std::pair<int, int> before() const { return first; }
    std::pair<int, int> now() const { return use_terminal(); }
};

void expect_that_it_works(const mp::Proxy<TerminalUser>& user) {
    for (auto [reads, writes] :
         {user.call<&TerminalUser::before>(), user.call<&TerminalUser::now>()})
        if (reads != EIO || writes != 0) throw std::system_error(reads, std::generic_category());
}

// Leads a session with a terminal, on which background processes may not write.
void lead_a_session(mp::StartMethod method) {
    mp::Fd controller(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!controller || ::grantpt(controller.get()) < 0 || ::unlockpt(controller.get()) < 0)
        throw std::runtime_error("there are no pseudo-terminals here");
    (void)::setsid();
    (void)::signal(SIGHUP, SIG_IGN);  // comes when the controller is closed
    for (int number : {SIGTTIN, SIGTTOU}) (void)::signal(number, SIG_DFL);  // whoever started us
    (void)::alarm(60);  // what is stopped is waited for in vain
    mp::Fd terminal(::open(::ptsname(controller.get()), O_RDWR | O_CLOEXEC));
    termios settings = {};
    if (!terminal || ::tcgetattr(terminal.get(), &settings) < 0)
        throw std::runtime_error("no terminal");
    settings.c_lflag |= TOSTOP;
    if (::tcsetattr(terminal.get(), TCSANOW, &settings) < 0) throw std::runtime_error("tcsetattr");
    mp::Actor<TerminalUser> actor({.start_method = method});
    expect_that_it_works(actor.proxy());
    mp::Actor<TerminalUser> sturdy({.start_method = method, .max_restarts = 1});
    expect_that_it_works(sturdy.proxy());
    mp::Manager manager({.start_method = method, .initializer = [] { (void)use_terminal(); }});
    expect_that_it_works(manager.make<TerminalUser>());
}

int pay(mp::Proxy<Account> account, int amount) { return account.call<&Account::deposit>(amount); }

// Threads are not forked: what holds up a test waits in a process.
}  // namespace

TEST_CASE("an actor's methods and functions are called in order, and throw by type",
          "[manager][actor]") {
    FOR_EACH_START_METHOD();
    mp::Actor<Account> account({.start_method = method}, "ada");
    CHECK(account.name() == "actor_test::Account");
    CHECK(account.is_alive());
    CHECK(account.pid() == account.call<&Account::pid>());
    CHECK(account.pid() != ::getpid());
    CHECK(account.call<&Account::owner>() == "ada");
    std::vector<mp::Future<int>> deposits;
    for (int i = 1; i <= 10; ++i) deposits.push_back(account.submit<&Account::deposit>(i));
    for (int i = 1, sum = 0; i <= 10; ++i) CHECK(deposits[std::size_t(i - 1)].get() == (sum += i));
    CHECK_THROWS_AS(account.call<&Account::deposit>(-1), std::invalid_argument);
    CHECK(account.call([](Account& a, int n) { return a.deposit(n) + a.deposit(n); }, 1) == 113);
    CHECK(account.call<&Account::balance>() == 57);
    CHECK(account.restarts() == 0);
    auto proxy = account.proxy();
    account.shutdown();
    account.shutdown();
    CHECK_FALSE(account.is_alive());
    CHECK(account.pid() == 0);
    CHECK_THROWS_AS(proxy.call<&Account::balance>(), mp::ActorLost);
}

TEST_CASE("workers, processes and other actors call an actor by its proxy", "[manager][actor]") {
    FOR_EACH_START_METHOD();
    std::optional<mp::Pool> pool;
    pool.emplace(mp::PoolOptions{.processes = 2, .start_method = method});
    mp::Actor<Account> account({.start_method = method, .max_restarts = 1}, "ada");
    pool->map(mp::bind(pay, account.proxy()), std::vector<int>(100, 1));
    pool.reset();  // a Process is not forked beside it
    CHECK(account.call<&Account::balance>() == 100);
    mp::Actor<Plain> other({.start_method = method});
    CHECK(other.call([](Plain& p, mp::Proxy<Account> a) { return pay(a, p.next()); },
                     account.proxy()) == 101);
    mp::Process process({.start_method = method}, pay, account.proxy(), 5);
    process.start();
    process.join();
    CHECK(account.call<&Account::balance>() == 106);
}

TEST_CASE("what a constructor does wrong is thrown where the actor is made", "[manager][actor]") {
    FOR_EACH_START_METHOD();
    for (unsigned restarts : {0u, 2u}) {
        mp::ActorOptions options{.start_method = method, .max_restarts = restarts};
        CHECK_THROWS_AS(mp::Actor<Account>(options, ""), std::invalid_argument);
        CHECK_THAT(text_of_error([&] { mp::Actor<Account>(options, "abort"); }),
                   Contains("the actor actor_test::Account") && Contains("SIGABRT") &&
                       Contains("its constructor"));
    }
}

TEST_CASE("options that make no sense are refused, each with its name", "[manager][actor]") {
    auto refused = [](const mp::ActorOptions& options) {
        return text_of_error([&] { mp::Actor<Plain> actor(options); });
    };
    CHECK_THAT(refused({.within = 0s}), Contains("within"));
    CHECK_THAT(refused({.readers = 0}), Contains("readers"));
    CHECK_THAT(refused({.timeout_grace = -1s}), Contains("timeout_grace"));
    CHECK_THAT(refused({.checkpoint_every = 1}), Contains("max_restarts"));
    CHECK_THAT(refused({.max_restarts = 1, .checkpoint_every = 1}), Contains("serialize"));

    mp::Actor<Plain> actor;
    auto call = [&](const mp::TaskOptions& options) {
        return text_of_error([&] { actor.with(options).call<&Plain::next>(); });
    };
    CHECK_THAT(call({.memory_limit = 1}), Contains("memory_limit"));
    CHECK_THAT(call({.priority = 1}), Contains("priority"));
    CHECK_THAT(call({.key = 1}), Contains("key"));
    CHECK_THAT(call({.retry = {.backoff = 1s}}), Contains("backoff"));
    CHECK_THAT(call({.uses = {{"gpu", 1}}}), Contains("uses"));
    CHECK_THAT(call({.timeout = -1s}), Contains("timeout"));
    CHECK(actor.with({.timeout = 60s}).call<&Plain::next>() == 1);
}

TEST_CASE("an actor that is not started again tells how it died, and in what",
          "[manager][actor][death]") {
    FOR_EACH_START_METHOD();
    mp::Actor<Account> account({.start_method = method}, "ada");
    const int pid = account.pid();
    auto death = account.death();
    try {
        account.call<&Account::crash>();
        FAIL("it was answered");
    } catch (const mp::ActorLost& lost) {
        CHECK(lost.what() == "the actor actor_test::Account (process " + std::to_string(pid) +
                                 ") died of signal 6 (SIGABRT) in actor_test::Account::crash()");
        CHECK(lost.exit_status().signal() == SIGABRT);
        CHECK(lost.pid() == pid);
        CHECK(lost.began());
    }
    CHECK_THROWS_AS(account.call<&Account::balance>(), mp::ActorLost);
    CHECK(death.get().pid == pid);
    CHECK(death.get().exit_status.signal() == SIGABRT);
    CHECK(account.death().get().pid == pid);
    CHECK_FALSE(account.is_alive());
}

TEST_CASE(
    "one that dies is started again from its last checkpoint, and only the call that killed "
    "it is lost",
    "[manager][actor][restart]") {
    FOR_EACH_START_METHOD();
    mp::Actor<Account> account({.start_method = method, .max_restarts = 3, .checkpoint_every = 1},
                               "bob");
    account.call<&Account::deposit>(7);
    const int pid = account.pid();
    auto death = account.death();
    auto crash = account.submit<&Account::crash>();
    std::vector<mp::Future<int>> later;
    for (int i = 0; i < 20; ++i) later.push_back(account.submit<&Account::deposit>(1));
    CHECK(text_of_error([&] { crash.get(); }) ==
          "the actor actor_test::Account (process " + std::to_string(pid) +
              ") died of signal 6 (SIGABRT) in actor_test::Account::crash()");
    for (int i = 0; i < 20; ++i) CHECK(later[std::size_t(i)].get() == 8 + i);
    CHECK(account.restarts() == 1);
    CHECK(account.pid() != pid);
    CHECK(account.pid() == account.call<&Account::pid>());
    CHECK(account.call<&Account::owner>() == "bob");
    CHECK(death.get().pid == pid);
}

TEST_CASE("without checkpoints it begins with the constructor's arguments",
          "[manager][actor][restart]") {
    mp::Actor<Account> account({.max_restarts = 2}, "ada");
    account.call<&Account::deposit>(7);
    CHECK_THROWS_AS(account.call<&Account::crash>(), mp::ActorLost);
    CHECK(account.call<&Account::balance>() == 0);
    CHECK(account.call<&Account::owner>() == "ada");
    ::kill(account.pid(), SIGKILL);
    CHECK(account.call<&Account::owner>() == "ada");
    CHECK(account.restarts() == 2);
}

TEST_CASE("a checkpoint is made after each so many calls that may change it",
          "[manager][actor][restart]") {
    mp::Actor<Account> account({.max_restarts = 2, .checkpoint_every = 3}, "ada");
    for (int i = 0; i < 5; ++i) {
        account.call<&Account::deposit>(1);
        account.call<&Account::balance>();  // const
    }
    ::kill(account.pid(), SIGKILL);
    CHECK(account.call<&Account::balance>() == 3);
    // One that throws may have changed it, too.
    account.call([](Account& a) { a.deposit(10); });
    account.call<&Account::deposit>(10);
    CHECK_THROWS_AS(account.call<&Account::deposit>(0), std::invalid_argument);
    account.submit<&Account::deposit>(100);
    account.flush();
    ::kill(account.pid(), SIGKILL);
    CHECK(account.call<&Account::balance>() == 23);
}

TEST_CASE("the death after the last restart is told to all callers, and says why",
          "[manager][actor][restart]") {
    mp::Actor<Account> account({.max_restarts = 1}, "ada");
    mp::Pool pool({.processes = 1});
    CHECK_THROWS_AS(account.call<&Account::crash>(), mp::ActorLost);
    CHECK_THAT(text_of_error([&] { account.call<&Account::crash>(); }),
               Contains("SIGABRT") && Contains("in actor_test::Account::crash()"));
    for (int i = 0; i < 2; ++i)
        CHECK_THAT(text_of_error([&] { account.call<&Account::balance>(); }),
                   Contains("SIGABRT") &&
                       Contains("before it began actor_test::Account::balance() const") &&
                       Contains("max_restarts is 1"));
    CHECK_FALSE(account.is_alive());
    CHECK(account.pid() == 0);
    CHECK(account.restarts() == 1);
    CHECK(pool.submit(
                  [](mp::Proxy<Account> a) {
                      return text_of_error([&] { a.call<&Account::balance>(); });
                  },
                  account.proxy())
              .get()
              .find("max_restarts is 1") != std::string::npos);
}

TEST_CASE("only deaths within `within` count", "[manager][actor][restart]") {
    mp::Actor<Account> account({.max_restarts = 1, .within = 1ms}, "ada");
    for (unsigned i = 1; i <= 3; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        CHECK_THROWS_AS(account.call<&Account::crash>(), mp::ActorLost);
        CHECK(test::eventually([&] { return std::chrono::steady_clock::now() - begin > 10ms; }));
        CHECK(account.call<&Account::balance>() == 0);
        CHECK(account.restarts() == i);
    }
}

TEST_CASE("a call that killed its actor is run again if its Retry says so",
          "[manager][actor][restart]") {
    mp::Actor<Account> account({.max_restarts = 5}, "ada");
    mp::Event crashed;
    account.with({.retry = {.max_attempts = 2}}).call<&Account::crash_once>(crashed);
    CHECK(account.restarts() == 1);
    // max_crashes, 2, is the limit here.
    CHECK_THROWS_WITH(account.with({.retry = {.max_attempts = 9}}).call<&Account::crash>(),
                      Contains("in actor_test::Account::crash(), after 2 of 9 attempts (no more: "
                               "Retry::max_crashes is 2)"));
    CHECK(account.call<&Account::balance>() == 0);
    CHECK(account.restarts() == 3);
    CHECK_THROWS_AS(account.with({.retry = {.max_attempts = 3}}).call<&Account::deposit>(0),
                    std::invalid_argument);
}

TEST_CASE("what a call has printed is out when it has ended, though the next one costs the process",
          "[manager][actor][output]") {
    const std::string path =
        std::filesystem::temp_directory_path() / ("sidestep-printed-" + std::to_string(::getpid()));
    SECTION("an actor's") {
        mp::Actor<Printer> actor(path);
        print_and_crash(actor.proxy(), path);
    }
    SECTION("an object's of a Manager") {
        mp::Manager manager;
        print_and_crash(manager.make<Printer>(path), path);
    }
}

TEST_CASE("an object that uses the terminal does not stop its process",
          "[manager][actor][terminal]") {
    FOR_EACH_START_METHOD();
    mp::Process leader(lead_a_session, method);
    leader.start();
    leader.join();
    CHECK_NOTHROW(leader.rethrow());
    CHECK(leader.exitcode() == 0);
}

}  // namespace actor_test
