#include "call_task.hpp"

#include <algorithm>

#include <sidestep/actor_lost.hpp>
#include <sidestep/detail/exposed.hpp>
#include <sidestep/remote_error.hpp>

#include "nested/nested_message.hpp"
#include "server_link.hpp"

namespace sidestep::inline v0::detail {

CallTask::CallTask(std::shared_ptr<ServerLink> link, std::uint64_t object, std::uint64_t caller,
                   const CallKind* kind)
    : link_(std::move(link)),
      object_(object),
      caller_(caller),
      entry_(kind ? &kind->entry : nullptr),
      method_(kind ? kind->method : nullptr) {
    belong_to(link_->generation());
    (void)start();  // it cannot be taken back
}

CallTask::~CallTask() {
    if (watch_ && link_->same_process()) {
        std::lock_guard lock(watch_->mutex);
        watch_->task = nullptr;
    }
    if (!link_->same_process() || seen_.load(std::memory_order_relaxed)) return;
    if ((kind_ == FrameKind::value && !lost_) || cancelled()) return;
    link_->note_unseen(object_, decode_error());
}

std::string CallTask::method() const {
    if (method_) return "the method " + readable_method(method_);
    return entry_ ? describe_entry(*entry_) : "(a question)";
}

std::string CallTask::short_method() const {
    if (!method_) return entry_ ? "a " + describe_entry(*entry_) : "(a question)";
    return readable_method(method_, MethodText::name_alone);
}

bool CallTask::take_attempt(bool crashed) {
    if (done() || failed_ + 1 >= limits_.attempts) return false;
    if (crashed && crashes_ + 1 >= limits_.crashes) return false;
    ++failed_;
    crashes_ += crashed;
    return true;
}

void CallTask::tell_attempts(TaskError::Details& details, bool crashed) const {
    details.attempts = failed_ + 1;
    details.most_attempts = std::max(limits_.attempts, details.attempts);
    if (crashed && details.attempts < details.most_attempts && crashes_ + 1 >= limits_.crashes)
        details.retry_limit = limits_.crashes;
}

bool CallTask::cancel() {
    if (done()) return cancelled();
    const std::uint64_t request = request_.load(std::memory_order_relaxed);
    if (!link_->same_process() || request == 0) return false;
    try {
        (void)link_->cancel(request);  // who reads the answer ends this call
    } catch (const ActorLost&) {       // so is this call
        return false;
    }
    // Wherever the task is on its way to the pool, or in it: it is ended now, or was before.
    if (pool_) (void)wait({});
    return cancelled();
}

bool CallTask::cancelled() const {
    if (!done()) return false;
    return cancelled_ || (kind_ == FrameKind::failure && is_cancellation(decode_error()));
}

void CallTask::end_cancelled() {
    (void)try_finish([&] {
        cancelled_ = true;
        lost_ = std::make_exception_ptr(CancelledError("the call was cancelled before it began"));
    });
}

void CallTask::answer(std::vector<std::byte> bytes, FrameKind kind) {
    (void)try_finish([&] {
        bytes_ = std::move(bytes);
        kind_ = kind;
    });
}
void CallTask::lose(std::exception_ptr error) {
    (void)try_finish([&] { lost_ = std::move(error); });
}

bool CallTask::wait(const Deadline& deadline) {
    if (done()) return true;
    if (!link_->same_process()) return LocalTaskBase::wait(deadline);
    WaitScope waits;
    (void)link_->wait_until([this] { return done(); }, deadline);
    return done();
}
bool CallTask::poll() {
    if (!done() && link_->same_process()) link_->poll();
    return done();
}
// First who reads: if there is no thread for that, nobody is left listening.
bool CallTask::listen(const std::shared_ptr<CompletionQueue>& queue, std::size_t tag) {
    if (done() || !link_->same_process()) return false;
    link_->read_in_background();
    return LocalTaskBase::listen(queue, tag);
}
bool CallTask::add_callback(std::function<void()>& callback) {
    if (done() || !link_->same_process()) return false;
    link_->read_in_background();
    // Who reads an answer does not run it: it may take its time, or make calls of its own.
    auto work = std::make_shared<Callbacks>();
    work->push_back(callback);
    std::function<void()> posted = [link = link_, work] { link->post(std::move(*work)); };
    if (!LocalTaskBase::add_callback(posted)) return false;
    seen_.store(true, std::memory_order_relaxed);  // it is the callback's
    return true;
}

const void* CallTask::value() const {
    if (std::exception_ptr failure = error()) std::rethrow_exception(failure);
    return nullptr;
}
std::exception_ptr CallTask::error() const {
    seen_.store(true, std::memory_order_relaxed);
    return decode_error();
}

// By who asks: a `load` of the user's hurts nobody else.
std::exception_ptr CallTask::decode_error() const {
    if (std::exception_ptr other = LocalTaskBase::error()) return other;
    if (lost_) return lost_;
    if (kind_ == FrameKind::value) return nullptr;
    std::call_once(decoded_, [this] {
        try {
            error_ = read_error();
            std::rethrow_exception(error_);
        } catch (const NotExposed& error) {
            // The server knows by which name it was asked; what that is, this program knows.
            if (method_) error_ = std::make_exception_ptr(error.named(method()));
        } catch (...) {
            error_ = std::current_exception();
        }
    });
    return error_;
}

std::exception_ptr CallTask::read_error() const {
    if (kind_ == FrameKind::failure) return load_ending(NestedHead::Ending::failure, bytes_);
    InputArchive archive(bytes_);
    return load_exception(archive);
}

}  // namespace sidestep::detail
