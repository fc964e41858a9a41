// Real jobs over processes and over threads: what isolation costs.
//
//   JOB/pool_of_one   over one worker process
//   JOB/pool          over a worker process for each CPU (good: within 5 % of threads)
//   JOB/threads       the same tasks over a ThreadPool, which serializes and copies nothing
//   JOB/openmp        over a dynamic loop of OpenMP (compute_openmp.cpp)
//
// Jobs: monte_carlo, mandelbrot (compute.hpp), and wordcount, which is examples/wordcount over
// /usr/include (good: two workers 1.9 x one); wordcount_small is a part of it, for a test. Seconds
// for the whole job.
#include <numeric>
#include <string>

#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

#include "../examples/wordcount/wordcount.hpp"
#include "common.hpp"
#include "compute.hpp"

namespace mp = sidestep;

namespace {

unsigned cpus() { return std::max(1u, std::thread::hardware_concurrency()); }

mp::Pool& pool() {
    static auto* instance = new mp::Pool({.processes = cpus()});
    return *instance;
}
mp::Pool& pool_of_one() {
    static auto* instance = new mp::Pool({.processes = 1});
    return *instance;
}
mp::ThreadPool& threads() {
    static auto* instance = new mp::ThreadPool({.threads = cpus()});
    return *instance;
}

template <class AnyPool>
std::uint64_t sum(AnyPool& runner, std::uint64_t (*piece)(int), int pieces) {
    std::vector<int> items(static_cast<std::size_t>(pieces));
    std::iota(items.begin(), items.end(), 0);
    std::vector<std::uint64_t> results = runner.map(piece, items);
    return std::accumulate(results.begin(), results.end(), std::uint64_t(0));
}

template <class AnyPool>
void monte_carlo(benchmark::State& state, AnyPool& (*runner)()) {
    for (auto _ : state)
        benchmark::DoNotOptimize(sum(runner(), bench::throw_darts, bench::kThrowers));
}

template <class AnyPool>
void mandelbrot(benchmark::State& state, AnyPool& (*runner)()) {
    for (auto _ : state)
        benchmark::DoNotOptimize(sum(runner(), bench::mandelbrot_row, bench::kRows));
}

template <class AnyPool>
std::uint64_t count_identifiers(AnyPool& runner, const char* folder) {
    auto batches = wordcount::find_headers({folder}, cpus());
    wordcount::Total total;
    auto counts = runner.imap_unordered(wordcount::count_files, batches, {.chunksize = 1});
    for (wordcount::Counts& found : counts) total.add(std::move(found));
    std::uint64_t identifiers = 0;
    for (const wordcount::Merged& merged :
         runner.map(wordcount::merge_shards, total.shards, {.chunksize = 1}))
        identifiers += merged.identifiers;
    return identifiers;
}

template <class AnyPool>
void wordcount_job(benchmark::State& state, AnyPool& (*runner)(), const char* folder) {
    std::uint64_t identifiers = count_identifiers(runner(), folder);  // the files are in memory now
    for (auto _ : state) identifiers = count_identifiers(runner(), folder);
    state.counters["identifiers"] = static_cast<double>(identifiers);
}

void add_jobs(const char* runner_name, auto runner) {
    auto add = [&](std::string job, auto function, auto... arguments) {
        benchmark::RegisterBenchmark((job + '/' + runner_name).c_str(), function, runner,
                                     arguments...)
            ->UseRealTime()
            ->Unit(benchmark::kMillisecond);
    };
    using AnyPool = std::remove_reference_t<decltype(runner())>;
    add("monte_carlo", monte_carlo<AnyPool>);
    add("mandelbrot", mandelbrot<AnyPool>);
    add("wordcount", wordcount_job<AnyPool>, "/usr/include");
    add("wordcount_small", wordcount_job<AnyPool>, "/usr/include/linux");
}

}  // namespace

int main(int argc, char** argv) {
    mp::init();
    add_jobs("pool_of_one", pool_of_one);
    add_jobs("pool", pool);
    add_jobs("threads", threads);
    return bench::run_all(argc, argv);
}
