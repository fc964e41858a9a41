// A program that uses a little of everything. tools/toolchains builds it in many ways: what a
// compiler or a linker may do to code, constants and types must not change what it does.
//
// usage: check METHOD             spawn, fork or forkserver
//        check threads            what needs no other process
//        check processes-METHOD   without pools, which want the forked to be siblings
// $CHECK_EXECUTABLE: what spawn starts, where it is not this file (an emulator with it)
// Prints what is wrong; exit status 1 if anything is.
//
// With CHECK_LIBRARY it is a library, for check_host.cpp to load.
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <sidestep/barrier.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/init.hpp>
#include <sidestep/lock.hpp>
#include <sidestep/pool.hpp>
#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/start_method.hpp>
#include <sidestep/subprocess.hpp>
#include <sidestep/thread_pool.hpp>
#include <sidestep/value.hpp>

namespace {

using namespace std::chrono_literals;
using sidestep::StartMethod;

constexpr auto kPatience = 120s;

int failures = 0;

void expect(bool condition, const char* what, int line) {
    if (condition) return;
    ++failures;
    std::printf("line %d: %s\n", line, what);
}
#define EXPECT(condition) expect(bool(condition), #condition, __LINE__)

template <class Error, class Action>
std::string thrown(Action action) {
    try {
        action();
    } catch (const Error& error) {
        return error.what();
    }
    return "nothing was thrown";
}
bool contains(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

// --- callables; those in pairs compile to the same code, or differ in constants only -----------

int twice(int x) { return 2 * x; }
int doubled(int x) { return x + x; }
[[gnu::noinline]] int next(int x) { return x + 1; }
[[gnu::noinline]] int successor(int x) { return x + 1; }
const int kTable[4] = {10, 20, 30, 40};
const int* const kPointers[2] = {kTable, kTable + 2};
int looked_up(int x) { return kPointers[x & 1][0] + kTable[x & 3]; }
struct Triple {
    int operator()(int x) const { return 3 * x; }
};
struct ThreeTimes {
    int operator()(int x) const { return 3 * x; }
};
struct Scale {
    int factor = 0;
    int operator()(int x) const { return factor * x; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(factor);
    }
};
template <class T>
T plus(T a, T b) {
    return a + b;
}
std::string repeat(const std::string& text, int times) {
    std::string result;
    for (int i = 0; i < times; ++i) result += text;
    return result;
}

struct OwnError : std::runtime_error {
    using std::runtime_error::runtime_error;
};
int fail(int how) {
    if (how == 0) throw std::domain_error("of the standard");
    if (how == 1) throw OwnError("of its own");
    try {
        throw std::out_of_range("inner");
    } catch (...) {
        std::throw_with_nested(std::logic_error("outer"));
    }
}
int die(int signal) {
    raise(signal);
    return signal;
}

// Member functions, virtual ones and those of a second base.
struct Polygon {
    int sides = 6;
    virtual ~Polygon() = default;
    virtual int corners() const { return 0; }
    int count(int times) const { return times * sides; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(sides);
    }
};
struct Named {
    virtual ~Named() = default;
    virtual int length() const { return 0; }
    int own() const { return size; }
    int size = 8;
};
struct Hexagon : Polygon, Named {
    int corners() const override { return sides; }
    int length() const override { return sides + 1; }
};

// --- pools -------------------------------------------------------------------------------------

// f(x) is factor * x + more for each x.
template <class Pool, class F>
bool maps(Pool& pool, F f, int factor, int more) {
    std::vector<int> items(100);
    std::iota(items.begin(), items.end(), 0);
    std::vector<int> results = pool.map(f, items);
    for (int x : items)
        if (results.at(static_cast<std::size_t>(x)) != factor * x + more) return false;
    return pool.submit(f, 7).get() == factor * 7 + more;
}

template <class Pool>
void check_callables(Pool& pool) {
    EXPECT(maps(pool, twice, 2, 0));
    EXPECT(maps(pool, doubled, 2, 0));
    EXPECT(maps(pool, next, 1, 1));
    EXPECT(maps(pool, successor, 1, 1));
    EXPECT(maps(
        pool, [](int x) { return 5 * x; }, 5, 0));
    EXPECT(maps(
        pool, [](int x) { return 5 * x + 1; }, 5, 1));
    EXPECT(maps(pool, Triple{}, 3, 0));
    EXPECT(maps(pool, ThreeTimes{}, 3, 0));
    EXPECT(maps(pool, Scale{9}, 9, 0));
    EXPECT(maps(pool, sidestep::bind(plus<int>, 4), 1, 4));
    EXPECT(pool.submit(looked_up, 3).get() == 70);
    EXPECT(pool.submit(plus<double>, 1.5, 2.0).get() == 3.5);
    EXPECT(pool.submit(plus<std::string>, std::string("a"), std::string("b")).get() == "ab");
    EXPECT(pool.submit(&Polygon::count, Hexagon{}, 2).get() == 12);
    EXPECT(pool.submit(&Polygon::corners, Hexagon{}).get() == 6);
    EXPECT(pool.submit(static_cast<int (Hexagon::*)() const>(&Named::length), Hexagon{}).get() ==
           7);
    EXPECT(pool.submit(static_cast<int (Hexagon::*)() const>(&Named::own), Hexagon{}).get() == 8);
    EXPECT(pool.submit(repeat, std::string("xyz"), 300000).get().size() == 900000);
}

template <class Pool>
void check_standard_error(Pool& pool) {
    EXPECT(contains(thrown<std::domain_error>([&] { pool.submit(fail, 0).get(); }), "standard"));
    try {
        pool.submit(fail, 2).get();
        EXPECT(!"it threw");
    } catch (const std::logic_error& error) {
        EXPECT(contains(error.what(), "outer"));
        EXPECT(thrown<std::out_of_range>([&] { std::rethrow_if_nested(error); }) == "inner");
    }
}

void check_pool(StartMethod method) {
    sidestep::Pool pool({.processes = 2, .start_method = method});
    check_callables(pool);
    check_standard_error(pool);
    EXPECT(thrown<std::runtime_error>([&] { pool.submit(fail, 1).get(); }) == "of its own");
    std::string killed = thrown<sidestep::WorkerLost>([&] { pool.submit(die, SIGKILL).get(); });
    EXPECT(contains(killed, "SIGKILL"));
    std::string crashed = thrown<sidestep::WorkerLost>([&] { pool.submit(die, SIGSEGV).get(); });
    EXPECT(contains(crashed, "SIGSEGV"));
    EXPECT(maps(pool, twice, 2, 0));
    EXPECT(thrown<sidestep::TaskTimeout>([&] {
               pool.submit({.timeout = 50ms}, [] { raise(SIGSTOP); }).get();
           }) != "nothing was thrown");
}

// --- processes and what they share -------------------------------------------------------------

void produce(sidestep::Queue<std::string> queue, int count) {
    for (int i = 0; i < count; ++i) queue.put("item " + std::to_string(i));
}
void count_up(sidestep::Lock lock, sidestep::Value<int> value, sidestep::Barrier barrier) {
    barrier.wait();
    for (int i = 0; i < 100; ++i) {
        std::lock_guard guard(lock);
        value.value() += 1;
    }
}
void answer(sidestep::Connection& connection) {
    connection.send(connection.recv<std::string>() + "!");
}

void check_processes(StartMethod method) {
    sidestep::Queue<std::string> queue(16);
    sidestep::Process producer({.start_method = method}, produce, queue, 50);
    producer.start();
    for (int i = 0; i < 50; ++i) EXPECT(queue.get_for(kPatience) == "item " + std::to_string(i));
    producer.join();
    EXPECT(producer.exitcode() == 0);

    sidestep::Lock lock;
    sidestep::Value<int> value(0);
    sidestep::Barrier barrier(2);
    sidestep::Process one({.start_method = method}, count_up, lock, value, barrier);
    sidestep::Process other({.start_method = method}, count_up, lock, value, barrier);
    one.start();
    other.start();
    one.join();
    other.join();
    EXPECT(value.value() == 200);

    sidestep::Process failing({.start_method = method}, fail, 0);
    failing.start();
    failing.join();
    EXPECT(failing.exitcode() == 1);
    EXPECT(thrown<std::domain_error>([&] { failing.rethrow(); }) == "of the standard");
    sidestep::Process dying({.start_method = method}, die, SIGKILL);
    dying.start();
    dying.join();
    EXPECT(dying.exitcode() == -SIGKILL);
}

void check_subprocess() {
    auto done = sidestep::subprocess::run({"/bin/sh", "-c", "echo out; echo err >&2; exit 3"},
                                          {.capture_output = true, .timeout = kPatience});
    EXPECT(done.std_out == "out\n" && done.std_err == "err\n" && done.returncode == 3);
}

// --- threads -----------------------------------------------------------------------------------

void check_threads() {
    sidestep::ThreadPool threads({.threads = 2});
    check_callables(threads);
    check_standard_error(threads);
    EXPECT(thrown<OwnError>([&] { threads.submit(fail, 1).get(); }) == "of its own");

    sidestep::Queue<std::string> queue(16);
    auto produced = threads.submit([&] { produce(queue, 50); });
    for (int i = 0; i < 50; ++i) EXPECT(queue.get_for(kPatience) == "item " + std::to_string(i));
    produced.get();
    sidestep::Lock lock;
    sidestep::Value<int> value(0);
    sidestep::Barrier barrier(2);
    auto one = threads.submit([&] { count_up(lock, value, barrier); });
    count_up(lock, value, barrier);
    one.get();
    EXPECT(value.value() == 200);
    auto ends = sidestep::Pipe();
    auto answered = threads.submit([&] { answer(ends.second); });
    ends.first.send(std::string("question"));
    EXPECT(ends.first.recv<std::string>() == "question!");
    answered.get();

    sidestep::Pool in_this_process({.processes = 0});
    check_callables(in_this_process);
    check_standard_error(in_this_process);
}

int check(const std::string& what) {
    try {
        if (what == "threads") {
            check_threads();
        } else {
            bool pools = !what.starts_with("processes-");
            StartMethod method =
                sidestep::start_method_named(pools ? what : what.substr(what.find('-') + 1));
            if (pools) check_pool(method);
            check_processes(method);
            check_subprocess();
        }
    } catch (const std::exception& error) {
        std::printf("%s\n", error.what());
        ++failures;
    }
    if (failures == 0) std::printf("%s: ok\n", what.c_str());
    return failures == 0 ? 0 : 1;
}

}  // namespace

#ifdef CHECK_LIBRARY
extern "C" void check_init() { sidestep::init(); }
extern "C" int check_all(const char* what) {
    // A program that is started again need not come to a library's init(): that this one does, its
    // user must say.
    if (what == std::string_view("spawn")) {
        std::string refused = thrown<std::logic_error>(
            [] { sidestep::Pool pool({.processes = 1, .start_method = StartMethod::spawn}); });
        EXPECT(contains(refused, "set_executable()"));
        sidestep::set_executable(std::filesystem::read_symlink("/proc/self/exe"));
    }
    return check(what);
}
#else
int main(int argc, char** argv) {
    sidestep::init();
    if (const char* path = std::getenv("CHECK_EXECUTABLE")) sidestep::set_executable(path);
    return argc == 2 ? check(argv[1]) : 2;
}
#endif
