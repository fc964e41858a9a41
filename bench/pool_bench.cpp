// The pool beside its floors, in one run.
//
//   floor/...          futex and spin ping-pong between two processes, the bare ring
//   one_by_one/N       submit() in a loop, N in flight, each result taken: items/s (good: 3 M/s)
//   batch/N            N tasks submitted, then N results taken
//   round_trip_hot     submit().get() while the worker spins (good: below 0.8 us)
//   round_trip_parked  the same after the worker went to sleep (good: 1.2 x floor/futex)
//   map/N              map of a trivial function over N ints, chunks chosen by the pool: items/s
//                      (good: 100 M/s)
//   map_cereal/N       the same over structs that cereal serializes, there and back (good: 20 M/s)
//   pool_start/METHOD  Pool of two workers made, one task run, destroyed
//   kill_to_error      SIGKILL of a busy worker until get() throws (good: below 1 ms)
#include <benchmark/benchmark.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <deque>
#include <numeric>
#include <thread>

#include <sidestep/pool.hpp>

#include "floor.hpp"

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

using Wait = bench::PingPong::Wait;
constexpr int kPauseUs = 300;  // enough to go to sleep: more than any spin budget
BENCHMARK_CAPTURE(floor_ping_pong, spin, Wait::spin, 0)->UseManualTime();
BENCHMARK_CAPTURE(floor_ping_pong, futex, Wait::futex, kPauseUs)->UseManualTime();
BENCHMARK(floor_bare_ring)->UseManualTime();
BENCHMARK(one_by_one)->RangeMultiplier(2)->Range(1, 512)->UseRealTime();
BENCHMARK(batch)->Arg(100)->Arg(10'000)->UseRealTime();
BENCHMARK_CAPTURE(round_trip, hot, 0)->UseManualTime();
BENCHMARK_CAPTURE(round_trip, parked, kPauseUs)->UseManualTime();
BENCHMARK(map)->Arg(10'000)->Arg(10'000'000)->UseRealTime();
BENCHMARK(map_cereal)->Arg(1'000'000)->UseRealTime();
BENCHMARK_CAPTURE(pool_start, spawn, mp::StartMethod::spawn)->UseRealTime();
BENCHMARK_CAPTURE(pool_start, forkserver, mp::StartMethod::forkserver)->UseRealTime();
BENCHMARK(kill_to_error)->UseManualTime()->Iterations(20);

}  // namespace

int main(int argc, char** argv) {
    mp::init();
    pool().apply(same, 1);  // the workers are there before the first row
    pool_of_one().apply(same, 1);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
}
