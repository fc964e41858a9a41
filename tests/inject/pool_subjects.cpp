// Pools: tasks, maps, deaths, time limits, and what watches them.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <sidestep/interrupt_guard.hpp>
#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

#include "subjects.hpp"

using namespace std::chrono_literals;

namespace subjects {
namespace {

int add(int a, int b) { return a + b; }
int twice(int n) { return 2 * n; }
std::string shout(const std::string& s) { return s + "!"; }
std::string echo(std::string s) { return s; }
[[noreturn]] int die(int) { __builtin_trap(); }
int refuse(int) { throw std::domain_error("thrown"); }
int print(int n) {
    std::printf("line %d\n", n);
    return n;
}
// Runs until it is asked to stop, at most 20 s.
int run_on(int) {
    for (auto end = std::chrono::steady_clock::now() + 20s;
         std::chrono::steady_clock::now() < end && !sidestep::this_task::stop_requested();)
        std::this_thread::yield();
    return 0;
}

template <class Pool>
void submit_some(Pool& pool) {
    std::vector<sidestep::Future<int>> futures;
    for (int i = 0; i < 5; ++i) futures.push_back(pool.submit(add, i, 1));
    for (int i = 0; i < 5; ++i) expect(futures[static_cast<std::size_t>(i)].get() == i + 1, "sums");
}

template <class Pool>
void map_some(Pool& pool) {
    std::vector<int> items(200, 4);
    std::vector<int> results = pool.map(twice, items);
    expect(results == std::vector<int>(200, 8), "doubles");
}

template <class Pool>
void stream_some(Pool& pool) {
    std::vector<std::string> items(50, "x");
    int count = 0;
    for (const std::string& s : pool.imap(shout, items, {.chunksize = 3})) {
        expect(s == "x!", "what a stream gives");
        ++count;
    }
    expect(count == 50, "how much a stream gives");
}

template <class Pool>
void call_back(Pool& pool) {
    struct Heard {
        std::atomic<int> sum{0}, calls{0};
    };
    auto heard = std::make_shared<Heard>();
    std::vector<sidestep::Future<int>> futures;
    for (int i = 0; i < 3; ++i) {
        futures.push_back(pool.submit(add, 1, 1));
        futures.back()
            .on_value([heard](int value) {
                heard->sum += value;
                ++heard->calls;
            })
            .on_error([heard](std::exception_ptr) { ++heard->calls; });
    }
    int failed = 0;
    for (auto& future : futures) failed += future.exception() != nullptr;
    for (auto end = std::chrono::steady_clock::now() + 10s;
         heard->calls < 3 && std::chrono::steady_clock::now() < end;)
        std::this_thread::yield();
    expect(heard->calls == 3, "each future's callback");
    expect(heard->sum == 2 * (3 - failed), "the sum of callbacks");
    for (auto& future : futures) (void)future.get();
}

void cancel_one(sidestep::Pool& pool) {
    auto future = pool.submit(run_on, 0);
    while (!future.running() && !future.ready()) std::this_thread::yield();
    future.cancel();
    expect_throw<sidestep::CancelledError>([&] { future.get(); }, "what was cancelled");
}

template <class Pool>
void map_beside(Pool& pool) {
    auto future = pool.map_async(twice, std::vector<int>(10, 1));
    expect(future.get() == std::vector<int>(10, 2), "doubles of a map beside");
}

void send_large(sidestep::Pool& pool) {
    std::string large(1 << 20, 'b');
    large[77] = 'c';
    auto first = pool.submit(echo, large), second = pool.submit(echo, large);
    expect(first.get() == large && second.get() == large, "large echoes");
}

void lose_a_worker(sidestep::Pool& pool) {
    auto lost = pool.submit(die, 1);
    expect_throw<sidestep::WorkerLost>([&] { lost.get(); }, "a task that was killed");
    expect(pool.apply(add, 1, 2) == 3, "the task after it");
}

void run_out_of_time(sidestep::Pool& pool) {
    auto late = pool.submit({.timeout = 15ms}, run_on, 0);
    expect_throw<sidestep::TaskTimeout>([&] { late.get(); }, "a task out of time");
}

void change_size(sidestep::Pool& pool) {
    pool.resize(3);
    map_some(pool);
    pool.resize(1);
    expect(pool.apply(add, 5, 5) == 10, "a task of a smaller pool");
}

void throw_one(sidestep::Pool& pool) {
    auto future = pool.submit(refuse, 1);
    expect_throw<std::domain_error>([&] { future.get(); }, "a task that throws");
}

// A task that waits for others.
template <class Pool>
void wait_for_others(Pool& pool) {
    auto first = pool.submit(add, 1, 2), second = pool.submit(twice, first);
    auto both = pool.submit(add, first, second);
    expect(both.get() == 9, "a task of two others' results");
}

template <class Pool>
void reduce_some(Pool& pool) {
    std::vector<int> items(300, 1);
    expect(pool.map_reduce(twice, add, items, 0) == 600, "a sum of doubles");
}

std::string tell_settings() {
    const char* value = std::getenv("INJECTED");
    std::error_code none;
    return (value ? value : "") + std::filesystem::current_path(none).string();
}

void interrupt_this() {
    if (kill(getpid(), SIGINT) != 0) throw std::runtime_error("the subject's own kill");
}

}  // namespace

void use_pool(sidestep::StartMethod method) {
    std::optional<sidestep::Pool> pool;
    auto make = [&] {
        pool.emplace(sidestep::PoolOptions{.processes = 2, .start_method = method});
    };
    if (!step_twice("make", make)) return;
    using Step = void (*)(sidestep::Pool&);
    const std::pair<const char*, Step> steps[] = {{"submit", submit_some<sidestep::Pool>},
                                                  {"map", map_some<sidestep::Pool>},
                                                  {"stream", stream_some<sidestep::Pool>},
                                                  {"large", send_large},
                                                  {"throw", throw_one},
                                                  {"death", lose_a_worker},
                                                  {"timeout", run_out_of_time},
                                                  {"cancel", cancel_one},
                                                  {"resize", change_size},
                                                  {"callbacks", call_back<sidestep::Pool>},
                                                  {"map_async", map_beside<sidestep::Pool>}};
    for (const auto& each : steps) {
        if (step_twice(each.first, [&] { each.second(*pool); })) continue;
        // A pool that broke says so at every call: with the fault gone, a new one works.
        step("drop", [&] { pool.reset(); });
        if (!step_twice("make", make)) return;
    }
    step("end", [&] { pool.reset(); });
}

void use_pool_insight(sidestep::StartMethod method) {
    std::string trace = (std::filesystem::temp_directory_path() /
                         ("sidestep-inject-" + std::to_string(getpid()) + ".json"))
                            .string();
    step_twice("captured output", [&] {
        sidestep::Pool pool(
            {.processes = 1, .start_method = method, .output = sidestep::Output::capture});
        auto future = pool.submit(print, 7);
        expect(future.get() == 7, "the value of a task that prints");
        std::string out = future.output().out;
        if (out.starts_with("[sidestep: ")) throw std::runtime_error(out);
        expect(out == "line 7\n", "what a task printed");
    });
    step_twice("stats and trace", [&] {
        sidestep::Pool pool({.processes = 1, .start_method = method});
        pool.trace(trace);
        submit_some(pool);
        pool.trace_stop();
        expect(!pool.stats().describe().empty(), "stats");
    });
    std::filesystem::remove(trace);
    step_twice("interrupt", [&] {
        sidestep::Pool pool({.processes = 1, .start_method = method});
        sidestep::InterruptGuard guard(pool);
        auto running = pool.submit(run_on, 0);
        while (!running.running() && !running.ready()) std::this_thread::yield();
        interrupt_this();
        while (guard.interrupts() < 1) std::this_thread::yield();
        interrupt_this();
        expect_throw<sidestep::CancelledError>([&] { running.get(); }, "what Ctrl-C ended");
    });
}

void use_pool_options(sidestep::StartMethod method) {
    std::string name(to_string(method));
    step_twice(name + " settings", [&] {
        sidestep::Pool pool({.processes = 1,
                             .start_method = method,
                             .initializer = [] { std::this_thread::yield(); },
                             .finalizer = [] { std::this_thread::yield(); },
                             .env = {{"INJECTED", "{index}"}},
                             .cwd = "/"});
        expect(pool.apply(tell_settings) == "0/", "what a worker was given");
        pool.close();
        expect_came(pool.join_for(patience()), "the pool's end");
    });
    step_twice(name + " replaced", [&] {
        sidestep::Pool pool({.processes = 1,
                             .start_method = method,
                             .max_tasks_per_child = 2,
                             .start_patience = patience()});
        for (int i = 0; i < 5; ++i) expect(pool.apply(add, i, i) == 2 * i, "a sum");
    });
    step_twice(name + " idle", [&] {
        sidestep::Pool pool({.processes = 1,
                             .start_method = method,
                             .idle_timeout = 1ms,
                             .start_patience = patience()});
        for (int i = 0; i < 3; ++i) {
            expect(pool.apply(add, i, i) == 2 * i, "a sum after a rest");
            std::this_thread::sleep_for(5ms);  // style-ok: time in which workers may leave
        }
    });
    step_twice(name + " bounded", [&] {
        sidestep::Pool pool({.processes = 1,
                             .start_method = method,
                             .max_pending = 2,
                             .start_patience = patience()});
        submit_some(pool);
        expect(pool.submit({.retry = {.max_attempts = 2}}, add, 1, 1).get() == 2, "a sum");
        auto limited = pool.submit({.memory_limit = std::size_t(1) << 40}, add, 2, 2);
        expect(limited.get() == 4, "a sum within a limit");
        wait_for_others(pool);
        reduce_some(pool);
    });
}

void use_thread_pool() {
    std::optional<sidestep::ThreadPool> pool;
    if (!step_twice("make", [&] { pool.emplace(sidestep::ThreadPoolOptions{.threads = 2}); }))
        return;
    step_twice("submit", [&] { submit_some(*pool); });
    step_twice("map", [&] { map_some(*pool); });
    step_twice("stream", [&] { stream_some(*pool); });
    step_twice("callbacks", [&] { call_back(*pool); });
    step_twice("map_async", [&] { map_beside(*pool); });
    step_twice("waiting", [&] { wait_for_others(*pool); });
    step_twice("reduce", [&] { reduce_some(*pool); });
    step("end", [&] { pool.reset(); });
}

}  // namespace subjects
