#include "interrupt_program.hpp"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sidestep/interrupt_guard.hpp>
#include <sidestep/thread_pool.hpp>

#include "pool_support.hpp"

namespace mp = sidestep;

namespace test {
namespace {

enum Word : std::size_t { kGate, kCount, kFirst, kSecond, kWords = 8 };

void say(const char* text) {
    std::puts(text);
    std::fflush(stdout);
}
template <class F>
void say_outcome(const char* what, F f) {
    const char* outcome = "done";
    try {
        f();
    } catch (const mp::CancelledError&) {
        outcome = "CancelledError";
    } catch (const std::logic_error&) {
        outcome = "std::logic_error";
    }
    std::printf("%s: %s\n", what, outcome);
    std::fflush(stdout);
}

// Two tasks that run until the gate opens, and many behind them.
struct Busy {
    explicit Busy(mp::Pool& pool) {
        for (std::size_t tell : {kFirst, kSecond})
            running.push_back(pool.submit(wait_at, words.path(), tell, std::size_t(kGate)));
        for (int i = 0; i < 50; ++i) waiting.push_back(pool.submit(add, i, 1));
        await(words[kFirst]);
        await(words[kSecond]);
    }
    SharedWords words{kWords};
    std::vector<mp::Future<std::uint64_t>> running;
    std::vector<mp::Future<int>> waiting;
};

int once(mp::StartMethod method) {
    setpgid(0, 0);  // so that the test can send the signal to all of us, as a terminal does
    mp::Pool pool({.processes = 2, .start_method = method});
    mp::InterruptGuard guard(pool);
    Busy busy(pool);
    say("running");
    say_outcome("waiting", [&] { busy.waiting.back().get(); });
    say_outcome("submit", [&] { pool.submit(add, 1, 2); });
    say_outcome("map", [&] { pool.map(square, std::vector<long>{1, 2, 3}); });
    busy.words[kGate] = 1;
    for (auto& f : busy.running) say_outcome("running", [&] { f.get(); });
    pool.join();
    return guard.interrupts() == 1 ? 130 : 1;
}

int again_and_again(mp::StartMethod method, const std::vector<int>& signals) {
    mp::Pool pool({.processes = 2, .start_method = method});
    mp::InterruptGuard guard(pool, signals);
    Busy busy(pool);
    say("running");
    say_outcome("waiting", [&] { busy.waiting.back().get(); });
    for (auto& f : busy.running) say_outcome("running", [&] { f.get(); });
    pool.join();
    (void)test::eventually([&] {  // the guard's thread gives the signals back
        return std::all_of(signals.begin(), signals.end(), [](int number) {
            struct sigaction now = {};
            return sigaction(number, nullptr, &now) == 0 && now.sa_handler == SIG_DFL;
        });
    });
    say("joined");
    for (;;) pause();
}

// One item, again and again.
class Endless {
  public:
    struct Iterator {
        using value_type = std::string;
        using difference_type = std::ptrdiff_t;
        const std::string* item = nullptr;
        const std::string& operator*() const { return *item; }
        Iterator& operator++() { return *this; }
        void operator++(int) {}
    };
    explicit Endless(std::string item) : item_(std::move(item)) {}
    Iterator begin() const { return {&item_}; }
    std::unreachable_sentinel_t end() const { return {}; }

  private:
    std::string item_;
};

int map(mp::StartMethod method, bool in_background) {
    SharedWords words(kWords);
    mp::Pool pool({.processes = 2, .start_method = method});
    mp::InterruptGuard guard(pool);
    Endless items(words.path());
    auto count = [](const std::string& path) { return bump(path, kCount); };
    std::thread watcher([&] {
        await(words[kCount]);
        say("running");
    });
    say_outcome("map", [&] {
        if (in_background)
            pool.map_async(count, items).get();
        else
            pool.map(count, items);
    });
    watcher.join();
    pool.join();
    return guard.interrupts() == 1 ? 0 : 1;
}

// A task that fails while the pool is interrupted is not run again.
int retry(mp::StartMethod method) {
    SharedWords words(kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    mp::InterruptGuard guard(pool);
    auto fail = [](const std::string& path) {
        bump(path, kCount);
        wait_at(path, kFirst, kGate);
        throw std::domain_error("once more");
    };
    auto f = pool.submit({.retry = {.max_attempts = 5}}, fail, words.path());
    auto last = pool.submit(add, 1, 2);
    await(words[kFirst]);
    say("running");
    say_outcome("waiting", [&] { last.get(); });
    words[kGate] = 1;
    try {
        f.get();
    } catch (const std::domain_error&) {
        say("failed");
    }
    return words[kCount] == 1 ? 0 : 1;
}

// Item 1 of a chunk costs its worker: what comes after it is not begun any more.
int split(mp::StartMethod method) {
    SharedWords words(kWords);
    mp::Pool pool({.processes = 2, .start_method = method});
    mp::InterruptGuard guard(pool);
    auto item = [](const std::pair<std::string, int>& task) {
        const auto& [path, number] = task;
        if (number == 0) wait_at(path, kFirst, kGate);
        if (number == 1) die(SIGKILL);
        if (number > 1) bump(path, kCount);
    };
    std::vector<std::pair<std::string, int>> items;
    for (int i = 0; i < 4; ++i) items.emplace_back(words.path(), i);
    std::thread watcher([&] {
        await(words[kFirst]);
        say("running");
        (void)eventually([&] {
            try {
                pool.submit(add, 1, 2);
                return false;
            } catch (const mp::CancelledError&) {
                return true;
            }
        });
        words[kGate] = 1;
    });
    for (auto& outcome : pool.imap(item, items, {.chunksize = 4}).outcomes())
        say_outcome(std::to_string(outcome.index()).c_str(), [&] {
            try {
                outcome.value();
            } catch (const mp::WorkerLost&) {
                say("lost");
            }
        });
    watcher.join();
    return words[kCount] == 0 ? 0 : 1;
}

int several(mp::StartMethod method) {
    SharedWords words(kWords);
    mp::PoolOptions options{.processes = 1, .start_method = method};
    mp::Pool one(options), two(options), three(options);
    mp::InterruptGuard first(one), second(two);
    for (mp::Pool* pool : {&one, &two}) {
        words[kFirst] = 0;
        pool->submit(wait_at, words.path(), std::size_t(kFirst), std::size_t(kGate));
        await(words[kFirst]);
    }
    auto of_one = one.submit(add, 1, 2), of_two = two.submit(add, 1, 2);
    say("running");
    say_outcome("one", [&] { of_one.get(); });
    say_outcome("two", [&] { of_two.get(); });
    say_outcome("three", [&] { three.apply(add, 1, 2); });
    words[kGate] = 1;
    return first.interrupts() + second.interrupts() == 2 ? 0 : 1;
}

int handled = 0;

// The handler that was there before is back when the last guard goes, and in a forked child.
int restored(mp::StartMethod method) {
    signal(SIGINT, [](int) { ++handled; });
    int failures = 0;
    mp::Pool pool({.processes = 1, .start_method = method});
    for (unsigned round = 0; round < 2; ++round) {
        auto outer = std::make_unique<mp::InterruptGuard>(pool);
        { mp::InterruptGuard inner(pool); }
        pid_t child = fork();
        if (child == 0) {
            raise(SIGINT);
            int wrong = handled != static_cast<int>(round) + 1;
            try {
                mp::InterruptGuard guard(pool);
                wrong += 2;
            } catch (const std::logic_error&) {
            }
            outer.reset();
            raise(SIGINT);
            _exit(wrong + (handled != static_cast<int>(round) + 2 ? 4 : 0));
        }
        int status = -1;
        waitpid(child, &status, 0);
        failures += status != 0;
        failures += outer->interrupts() != 0;
        outer.reset();
        raise(SIGINT);
        failures += handled != static_cast<int>(round) + 1;
    }
    failures += pool.apply(add, 1, 2) != 3;
    // Somebody else's handler is left where it is.
    {
        mp::InterruptGuard guard(pool);
        signal(SIGINT, SIG_IGN);
    }
    raise(SIGINT);
    return failures;
}

int threads() {
    mp::ThreadPool pool({.threads = 1});
    mp::InterruptGuard guard(pool);
    std::atomic<bool> started{false}, go_on{false};
    auto running = pool.submit([&] {
        started = true;
        while (!go_on) std::this_thread::yield();
    });
    auto waiting = pool.submit([] {});
    auto until_asked = [] {
        while (!mp::this_task::stop_requested()) std::this_thread::yield();
    };
    while (!started) std::this_thread::yield();
    say("running");
    say_outcome("waiting", [&] { waiting.get(); });
    say_outcome("submit", [&] { pool.submit(until_asked); });
    go_on = true;
    say_outcome("running", [&] { running.get(); });
    pool.join();
    // The second step asks what still runs to stop.
    mp::ThreadPool other({.threads = 1});
    mp::InterruptGuard another(other);
    started = false;
    auto asked = other.submit([&] {
        started = true;
        until_asked();
    });
    while (!started) std::this_thread::yield();
    say("again");
    while (another.interrupts() == 0) std::this_thread::yield();
    say("not yet asked");
    say_outcome("asked", [&] { asked.get(); });
    return 0;
}

// --- the end in a callback ---------------------------------------------------------------------

int end_in_callback(mp::StartMethod method) {
    SharedWords words(kWords);
    auto pool = std::make_unique<mp::Pool>(mp::PoolOptions{.processes = 1, .start_method = method});
    auto first = pool->submit(wait_at, words.path(), std::size_t(kSecond), std::size_t(kCount));
    pool->submit(
        [](const std::string& path) {
            wait_at(path, kFirst, kGate);
            std::puts("the task is done");
            std::fflush(stdout);
        },
        words.path());
    std::atomic<bool> ended{false};
    first.add_done_callback([&](const auto&) {
        pool.reset();
        ended = true;
    });
    words[kCount] = 1;
    while (!ended) std::this_thread::yield();
    await(words[kFirst]);
    say("main is over");
    words[kGate] = 1;
    return 0;
}

// --- output ------------------------------------------------------------------------------------

void initialize() { std::puts("initializer"); }
void finalize() { std::puts("finalizer"); }
void say_seven() { std::printf("out %d", 7); }

int captured(mp::StartMethod method) {
    mp::Pool pool({.processes = 1,
                   .start_method = method,
                   .initializer = initialize,
                   .finalizer = finalize,
                   .output = mp::Output::capture});
    std::printf("task: %s\n", pool.submit(say_seven).output().out.c_str());
    std::fflush(stdout);
    return 0;
}

int captured_without_stdio(mp::StartMethod method) {
    for (int fd : {0, 1, 2}) close(fd);
    mp::Pool pool({.processes = 2, .start_method = method, .output = mp::Output::capture});
    int failures = 0;
    for (int round = 0; round < 2; ++round) {
        failures += pool.submit(say_seven).output().out != "out 7";
        failures += pool.submit(die, SIGKILL).exception() == nullptr;
    }
    return failures;
}

}  // namespace

std::optional<int> run_interrupt_program(const std::string& what, mp::StartMethod method) {
    if (what == "interrupt-once") return once(method);
    if (what == "interrupt-again") return again_and_again(method, {SIGINT});
    if (what == "interrupt-by-any") return again_and_again(method, {SIGINT, SIGTERM});
    if (what == "interrupt-map") return map(method, false);
    if (what == "interrupt-map-async") return map(method, true);
    if (what == "interrupt-retry") return retry(method);
    if (what == "interrupt-split") return split(method);
    if (what == "interrupt-several") return several(method);
    if (what == "interrupt-restored") return restored(method);
    if (what == "interrupt-threads") return threads();
    if (what == "end-in-callback") return end_in_callback(method);
    return {};
}

std::optional<int> run_output_program(const std::string& what, mp::StartMethod method) {
    if (what == "captured") return captured(method);
    if (what == "captured-without-stdio") return captured_without_stdio(method);
    return {};
}

}  // namespace test
