#include <sidestep/completions.hpp>

#include <exception>

#include "forked_copy.hpp"

namespace sidestep::inline v0::detail {

CompletionSet::CompletionSet()
    : queue_(std::make_shared<CompletionQueue>(CompletionQueue::Descriptor::yes)) {}

CompletionSet::~CompletionSet() {
    for (auto& [number, each] : added_) each.task->forget(queue_);
}

void CompletionSet::add(const TaskRef& task, std::uint64_t tag) {
    if (!task) throw_empty_future();
    std::size_t number = 0;
    {
        std::lock_guard lock(mutex_);
        number = next_number_++;
        added_.emplace(number, Done{task, tag});
    }
    try {
        if (task->listen(queue_, number)) return;
        if (!task->done()) std::rethrow_exception(never_told());
        queue_->add(number);
    } catch (...) {
        std::lock_guard lock(mutex_);
        added_.erase(number);
        throw;
    }
}

std::optional<CompletionSet::Done> CompletionSet::try_next() {
    std::optional<std::size_t> number = queue_->pop();
    if (!number) return {};
    std::lock_guard lock(mutex_);
    auto at = added_.find(*number);
    Done done = std::move(at->second);
    added_.erase(at);
    return done;
}

std::optional<CompletionSet::Done> CompletionSet::next(const Deadline& deadline) {
    for (;;) {
        if (auto done = try_next()) return done;
        if (size() == 0 || !queue_->wait(deadline)) return {};
    }
}

std::size_t CompletionSet::size() const {
    std::lock_guard lock(mutex_);
    return added_.size();
}

}  // namespace sidestep::detail
