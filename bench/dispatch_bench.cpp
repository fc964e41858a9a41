// The constants of the dispatcher's model (docs/performance.md): what a task costs on each side.
//
//   parent/task    CPU time of this process, all its threads, for an empty task: submit, drain,
//   get.
//                  It pauses between submit and get, so that no spinning is counted.
//   parent/item    the same for an item of a map, which goes in chunks; with the spinning that
//                  there is, so at most
//   worker/task    time in the worker from the end of one empty task to the end of the next, while
//                  a queue of them is there; reading the clock is taken off
//   wake/parent    submit() to a worker that sleeps; "wake_us" is what it takes longer than the
//                  next one, which need wake nobody: what a wake-up costs who submits
//   wake/worker    from submit() to a sleeping worker until the task runs; "median_us"
#include <ctime>
#include <numeric>

#include <sidestep/pool.hpp>

#include "common.hpp"

namespace mp = sidestep;
using bench::Clock;

namespace {

int same(int x) { return x; }
std::int64_t now(int) { return Clock::now().time_since_epoch().count(); }
std::int64_t busy_us(int us) {
    auto end = Clock::now() + std::chrono::microseconds(us);
    while (Clock::now() < end) {
    }
    return now(0);
}

mp::Pool& pool() {
    static mp::Pool* instance = new mp::Pool({.processes = 1});
    return *instance;
}

double cpu_seconds(clockid_t whose = CLOCK_PROCESS_CPUTIME_ID) {
    timespec time;
    clock_gettime(whose, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void parent_task(benchmark::State& state) {
    std::vector<mp::Future<int>> futures(400);
    for (auto _ : state) {
        double begin = cpu_seconds();
        for (auto& future : futures) future = pool().submit(same, 1);
        bench::pause_us(bench::kPauseUs);
        for (auto& future : futures) future.get();
        state.SetIterationTime((cpu_seconds() - begin) / static_cast<double>(futures.size()));
    }
}

void parent_item(benchmark::State& state) {
    std::vector<int> items(1'000'000);
    std::iota(items.begin(), items.end(), 0);
    for (auto _ : state) {
        double begin = cpu_seconds();
        benchmark::DoNotOptimize(pool().map(same, items).data());
        state.SetIterationTime((cpu_seconds() - begin) / static_cast<double>(items.size()));
    }
}

double clock_cost() {
    static const double cost = [] {
        constexpr int kReads = 100'000;
        return bench::timed([] {
                   for (int i = 0; i < kReads; ++i) benchmark::DoNotOptimize(now(0));
               }) /
               kReads;
    }();
    return cost;
}

// The first task holds the worker up until the others are in its ring.
void worker_task(benchmark::State& state) {
    std::vector<mp::Future<std::int64_t>> futures(200);
    for (auto _ : state) {
        auto front = pool().submit(busy_us, 500);
        for (auto& future : futures) future = pool().submit(now, 0);
        std::vector<double> gaps;
        std::int64_t last = front.get();
        for (auto& future : futures) {
            std::int64_t end = future.get();
            gaps.push_back(static_cast<double>(end - last) * 1e-9);
            last = end;
        }
        state.SetIterationTime(std::max(bench::median(gaps) - clock_cost(), 1e-9));
    }
}

// CPU time of this thread: the worker may get its CPU as soon as it is awake.
double submit_one(mp::Future<std::int64_t>& future) {
    double begin = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
    future = pool().submit(now, 0);
    return cpu_seconds(CLOCK_THREAD_CPUTIME_ID) - begin;
}

void wake_parent(benchmark::State& state) {
    mp::Future<std::int64_t> first, second;
    std::vector<double> asleep, awake;
    for (auto _ : state) {
        bench::pause_us(bench::kPauseUs);
        asleep.push_back(submit_one(first));
        awake.push_back(submit_one(second));
        first.get();
        second.get();
        state.SetIterationTime(asleep.back());
    }
    state.counters["wake_us"] = (bench::median(asleep) - bench::median(awake)) * 1e6;
}

void wake_worker(benchmark::State& state) {
    std::vector<double> times;
    for (auto _ : state) {
        bench::pause_us(bench::kPauseUs);
        std::int64_t begin = now(0);
        times.push_back(static_cast<double>(pool().apply(now, 0) - begin) * 1e-9);
        state.SetIterationTime(times.back());
    }
    state.counters["median_us"] = bench::median(times) * 1e6;
}

BENCHMARK(parent_task)->Name("parent/task")->UseManualTime()->Iterations(200);
BENCHMARK(parent_item)->Name("parent/item")->UseManualTime()->Iterations(20);
BENCHMARK(worker_task)->Name("worker/task")->UseManualTime()->Iterations(200);
BENCHMARK(wake_parent)->Name("wake/parent")->UseManualTime()->Iterations(500);
BENCHMARK(wake_worker)->Name("wake/worker")->UseManualTime()->Iterations(500);

}  // namespace

int main(int argc, char** argv) {
    mp::init();
    return bench::run_all(argc, argv);
}
