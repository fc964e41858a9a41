// What the workers of a pool do, as lines below a progress bar.
#include <fmt/format.h>

#include <sidestep/pool.hpp>
#include <sidestep/progress.hpp>

#include "pool_access.hpp"
#include "pool_core.hpp"

namespace sidestep::inline v0 {

std::function<std::vector<std::string>()> worker_lines(const Pool& pool) {
    return [&pool] {
        std::vector<std::string> lines;
        for (const WorkerStats& worker : detail::PoolAccess::core(pool)->view().workers()) {
            std::string doing = worker.pid == 0 ? "none" : worker.stopped ? "stopped" : "-";
            if (worker.task != 0)
                doing = fmt::format("task {} ({}), {:.0f} s{}", worker.task, worker.task_name,
                                    std::chrono::duration<double>(worker.task_time).count(),
                                    worker.stopped ? ", stopped" : "");
            lines.push_back(fmt::format("worker {}: {}", worker.index, doing));
        }
        return lines;
    };
}

}  // namespace sidestep
