// A Pool of a server, as its clients submit to it: this_task::pool(), from further away. A task is
// a call of the server's object; what comes after one (then()) is sent when that is done.
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include <sidestep/detail/held_object.hpp>
#include <sidestep/detail/nested_pool.hpp>
#include <sidestep/pool_proxy.hpp>
#include <sidestep/proxy.hpp>

#include "call_task.hpp"
#include "nested/bytes_task.hpp"
#include "pool_order.hpp"
#include "spare_errors.hpp"
#include "sys/fork_marker.hpp"

namespace sidestep::inline v0::detail {
namespace {

class RemotePool final : public NestedPool, public std::enable_shared_from_this<RemotePool> {
  public:
    explicit RemotePool(HeldRef object) : object_(std::move(object)) {}

    TaskRef submit(NestedOrder& order) override;
    unsigned processes() const override {
        return Proxy<PoolObject>(object_).call<&PoolObject::processes>();
    }
    // Now: `after` is done, and is behind the arguments.
    TaskRef send(const NestedOrder& order);
    void note_unseen(const std::exception_ptr& error) const noexcept {
        detail::note_unseen(object_, error);
    }

  private:
    const HeldRef object_;
};

// What comes after a task of the pool. Whoever reads that one's end sends it.
class NextTask final : public BytesTask<> {
  public:
    NextTask(std::shared_ptr<RemotePool> pool, const NestedOrder& order)
        : pool_(std::move(pool)), order_(order.kind) {
        belong_to(ForkMarker().generation());
        order_.arguments.write(order.arguments.begin(), order.arguments.size());
        for (int fd : order.fds.numbers()) (void)order_.fds.put(fd);
    }
    // Begins it, once.
    static void after(const TaskRef& first, const Ref<NextTask>& next) {
        std::function<void()> tell = [first, next] { go_on(first, next); };
        if (!first->add_callback(tell)) tell();
    }

    bool cancel() override;
    bool add_callback(std::function<void()>& callback) override {
        if (!BytesTask<>::add_callback(callback)) return false;
        seen_.store(true, std::memory_order_relaxed);  // it is the callback's
        return true;
    }
    std::exception_ptr error() const override {
        seen_.store(true, std::memory_order_relaxed);
        return BytesTask<>::error();
    }
    std::shared_ptr<NestedPool> nested_pool() const override { return pool_; }

  private:
    ~NextTask() override;
    static void go_on(const TaskRef& first, const Ref<NextTask>& next);
    // Null: it was cancelled.
    TaskRef send(const TaskState& first);

    const std::shared_ptr<RemotePool> pool_;
    NestedOrder order_;  // who sends it has this
    std::mutex mutex_;
    TaskRef sent_;                           // guarded by mutex_; null: it is not (yet)
    mutable std::atomic<bool> seen_{false};  // relaxed: a flag by itself
};

TaskRef RemotePool::submit(NestedOrder& order) {
    if (!order.after) return send(order);
    Ref<NextTask> next(new NextTask(shared_from_this(), order));
    NextTask::after(order.after, next);
    return TaskRef(std::move(next));
}

TaskRef RemotePool::send(const NestedOrder& order) {
    PoolOrder sent{order.kind.id, order.fds.numbers().size(), {}};
    if (order.options) sent.options.emplace(SentOptions{*order.options});
    // In messages it is called as what it runs.
    const CallKind kind{task_id<PoolOrderBody>(), order.kind.entry};
    TaskRef task = start_call(object_, kind, [&](OutputArchive& archive) {
        archive(sent);
        for (int fd : order.fds.numbers()) (void)archive.fds()->put(fd);
        archive.write(order.arguments.begin(), order.arguments.size());
    });
    static_cast<CallTask&>(*task).belong_to_pool(shared_from_this());
    return task;
}

NextTask::~NextTask() {
    if (!done() || cancelled() || seen_.load(std::memory_order_relaxed)) return;
    if (std::exception_ptr failure = BytesTask<>::error()) pool_->note_unseen(failure);
}

void NextTask::go_on(const TaskRef& first, const Ref<NextTask>& next) {
    try {
        if (std::exception_ptr failure = first->error())
            return void(first->cancelled() ? next->fail_cancelled(failure)
                                           : next->try_fail(failure));
        if (TaskRef sent = next->send(*first)) follow(sent, next);
    } catch (...) {  // the server is lost, or there is no memory
        (void)next->try_fail(std::current_exception());
    }
}

TaskRef NextTask::send(const TaskState& first) {
    std::lock_guard lock(mutex_);
    if (!start()) return {};
    order_.arguments.write(first.result().data(), first.result().size());
    return sent_ = pool_->send(order_);
}

bool NextTask::cancel() {
    if (BytesTask<>::cancel()) return true;
    if (done()) return cancelled();
    TaskRef sent;
    {
        std::lock_guard lock(mutex_);
        sent = sent_;
    }
    if (!sent || !sent->cancel()) return false;
    (void)fail_cancelled(spare_errors().cancelled);
    return cancelled();
}

}  // namespace

std::shared_ptr<NestedPool> remote_pool(const HeldRef& object) {
    return std::make_shared<RemotePool>(object);
}

}  // namespace sidestep::detail
