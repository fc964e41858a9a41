#include "policy/outcomes.hpp"

#include <utility>

#include "policy/pool_end.hpp"
#include "policy/task_notes.hpp"

namespace sidestep::inline v0::detail {

void Outcomes::given(const PoolTask& task, Hold& hold) { policies_.limits.watch(task, hold); }

void Outcomes::finished(Lane& lane, PoolTask& task, const TaskReply& reply, Hold& hold) {
    note_reply(rooms_.insight, lane, task, reply);
    rooms_.dispatcher.learn(reply.duration_ns);
    if (!reply.is_value && policies_.retries.may_retry(task, FailureKind::error) &&
        policies_.retries.retry_reply(task, reply, hold))
        return;
    keep_reply(reply, task);
    rooms_.task_end.complete(&task, hold);
}

void Outcomes::lost(Lane& lane, PoolTask& task, const std::exception_ptr& error,
                    Hold& hold) noexcept {
    if (rooms_.life.ending()) return fail_at_end(rooms_, &task, hold);
    note_stopped(rooms_.insight, lane, task, FailureKind::crash);
    policies_.crash_loop.note_begun_task();
    if (!policies_.chunks.recover(&task, ChunkRecovery::finished(lane, task), FailureKind::crash,
                                  error, hold))
        policies_.retries.retry_or_fail(&task, FailureKind::crash, error, hold);
}

void Outcomes::handed_back(PoolTask& task, Hold& hold) noexcept {
    if (rooms_.life.ending())
        fail_at_end(rooms_, &task, hold);
    else
        rooms_.dispatcher.handed_back(task);
}

void Outcomes::stopped(Stopping done, Hold& hold) noexcept {
    policies_.stopper.stopped(std::move(done), hold);
}

}  // namespace sidestep::detail
