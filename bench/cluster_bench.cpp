// What a pool over several hosts costs: cluster_bench_MPI [quick|tasks|far|idle]. It is run by
// tools/cluster_bench on three hosts, beside bare MPI and mpi4py; by itself it measures this pool.
//
// Each line is "row value": the median of the rounds, in the unit that the row's name ends with.
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/cluster.hpp>
#include <sidestep/pool.hpp>

namespace {

using sidestep::Pool;
using Bytes = std::vector<char>;
using Clock = std::chrono::steady_clock;

int nothing(int i) { return i; }
std::string where(int) { return sidestep::this_task::host(); }
Bytes same(const Bytes& bytes) { return bytes; }
int dies(int) { return ::raise(SIGKILL); }

double seconds(const std::function<void()>& run) {
    auto begin = Clock::now();
    run();
    return std::chrono::duration<double>(Clock::now() - begin).count();
}
double median_of(int rounds, const std::function<double()>& one) {
    std::vector<double> values;
    for (int i = 0; i < rounds; ++i) values.push_back(one());
    std::nth_element(values.begin(), values.begin() + rounds / 2, values.end());
    return values[static_cast<std::size_t>(rounds) / 2];
}
void report(const std::string& row, double value) {
    std::printf("%s %.4g\n", row.c_str(), value);
    std::fflush(stdout);
}

// The key of a worker that is not on this host, if there is another.
std::uint64_t far_key(Pool& pool) {
    for (unsigned key = 1; key <= pool.processes(); ++key)
        if (pool.submit({.key = key}, where, 0).get() != sidestep::this_task::host()) return key;
    return 1;
}

void measure_tasks(Pool& pool, int rounds, int tasks) {
    std::vector<sidestep::Future<int>> futures(static_cast<std::size_t>(tasks));
    report("one_by_one/s", median_of(rounds, [&] {
               return tasks / seconds([&] {
                          for (auto& future : futures) future = pool.submit(nothing, 1);
                          for (auto& future : futures) (void)future.get();
                      });
           }));
    std::vector<int> items(static_cast<std::size_t>(tasks) * 20);
    std::iota(items.begin(), items.end(), 0);
    report("in_batches_of_100/s", median_of(rounds, [&] {
               return double(items.size()) /
                      seconds([&] { (void)pool.map(nothing, items, {.chunksize = 100}); });
           }));
    report("map/s", median_of(rounds, [&] {
               return double(items.size()) / seconds([&] { (void)pool.map(nothing, items); });
           }));
}

void measure_far(Pool& pool, int rounds) {
    sidestep::TaskOptions far{.key = far_key(pool)};
    report("round_trip_us", median_of(rounds * 100, [&] {
               return 1e6 * seconds([&] { (void)pool.submit(far, nothing, 1).get(); });
           }));
    report("killed_us", median_of(rounds, [&] {
               return 1e6 * seconds([&] { pool.submit(far, dies, 1).wait(); });
           }));
    for (std::size_t kib : {64u, 1024u, 65536u}) {
        if (rounds == 1 && kib > 1024) break;
        Bytes bytes(kib << 10, 'x');
        double both_ways = 2 * double(bytes.size()) / 1e6;
        report("payload_" + std::to_string(kib) + "_KiB_MB/s", median_of(rounds, [&] {
                   return both_ways / seconds([&] { (void)pool.submit(far, same, bytes).get(); });
               }));
    }
}

}  // namespace

int main(int argc, char** argv) {
    sidestep::init();
    std::string what = argc > 1 ? argv[1] : "";
    Pool pool(sidestep::cluster());
    (void)pool.map(nothing, std::vector<int>(1000));  // all are there
    if (what == "idle") {                             // whoever wants to know looks from outside
        report("idle", pool.processes());
        std::this_thread::sleep_for(std::chrono::seconds(5));
        return 0;
    }
    report("hosts", double(pool.hosts().size()));
    report("workers", pool.processes());
    if (what != "far")
        measure_tasks(pool, what == "quick" ? 1 : 21, what == "quick" ? 1000 : 20'000);
    if (what == "tasks") return 0;
    measure_far(pool, what == "quick" ? 1 : 21);
}
