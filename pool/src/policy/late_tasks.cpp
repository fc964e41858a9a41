#include "policy/late_tasks.hpp"

#include <cstddef>
#include <utility>

#include <sidestep/detail/call_times.hpp>

#include "policy/other_hosts.hpp"

namespace sidestep::inline v0::detail {

class LateTasks::Late final : public Dependents::Waiting {
  public:
    Late(LateTasks& desk, PoolTask& task, std::unique_ptr<LateArguments> its_arguments)
        : Waiting(its_arguments->needs()), arguments(std::move(its_arguments)), desk_(desk) {
        task.add_reference();
        task_ = PoolTaskRef(&task);
    }
    void begin() noexcept override { desk_.begin(*this); }
    void fail(const std::exception_ptr& error, bool cancelled) noexcept override {
        desk_.fail(*this, error, cancelled);
    }
    PoolTask& task() { return *task_; }
    // As forget(), in begin() and fail(): who calls them has a reference to this.
    void leave() noexcept POOL_LOCKED {
        auto at = desk_.waiting_.find(task_.get());
        std::shared_ptr<Late> own = std::move(at->second.late);
        desk_.waiting_.erase(at);
        ++desk_.left_;
        desk_.dependents_.remove(*own);
    }

    const std::unique_ptr<LateArguments> arguments;

  private:
    LateTasks& desk_;
    PoolTaskRef task_;
};

std::shared_ptr<Dependents::Waiting> LateTasks::add(PoolTask& task,
                                                    std::unique_ptr<LateArguments> arguments) {
    auto late = std::make_shared<Late>(*this, task, std::move(arguments));
    waiting_.emplace(&task, Entry{late});
    task.place = PoolTask::Place::late;
    return late;
}

void LateTasks::forget(PoolTask& task, Hold& hold) noexcept {
    auto at = waiting_.find(&task);
    if (at == waiting_.end()) return;
    Entry entry = std::move(at->second);
    waiting_.erase(at);
    ++left_;
    dependents_.remove(*entry.late);
    entry.place.front() = std::move(entry.late);
    hold.drop_later(std::move(entry.place));
}

PoolTask* LateTasks::take_one(Hold& hold) noexcept {
    if (waiting_.empty()) return nullptr;
    PoolTask* task = waiting_.begin()->first;
    forget(*task, hold);
    return task;
}

// What is large is written to its place without the mutex: nobody but this thread knows of it.
void LateTasks::begin(Late& late) noexcept {
    PoolTask& task = late.task();
    LateArguments& arguments = *late.arguments;
    TaskBytes bytes;
    BlockId block = 0;
    std::exception_ptr error;
    try {
        std::size_t size = arguments.gather();
        std::byte* place = nullptr;
        if (size <= PoolTask::kInline) {
            place = bytes.make_room(size);
        } else {
            PoolLock lock(rooms_.mutex);
            block = rooms_.arguments.allocate(size);
            place = rooms_.arguments.data(block);
            bytes.set_size(size);
        }
        arguments.copy_to(place);
    } catch (...) {
        error = std::current_exception();
    }
    Hold hold(rooms_.mutex, rooms_.sleepers);
    if (task.place != PoolTask::Place::late) {  // it was ended meanwhile
        if (block) rooms_.arguments.free(block);
        return;
    }
    late.leave();
    if (!error) {
        try {
            if (rooms_.dispatcher.elsewhere())  // a result may have brought some
                OtherHosts::require_no_handles(arguments.descriptors());
            task.take_arguments(block, bytes, arguments.descriptors());
        } catch (...) {
            error = std::current_exception();
        }
    }
    if (error) {
        if (block) rooms_.arguments.free(block);
        rooms_.task_end.fail(&task, std::move(error), hold);
        return hold.wake_waiters();
    }
    task.time_ns = steady_now_ns();
    rooms_.dispatcher.place_late(&task, hold);
}

void LateTasks::fail(Late& late, const std::exception_ptr& error, bool cancelled) noexcept {
    PoolTask& task = late.task();
    Hold hold(rooms_.mutex, rooms_.sleepers);
    if (task.place != PoolTask::Place::late) return;
    late.leave();
    if (cancelled)
        rooms_.task_end.cancel(&task, error, hold);
    else
        rooms_.task_end.fail(&task, error, hold);
    hold.wake_waiters();
}

}  // namespace sidestep::detail
