// ThreadPool: 200,000 empty tasks with an 8-byte argument are submitted, then all results are got;
// all futures are held meanwhile. Beside it, in turns, a task_group of oneTBB whose tasks keep a
// result each (where oneTBB is found).
//
//   bytes                for each future, resident, its place in a vector included: when all tasks
//                        wait, and when all are done. It comes first: memory is kept  (good: 150)
//   submit_all/THREADS   tasks/s: items_per_second is the median round's; p10, p90; x_tbb: the
//                        median of the rounds' ratios                                 (good: 0.7)
//   round_trip           one task submitted and got at a time
#include <unistd.h>

#include <fstream>
#include <latch>

#include <sidestep/thread_pool.hpp>

#ifdef HAVE_TBB
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>
#endif

#include "common.hpp"

namespace mp = sidestep;

namespace {

constexpr long kTasks = 200'000;
long same(long x) { return x; }

// Resident, of this process.
double bytes_in_use() {
    long all = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> all >> resident;
    return static_cast<double>(resident * ::sysconf(_SC_PAGESIZE));
}

void bytes(benchmark::State& state) {
    for (auto _ : state) {
        mp::ThreadPool pool({.threads = 1});
        std::vector<mp::Future<long>> futures;
        futures.reserve(kTasks);
        std::latch go(1);
        auto first = pool.submit([&] { go.wait(); });
        const double before = bytes_in_use();
        for (long i = 0; i < kTasks; ++i) futures.push_back(pool.submit(same, i));
        state.counters["waiting"] = (bytes_in_use() - before) / kTasks;
        go.count_down();
        for (auto& future : futures) future.wait();
        state.counters["done"] = (bytes_in_use() - before) / kTasks;
    }
}
BENCHMARK(bytes)->Iterations(1);

double submit_all_takes(mp::ThreadPool& pool) {
    return bench::timed([&] {
        std::vector<mp::Future<long>> futures;
        futures.reserve(kTasks);
        for (long i = 0; i < kTasks; ++i) futures.push_back(pool.submit(same, i));
        long sum = 0;
        for (auto& future : futures) sum += future.get();
        benchmark::DoNotOptimize(sum);
    });
}

#ifdef HAVE_TBB
// As many threads as `threads`, beside the one that submits, as in a ThreadPool.
double tbb_takes(tbb::task_arena& arena) {
    return bench::timed([&] {
        std::vector<long> results(kTasks);
        arena.execute([&] {
            tbb::task_group group;
            for (long i = 0; i < kTasks; ++i)
                group.run([&results, i] { results[static_cast<std::size_t>(i)] = same(i); });
            group.wait();
        });
        long sum = 0;
        for (long result : results) sum += result;
        benchmark::DoNotOptimize(sum);
    });
}
#endif

double quantile(std::vector<double> values, double part) {
    std::sort(values.begin(), values.end());
    return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1))];
}

void submit_all(benchmark::State& state) {
    const auto threads = static_cast<unsigned>(state.range(0));
    mp::ThreadPool pool({.threads = threads});
    std::vector<double> rates, ratios;
#ifdef HAVE_TBB
    tbb::global_control most(tbb::global_control::max_allowed_parallelism, threads + 1);
    tbb::task_arena arena(static_cast<int>(threads + 1));
    (void)tbb_takes(arena);
#endif
    (void)submit_all_takes(pool);
    for (auto _ : state) {
        const double ours = submit_all_takes(pool);
        rates.push_back(static_cast<double>(kTasks) / ours);
#ifdef HAVE_TBB
        ratios.push_back(tbb_takes(arena) / ours);
#endif
        state.SetIterationTime(ours);
    }
    state.counters["items_per_second"] = quantile(rates, 0.5);
    state.counters["p10"] = quantile(rates, 0.1);
    state.counters["p90"] = quantile(rates, 0.9);
    if (!ratios.empty()) state.counters["x_tbb"] = quantile(ratios, 0.5);
}
BENCHMARK(submit_all)->Arg(1)->Arg(2)->Arg(4)->UseManualTime()->Unit(benchmark::kMillisecond);

void round_trip(benchmark::State& state) {
    mp::ThreadPool pool({.threads = 2});
    for (auto _ : state) benchmark::DoNotOptimize(pool.submit(same, 1L).get());
}
BENCHMARK(round_trip)->UseRealTime();

}  // namespace

int main(int argc, char** argv) { return bench::run_all(argc, argv); }
