// Programs in which a thread of the library runs exit(3). Each ends with its own exit code.
#include <signal.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/listener.hpp>
#include <sidestep/thread_pool.hpp>

#include "pool_support.hpp"
#include "service_program.hpp"

namespace mp = sidestep;
using namespace std::chrono_literals;

namespace {

[[noreturn]] void for_ever() {
    for (;;) pause();
}
int hang() { for_ever(); }
int fail() { throw std::domain_error("always"); }

void print_workers(mp::Pool& pool) {
    std::string line;
    for (int pid : pool.worker_pids()) line += std::to_string(pid) + " ";
    std::puts(line.c_str());
    std::fflush(stdout);
}

// A static pool, another task of which hangs.
mp::Pool& busy_pool(mp::StartMethod method) {
    static mp::Pool pool({.processes = 2, .start_method = method});
    pool.submit(hang);
    print_workers(pool);
    return pool;
}

int exit_in_callback(mp::StartMethod method) {
    busy_pool(method).submit(test::add, 1, 2).on_value([](int) { std::exit(3); });
    for_ever();
}
int quick_exit_in_callback(mp::StartMethod method) {
    busy_pool(method).submit(test::add, 1, 2).on_value([](int) { std::quick_exit(3); });
    for_ever();
}
int exit_in_when(mp::StartMethod method) {
    auto ask = [](const std::exception_ptr&) -> bool { std::exit(3); };
    busy_pool(method).submit({.retry = {.max_attempts = 2, .when = ask}}, fail);
    for_ever();
}
int exit_in_map(mp::StartMethod method) {
    static test::SharedWords words(2);
    auto held = [](const std::string& path) { return test::wait_at(path, 0, 1); };
    auto result = busy_pool(method).map_async(held, std::vector<std::string>{words.path()});
    result.add_done_callback([](const auto&) { std::exit(3); });  // in the thread that fed the map
    words[1] = 1;
    for_ever();
}
// The pool has ended in that callback before.
int exit_after_end(mp::StartMethod method) {
    static auto pool =
        std::make_unique<mp::Pool>(mp::PoolOptions{.processes = 2, .start_method = method});
    print_workers(*pool);
    pool->submit(hang);
    pool->submit(test::add, 1, 2).on_value([](int) {
        pool.reset();
        std::exit(3);
    });
    for_ever();
}
// Somebody waits for the pool whose callback it is.
int exit_while_joined(mp::StartMethod method) {
    mp::Pool& pool = busy_pool(method);
    pool.submit(test::add, 1, 2).on_value([](int) { std::exit(3); });
    pool.shutdown();
    for_ever();
}
// In the middle of a map, in the thread that called it.
bool exit_here(const std::exception_ptr&) { std::exit(3); }
int exit_in_own_map(mp::StartMethod method) {
    mp::MapOptions options{.task = {.retry = {.max_attempts = 2, .when = exit_here}}};
    busy_pool(method).map([](int) { return fail(); }, std::vector<int>{1, 2, 3}, options);
    for_ever();
}
// Without workers the task runs in this thread.
int exit_in_inline_task() {
    static mp::Pool pool({.processes = 0});
    pool.submit([] { std::exit(3); });
    for_ever();
}
int exit_in_inline_map() {
    static mp::Pool pool({.processes = 0});
    pool.map([](int) -> int { std::exit(3); }, std::vector<int>{1, 2, 3});
    for_ever();
}
int exit_in_thread_own_map() {
    static mp::ThreadPool pool({.threads = 2});
    struct Input {
        struct Iterator {
            using value_type = int;
            using difference_type = std::ptrdiff_t;
            int operator*() const { std::exit(3); }
            Iterator& operator++() { return *this; }
            void operator++(int) {}
            bool operator==(std::default_sentinel_t) const { return false; }
        };
        Iterator begin() const { return {}; }
        std::default_sentinel_t end() const { return {}; }
    };
    pool.map([](int x) { return x; }, Input());
    for_ever();
}
int exit_in_thread() {
    static mp::ThreadPool pool({.threads = 2});
    pool.submit([] { std::exit(3); });
    for_ever();
}
int exit_in_thread_callback() {
    static mp::ThreadPool pool({.threads = 2});
    static test::SharedWords words(2);
    pool.submit([] { return test::await(words[1]); }).on_value([](auto) { std::exit(3); });
    words[1] = 1;
    for_ever();
}
int exit_in_timer() {
    static mp::ThreadPool pool({.threads = 2});
    pool.submit({.timeout = 20ms}, hang).on_error([](const std::exception_ptr&) { std::exit(3); });
    for_ever();
}
int exit_in_thread_map() {
    static mp::ThreadPool pool({.threads = 2});
    static test::SharedWords words(2);
    auto result = pool.map_async([](int) { return test::await(words[1]); }, std::vector<int>{1});
    result.add_done_callback([](const auto&) { std::exit(3); });
    words[1] = 1;
    for_ever();
}
int exit_in_thread_after_end() {
    static auto pool = std::make_unique<mp::ThreadPool>(mp::ThreadPoolOptions{.threads = 2});
    pool->submit([] {
        pool.reset();
        std::exit(3);
    });
    for_ever();
}
int exit_in_listener() {
    static mp::Listener listener(
        {.address = mp::UnixAddress::abstract("exit-" + std::to_string(getpid()))});
    std::thread serving([] {
        mp::Connection peer = listener.accept();
        std::exit(3);
    });
    serving.detach();
    std::thread waiting([] {
        try {
            mp::Connection peer = listener.accept();
        } catch (const std::exception&) {  // it closes meanwhile
        }
        for_ever();
    });
    waiting.detach();
    // One for each of the two: either may be served first.
    mp::Connection mine = mp::Client(listener.address());
    mp::Connection other = mp::Client(listener.address());
    for_ever();
}

}  // namespace

std::optional<int> test::run_exit_program(const std::string& what, mp::StartMethod method) {
    if (what == "exit-in-callback") return exit_in_callback(method);
    if (what == "quick-exit-in-callback") return quick_exit_in_callback(method);
    if (what == "exit-in-when") return exit_in_when(method);
    if (what == "exit-in-map") return exit_in_map(method);
    if (what == "exit-after-end") return exit_after_end(method);
    if (what == "exit-while-joined") return exit_while_joined(method);
    if (what == "exit-in-own-map") return exit_in_own_map(method);
    if (what == "exit-in-inline-task") return exit_in_inline_task();
    if (what == "exit-in-inline-map") return exit_in_inline_map();
    if (what == "exit-in-thread-own-map") return exit_in_thread_own_map();
    if (what == "exit-in-thread") return exit_in_thread();
    if (what == "exit-in-thread-callback") return exit_in_thread_callback();
    if (what == "exit-in-timer") return exit_in_timer();
    if (what == "exit-in-thread-map") return exit_in_thread_map();
    if (what == "exit-in-thread-after-end") return exit_in_thread_after_end();
    if (what == "exit-in-listener") return exit_in_listener();
    return {};
}
