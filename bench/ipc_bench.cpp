// What handles and processes cost, next to what they are measured against. Where a row has a peer,
// both are measured in turns; "x_..." is how many times faster ours is (medians).
//
// Rows                  | unit                     | good is
// lock_unlock           | ns for lock and unlock   | 30 ns or less, uncontended
// process_start/METHOD  | start and join of a Process of nothing; x_spawn of forkserver: 3.3
// pass_array            | the same with an Array of 1 GiB as argument; x_int is beside an int: 1
// stall/lock, queue     | from the death of a process that uses the object to the next moment that
//                       | another one gets on; "worst_ms" of 200  | 10 ms on a quiet machine, and
// stall/nothing         | the same where nothing is shared: what the scheduler makes of it
#include <benchmark/benchmark.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/sync.hpp>
#include <sidestep/value.hpp>

namespace {

using sidestep::Queue;
using Message = std::pair<std::uint64_t, std::uint64_t>;  // 16 bytes
using Clock = std::chrono::steady_clock;

void lock_unlock(benchmark::State& state) {
    sidestep::Lock lock;
    for (auto _ : state) {
        lock.lock();
        lock.unlock();
    }
}
BENCHMARK(lock_unlock);

void rlock_unlock(benchmark::State& state) {
    sidestep::RLock lock;
    for (auto _ : state) {
        lock.lock();
        lock.unlock();
    }
}
BENCHMARK(rlock_unlock);

void semaphore(benchmark::State& state) {
    sidestep::Semaphore permits(4);
    for (auto _ : state) {
        permits.acquire();
        permits.release();
    }
}
BENCHMARK(semaphore);

template <class F>
pid_t fork_child(F f) {
    pid_t pid = fork();
    if (pid == 0) {
        f();
        _exit(0);
    }
    return pid;
}

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double>& values) {
    auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

// Ours and the peer's time in turns.
void compare(benchmark::State& state, const char* peer_name, const std::function<double()>& ours,
             const std::function<double()>& peer) {
    std::vector<double> our_times, peer_times;
    for (auto _ : state) {
        peer_times.push_back(peer());
        our_times.push_back(ours());
        state.SetIterationTime(our_times.back());
    }
    double our_median = median(our_times);
    state.counters[peer_name] = median(peer_times) / our_median;
    state.counters["median_us"] = our_median * 1e6;
}

// --- processes ---------------------------------------------------------------------------------

template <class... Args>
double start_and_join(sidestep::StartMethod method, Args... args) {
    auto begin = Clock::now();
    sidestep::Process child(
        {.start_method = method}, [](Args...) {}, std::move(args)...);
    child.start();
    child.join();
    return seconds_since(begin);
}

void process_start(benchmark::State& state, sidestep::StartMethod method) {
    start_and_join(method, 1);  // starts the fork server
    compare(
        state, "x_spawn", [&] { return start_and_join(method, 1); },
        [] { return start_and_join(sidestep::StartMethod::spawn, 1); });
}

void pass_array(benchmark::State& state, sidestep::StartMethod method) {
    sidestep::Array<char> array(std::size_t(1) << 30);
    array[0] = array[array.size() - 1] = 1;
    start_and_join(method, 1);
    compare(
        state, "x_int", [&] { return start_and_join(method, array); },
        [&] { return start_and_join(method, 1); });
}

// --- kills -------------------------------------------------------------------------------------

// A thread runs ours() again and again, while children run theirs() and are killed: how long after
// a death its first round is over.
void stall(benchmark::State& state, const std::function<void()>& theirs,
           const std::function<void()>& ours) {
    std::atomic<bool> stop{false};
    std::atomic<std::int64_t> rounds{0};
    std::thread survivor([&] {
        for (; !stop; ++rounds) ours();
    });
    double worst = 0;
    for (auto _ : state) {
        pid_t child = fork_child([&] {
            for (;;) theirs();
        });
        std::this_thread::sleep_for(std::chrono::microseconds(500 + std::rand() % 1000));
        kill(child, SIGKILL);
        waitpid(child, nullptr, 0);
        auto death = Clock::now();
        for (std::int64_t before = rounds; rounds == before;) std::this_thread::yield();
        double seconds = seconds_since(death);
        worst = std::max(worst, seconds);
        state.SetIterationTime(seconds);
    }
    stop = true;
    survivor.join();
    state.counters["worst_ms"] = worst * 1e3;
}

// Most die with the lock.
void stall_lock(benchmark::State& state) {
    sidestep::Lock lock;
    auto hold = [&](std::chrono::microseconds time) {
        lock.lock();
        for (auto begin = Clock::now(); Clock::now() - begin < time;) {
        }
        lock.unlock();
    };
    stall(
        state, [&] { hold(std::chrono::microseconds(200)); },
        [&] { hold(std::chrono::microseconds(1)); });
}

// What the scheduler takes: nobody waits for the dead.
void stall_nothing(benchmark::State& state) {
    stall(
        state,
        [] {
            for (auto begin = Clock::now(); Clock::now() - begin < std::chrono::milliseconds(1);) {
            }
        },
        [] { std::this_thread::yield(); });
}

void stall_queue(benchmark::State& state) {
    Queue<Message> queue;
    auto use = [&] {
        queue.put({1, 2});
        benchmark::DoNotOptimize(queue.try_get());
    };
    stall(state, use, use);
}

}  // namespace

int main(int argc, char** argv) {
    sidestep::init();
    auto add = [](const char* name, auto function, auto... arguments) {
        return benchmark::RegisterBenchmark(name, function, arguments...)
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
    };
    using sidestep::StartMethod;
    add("process_start/fork", process_start, StartMethod::fork);
    add("process_start/forkserver", process_start, StartMethod::forkserver);
    add("pass_array/spawn", pass_array, StartMethod::spawn);
    add("pass_array/forkserver", pass_array, StartMethod::forkserver);
    add("stall/nothing", stall_nothing)->Iterations(200);
    add("stall/lock", stall_lock)->Iterations(200);
    add("stall/queue", stall_queue)->Iterations(200);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
    sidestep::stop_forkserver();
}
