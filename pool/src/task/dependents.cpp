#include "task/dependents.hpp"

#include "forked_copy.hpp"
#include "spare_errors.hpp"

namespace sidestep::inline v0::detail {
namespace {

thread_local const Dependents* dependents_here = nullptr;

// Why this task, which is done, has no value; null: it has one.
std::exception_ptr why_useless(const TaskState& task) {
    return task.done() ? task.error() : never_told();
}

}  // namespace

void Dependents::add(const std::shared_ptr<Waiting>& task) noexcept {
    std::size_t done = 0;
    for (const TaskRef& need : task->needs()) {
        if (!need->done()) continue;
        if (std::exception_ptr error = need->error()) return task->fail(error, need->cancelled());
        ++done;
    }
    if (done >= task->left_) return task->begin();
    bool is_listed = false;
    try {
        listen(task, is_listed);
    } catch (...) {
        std::exception_ptr error = std::current_exception();
        if (!is_listed || take(*task)) task->fail(error, false);
    }
}

void Dependents::listen(const std::shared_ptr<Waiting>& task, bool& is_listed) {
    {
        std::lock_guard lock(mutex_);
        task->first_tag_ = next_tag_;
        next_tag_ += task->needs().size();
        waiting_.emplace(task->first_tag_, task);
        is_listed = true;
        if (!thread_.joinable()) start();
    }
    std::size_t tag = task->first_tag_;
    for (const TaskRef& need : task->needs()) {
        if (!need->listen(queue_, tag)) queue_->add(tag);
        ++tag;
    }
}

// For what stop() and settle() say there is room.
void Dependents::start() {
    queue_->expect();
    queue_->expect();
    thread_.start("sidestep-wait", ServiceThread::Runs::users_code, [this] { run(); });
}

void Dependents::remove(const Waiting& task) noexcept { (void)take(task); }

// What it waited for may be the last reference to a task, whose pool's mutex that wants: the caller
// has another one to this.
std::shared_ptr<Dependents::Waiting> Dependents::take(const Waiting& task) noexcept {
    std::lock_guard lock(mutex_);
    auto at = waiting_.find(task.first_tag_);
    if (at == waiting_.end() || at->second.get() != &task) return {};
    std::shared_ptr<Waiting> taken = std::move(at->second);
    waiting_.erase(at);
    return taken;
}

void Dependents::run() {
    dependents_here = this;
    for (;;) {
        (void)queue_->wait({});
        std::optional<std::size_t> tag = queue_->pop();
        if (tag == kStop) return;
        if (tag == kSettle) {
            expect_another();
            std::lock_guard lock(mutex_);
            is_settled_ = true;
            settled_.notify_all();
        } else if (tag) {
            tell(*tag);
        }
    }
}

// For the next settle(). If there is no memory, there is room all the same but when others expect
// as many as were ever there.
void Dependents::expect_another() noexcept {
    try {
        queue_->expect();
    } catch (const std::bad_alloc&) {
    }
}

void Dependents::tell(std::size_t tag) noexcept {
    std::shared_ptr<Waiting> task;
    bool is_last = false;
    {
        std::lock_guard lock(mutex_);
        auto after = waiting_.upper_bound(tag);
        if (after == waiting_.begin()) return;
        task = std::prev(after)->second;
        if (tag - task->first_tag_ >= task->needs().size()) return;  // it waits no more
        is_last = --task->left_ == 0;
    }
    TaskState& need = *task->needs()[tag - task->first_tag_];
    std::exception_ptr error = made_or(spare_errors().no_memory, [&] { return why_useless(need); });
    if (error) {
        if (take(*task)) task->fail(error, need.cancelled());
    } else if (is_last && take(*task)) {
        task->begin();
    }
}

void Dependents::settle() noexcept {
    std::lock_guard only_one(settling_one_);
    std::unique_lock lock(mutex_);
    if (!thread_.joinable()) return;
    is_settled_ = false;
    queue_->push(kSettle);
    settled_.wait(lock, [this] { return is_settled_; });
}

void Dependents::stop() noexcept {
    std::lock_guard only_one(settling_one_);
    std::map<std::size_t, std::shared_ptr<Waiting>> over;  // it refers to the pool
    ServiceThread finished;
    {
        std::lock_guard lock(mutex_);
        over.swap(waiting_);
        if (!thread_.joinable()) return;
        queue_->push(kStop);
        finished.swap(thread_);
    }
    finished.join();
}

bool Dependents::is_this_thread() const { return dependents_here == this; }

}  // namespace sidestep::detail
