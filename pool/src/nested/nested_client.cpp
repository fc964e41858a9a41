#include "nested/nested_client.hpp"

#include <fmt/format.h>
#include <poll.h>

#include <cerrno>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include <sidestep/detail/chunk.hpp>
#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/detail/sent_options.hpp>
#include <sidestep/pool_errors.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/this_task.hpp>

#include "spare_errors.hpp"
#include "sys/error.hpp"
#include "sys/sys.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {
namespace {

using Word = NestedHead::Word;
using Ending = NestedHead::Ending;

PoolError unreachable_pool() {
    return PoolError(
        "this_task::pool(): the process of the pool cannot be reached: a task of this worker has "
        "closed or used its descriptors, or the pool's process had no descriptor, thread or memory "
        "left for it; what is submitted from now on goes a new way");
}

BlobBuffer message_of(const NestedHead& head) {
    BlobBuffer buffer;
    begin_message(buffer, head);
    return buffer;
}

}  // namespace

void NestedClient::require_here() const {
    if (!process_.same_process())
        throw std::logic_error(
            "this_task::pool(): this process is a forked copy of a worker; only the worker itself "
            "can submit tasks to its pool");
}

// --- the way to the pool's process -------------------------------------------------------------

// With requests_ held.
void NestedClient::open() {
    {
        std::lock_guard lock(mutex_);
        if (line_ == Line::open) return;
        if (line_ == Line::lost) throw unreachable_pool();
    }
    if (reader_.joinable()) reader_.join();  // of the line before
    sys::SocketPair pair = sys::make_socketpair();
    {
        std::lock_guard sending(sending_);
        socket_ = ParentFd(std::move(pair.first));
        std::lock_guard lock(mutex_);
        answer_.reset();
        line_ = Line::open;
    }
    try {
        reader_.start("sidestep-nested", ServiceThread::Runs::library_code,
                      [this] { read_answers(); });
    } catch (...) {
        std::lock_guard lock(mutex_);
        line_ = Line::none;
        throw;
    }
    send_other_end(pair.second.get());  // or the reader finds that nobody is there
}

void NestedClient::send_other_end(int socket) {
    WorkerReady line;
    line.magic = WorkerReady::kLineMagic;
    for (;;) {
        try {
            // A number that a task has closed may be a file of its own.
            if (!control_.file.is(control_.fd)) throw unreachable_pool();
            return sys::send_message(control_.fd, std::as_bytes(std::span(&line, 1)), {&socket, 1});
        } catch (const std::system_error& error) {
            if (error.code().value() != EAGAIN) throw;
        }
        pollfd entry = {control_.fd, POLLOUT, 0};
        if (::poll(&entry, 1, -1) < 0 && errno != EINTR) throw_errno(errno, "poll(nested)");
    }
}

Blob NestedClient::ask(BlobBuffer& question, const BlobFds& fds) {
    tell(question, fds);
    std::unique_lock lock(mutex_);
    answered_.wait(lock, [this] { return answer_ || line_ != Line::open; });
    if (!answer_) throw unreachable_pool();
    Blob answer = std::move(*answer_);
    answer_.reset();
    return answer;
}

Blob NestedClient::ask_alone(BlobBuffer& question) {
    std::lock_guard one_at_a_time(requests_);
    open();
    return ask(question);
}

void NestedClient::tell(BlobBuffer& message, const BlobFds& fds) {
    std::lock_guard lock(sending_);
    send_blob(socket_.get(), message, fds);
}

void NestedClient::read_answers() noexcept {
    try {
        while (std::optional<Blob> message = Blob::receive(socket_.get())) {
            NestedHead head = head_of(*message);
            if (head.word == Word::done) {
                complete(head.number, head.ending, std::move(*message));
                continue;
            }
            if (head.word == Word::run) {
                take_order(head, std::move(*message));
                continue;
            }
            std::lock_guard lock(mutex_);
            answer_ = std::move(message);
            answered_.notify_all();
        }
    } catch (const std::exception&) {  // what came is no message, or there is no memory for it
    }
    lose();
}

// The task is done for this client. Null: nobody has it any more.
Ref<NestedTask> NestedClient::take(std::uint64_t number) {
    std::lock_guard lock(mutex_);
    auto found = open_.find(number);
    if (found == open_.end()) return {};
    NestedTask* task = found->second;
    open_.erase(found);
    --count_;
    return task->add_reference_if_any() ? Ref<NestedTask>(task) : Ref<NestedTask>();
}

void NestedClient::complete(std::uint64_t number, Ending ending, Blob message) noexcept {
    Ref<NestedTask> task = take(number);
    if (!task) return;
    try {
        if (ending == Ending::value) {
            message.shrink();
            auto kept = std::make_shared<Blob>(std::move(message));
            return task->set_bytes(kept, body_of(*kept));
        }
        std::exception_ptr error = load_ending(ending, body_of(message));
        if (ending == Ending::failure && is_cancellation(error))
            (void)task->fail_cancelled(std::move(error));
        else
            (void)task->try_fail(std::move(error));
    } catch (const std::exception&) {
        (void)task->try_fail(spare_errors().no_memory);
    }
}

void NestedClient::lose() noexcept {
    std::exception_ptr error =
        made_or(spare_errors().broken, [] { return std::make_exception_ptr(unreachable_pool()); });
    for (;;) {
        std::uint64_t number = 0;
        {
            std::lock_guard lock(mutex_);
            line_ = Line::lost;
            answered_.notify_all();
            if (open_.empty()) {
                line_ = Line::none;
                return;
            }
            number = open_.begin()->first;
        }
        if (Ref<NestedTask> task = take(number)) (void)task->try_fail(error);
    }
}

// --- tasks -------------------------------------------------------------------------------------

// The pool's process begins what comes after a task of its own; of one that is done it may know no
// more, and then its result is here.
TaskRef NestedClient::submit(NestedOrder& order) {
    require_here();
    std::lock_guard one_at_a_time(requests_);
    open();
    if (!order.after) return TaskRef(send(order, 0));
    const auto& first = dynamic_cast<const NestedTask&>(*order.after);
    if (!first.done()) {
        if (Ref<NestedTask> task = send(order, first.number)) return TaskRef(std::move(task));
        if (!first.done()) throw unreachable_pool();
    }
    if (std::exception_ptr error = first.error()) {
        Ref<NestedTask> task = make_task();
        (void)(first.cancelled() ? task->fail_cancelled(error) : task->try_fail(error));
        return TaskRef(std::move(task));
    }
    order.arguments.write(first.result().data(), first.result().size());
    return TaskRef(send(order, 0));
}

Ref<NestedTask> NestedClient::make_task() {
    std::lock_guard lock(mutex_);
    if (line_ != Line::open) throw unreachable_pool();
    Ref<NestedTask> task(new NestedTask(shared_from_this(), ++last_number_));
    task->belong_to(process_.generation());
    return task;
}

// With requests_ held. Null: it was to come after one that is known to be done.
Ref<NestedTask> NestedClient::send(const NestedOrder& order, std::uint64_t after) {
    Ref<NestedTask> task = make_task();
    {
        std::lock_guard lock(mutex_);
        if (line_ != Line::open) throw unreachable_pool();
        open_.emplace(task->number, task.get());
        ++count_;
    }
    NestedHead head;
    head.number = task->number;
    head.id = order.kind.id;
    head.fds = order.fds.numbers().size();
    head.after = after;
    HeapBuffer options;
    if (order.options) {
        OutputArchive archive(options);
        archive(SentOptions{*order.options});
    }
    head.options = options.size();
    BlobBuffer question = message_of(head);
    question.write(order.arguments.begin(), order.arguments.size());
    question.write(options.begin(), options.size());
    Blob answer = ask(question, message_fds(order.fds.numbers()));
    head = head_of(answer);
    if (head.word == Word::accepted) return task;
    (void)take(task->number);
    if (head.word == Word::known) return {};
    std::rethrow_exception(load_ending(head.ending, body_of(answer)));
}

bool NestedClient::cancel(const NestedTask& task) {
    NestedHead head;
    head.word = Word::cancel;
    head.number = task.number;
    BlobBuffer question = message_of(head);
    return head_of(ask_alone(question)).number != 0;
}

void NestedClient::forget(const NestedTask& task) noexcept {
    if (!process_.same_process()) return;
    {
        std::lock_guard lock(mutex_);
        if (open_.erase(task.number) == 0) return;  // it is done
        --count_;
        if (line_ != Line::open) return;
    }
    try {
        NestedHead head;
        head.word = Word::forget;
        head.number = task.number;
        BlobBuffer message = message_of(head);
        tell(message);
    } catch (const std::exception&) {  // then the pool's process keeps the result until we end
    }
}

bool NestedTask::cancel() {
    if (done()) return LocalTaskBase::cancelled();
    if (!client_->cancel(*this)) return false;
    (void)fail_cancelled(spare_errors().cancelled);
    return true;
}

bool NestedTask::add_callback(std::function<void()>& callback) {
    client_->callbacks().start();
    auto called = std::make_shared<Callbacks>();
    called->push_back(callback);
    std::function<void()> post = [called, client = client_] {
        client->callbacks().post(std::move(*called));
    };
    return LocalTaskBase::add_callback(post);
}

NestedTask::~NestedTask() { client_->forget(*this); }

// --- waiting -----------------------------------------------------------------------------------

// Of a task that has nothing to do with nested ones: nobody need know. One that has may wait for
// another thread, or a callback, that submits some.
bool NestedClient::begin_wait(const NestedWait& wait) {
    const std::uint64_t outermost = outermost_task().number;
    if (outermost == 0 || !process_.same_process()) return false;
    if (count_.load(std::memory_order_relaxed) == 0 &&
        user_.load(std::memory_order_relaxed) != outermost)
        return false;
    try {
        {
            std::lock_guard one_at_a_time(requests_);
            open();
        }
        NestedHead head = next_wait(wait);
        head.word = Word::wait;
        BlobBuffer message = message_of(head);
        tell(message);
        return true;
    } catch (const std::exception&) {  // the pool cannot be reached: what it has of ours fails
        end_wait();
        return false;
    }
}

// From here on an order for it may come.
NestedHead NestedClient::next_wait(const NestedWait& wait) {
    NestedHead head;
    if (const auto* task = dynamic_cast<const NestedTask*>(wait.awaited))
        if (task->belongs_to(*this)) head.number = task->number;
    std::lock_guard lock(mutex_);
    wait_ = &wait;
    head.wait = ++last_wait_;
    head.can_serve = wait.wake ? 1 : 0;
    return head;
}

// In the thread that takes answers.
void NestedClient::take_order(const NestedHead& head, Blob order) {
    std::lock_guard lock(mutex_);
    if (!wait_ || head.wait != last_wait_ || !wait_->wake) return;  // that wait has ended
    order_ = std::move(order);
    called_.store(true, std::memory_order_release);  // SYNC(called): pairs with is_called()
    wait_->wake();
}

void NestedClient::serve(const NestedWait& wait) {
    std::optional<Blob> order;
    {
        std::lock_guard lock(mutex_);
        wait_ = nullptr;
        order.swap(order_);
        called_.store(false, std::memory_order_relaxed);
    }
    if (!order) return;
    NestedHead reply;
    reply.word = Word::ran;
    BlobBuffer result = message_of(reply);
    run_here(*order, result, reply);
    const NestedHead next = next_wait(wait);
    reply.number = next.number;
    reply.wait = next.wait;
    reply.can_serve = next.can_serve;
    std::memcpy(result.begin(), &reply, sizeof reply);
    tell(result);
}

void NestedClient::end_wait() noexcept {
    NestedHead head;
    head.word = Word::go_on;
    {
        std::lock_guard lock(mutex_);
        wait_ = nullptr;
        order_.reset();
        called_.store(false, std::memory_order_relaxed);
        head.wait = last_wait_;
    }
    try {
        BlobBuffer message = message_of(head);
        tell(message);
    } catch (const std::exception&) {  // the line is lost, and with it what is waited for
    }
}

// In the place of a worker, inside of the task that waits.
void NestedClient::run_here(Blob& order, BlobBuffer& result, NestedHead& reply) {
    const NestedHead head = head_of(order);
    reply.ticket = head.ticket;
    const TaskContext waits = *task_context();
    TaskContext context;
    context.number = context.item = head.number;
    context.seed = waits.seed;
    context.attempt = 1;
    context.worker = waits.worker;
    context.pool = waits.pool;
    context.outer = &waits;
    TaskScope scope(context);
    try {
        InputArchive input(body_of(order), &order);
        OutputArchive output(result);
        require_entry(head.id, "the nested task").run(input, output);
    } catch (...) {
        pass_on_forced_unwind();
        reply.ending = Ending::error;
        result.truncate(sizeof reply);
        OutputArchive output(result);
        save_current_exception(
            output, fmt::format("{}  in nested task {}\n", process_description(), head.number));
    }
}

std::shared_ptr<NestedPool> nested_pool_of_worker(int control, unsigned processes) {
    return std::make_shared<NestedClient>(control, processes);
}

}  // namespace sidestep::detail
