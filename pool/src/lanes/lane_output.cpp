#include "lanes/lane_output.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <memory>

#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {
namespace {

bool is_empty(const TaskOutput& output) {
    return output.out.empty() && output.err.empty() && output.out_dropped == 0 &&
           output.err_dropped == 0;
}

// What a process says before it gives up is often the best there is to know.
std::string last_line(const std::string& text) {
    static constexpr std::size_t kMost = 200;
    std::size_t end = text.find_last_not_of("\r\n");
    if (end == std::string::npos) return {};
    std::size_t newline = text.rfind('\n', end);
    std::size_t begin = newline == std::string::npos ? 0 : newline + 1;
    return text.substr(begin, std::min(end + 1 - begin, kMost));
}

// Without memory for it the output is lost, and says so; the task is not.
template <class Read>
void store_output(PoolTask& task, Read read) noexcept {
    if (task.more) task.more->output = nullptr;
    task.output_lost = false;
    try {
        TaskOutput output = read();
        if (!is_empty(output))
            task.make_more().output = std::make_unique<TaskOutput>(std::move(output));
    } catch (const std::exception&) {
        task.output_lost = true;
    }
}

}  // namespace

void take_output(WorkerOutput& output, const WorkerMemory& memory, PoolTask* task) noexcept {
    std::uint32_t position = memory.ring.position(memory.ring.consumed());
    // Copied once: I7.
    const OutputMark end = memory.ring_segment.at<OutputMark>(kOutputMarksAt)[position];
    if (task) store_output(*task, [&] { return output.read(end); });
    output.end_task(end);
}

void keep_output(const WorkerOutput& output, PoolTask& task) noexcept {
    store_output(task, [&] { return output.read(); });
}

std::string last_words(const TaskOutput& output) {
    std::string line = last_line(output.err);
    if (line.empty() || line.starts_with(kOutputNote)) return {};
    return fmt::format("it last wrote \"{}\" to stderr", line);
}

}  // namespace sidestep::detail
