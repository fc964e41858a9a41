// Small tasks as most programs write them: all are submitted, then all results are got, and each
// future is held meanwhile. On Pool and on ThreadPool; beside them, in turns, a task_group of
// oneTBB whose tasks keep a result each (where oneTBB is found). An empty task with an 8-byte
// argument.
//
//   bytes/POOL           for each future, resident in this process, its place in a vector included:
//                        when all tasks wait, and when all are done. First: memory is kept
//   all/POOL/WORKERS     200,000 tasks held
//   million/POOL         a million tasks held, two workers
//   in_flight/POOL/N     N at a time, two workers: the oldest result is got, the next one submitted
//   from_threads/POOL/8  eight threads submit and get 25,000 tasks each, two workers
//
// Of each row after the bytes: items_per_second is the median round's rate, p10 and p90 are
// quantiles of the rates, x_tbb is the median of the rounds' ratios.
#include <unistd.h>

#include <fstream>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

#ifdef HAVE_TBB
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>
#endif

#include "common.hpp"

namespace mp = sidestep;

namespace {

constexpr long kTasks = 200'000, kRounds = 25;
long same(long x) { return x; }

template <class P>
P make_pool(unsigned workers) {
    if constexpr (std::is_same_v<P, mp::Pool>)
        return P({.processes = workers});
    else
        return P({.threads = workers});
}

// Resident, of this process.
double bytes_in_use() {
    long all = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> all >> resident;
    return static_cast<double>(resident * ::sysconf(_SC_PAGESIZE));
}

// Until the byte comes through the pipe: of all that runs a task, it waits in the same way.
int wait_for_byte(int fd) {
    char byte = 0;
    return static_cast<int>(::read(fd, &byte, 1));
}

template <class P>
void bytes(benchmark::State& state) {
    for (auto _ : state) {
        int go[2];
        if (::pipe(go) != 0) return state.SkipWithError("no pipe");
        {
            // Forked after the pipe was made: its worker has the end that is read.
            P pool = [] {
                if constexpr (std::is_same_v<P, mp::Pool>)
                    return P({.processes = 1, .start_method = mp::StartMethod::fork});
                else
                    return P({.threads = 1});
            }();
            std::vector<mp::Future<long>> futures;
            futures.reserve(kTasks);
            auto first = pool.submit(wait_for_byte, go[0]);
            const double before = bytes_in_use();
            for (long i = 0; i < kTasks; ++i) futures.push_back(pool.submit(same, i));
            state.counters["waiting"] = (bytes_in_use() - before) / kTasks;
            if (::write(go[1], "x", 1) != 1) return state.SkipWithError("no byte was written");
            for (auto& future : futures) future.wait();
            state.counters["done"] = (bytes_in_use() - before) / kTasks;
        }
        ::close(go[0]);
        ::close(go[1]);
    }
}

template <class P>
void all_held(P& pool, long tasks) {
    std::vector<mp::Future<long>> futures;
    futures.reserve(static_cast<std::size_t>(tasks));
    for (long i = 0; i < tasks; ++i) futures.push_back(pool.submit(same, i));
    long sum = 0;
    for (auto& future : futures) sum += future.get();
    benchmark::DoNotOptimize(sum);
}

template <class P>
void some_held(P& pool, std::size_t at_a_time) {
    std::vector<mp::Future<long>> ring(at_a_time);
    for (long i = 0; i < kTasks; ++i) {
        mp::Future<long>& future = ring[static_cast<std::size_t>(i) % at_a_time];
        if (future.valid()) benchmark::DoNotOptimize(future.get());
        future = pool.submit(same, i);
    }
    for (auto& future : ring) benchmark::DoNotOptimize(future.get());
}

#ifdef HAVE_TBB
// So many threads, beside the one that submits, as in a pool.
class Tbb {
  public:
    explicit Tbb(unsigned threads)
        : most_(tbb::global_control::max_allowed_parallelism, threads + 1),
          arena_(static_cast<int>(threads + 1)) {}
    void all_held(long tasks) {
        std::vector<long> results(static_cast<std::size_t>(tasks));
        arena_.execute([&] {
            tbb::task_group group;
            for (long i = 0; i < tasks; ++i)
                group.run([&results, i] { results[static_cast<std::size_t>(i)] = same(i); });
            group.wait();
        });
        long sum = 0;
        for (long result : results) sum += result;
        benchmark::DoNotOptimize(sum);
    }

  private:
    tbb::global_control most_;
    tbb::task_arena arena_;
};
#endif

// Rounds of `work`, `tasks` each, beside oneTBB if that has `threads`.
template <class Work>
void rounds(benchmark::State& state, long tasks, unsigned threads, Work work) {
    std::vector<double> rates, ratios;
#ifdef HAVE_TBB
    std::optional<Tbb> tbb;
    if (threads > 0) tbb.emplace(threads).all_held(tasks);
#else
    (void)threads;
#endif
    work();
    for (auto _ : state) {
        const double ours = bench::timed(work);
        rates.push_back(static_cast<double>(tasks) / ours);
#ifdef HAVE_TBB
        if (tbb) ratios.push_back(bench::timed([&] { tbb->all_held(tasks); }) / ours);
#endif
        state.SetIterationTime(ours);
    }
    state.counters["items_per_second"] = bench::quantile(rates, 0.5);
    state.counters["p10"] = bench::quantile(rates, 0.1);
    state.counters["p90"] = bench::quantile(rates, 0.9);
    if (!ratios.empty()) state.counters["x_tbb"] = bench::quantile(ratios, 0.5);
}

template <class P>
void all(benchmark::State& state) {
    const auto workers = static_cast<unsigned>(state.range(0));
    P pool = make_pool<P>(workers);
    rounds(state, kTasks, workers, [&] { all_held(pool, kTasks); });
}
template <class P>
void million(benchmark::State& state) {
    P pool = make_pool<P>(2);
    rounds(state, 1'000'000, 2, [&] { all_held(pool, 1'000'000); });
}
template <class P>
void in_flight(benchmark::State& state) {
    P pool = make_pool<P>(2);
    rounds(state, kTasks, 0, [&] { some_held(pool, static_cast<std::size_t>(state.range(0))); });
}
template <class P>
void from_threads(benchmark::State& state) {
    const long threads = state.range(0), each = kTasks / threads;
    P pool = make_pool<P>(2);
    rounds(state, threads * each, 0, [&] {
        std::vector<std::jthread> submitters;
        for (long i = 0; i < threads; ++i) submitters.emplace_back([&] { all_held(pool, each); });
    });
}

template <class P>
void add(const std::string& pool) {
    auto row = [&pool](const char* name, void (*function)(benchmark::State&)) {
        return benchmark::RegisterBenchmark((name + ("/" + pool)).c_str(), function)
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond)
            ->Iterations(kRounds);
    };
    row("bytes", bytes<P>)->Iterations(1);
    for (long workers : {1, 2, 4, 8}) row("all", all<P>)->Arg(workers);
    row("million", million<P>);
    for (long n : {16, 512}) row("in_flight", in_flight<P>)->Arg(n);
    row("from_threads", from_threads<P>)->Arg(8);
}

}  // namespace

int main(int argc, char** argv) {
    mp::init();
    add<mp::Pool>("pool");
    add<mp::ThreadPool>("threads");
    return bench::run_all(argc, argv);
}
