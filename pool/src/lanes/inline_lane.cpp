#include "lanes/inline_lane.hpp"

#include <unistd.h>

#include <new>
#include <span>
#include <utility>
#include <vector>

#include <sidestep/detail/call_times.hpp>
#include <sidestep/detail/chunk.hpp>
#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/this_task.hpp>

#include "insight/task_facts.hpp"
#include "spare_errors.hpp"
#include "task/local_fds.hpp"
#include "worker/line_mark.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::uint32_t kNoLimit32 = ~std::uint32_t(0);

// What map_reduce()'s function threw, as a worker would send it: with a traceback that names the
// item. (Its chunks do so by themselves.)
std::exception_ptr told_with_item(std::exception_ptr error) noexcept {
    try {
        HeapBuffer buffer;
        OutputArchive output(buffer);
        try {
            std::rethrow_exception(error);
        } catch (...) {
            save_current_exception(output, task_description());
        }
        InputArchive input(buffer.bytes());
        return load_exception(input);
    } catch (...) {  // no memory, or its own way to be written throws: it goes without
        return error;
    }
}

}  // namespace

InlineLane::InlineLane(const Pool& pool, Again again)
    : Lane(0), pool_(pool), again_(std::move(again)) {
    pid = pool.pid;
    load.works = true;
    load.most = kNoLimit32;
}

bool InlineLane::start(PoolTask& task, Hold& hold) {
    hold.unlock();
    InPool here(pool_.itself);
    HeapBuffer result;
    std::exception_ptr error;
    for (bool again = true; again;) {
        TaskContext context = context_of(task);
        TaskScope scope(context);  // Retry::when and the pause before the next attempt are in it
        std::uint64_t begun = steady_now_ns();
        result.clear();
        error = attempt(task, result);
        note(task, begun, error != nullptr);
        again = error && again_(task, error);
    }
    std::vector<std::byte> bytes;
    try {
        bytes.assign(result.bytes().begin(), result.bytes().end());
    } catch (const std::bad_alloc&) {
        error = spare_errors().no_memory;
    }
    hold.lock();
    if (error) {
        pool_.task_end.fail(&task, error, hold);
        hold.wake_waiters();
        return true;
    }
    task.bytes.take(std::move(bytes));
    task.has_value = true;
    task.time_ns = 0;
    task.end_items();
    pool_.task_end.complete(&task, hold);
    hold.wake_waiters();
    return true;
}

TaskContext InlineLane::context_of(const PoolTask& task) const {
    TaskContext context;
    context.number = context.item = task.serial;
    context.seed = pool_.seed;
    context.attempt = task.failures.attempts + 1u;
    context.worker = 0;
    context.items_begin = task.items().begin;
    context.items_end = task.items().end;
    context.pool = &nested_;
    return context;
}

std::exception_ptr InlineLane::attempt(const PoolTask& task, OutputBuffer& result) {
    PoolTask::ArgumentView arguments = task.argument_view();
    const std::byte* data =
        arguments.block ? pool_.arguments.data(arguments.block) : arguments.inline_bytes;
    try {
        LocalFds fds(*arguments.fds);
        std::span<const std::byte> bytes(data, arguments.size);
        if (pool_.lines_name_tasks) (void)take_task_name(bytes);
        InputArchive input(bytes, &fds);
        OutputArchive output(result);
        task.entry->run(input, output);
        return nullptr;
    } catch (...) {
        pass_on_forced_unwind();
        return task_context()->tells_item ? told_with_item(std::current_exception())
                                          : std::current_exception();
    }
}

// Tracks of a trace are threads here.
void InlineLane::note(const PoolTask& task, std::uint64_t begun_ns, bool failed) {
    std::uint64_t duration = steady_now_ns() - begun_ns;
    PoolLock lock(pool_.mutex);
    if (task.failures.attempts > 0) pool_.insight.note_retry();
    pool_.insight.note_run(facts_of(task), {0, static_cast<std::uint32_t>(::gettid()), pool_.pid,
                                            begun_ns, duration, failed ? "error" : "value"});
}

TaskError::Details InlineLane::describe(const PoolTask& task) const {
    TaskError::Details details;
    details.pid = pid;
    tell_task(details, task);
    return details;
}

}  // namespace sidestep::detail
