#include <sidestep/pool_stats.hpp>

#include <fmt/format.h>

#include <iterator>

#include "text/columns.hpp"

namespace sidestep::inline v0 {
namespace {

// Three digits and a unit.
std::string in_short(std::chrono::nanoseconds time) {
    auto ns = static_cast<double>(time.count());
    if (ns < 1e3) return fmt::format("{:.0f} ns", ns);
    if (ns < 999.5e3) return fmt::format("{:.3g} us", ns / 1e3);
    if (ns < 999.5e6) return fmt::format("{:.3g} ms", ns / 1e6);
    return ns < 999.5e9 ? fmt::format("{:.3g} s", ns / 1e9) : fmt::format("{:.0f} s", ns / 1e9);
}

std::string in_mib(std::optional<std::size_t> bytes) {
    if (!bytes) return "?";
    const double mib = static_cast<double>(*bytes) / (1 << 20);
    return mib < 999.5 ? fmt::format("{:.1f}", mib) : fmt::format("{:.0f}", mib);
}

std::string line_of(const char* name, const Histogram& times) {
    return fmt::format("{:<5}{:>9}: mean {}, median {}, 99 % {}, longest {}\n", name, times.count(),
                       in_short(times.mean()), in_short(times.quantile(0.5)),
                       in_short(times.quantile(0.99)), in_short(times.max()));
}

void add_line(std::string& text, std::string line) {
    cut_to_columns(line, 80);
    text += line + '\n';
}

// Of a pool over several; else nothing.
std::string table_of(const std::vector<HostStats>& hosts) {
    if (hosts.size() < 2) return {};
    constexpr const char* kRow = "{:>9}{:>12}{:>12}{:>12}  {}{}";
    std::string text = "hosts; their tasks: done, there now, and failed by a crash or a timeout:\n";
    add_line(text, fmt::format(fmt::runtime(kRow), "workers", "done", "now", "failed", "host", ""));
    for (const HostStats& host : hosts)
        add_line(text, fmt::format(fmt::runtime(kRow), host.processes, host.tasks, host.in_flight,
                                   host.failures, host.lost ? "lost: " : "", printable(host.name)));
    return text;
}

}  // namespace

std::string PoolStats::describe() const {
    std::string text = fmt::format(
        "tasks (a chunk of a map is one): {} submitted, {} completed;\n"
        "       of these {} failed, {} cancelled;\n"
        "       {} retried, {} waiting, {} running; {} worker deaths\n",
        submitted, completed, failed, cancelled, retried, waiting, running, worker_deaths);
    for (const TokenStats& each : tokens)
        add_line(text, fmt::format("tokens: {} of {} in use, {} tasks wait: {}", each.in_use,
                                   each.count, each.waiting, printable(each.name)));
    text += "time of tasks:\n";
    text += line_of("wait", wait);
    text += line_of("run", run);
    auto out = std::back_inserter(text);
    // 80 columns.
    constexpr const char* kRow = "{:>4}{:>8}{:>9}{:>6}{:>8}{:>8}{:>8}{:>8}{:>8}{:>6}{:>6}\n";
    if (!workers.empty()) {
        text += "workers; how often started again; memory in MiB:\n";
        fmt::format_to(out, fmt::runtime(kRow), "", "process", "tasks", "again", "start", "init",
                       "wait", "work", "serial", "RSS", "PSS");
    }
    for (const WorkerStats& w : workers)
        fmt::format_to(out, fmt::runtime(kRow), w.index, w.pid ? std::to_string(w.pid) : "-",
                       w.tasks, w.restarts, in_short(w.start), in_short(w.init), in_short(w.wait),
                       in_short(w.work), in_short(w.serialize), in_mib(w.resident),
                       in_mib(w.proportional));
    for (const WorkerStats& w : workers)
        if (w.stopped)
            fmt::format_to(out,
                           "worker {} is stopped by a signal:\n"
                           "  kill -CONT {} lets it go on, kill -KILL {} has it replaced\n",
                           w.index, w.pid, w.pid);
    text += table_of(hosts);
    if (!slowest.empty()) text += "slowest:\n";
    for (const SlowTask& task : slowest) {
        const std::string where = task.host.empty() ? fmt::format("in worker {}", task.worker)
                                                    : "on host " + printable(task.host);
        add_line(text, fmt::format("{:>10}  task {} {}: {}", in_short(task.duration), task.number,
                                   where, printable(task.name)));
    }
    return text;
}

}  // namespace sidestep
