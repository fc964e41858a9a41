#include "worker/worker_meter.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>

namespace sidestep::inline v0 {

void end_damaged(WorkerWords& words, Damage damage) noexcept {
    words.damaged.store(static_cast<std::uint64_t>(damage),
                        std::memory_order_relaxed);  // read when this process is gone
    (void)::kill(getpid(), SIGKILL);
    _exit(1);
}

void WorkerTally::add(const WorkerWords& words, std::chrono::steady_clock::time_point now) {
    using std::chrono::nanoseconds;
    auto life = static_cast<std::uint64_t>(
        std::max(nanoseconds(now - launch_began).count(), nanoseconds::rep(0)));
    // I7: nothing lasted longer than the process.
    auto read = [&](const std::atomic<std::uint64_t>& word) {
        return std::min(word.load(std::memory_order_relaxed), life);
    };
    auto as_time = [](std::uint64_t ns) { return nanoseconds(static_cast<std::int64_t>(ns)); };
    std::uint64_t idle = read(words.idle), busy = read(words.work);
    std::uint64_t measured = read(words.measured), parts = read(words.serialize);
    std::uint64_t since = words.since.load(std::memory_order_relaxed);
    auto time = static_cast<std::uint64_t>(now.time_since_epoch().count());
    if (since != 0 && since >> 1 <= time)
        (since & WorkerWords::kIdle ? idle : busy) += std::min(time - (since >> 1), life);
    init += as_time(read(words.init));
    wait += as_time(std::min(idle, life));
    work += as_time(std::min(busy, life));
    if (measured == 0) return;
    double part = std::min(static_cast<double>(parts) / static_cast<double>(measured), 1.0);
    serialize += as_time(static_cast<std::uint64_t>(part * static_cast<double>(read(words.work))));
}

}  // namespace sidestep
