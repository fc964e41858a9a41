#include <sidestep/pool_stats.hpp>

#include <fmt/format.h>

#include <iterator>

namespace sidestep::inline v0 {
namespace {

// Three digits and a unit.
std::string in_short(std::chrono::nanoseconds time) {
    auto ns = static_cast<double>(time.count());
    if (ns < 1e3) return fmt::format("{:.0f} ns", ns);
    if (ns < 1e6) return fmt::format("{:.3g} us", ns / 1e3);
    if (ns < 1e9) return fmt::format("{:.3g} ms", ns / 1e6);
    return ns < 1e12 ? fmt::format("{:.3g} s", ns / 1e9) : fmt::format("{:.0f} s", ns / 1e9);
}

std::string in_mib(std::optional<std::size_t> bytes) {
    return bytes ? fmt::format("{:.1f}", static_cast<double>(*bytes) / (1 << 20)) : "?";
}

std::string line_of(const char* name, const Histogram& times) {
    return fmt::format("{:<5}{:>10} timed: mean {}, median {}, 99 % {}, longest {}\n", name,
                       times.count(), in_short(times.mean()), in_short(times.quantile(0.5)),
                       in_short(times.quantile(0.99)), in_short(times.max()));
}

}  // namespace

std::string PoolStats::describe() const {
    std::string text = fmt::format(
        "tasks: {} submitted, {} completed ({} failed, {} cancelled), {} retried, {} waiting, {} "
        "running; {} worker deaths\n",
        submitted, completed, failed, cancelled, retried, waiting, running, worker_deaths);
    text += line_of("wait", wait);
    text += line_of("run", run);
    auto out = std::back_inserter(text);
    constexpr const char* kRow = "{:>6}{:>9}{:>10}{:>9}{:>10}{:>10}{:>10}{:>10}{:>10}{:>9}{:>9}\n";
    if (!workers.empty())
        fmt::format_to(out, fmt::runtime(kRow), "worker", "process", "tasks", "restarts", "start",
                       "init", "wait", "work", "serialize", "RSS MiB", "PSS MiB");
    for (const WorkerStats& w : workers)
        fmt::format_to(out, fmt::runtime(kRow), w.index, w.pid ? std::to_string(w.pid) : "-",
                       w.tasks, w.restarts, in_short(w.start), in_short(w.init), in_short(w.wait),
                       in_short(w.work), in_short(w.serialize), in_mib(w.resident),
                       in_mib(w.proportional));
    for (const WorkerStats& w : workers)
        if (w.stopped)
            fmt::format_to(out,
                           "worker {} is stopped by a signal: kill -CONT {} lets it go on, kill "
                           "-KILL {} has it replaced\n",
                           w.index, w.pid, w.pid);
    if (!slowest.empty()) text += "slowest:\n";
    for (const SlowTask& task : slowest)
        fmt::format_to(out, "{:>10}  task {} in worker {}: {}\n", in_short(task.duration),
                       task.number, task.worker, task.name);
    return text;
}

}  // namespace sidestep
