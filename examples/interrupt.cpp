// Ctrl-C that loses nothing: the first finishes what runs and keeps it, the second ends that, too.
// SIGTERM, by which Docker and systemd end a service, counts as one.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include <sidestep/interrupt_guard.hpp>
#include <sidestep/pool.hpp>
namespace mp = sidestep;

int simulate(int seed) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return seed * seed % 97;
}

int main(int argc, char** argv) {
    mp::init();
    std::vector<int> seeds(argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 40);
    for (std::size_t i = 0; i < seeds.size(); ++i) seeds[i] = static_cast<int>(i % 1000);

    mp::Pool pool({.processes = 2});
    mp::InterruptGuard guard(pool, {SIGINT, SIGTERM});
    std::size_t done = 0;
    std::puts("it begins");
    std::fflush(stdout);
    for (auto& item : pool.imap_unordered(simulate, seeds, {.chunksize = 1}).outcomes())
        if (item) ++done;  // what came after Ctrl-C is CancelledError
    std::printf("%s: %zu of %zu\n", guard.interrupts() ? "interrupted" : "done", done,
                seeds.size());
    return guard.interrupts() ? 128 + guard.last_signal() : 0;
}
