// What tasks wrote, from their worker to their future.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>

#include "pool_core.hpp"

namespace sidestep::inline v0::detail {
namespace {

using namespace std::chrono_literals;
constexpr std::chrono::nanoseconds kTrimLook = 20ms;
constexpr std::chrono::nanoseconds kLongestTrimLook = 250ms;  // while nothing is written

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

}  // namespace

std::string PoolCore::last_words(const TaskOutput& output) {
    std::string line = last_line(output.err);
    if (line.empty() || line.starts_with(kOutputNote)) return {};
    return fmt::format("it last wrote \"{}\" to stderr", line);
}

// Without memory for it the output is lost, and says so; the task is not.
template <class Read>
void PoolTask::store_output(Read read) noexcept {
    output_ = nullptr;
    output_lost_ = false;
    try {
        TaskOutput output = read();
        if (!is_empty(output)) output_ = std::make_unique<TaskOutput>(std::move(output));
    } catch (const std::exception&) {
        output_lost_ = true;
    }
}

// The task at the front of the ring is done. None: one that was evicted, or the request to stop.
void PoolCore::take_output(WorkerLink& link, PoolTask* task) noexcept {
    const Segment& memory = link.memory->ring_segment;
    std::uint32_t position = link.ring().position(link.ring().consumed());
    const OutputMark end = memory.at<OutputMark>(kOutputMarksAt)[position];  // copied once: I7
    if (task) task->store_output([&] { return link.output->read(end); });
    link.output->end_task(end);
}

// The task at the front is ended while it runs.
void PoolCore::keep_output(const WorkerLink& link, PoolTask& task) noexcept {
    if (link.output) task.store_output([&] { return link.output->read(); });
}

// A task that prints without end takes no more memory than its limit, and what it prints between
// two looks; so does what a task has left running, also while the pool has nothing to do.
void PoolCore::trim_outputs(sys::Clock::time_point now) {
    if (!timers_.is_due(Timers::Purpose::output, now)) return;
    timers_.set(Timers::Purpose::output, now + kTrimLook);
    bool grows = false;
    for (WorkerLink& link : links_)
        if (link.output) grows = link.output->trim() || grows;
    trim_pause_ = grows || task_end_.outstanding() > 0
                      ? kTrimLook
                      : std::min(2 * std::max(trim_pause_, kTrimLook / 2), kLongestTrimLook);
    if (all_gone())
        timers_.clear(Timers::Purpose::output);
    else
        timers_.set(Timers::Purpose::output, now + trim_pause_);
}

}  // namespace sidestep::detail
