#include "pool_order.hpp"

#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>

#include <sidestep/detail/hosted.hpp>
#include <sidestep/detail/pool_task.hpp>
#include <sidestep/pool_proxy.hpp>

#include "nested/nested_message.hpp"
#include "object_server.hpp"
#include "pool_access.hpp"
#include "spare_errors.hpp"
#include "sys/fd.hpp"
#include "task/task_ids.hpp"

namespace sidestep::inline v0::detail {
namespace {

// A call's task in the pool. However the call ends: one that nobody waits for is not to run.
class Submission {
  public:
    explicit Submission(PoolTask& task) : task_(task) {}
    ~Submission() { stop(true); }
    Submission(const Submission&) = delete;
    Submission& operator=(const Submission&) = delete;

    // False: it was stopped before.
    bool submit(const PoolTaskRef& task, const std::function<bool()>& unwanted) {
        std::lock_guard lock(mutex_);
        if (stopped_ || unwanted()) return false;
        PoolTask::submit(task, nullptr, true);
        return submitted_ = true;
    }
    void stop(bool running_too) {
        std::lock_guard lock(mutex_);
        stopped_ = true;
        if (submitted_ && !task_.done()) task_.cancel_parts(running_too);
    }

  private:
    PoolTask& task_;
    std::mutex mutex_;
    bool submitted_ = false, stopped_ = false;  // guarded by mutex_
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
    ObjectServer::CurrentCall& call = ObjectServer::current();
    auto unwanted = [&] { return call.server.has_left(*call.client); };
    PoolTaskRef task;
    try {
        check_open(*core);
        task = task_of_order(core, order, arguments);
    } catch (const PoolError&) {  // it is broken
        return write_failure(std::current_exception(), result);
    }
    if (pool.processes() == 0) {  // it runs here, in submit()
        PoolTask::submit(task, nullptr, true);
        return write_end(*task, result);
    }
    Submission submission(*task);
    const StopScope stops([&](bool running_too) { submission.stop(running_too); });
    try {
        if (!submission.submit(task, unwanted)) {
            if (unwanted()) throw GivenUp();
            return write_failure(spare_errors().cancelled, result);
        }
    } catch (const PoolError&) {  // it was terminated meanwhile
        return write_failure(std::current_exception(), result);
    }
    std::function<void()> wake = waker_here();
    if (task->add_callback(wake)) {
        const HostedScope<PoolObject> inside;
        (void)wait_here([&] { return task->done(); }, {});
    }
    if (task->cancelled() && unwanted()) throw GivenUp();
    write_end(*task, result);
}

}  // namespace sidestep::detail
