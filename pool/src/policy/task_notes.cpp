#include "policy/task_notes.hpp"

#include <utility>

#include <sidestep/detail/call_times.hpp>

#include "insight/task_facts.hpp"

namespace sidestep::inline v0::detail {
namespace {

const char* outcome_of(FailureKind kind) {
    switch (kind) {
        case FailureKind::error:
            return "error";
        case FailureKind::timeout:
            return "timeout";
        case FailureKind::crash:
            return "crash";
        case FailureKind::out_of_memory:
            return "out of memory";
        case FailureKind::cancelled:
            return "cancelled";
    }
    return "";
}

void note(Insight& insight, const Lane& lane, PoolTask& task, std::uint64_t begun,
          std::uint64_t duration, const char* outcome) POOL_LOCKED {
    if (std::uint64_t submitted = std::exchange(task.time_ns, 0))
        insight.note_wait(begun - submitted);
    insight.note_run(facts_of(task),
                     {lane.number, lane.number, lane.pid, begun, duration, outcome});
}

}  // namespace

void note_reply(Insight& insight, const Lane& lane, PoolTask& task, const TaskReply& reply) {
    note(insight, lane, task, reply.begun_ns, reply.duration_ns,
         reply.is_value ? "value" : "error");
}

void note_stopped(Insight& insight, const Lane& lane, PoolTask& task, FailureKind kind) {
    std::uint64_t now = steady_now_ns();
    std::uint64_t begun = lane.begun_ns(now);
    note(insight, lane, task, begun, now - begun, outcome_of(kind));
}

}  // namespace sidestep::detail
