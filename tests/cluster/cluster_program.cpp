// What the tests run under MPI launchers: cluster_program WHAT.
#include <mpi.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <sidestep/cluster.hpp>
#include <sidestep/interrupt_guard.hpp>
#include <sidestep/pool.hpp>

namespace {

using namespace std::chrono_literals;
using sidestep::cluster;
using sidestep::Pool;

std::string where(int) { return sidestep::this_task::host(); }
int echo(int i) { return i; }
int dies(int signal) { return ::raise(signal); }
int dies_once(int signal) {
    if (sidestep::this_task::attempt() == 1) ::raise(signal);
    return 1;
}
int stays(int) {
    sidestep::this_task::sleep_for(sidestep::Timeout::forever());  // style-ok: until it is to stop
    return 0;
}
// What an initializer was given, in a worker.
std::vector<int> given;
void take(std::vector<int> values) { given = std::move(values); }
int last_given(int) { return given.back(); }
int prints(int lines) {
    for (int i = 0; i < lines; ++i) std::puts("what a task says");
    return lines;
}
std::vector<int> reversed(std::vector<int> values) { return {values.rbegin(), values.rend()}; }
// Launchers' variables that a worker has.
int launcher_variables(int) {
    int count = 0;
    for (char** entry = environ; *entry; ++entry)
        for (const char* prefix : {"OMPI_", "PMIX_", "PMI_", "SLURM_", "HYDI_"})
            count += std::strncmp(*entry, prefix, std::strlen(prefix)) == 0;
    return count;
}
void say(const char* what) {
    std::puts(what);
    std::fflush(stdout);
}
// A key for each worker: so a task for each of them, wherever it is.
std::vector<sidestep::Future<std::string>> ask_each(Pool& pool) {
    std::vector<sidestep::Future<std::string>> futures;
    for (unsigned key = 1; key <= pool.processes(); ++key)
        futures.push_back(pool.submit({.key = key}, where, 0));
    return futures;
}
std::vector<sidestep::Future<int>> occupy(Pool& pool) {
    std::vector<sidestep::Future<int>> futures;
    for (unsigned key = 1; key <= pool.processes(); ++key)
        futures.push_back(pool.submit({.key = key}, stays, 0));
    return futures;
}

int hosts() {
    Pool pool(cluster());
    std::map<std::string, int> workers;
    for (auto& future : ask_each(pool)) ++workers[future.get()];
    for (const auto& host : pool.hosts())
        std::printf("%s %d\n", host.name.c_str(), workers[host.name] == int(host.processes));
    return 0;
}
int environment() {
    Pool pool(cluster());
    int count = 0;
    for (unsigned key = 1; key <= pool.processes(); ++key)
        count += pool.submit({.key = key}, launcher_variables, 0).get();
    std::printf("%d variables\n", count);
    return 0;
}
int crash() {
    Pool pool(cluster());
    int lost = 0, again = 0;
    for (unsigned key = 1; key <= pool.processes(); ++key) {
        try {
            (void)pool.submit({.key = key}, dies, key % 2 ? SIGKILL : SIGSEGV).get();
        } catch (const sidestep::WorkerLost& error) {
            ++lost;
        }
        again += pool.submit({.retry = {.max_attempts = 2}, .key = key}, dies_once, SIGKILL).get();
    }
    long sum = 0;
    for (int value : pool.map(echo, std::vector<int>(2000, 1))) sum += value;
    std::printf("%d lost, %d again, %ld\n", lost == int(pool.processes()),
                again == int(pool.processes()), sum);
    return 0;
}
// Several of each size on their way at once, in both directions.
int payloads() {
    Pool pool(cluster());
    bool all_equal = true;
    for (std::size_t ints : {std::size_t(1), std::size_t(16) << 10, std::size_t(17) << 10,
                             std::size_t(1) << 20, std::size_t(4) << 20}) {
        std::vector<int> values(ints);
        std::iota(values.begin(), values.end(), 0);
        std::vector<sidestep::Future<std::vector<int>>> futures;
        for (unsigned i = 0; i < 2 * pool.processes(); ++i)
            futures.push_back(pool.submit({.key = i + 1}, reversed, values));
        for (auto& future : futures) {
            std::vector<int> result = future.get();
            all_equal = all_equal && std::equal(values.begin(), values.end(), result.rbegin());
        }
    }
    std::printf("%s\n", all_equal ? "equal" : "not equal");
    return 0;
}
// What comes with a message of its own, beside arguments and results: for an initializer, and from
// stdout.
int long_messages() {
    std::vector<int> values(std::size_t(3) << 20, 17);
    Pool pool(cluster(
        {.initializer = sidestep::bind(take, values), .output = sidestep::Output::capture}));
    bool all_there = true;
    for (unsigned key = 1; key <= pool.processes(); ++key) {
        all_there = all_there && pool.submit({.key = key}, last_given, 0).get() == 17;
        auto printed = pool.submit({.key = key}, prints, 10'000);
        all_there = all_there && printed.output().out.size() == 170'000;
    }
    std::printf("%s\n", all_there ? "all there" : "something is missing");
    return 0;
}
int several() {
    for (int round = 0; round < 3; ++round) {
        Pool a(cluster()), b(cluster({.processes = 4}));
        auto x = a.map_async(echo, std::vector<int>(1000, 2));
        auto y = b.map_async(echo, std::vector<int>(1000, 3));
        auto sum = [](const std::vector<int>& v) { return std::accumulate(v.begin(), v.end(), 0); };
        std::printf("%d %d\n", sum(x.get()), sum(y.get()));
    }
    return 0;
}
// All workers are busy, and stay so.
int busy() {
    Pool pool(cluster());
    auto futures = occupy(pool);
    for (const auto& host : pool.hosts()) std::printf("%s ", host.name.c_str());
    say("busy");
    for (auto& future : futures) {
        try {
            (void)future.get();
        } catch (const sidestep::HostLost& error) {
            std::printf("lost %s\n", error.host().c_str());
            pool.terminate();
            return 0;  // the job ends with another code all the same
        } catch (const sidestep::CancelledError&) {
        }
    }
    say("complete");
    return 0;
}
// As busy(), until it is interrupted.
int guarded() {
    Pool pool(cluster());
    sidestep::InterruptGuard guard(pool);
    auto futures = occupy(pool);
    for (const auto& host : pool.hosts()) std::printf("%s ", host.name.c_str());
    say("busy");
    while (guard.interrupts() == 0) ::usleep(1000);  // style-ok: until a signal comes
    pool.terminate();
    int cancelled = 0;
    for (auto& future : futures) {
        try {
            (void)future.get();
        } catch (const sidestep::CancelledError&) {
            ++cancelled;
        }
    }
    std::printf("%d cancelled\n", cancelled == int(pool.processes()));
    return 3;
}
int leaves_at_once() {
    static Pool* pool = new Pool(cluster());  // nobody closes it
    auto futures = occupy(*pool);
    say("leaving");
    std::exit(0);
}
int throws() {
    Pool pool(cluster());
    (void)pool.apply(echo, 1);
    throw std::runtime_error("nobody catches this");
}
const char* of_mpi() {
    int initialized = -1;
    MPI_Initialized(&initialized);
    return initialized == 0 ? "not initialized" : "initialized";
}
int no_cluster() {  // it is linked, and not used
    const char* before = of_mpi();
    Pool pool;
    std::printf("%d %s, %s\n", pool.apply(echo, 17), before, of_mpi());
    return 0;
}
int with_cluster() {
    const char* before = of_mpi();
    Pool pool(cluster());
    std::printf("%zu %s, %s\n", pool.hosts().size(), before, of_mpi());
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    sidestep::init();
    const std::map<std::string, int (*)()> all{{"hosts", hosts},
                                               {"environment", environment},
                                               {"crash", crash},
                                               {"payloads", payloads},
                                               {"several", several},
                                               {"busy", busy},
                                               {"long_messages", long_messages},
                                               {"guarded", guarded},
                                               {"leaves", leaves_at_once},
                                               {"throws", throws},
                                               {"no_cluster", no_cluster},
                                               {"with_cluster", with_cluster}};
    auto chosen = argc > 1 ? all.find(argv[1]) : all.end();
    if (chosen == all.end()) {
        std::fprintf(stderr, "cluster_program WHAT\n");
        return 2;
    }
    return chosen->second();
}
