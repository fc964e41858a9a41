#include "pool_order.hpp"

#include <exception>
#include <functional>
#include <memory>
#include <span>

#include <sidestep/detail/hosted.hpp>
#include <sidestep/detail/pool_task.hpp>
#include <sidestep/pool_proxy.hpp>

#include "nested/nested_message.hpp"
#include "object_server.hpp"
#include "pool_access.hpp"
#include "sys/fd.hpp"
#include "task/task_ids.hpp"

namespace sidestep::inline v0::detail {
namespace {

// However the call ends: a task that nobody waits for any more is not to run.
class EndsWithCall {
  public:
    explicit EndsWithCall(PoolTask& task) : task_(task) {}
    ~EndsWithCall() {
        if (!task_.done()) task_.cancel_parts(true);
    }
    EndsWithCall(const EndsWithCall&) = delete;
    EndsWithCall& operator=(const EndsWithCall&) = delete;

  private:
    PoolTask& task_;
};

PoolTaskRef task_of_order(const std::shared_ptr<PoolCore>& core, const PoolOrder& order,
                          InputArchive& arguments) {
    static auto* const ids = new TaskIds;  // never destroyed
    const TaskEntry& entry = require_entry(order.id, "the task for the pool");
    ObjectServer::current().entry = &entry;  // that is what runs, for who looks on
    if (order.options) check_sent_options(order.options->options);
    PoolTaskRef task = PoolTask::create(core, {ids->lasting(order.id), entry},
                                        order.options ? &order.options->options : nullptr);
    TaskWriter writer(*task);
    for (std::uint64_t i = 0; i < order.fds; ++i)
        (void)writer.put(Fd(arguments.fds()->get(i)).get());
    const std::span<const std::byte> bytes = arguments.view(arguments.remaining());
    writer.write(bytes.data(), bytes.size());
    return task;
}

void write_failure(const std::exception_ptr& failure, OutputArchive& result) {
    ObjectServer::current().answers = FrameKind::failure;
    save_failure(result, failure);
}

void write_end(const PoolTask& task, OutputArchive& result) {
    const PoolTask::Ending end = task.ending();
    if (end.failure) return write_failure(end.failure, result);
    if (!end.has_value) ObjectServer::current().answers = FrameKind::error;
    result.write(end.bytes.data(), end.bytes.size());
}

}  // namespace

// What waits is in the pool, and no call in the object: that is entered to wait, and no sooner.
void PoolOrderBody::run(InputArchive& arguments, OutputArchive& result) {
    Hosted& object = hosted_here(hosted_type<PoolObject>());
    const Pool& pool = *static_cast<const PoolObject*>(object.object())->pool;
    const std::shared_ptr<PoolCore>& core = PoolAccess::core(pool);
    PoolOrder order;
    arguments(order);
    PoolTaskRef task;
    try {
        check_open(*core);
        task = task_of_order(core, order, arguments);
        PoolTask::submit(task, nullptr, true);
    } catch (const PoolError&) {  // it is broken, or was terminated meanwhile
        return write_failure(std::current_exception(), result);
    }
    const EndsWithCall ends(*task);
    std::function<void()> wake = waker_here();
    if (task->add_callback(wake)) {
        const StopScope stops([&] { (void)task->cancel(); });
        const HostedScope<PoolObject> inside;
        (void)wait_here([&] { return task->done(); }, {});
    }
    write_end(*task, result);
}

}  // namespace sidestep::detail
