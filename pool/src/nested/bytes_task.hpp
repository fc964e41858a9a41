// A task whose result comes as bytes, and which a thread of this process completes.
#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include <sidestep/detail/local_task.hpp>

namespace sidestep::inline v0::detail {

// Base: what it is besides, a job of a ThreadPool say.
template <class Base = LocalTaskBase>
class BytesTask : public Base {
  public:
    // The bytes of a value, which live as long as `owner`; unless there is a result already.
    void set_bytes(std::shared_ptr<const void> owner, std::span<const std::byte> bytes) {
        (void)this->try_finish([&] {
            owner_ = std::move(owner);
            bytes_ = bytes;
        });
    }
    std::span<const std::byte> result() const override {
        if (std::exception_ptr failure = this->error()) std::rethrow_exception(failure);
        return bytes_;
    }

  protected:
    BytesTask() = default;

  private:
    std::shared_ptr<const void> owner_;  // once done
    std::span<const std::byte> bytes_;
};

// The end of the one, however it comes, is that of the other, too.
template <class Task, class Result>
void follow(const Ref<Task>& task, const Ref<Result>& result) {
    auto owner = std::make_shared<Ref<Task>>(task);  // now: to tell of the end takes no memory
    std::function<void()> tell = [task, result, owner] {
        if (std::exception_ptr error = task->error())
            return void(task->cancelled() ? result->fail_cancelled(error)
                                          : result->try_fail(error));
        result->set_bytes(owner, task->result());
    };
    if (!task->add_callback(tell)) tell();
}

}  // namespace sidestep::detail
