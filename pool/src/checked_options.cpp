#include "checked_options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "sys/sys.hpp"
#include "task/token_gate.hpp"
#include "worker/worker_protocol.hpp"
#include "worker/worker_settings.hpp"

namespace sidestep::inline v0::detail {
namespace {

unsigned checked_inner_threads(const PoolOptions& options) {
    static constexpr unsigned kMost = 65536;
    if (options.inner_threads) {
        if (*options.inner_threads > kMost)
            refuse_option(
                fmt::format("inner_threads is {}; give each worker's libraries 1 to {} threads, "
                            "or 0 to leave them alone",
                            *options.inner_threads, kMost));
        return *options.inner_threads;
    }
    if (*options.processes == 0) return 0;
    if (options.pin_workers) return 1;
    if (!options.cpus.empty()) {
        auto smaller = [](const auto& a, const auto& b) { return a.size() < b.size(); };
        return static_cast<unsigned>(
            std::min_element(options.cpus.begin(), options.cpus.end(), smaller)->size());
    }
    return std::max(1u, static_cast<unsigned>(sys::usable_cpus()) / *options.processes);
}

}  // namespace

void refuse_option(const std::string& what) { throw std::invalid_argument("PoolOptions::" + what); }

std::optional<unsigned> processes_of_environment() {
    const char* text = std::getenv("SIDESTEP_PROCESSES");
    if (!text || !*text) return {};
    const std::string_view said = text;
    unsigned processes = 0;
    auto [end, error] = std::from_chars(said.data(), said.data() + said.size(), processes);
    if (error != std::errc() || end != said.data() + said.size() || processes > kMaxWorkers)
        throw std::invalid_argument(
            fmt::format("SIDESTEP_PROCESSES is \"{}\"; it says how many workers a pool has whose "
                        "options do not: 1 to {}, or 0 to run tasks in this process",
                        said, kMaxWorkers));
    return processes;
}

PoolOptions checked(PoolOptions options) {
    if (!options.processes)
        options.processes =
            static_cast<unsigned>(std::min<std::size_t>(sys::usable_cpus(), kMaxWorkers));
    if (*options.processes > kMaxWorkers)
        refuse_option(
            fmt::format("processes is {}; a pool has 1 to {} workers, or 0 to run tasks in this "
                        "process",
                        *options.processes, kMaxWorkers));
    if (options.arena_bytes < (std::size_t(16) << 20))
        refuse_option(
            fmt::format("arena_bytes is {}; give it 16 MiB or more (it is address space, pages "
                        "come on first touch)",
                        options.arena_bytes));
    if (options.stop_grace.count() < 0 || options.terminate_grace.count() < 0 ||
        options.leave_grace.count() < 0)
        refuse_option(
            "stop_grace, terminate_grace or leave_grace is negative; 0 goes on to the next step "
            "at once");
    if (options.start_patience.count() < 0)
        refuse_option("start_patience is negative; 0 does not try again");
    if (options.start_timeout.count() < 0)
        refuse_option("start_timeout is negative; 0 gives a worker as long as it takes");
    if (options.max_age.count() < 0 || options.idle_timeout.count() < 0)
        refuse_option("max_age or idle_timeout is negative; 0 is never");
    if (options.output_limit == 0)
        refuse_option(
            "output_limit is 0; give it the bytes to keep of each stream, or say "
            "Output::pass");
    WorkerSettings::check(options);
    options.inner_threads = checked_inner_threads(options);
    check_options(options.task);
    if (options.task.key != 0)
        refuse_option("task.key is set; a key is a task's own: pool.submit({.key = 7}, f, x)");
    if (options.task.soft_timeout.count() != 0)
        refuse_option(
            "task.soft_timeout is set; it is a task's own: pool.submit({.soft_timeout = 2s}, f, "
            "x)");
    if (!options.task.uses.empty())
        refuse_option(
            "task.uses is set; tokens are a task's own, or a map's: "
            "pool.submit({.uses = {{\"gpu\", 1}}}, f, x)");
    TokenGate::check(options.tokens, "PoolOptions");
    return options;
}

}  // namespace sidestep::detail
