// What get() throws: errors by type, workers that are lost, `serialize` functions that misbehave.
#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <future>
#include <stdexcept>
#include <system_error>

#include <catch2/catch.hpp>

#include "crash_functions.hpp"
#include "pool_cases.hpp"
#include "pool_support.hpp"

namespace errors_test {

namespace mp = sidestep;
using test::methods;

namespace {

struct Registered : std::runtime_error {
    explicit Registered(const std::string& text) : std::runtime_error(text) {}
};
struct WithState : std::exception {
    int code = 0;
    std::string place;
    const char* what() const noexcept override { return "with state"; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(code, place);
    }
};
struct Unregistered : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct NoException {};
[[maybe_unused]] const bool registered =
    mp::register_exception<Registered>() && mp::register_exception<WithState>();

int throw_kind(int kind) {
    switch (kind) {
        case 0:
            throw std::domain_error("domain");
        case 1:
            throw Registered("registered");
        case 2: {
            WithState error;
            error.code = 17;
            error.place = "here";
            throw error;
        }
        case 3:
            throw Unregistered("unregistered");
        case 4:
            throw NoException();
        case 5:
            throw 42;
        case 6:
            throw std::system_error(ENOENT, std::generic_category(), "opening");
        case 7:
            throw std::bad_alloc();
        case 8:
            try {
                throw std::out_of_range("inner");
            } catch (...) {
                std::throw_with_nested(std::logic_error("outer"));
            }
    }
    return kind;
}

int exit_with(int code) { std::exit(code); }
int quick_exit_with(int code) { _exit(code); }
int abort_now() {
    test::die(SIGABRT);
    std::abort();
}
int segfault() { return test::die(SIGSEGV); }
int exit_thread() { pthread_exit(nullptr); }

// Runs the task, which has to lose its worker; the error.
template <class F, class... Args>
mp::WorkerLost lost(mp::Pool& pool, F f, Args... args) {
    mp::Future<int> future = pool.submit(f, args...);
    if (!future.wait_for(test::kPatience)) throw std::runtime_error("it hangs");
    try {
        future.get();
    } catch (const mp::WorkerLost& error) {
        return error;
    }
    throw std::runtime_error("it was not lost");
}

// Misbehaves when it is saved or loaded, in the application or in a worker.
struct Actor {
    enum Act { none, throws, exits, crashes };
    int in_app = 0;  // whose pid; elsewhere is a worker
    int save_act = none, load_act = none;
    bool in_worker_only = true;

    void act(int what) const {
        if (in_worker_only && getpid() == in_app) return;
        if (what == throws) throw std::underflow_error("misbehaved");
        if (what == exits) std::exit(1);
        if (what == crashes) test::die(SIGSEGV);
    }
    template <class Archive>
    void save(Archive& archive) const {
        act(save_act);
        archive(in_app, save_act, load_act, in_worker_only);
    }
    template <class Archive>
    void load(Archive& archive) {
        archive(in_app, save_act, load_act, in_worker_only);
        act(load_act);
    }
};
int take(const Actor&) { return 1; }
Actor give(const Actor& a) { return a; }
Actor give_made(int in_app, int save_act, int load_act, bool in_worker_only) {
    return {in_app, save_act, load_act, in_worker_only};
}

// The pool is as good as new: every worker answers.
void check_healthy(mp::Pool& pool) {
    std::vector<mp::Future<int>> futures;
    for (int i = 0; i < 20; ++i) futures.push_back(pool.submit(test::add, i, 1));
    for (int i = 0; i < 20; ++i) {
        REQUIRE(futures[static_cast<std::size_t>(i)].wait_for(test::kPatience));
        CHECK(futures[static_cast<std::size_t>(i)].get() == i + 1);
    }
    CHECK(test::eventually([&] { return pool.worker_pids().size() == pool.processes(); }));
}

}  // namespace

TEST_CASE("an error arrives by its type", "[pool][errors][py:_TestPool.test_wrapped_exception]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    CHECK_THROWS_AS(pool.apply(throw_kind, 0), std::domain_error);
    CHECK_THROWS_WITH(pool.apply(throw_kind, 0), "domain");
    CHECK_THROWS_AS(pool.apply(throw_kind, 1), Registered);
    try {
        pool.apply(throw_kind, 2);
        FAIL_CHECK("no error");
    } catch (const WithState& error) {
        CHECK(error.code == 17);
        CHECK(error.place == "here");
    }
    try {
        pool.apply(throw_kind, 3);
        FAIL_CHECK("no error");
    } catch (const std::runtime_error& error) {
        CHECK(dynamic_cast<const mp::RemoteError*>(&error) == nullptr);
        CHECK(mp::remote_type_name(error) == "errors_test::Unregistered");
        CHECK(error.what() == std::string("unregistered"));
    }
    try {
        pool.apply(throw_kind, 4);
        FAIL_CHECK("no error");
    } catch (const mp::RemoteError& error) {
        CHECK_THAT(error.type_name(), Catch::Contains("NoException"));
    }
    try {
        pool.apply(throw_kind, 5);
        FAIL_CHECK("no error");
    } catch (const mp::RemoteError& error) {
        CHECK(error.type_name() == "int");
        CHECK(error.what() == std::string("42"));
    }
    try {
        pool.apply(throw_kind, 6);
        FAIL_CHECK("no error");
    } catch (const std::system_error& error) {
        CHECK(error.code() == std::errc::no_such_file_or_directory);
        CHECK_THAT(error.what(), Catch::Contains("opening"));
    }
    CHECK_THROWS_AS(pool.apply(throw_kind, 7), std::bad_alloc);
    try {
        pool.apply(throw_kind, 8);
        FAIL_CHECK("no error");
    } catch (const std::logic_error& error) {
        CHECK_THROWS_AS(std::rethrow_if_nested(error), std::out_of_range);
    }
    CHECK(pool.apply(throw_kind, 9) == 9);
}

TEST_CASE("the traceback of an error names type, message, process and task",
          "[pool][errors][py:_TestPool.test_traceback][py:ProcessPoolExecutorTest.test_traceback]"
          "[py:ExecutorDeadlockTest.test_error_during_func_exec_on_worker]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    int worker = pool.apply(test::own_pid);  // task 1
    auto traceback_of = [](auto call) -> std::string {
        try {
            call();
        } catch (const std::exception& error) {
            return mp::remote_traceback(error);
        }
        return "no error";
    };
    std::string text = traceback_of([&] { pool.apply(throw_kind, 0); });
    CHECK_THAT(text, Catch::Contains("std::domain_error: domain"));
    CHECK_THAT(text, Catch::Contains("process " + std::to_string(worker)));
    CHECK_THAT(text, Catch::Contains("task 2"));
    text = traceback_of([&] { pool.map(throw_kind, std::vector<int>{9, 3}); });
    CHECK_THAT(text, Catch::Contains("Unregistered: unregistered"));
    CHECK_THAT(text, Catch::Contains("process " + std::to_string(worker)));
    CHECK_THAT(text, Catch::Contains("in item 1 of the map\n"));
    std::vector<int> kinds(20, 9);
    kinds[17] = 0;
    for (std::size_t chunksize : {0u, 1u, 6u}) {
        text = traceback_of([&] { pool.map(throw_kind, kinds, {.chunksize = chunksize}); });
        CHECK_THAT(text, Catch::Contains("in item 17 of the map\n"));
    }
    text = traceback_of([&] {
        pool.map(throw_kind, kinds, {.chunksize = 6, .task = {.retry = {.max_attempts = 2}}});
    });
    CHECK_THAT(text, Catch::Contains("in item 17 of the map, attempt 2\n"));
    CHECK(mp::remote_traceback(std::runtime_error("local")).empty());
}

PROCESSES_CASE("Tasks", "a task that kills its process is lost, alone, and the error says how",
               "[errors][lost][py:ExecutorDeadlockTest.test_crash_during_func_exec_on_worker][py:"
               "ExecutorDeadlockTest.test_exit_during_func_exec_on_worker][py:"
               "ProcessPoolExecutorTest.test_killed_child]",
               "without workers, and in threads, a crash ends the program",
               "without workers, and in threads, a crash ends the program") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    for (int code : {0, 1, 7, 255}) {
        mp::WorkerLost error = lost(pool, exit_with, code);
        CHECK(error.exit_status().exited());
        CHECK(error.exit_status().code() == code);
        error = lost(pool, quick_exit_with, code);
        CHECK(error.exit_status().code() == code);
    }
    CHECK(lost(pool, abort_now).exit_status().signal() == SIGABRT);
    CHECK(lost(pool, segfault).exit_status().signal() == SIGSEGV);
    for (int signal : {SIGKILL, SIGTERM, SIGFPE, SIGILL, SIGBUS, SIGPIPE}) {
        mp::WorkerLost error = lost(pool, test::die, signal);
        CHECK(error.exit_status().signal() == signal);
    }
    lost(pool, exit_thread);
    check_healthy(pool);
}

TEST_CASE("WorkerLost names pid, signal or code, task number and function",
          "[pool][errors][lost]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    int worker = pool.apply(test::own_pid);  // task 1
    mp::WorkerLost error = lost(pool, test::die, SIGKILL);
    CHECK(error.pid() == worker);
    CHECK(error.task() == 2);
    CHECK(error.worker_index() == 0);
    CHECK_THAT(error.what(), Catch::Contains("worker " + std::to_string(worker)) &&
                                 Catch::Contains("signal 9 (SIGKILL)") &&
                                 Catch::Contains("task 2") && Catch::Contains("test::die(int)"));
    error = lost(
        pool, [](int code) -> int { _exit(code); }, 3);
    CHECK(error.task() == 3);
    CHECK(error.pid() != worker);
    CHECK_THAT(error.what(), Catch::Contains("exited with code 3") && Catch::Contains("lambda"));
    mp::WorkerLost copy = error;
    CHECK(copy.what() == std::string(error.what()));
    CHECK_THROWS_AS(throw copy, mp::PoolError);
}

PROCESSES_CASE("Maps and streams", "an item of a map that kills its worker costs that item alone",
               "[errors][lost]", "without workers, and in threads, a crash ends the program",
               "without workers, and in threads, a crash ends the program") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    auto run = [](int x) { return x == 13 ? test::die(SIGKILL) : x; };
    std::vector<int> items(40);
    for (int i = 0; i < 40; ++i) items[static_cast<std::size_t>(i)] = i;
    CHECK_THROWS_AS(pool.map(run, items, {.chunksize = 1}), mp::WorkerLost);
    std::size_t failed = 0, seen = 0;
    for (auto& item : pool.imap_unordered(run, items, {.chunksize = 4}).outcomes()) {
        ++seen;
        failed += !item.has_value();
    }
    CHECK(seen == 40);
    CHECK(failed == 1);
    check_healthy(pool);
}

TEST_CASE("an argument that throws when it is saved fails that submit alone",
          "[pool][errors][serialize][py:ExecutorDeadlockTest.test_error_at_task_pickle]"
          "[py:_TestPool.test_map_unplicklable]"
          "[py:ExecutorDeadlockTest.test_shutdown_deadlock_pickle]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    Actor bad{getpid(), Actor::throws, Actor::none, false};
    mp::Future<int> before = pool.submit(test::add, 1, 2);
    CHECK_THROWS_AS(pool.submit(take, bad), std::underflow_error);
    CHECK_THROWS_AS(pool.map(take, std::vector<Actor>(3, bad)), std::underflow_error);
    CHECK(before.get() == 3);
    check_healthy(pool);
    CHECK_THROWS_AS(pool.submit(take, bad), std::underflow_error);
    pool.close();
    pool.join();
}

TEST_CASE("an argument that misbehaves when a worker reads it fails that task alone",
          "[pool][errors][serialize][py:ExecutorDeadlockTest.test_error_at_task_unpickle]"
          "[py:ExecutorDeadlockTest.test_exit_at_task_unpickle]"
          "[py:ExecutorDeadlockTest.test_crash_at_task_unpickle]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    mp::Future<int> others = pool.submit(test::add, 1, 2);
    CHECK_THROWS_AS(pool.apply(take, Actor{getpid(), Actor::none, Actor::throws}),
                    std::underflow_error);
    CHECK(lost(pool, take, Actor{getpid(), Actor::none, Actor::exits}).exit_status().code() == 1);
    CHECK(lost(pool, take, Actor{getpid(), Actor::none, Actor::crashes}).exit_status().signal() ==
          SIGSEGV);
    CHECK(others.get() == 3);
    check_healthy(pool);
}

TEST_CASE("a result that misbehaves when the worker writes it fails that task alone",
          "[pool][errors][serialize]"
          "[py:ExecutorDeadlockTest.test_error_during_result_pickle_on_worker]"
          "[py:ExecutorDeadlockTest.test_exit_during_result_pickle_on_worker]"
          "[py:ExecutorDeadlockTest.test_crash_during_result_pickle_on_worker]"
          "[py:_TestPoolWorkerErrors.test_unpickleable_result]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    auto outcome = [&](int act) {
        return pool.submit(give_made, static_cast<int>(getpid()), act, int(Actor::none), true);
    };
    CHECK_THROWS_AS(outcome(Actor::throws).get(), std::underflow_error);
    mp::Future<Actor> exits = outcome(Actor::exits), crashes = outcome(Actor::crashes);
    REQUIRE(exits.wait_for(test::kPatience));
    REQUIRE(crashes.wait_for(test::kPatience));
    CHECK_THROWS_AS(exits.get(), mp::WorkerLost);
    CHECK_THROWS_AS(crashes.get(), mp::WorkerLost);
    check_healthy(pool);
}

TEST_CASE("a result that throws when it is read back throws in get(), and affects nothing else",
          "[pool][errors][serialize]"
          "[py:ExecutorDeadlockTest.test_error_during_result_unpickle_in_result_handler]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    mp::Future<Actor> bad = pool.submit(give_made, 0, int(Actor::none), int(Actor::throws), false);
    CHECK_THROWS_AS(bad.get(), std::underflow_error);
    CHECK(bad.exception() == nullptr);  // the task itself went well
    CHECK_THROWS_AS(bad.get(), std::underflow_error);
    mp::Future<Actor> fine = pool.submit(give, Actor{getpid()});
    CHECK(fine.get().in_app == getpid());
    check_healthy(pool);
}

TEST_CASE("large data on their way when a worker crashes block nobody",
          "[pool][errors][lost][py:ExecutorDeadlockTest.test_crash_big_data]"
          "[py:ExecutorDeadlockTest.test_shutdown_deadlock]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    std::string large(std::size_t(10) << 20, 'x');
    auto crash_with = [](const std::string&) -> int { return test::die(SIGKILL); };
    auto size_of = [](const std::string& text) { return text.size(); };
    std::vector<mp::Future<int>> crashing;
    std::vector<mp::Future<std::size_t>> others;
    for (int i = 0; i < 5; ++i) {
        crashing.push_back(pool.submit(crash_with, large));
        others.push_back(pool.submit(size_of, large));
    }
    for (auto& f : crashing) {
        REQUIRE(f.wait_for(test::kPatience));
        CHECK_THROWS_AS(f.get(), mp::WorkerLost);
    }
    for (auto& f : others) CHECK(f.get() == large.size());
    mp::Future<int> last = pool.submit(crash_with, large);
    pool.close();
    pool.join();
    CHECK_THROWS_AS(last.get(), mp::WorkerLost);
}

TEST_CASE("a hundred thousand results that nobody waits for block nobody",
          "[pool][errors]"
          "[py:ExecutorDeadlockTest.test_gh105829_should_not_deadlock_if_wakeup_pipe_full]") {
    auto method = GENERATE(from_range(methods()));
    std::vector<mp::Future<int>> futures;
    {
        mp::Pool pool({.processes = 2, .start_method = method});
        for (int i = 0; i < 100'000; ++i) futures.push_back(pool.submit(test::add, i, 1));
    }
    bool right = true;
    for (int i = 0; i < 100'000; ++i)
        right = right && futures[static_cast<std::size_t>(i)].get() == i + 1;
    CHECK(right);
}

#ifndef TEST_SANITIZED  // they print stacks of their own
namespace {

[[gnu::noinline]] int innermost(volatile int* p) { return *p + 1; }
[[gnu::noinline]] int outer(int x) {
    int result = innermost(x == 0 ? nullptr : &x);
    asm volatile("" : : "r"(result));  // no tail call
    return result;
}
[[gnu::noinline]] int endless(int x) {
    volatile char space[4096];
    space[x % 4096] = 1;
    int result = x < 0 ? 0 : endless(x + 1);  // the end never comes
    asm volatile("" : : "r"(result), "r"(space[0]));
    return result;
}

bool names(const std::vector<std::string>& stack, const std::string& function) {
    return std::any_of(stack.begin(), stack.end(), [&](const std::string& frame) {
        return frame.find(function) != std::string::npos;
    });
}

}  // namespace

TEST_CASE("a crash tells its stack", "[pool][errors][lost][stack]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    mp::WorkerLost error = lost(pool, outer, 0);
    CHECK(names(error.stack(), "innermost"));
    CHECK(names(error.stack(), "outer"));
    CHECK_THAT(error.what(), Catch::Contains("in errors_test::innermost") &&
                                 Catch::Contains("it reached for address 0x0, by a null pointer"));
    mp::WorkerLost aborted = lost(
        pool, [](int) -> int { std::abort(); }, 0);
    CHECK(aborted.exit_status().signal() == SIGABRT);
    CHECK(names(aborted.stack(), "abort"));
    CHECK_THAT(aborted.what(), !Catch::Contains("it reached for address"));
    CHECK(lost(pool, test::die, SIGKILL).stack().empty());
    check_healthy(pool);
}

TEST_CASE("summary() is what() without the stack, on one line", "[pool][errors][lost][stack]") {
    mp::Pool pool({.processes = 1});
    const mp::WorkerLost error = lost(pool, outer, 0);
    const std::string text = error.what(), summary = error.summary();
    CHECK(summary == text.substr(0, text.find('\n')));
    CHECK_THAT(summary, Catch::Contains("outer(int)") && Catch::EndsWith("run it again"));
    CHECK_THAT(text.substr(summary.size()), Catch::StartsWith("\n    in errors_test::innermost"));
    try {
        pool.submit({.name = "two\nlines"}, test::die, SIGKILL).get();
        FAIL("it died");
    } catch (const mp::WorkerLost& named) {
        CHECK_THAT(named.summary(),
                   Catch::Contains("task 2 \"two lines\"") && Catch::EndsWith("run it again"));
    }
}

TEST_CASE("a stack has files and lines, inlined functions, and no plumbing",
          "[pool][errors][lost][stack]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    mp::WorkerLost error = lost(pool, test::through_the_library, 0);
    const std::vector<std::string> stack = error.stack();
    REQUIRE(stack.size() == 4);
    CHECK_THAT(stack[0],
               Catch::StartsWith("test::inlined") && Catch::Contains(" at crash_functions.cpp:15"));
    CHECK_THAT(stack[1], Catch::StartsWith("test::read_table(const void*) at crash_functions.cpp"));
    CHECK_THAT(stack[2], Catch::Contains("test::through_the_library"));  // the lambda
    CHECK_THAT(stack[3], Catch::StartsWith("test::through_the_library(int) at crash_functions"));
    CHECK_THAT(error.what(), Catch::Contains("it reached for address 0x10, by a null pointer") &&
                                 Catch::Contains("in test::read_table(const void*)"));
}

TEST_CASE("the overflow of a stack tells its stack, too", "[pool][errors][lost][stack]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    mp::WorkerLost error = lost(pool, endless, 0);
    CHECK_THAT(error.what(), Catch::Contains("it looks like a stack overflow"));
    CHECK(error.exit_status().signal() == SIGSEGV);
    CHECK(names(error.stack(), "endless"));
}
#endif

}  // namespace errors_test
