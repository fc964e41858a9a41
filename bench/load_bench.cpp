// Pools under load: tasks of every length, tasks of uneven length, and far more workers than CPUs.
// The floor of all rows are bare threads, one for each CPU, that do the same work in turns with the
// pool: "efficiency" is their time / ours (medians), so that what two busy cores take from each
// other, and what the machine is busy with otherwise, hits both.
//
//   length/submit/US    tasks of US microseconds, submitted one by one, then taken
//                       (good: 10 us 0.85, 1 ms 0.98)
//   length/map/US       the same by map, which makes the chunks
//   length/threads/US   as submit, over a ThreadPool
//   pareto/...          1000 tasks, Pareto-distributed (20 us to 20 ms, shape 1.2), in each way
//   workers/N           empty tasks, 512 in flight, on N workers: tasks/s       (good: no collapse)
//   workers_100us/N     tasks of 100 us on N workers: efficiency                (good: flat)
#include <cmath>
#include <deque>
#include <memory>
#include <random>

#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

#include "work.hpp"

namespace mp = sidestep;
using bench::churn;
using Steps = std::vector<std::uint64_t>;

namespace {

int same(int x) { return x; }

unsigned cpus() { return std::max(1u, std::thread::hardware_concurrency()); }

// One pool at a time, as large as was last asked for: the workers of others would be in the way.
mp::Pool& pool(unsigned workers = cpus()) {
    static std::unique_ptr<mp::Pool> instance;
    if (!instance || instance->processes() != workers) {
        instance.reset();
        instance = std::make_unique<mp::Pool>(mp::PoolOptions{.processes = workers});
    }
    return *instance;
}
mp::ThreadPool& thread_pool() {
    static auto* instance = new mp::ThreadPool({.threads = cpus()});
    return *instance;
}

template <class AnyPool>
void submit_all(AnyPool& runner, const Steps& steps) {
    std::vector<mp::Future<std::uint64_t>> futures;
    futures.reserve(steps.size());
    for (std::uint64_t n : steps) futures.push_back(runner.submit(churn, n));
    for (auto& future : futures) future.get();
}

// How a pool is given the work.
void by_submit(const Steps& steps) { submit_all(pool(), steps); }
void by_map(const Steps& steps) { pool().map(churn, steps); }
void by_threads(const Steps& steps) { submit_all(thread_pool(), steps); }

template <class Run>
void beside_threads(benchmark::State& state, const Steps& steps, Run run) {
    std::vector<double> ours, floor;
    run(steps);
    for (auto _ : state) {
        floor.push_back(bench::threads_take(steps, cpus()));
        ours.push_back(bench::timed([&] { run(steps); }));
        state.SetIterationTime(ours.back());
    }
    bench::set_items(state, static_cast<double>(steps.size()));
    state.counters["efficiency"] = bench::median(floor) / bench::median(ours);
}

void length(benchmark::State& state, void (*run)(const Steps&)) {
    double each = static_cast<double>(state.range(0));
    // 20 ms for each CPU, or 100 tasks if that is longer: the one that ends last is a part of it.
    double each_cpu = std::max(20'000.0 / each, std::min(100.0, 200'000.0 / each));
    auto tasks = static_cast<std::size_t>(each_cpu * cpus());
    beside_threads(state, Steps(tasks, bench::steps_for(each)), run);
}

void pareto(benchmark::State& state, void (*run)(const Steps&)) {
    std::mt19937_64 random(1);
    std::uniform_real_distribution<double> uniform(0, 1);
    Steps steps(1000);
    for (std::uint64_t& n : steps)
        n = bench::steps_for(std::min(20e3, 20 * std::pow(1 - uniform(random), -1 / 1.2)));
    beside_threads(state, steps, run);
}

void workers(benchmark::State& state) {
    mp::Pool& many = pool(static_cast<unsigned>(state.range(0)));
    std::deque<mp::Future<int>> flying;
    for (auto _ : state) {
        if (flying.size() == 512) {
            benchmark::DoNotOptimize(flying.front().get());
            flying.pop_front();
        }
        flying.push_back(many.submit(same, 1));
    }
    for (auto& future : flying) future.get();
    bench::set_items(state);
}

void workers_100us(benchmark::State& state) {
    mp::Pool& many = pool(static_cast<unsigned>(state.range(0)));
    beside_threads(state, Steps(400, bench::steps_for(100)),
                   [&](const Steps& steps) { submit_all(many, steps); });
}

void lengths(benchmark::internal::Benchmark* row) {
    for (int us : {1, 3, 10, 30, 100, 300, 1000, 10'000, 100'000}) row->Arg(us);
    row->UseManualTime();
}
void numbers(benchmark::internal::Benchmark* row) {
    for (int n : {1, 2, 4, 8, 16, 32, 64, 128, 200}) row->Arg(n);
}
BENCHMARK_CAPTURE(length, submit, by_submit)->Apply(lengths);
BENCHMARK_CAPTURE(length, map, by_map)->Apply(lengths);
BENCHMARK_CAPTURE(length, threads, by_threads)->Apply(lengths);
BENCHMARK_CAPTURE(pareto, submit, by_submit)->UseManualTime();
BENCHMARK_CAPTURE(pareto, map, by_map)->UseManualTime();
BENCHMARK_CAPTURE(pareto, threads, by_threads)->UseManualTime();
BENCHMARK(workers)->Apply(numbers)->UseRealTime();
BENCHMARK(workers_100us)->Apply(numbers)->UseManualTime();

}  // namespace

int main(int argc, char** argv) {
    mp::init();
    return bench::run_all(argc, argv);
}
