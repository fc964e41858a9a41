// The pool beside its floors, in one run.
//
//   floor/...          futex and spin ping-pong between two processes, the bare ring
//   one_by_one/N       submit() in a loop, N in flight, each result taken: items/s (good: 3 M/s)
//   batch/N            N tasks submitted, then N results taken
//   round_trip_hot     submit().get() while the worker spins (good: below 0.8 us)
//   round_trip_parked  the same after the worker went to sleep (good: 1.2 x floor/futex)
//   .../parked_apart   the same with each side on a CPU of its own, and its floor: where the
//                      scheduler leaves both on one CPU, a wake-up needs no other CPU to wake
//   map/N              map of a trivial function over N ints, chunks chosen by the pool: items/s
//                      (good: 100 M/s)
//   imap/N             imap of it, item by item in a loop
//   map_cereal/N       the same over structs that cereal serializes, there and back (good: 20 M/s)
//   pool_start/METHOD  Pool of two workers made, one task run, destroyed
//   start_200/METHOD   the same with 200 workers and 1000 tasks
//   kill_to_error      SIGKILL of a busy worker until get() throws (good: below 1 ms)
//   policies/none, all one_by_one without policies, and with all of them (timeout, memory limit,
//                      retries, priority); both in turn, x_none compares them (good: below 1.1)
//   latency/timeout    from a task's deadline until get() throws (good: below 5 ms)
//   latency/cancel*    from cancel() of a task that runs until its worker, or the one in its place,
//                      begins the next (good: below 10 ms); the task heeds the request, or not
#include <benchmark/benchmark.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <numeric>
#include <optional>
#include <thread>
#include <vector>

#include <sidestep/pool.hpp>

#include "floor.hpp"
#include "sys/sys.hpp"

namespace mp = sidestep;
using Clock = std::chrono::steady_clock;

namespace {

int same(int x) { return x; }

struct Point {
    int x = 1, y = 2;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(x, y);
    }
};
Point mirrored(const Point& point) { return {point.y, point.x}; }

mp::Pool& pool() {
    static mp::Pool* instance = new mp::Pool;
    return *instance;
}
mp::Pool& pool_of_one() {
    static mp::Pool* instance = new mp::Pool({.processes = 1});
    return *instance;
}

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }
void set_items(benchmark::State& state, double each = 1) {
    state.SetItemsProcessed(
        static_cast<std::int64_t>(static_cast<double>(state.iterations()) * each));
}

void floor_ping_pong(benchmark::State& state, bench::PingPong::Wait wait, int pause_us) {
    bench::PingPong pair(wait);
    for (auto _ : state) {
        if (pause_us) std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
        state.SetIterationTime(seconds(pair.round_trip()));
    }
}
void floor_bare_ring(benchmark::State& state) {
    bench::BareRing ring;
    for (auto _ : state) state.SetIterationTime(seconds(ring.run(100'000)));
    set_items(state, 100'000);
}

void floor_ping_pong_apart(benchmark::State& state, int pause_us) {
    std::optional<sidestep::sys::OnCpu> there(std::in_place, 0);
    bench::PingPong pair(bench::PingPong::Wait::futex);
    there.reset();
    sidestep::sys::OnCpu here(1);
    for (auto _ : state) {
        std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
        state.SetIterationTime(seconds(pair.round_trip()));
    }
}
void round_trip_apart(benchmark::State& state, int pause_us) {
    mp::Pool there({.processes = 1, .pin_workers = true});
    sidestep::sys::OnCpu here(1);
    for (int i = 0; i < 1000; ++i) there.apply(same, i);
    for (auto _ : state) {
        std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
        auto begin = Clock::now();
        benchmark::DoNotOptimize(there.apply(same, 1));
        state.SetIterationTime(seconds(Clock::now() - begin));
    }
}

void one_by_one(benchmark::State& state) {
    auto in_flight = static_cast<std::size_t>(state.range(0));
    std::deque<mp::Future<int>> flying;
    for (auto _ : state) {
        if (flying.size() == in_flight) {
            benchmark::DoNotOptimize(flying.front().get());
            flying.pop_front();
        }
        flying.push_back(pool().submit(same, 1));
    }
    set_items(state);
}
void batch(benchmark::State& state) {
    std::vector<mp::Future<int>> futures(static_cast<std::size_t>(state.range(0)));
    for (auto _ : state) {
        for (auto& f : futures) f = pool().submit(same, 1);
        for (auto& f : futures) benchmark::DoNotOptimize(f.get());
    }
    set_items(state, static_cast<double>(futures.size()));
}
void round_trip(benchmark::State& state, int pause_us) {
    for (int i = 0; i < 1000; ++i) pool_of_one().apply(same, i);
    for (auto _ : state) {
        if (pause_us) std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
        auto begin = Clock::now();
        benchmark::DoNotOptimize(pool_of_one().apply(same, 1));
        state.SetIterationTime(seconds(Clock::now() - begin));
    }
}
void map(benchmark::State& state) {
    std::vector<int> items(static_cast<std::size_t>(state.range(0)));
    std::iota(items.begin(), items.end(), 0);
    for (auto _ : state) benchmark::DoNotOptimize(pool().map(same, items).data());
    set_items(state, static_cast<double>(items.size()));
}
void map_cereal(benchmark::State& state) {
    std::vector<Point> items(static_cast<std::size_t>(state.range(0)));
    for (auto _ : state) benchmark::DoNotOptimize(pool().map(mirrored, items).data());
    set_items(state, static_cast<double>(items.size()));
}
void imap(benchmark::State& state) {
    std::vector<int> items(static_cast<std::size_t>(state.range(0)));
    std::iota(items.begin(), items.end(), 0);
    for (auto _ : state) {
        long sum = 0;
        for (int result : pool().imap(same, items)) sum += result;
        benchmark::DoNotOptimize(sum);
    }
    set_items(state, static_cast<double>(items.size()));
}
void pool_start(benchmark::State& state, mp::StartMethod method) {
    for (auto _ : state) {
        mp::Pool fresh({.processes = 2, .start_method = method});
        benchmark::DoNotOptimize(fresh.apply(same, 1));
    }
}
// Set by the task that is to be killed: forked workers share it.
std::atomic<int>* const running_pid =
    new (mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))
        std::atomic<int>(0);
int hang() {
    *running_pid = getpid();
    for (;;) pause();
}
void kill_to_error(benchmark::State& state) {
    mp::Pool victim({.processes = 2, .start_method = mp::StartMethod::fork});
    for (auto _ : state) {
        *running_pid = 0;
        mp::Future<int> task = victim.submit(hang);
        while (*running_pid == 0) std::this_thread::yield();
        auto begin = Clock::now();
        ::kill(*running_pid, SIGKILL);
        task.wait();
        state.SetIterationTime(seconds(Clock::now() - begin));
    }
}

void start_200(benchmark::State& state, mp::StartMethod method) {
    for (auto _ : state) {
        mp::Pool fresh({.processes = 200, .start_method = method});
        std::vector<mp::Future<int>> futures;
        for (int i = 0; i < 1000; ++i) futures.push_back(fresh.submit(same, i));
        for (auto& f : futures) benchmark::DoNotOptimize(f.get());
    }
}

// --- policies ----------------------------------------------------------------------------------

Clock::duration run_one_by_one(mp::Pool& on) {
    std::deque<mp::Future<int>> flying;
    auto begin = Clock::now();
    for (int i = 0; i < 20'000; ++i) {
        if (flying.size() == 512) {
            benchmark::DoNotOptimize(flying.front().get());
            flying.pop_front();
        }
        flying.push_back(on.submit(same, i));
    }
    flying.clear();
    on.apply(same, 1);
    return Clock::now() - begin;
}
double median(std::vector<double> values) {
    std::nth_element(values.begin(),
                     values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
    return values[values.size() / 2];
}
void policies(benchmark::State& state, bool all) {
    static mp::Pool* with = new mp::Pool({.task = {.timeout = std::chrono::minutes(1),
                                                   .memory_limit = std::size_t(8) << 30,
                                                   .retry = {.max_attempts = 3},
                                                   .priority = 1}});
    std::vector<double> times[2];
    for (auto _ : state) {
        times[0].push_back(seconds(run_one_by_one(pool())));
        times[1].push_back(seconds(run_one_by_one(*with)));
        state.SetIterationTime(times[all].back());
    }
    set_items(state, 20'001);
    if (all) state.counters["x_none"] = median(times[1]) / median(times[0]);
}

// When the task that is waited for began; forked workers share it.
std::atomic<std::int64_t>* const begun_ns = new (
    mmap(nullptr, sizeof(std::int64_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))
    std::atomic<std::int64_t>(0);
void note_begin() { *begun_ns = Clock::now().time_since_epoch().count(); }
void work_for_ever(bool heed) {
    note_begin();
    for (volatile int i = 0; !(heed && mp::this_task::stop_requested());) i = i + 1;
}
Clock::time_point await_begin() {
    while (*begun_ns == 0) std::this_thread::yield();
    return Clock::time_point(Clock::duration(begun_ns->load()));
}
void latency_timeout(benchmark::State& state) {
    constexpr std::chrono::milliseconds kTimeout{20};
    mp::Pool late({.processes = 1, .start_method = mp::StartMethod::fork});
    for (auto _ : state) {
        *begun_ns = 0;
        mp::Future<void> task = late.submit({.timeout = kTimeout}, work_for_ever, false);
        task.wait();
        state.SetIterationTime(seconds(Clock::now() - (await_begin() + kTimeout)));
    }
}
void latency_cancel(benchmark::State& state, mp::StartMethod method, bool heed) {
    mp::Pool one({.processes = 1, .start_method = method});
    for (auto _ : state) {
        mp::Future<void> task = one.submit(work_for_ever, heed);
        while (!task.running()) std::this_thread::yield();
        mp::Future<std::int64_t> next =
            one.submit([] { return std::int64_t(Clock::now().time_since_epoch().count()); });
        auto begin = Clock::now();
        (void)task.cancel();
        state.SetIterationTime(seconds(Clock::time_point(Clock::duration(next.get())) - begin));
    }
}

using Wait = bench::PingPong::Wait;
constexpr int kPauseUs = 300;  // enough to go to sleep: more than any spin budget
BENCHMARK_CAPTURE(floor_ping_pong, spin, Wait::spin, 0)->UseManualTime();
BENCHMARK_CAPTURE(floor_ping_pong, futex, Wait::futex, kPauseUs)->UseManualTime();
BENCHMARK_CAPTURE(floor_ping_pong_apart, futex, kPauseUs)->UseManualTime();
BENCHMARK(floor_bare_ring)->UseManualTime();
BENCHMARK(one_by_one)->RangeMultiplier(2)->Range(1, 512)->UseRealTime();
BENCHMARK(batch)->Arg(100)->Arg(10'000)->UseRealTime();
BENCHMARK_CAPTURE(round_trip, hot, 0)->UseManualTime();
BENCHMARK_CAPTURE(round_trip, parked, kPauseUs)->UseManualTime();
BENCHMARK_CAPTURE(round_trip_apart, parked, kPauseUs)->UseManualTime();
BENCHMARK(map)->Arg(10'000)->Arg(10'000'000)->UseRealTime();
BENCHMARK(map_cereal)->Arg(1'000'000)->UseRealTime();
BENCHMARK(imap)->Arg(1'000'000)->UseRealTime();
BENCHMARK_CAPTURE(pool_start, spawn, mp::StartMethod::spawn)->UseRealTime();
BENCHMARK_CAPTURE(pool_start, forkserver, mp::StartMethod::forkserver)->UseRealTime();
BENCHMARK_CAPTURE(start_200, spawn, mp::StartMethod::spawn)->UseRealTime()->Iterations(1);
BENCHMARK_CAPTURE(start_200, forkserver, mp::StartMethod::forkserver)->UseRealTime()->Iterations(1);
BENCHMARK(kill_to_error)->UseManualTime()->Iterations(20);
BENCHMARK_CAPTURE(policies, none, false)->UseManualTime();
BENCHMARK_CAPTURE(policies, all, true)->UseManualTime();
BENCHMARK(latency_timeout)->UseManualTime()->Iterations(20);
BENCHMARK_CAPTURE(latency_cancel, heeded, mp::StartMethod::spawn, true)
    ->UseManualTime()
    ->Iterations(20);
BENCHMARK_CAPTURE(latency_cancel, spawn, mp::StartMethod::spawn, false)
    ->UseManualTime()
    ->Iterations(20);
BENCHMARK_CAPTURE(latency_cancel, forkserver, mp::StartMethod::forkserver, false)
    ->UseManualTime()
    ->Iterations(20);

}  // namespace

int main(int argc, char** argv) {
    mp::init();
    pool().apply(same, 1);  // the workers are there before the first row
    pool_of_one().apply(same, 1);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
}
