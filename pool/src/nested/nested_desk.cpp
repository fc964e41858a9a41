#include "nested/nested_desk.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <iterator>
#include <limits>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sidestep/detail/late_arguments.hpp>
#include <sidestep/pool_errors.hpp>
#include <sidestep/remote_error.hpp>

#include "insight/task_facts.hpp"
#include "nested/nested_line.hpp"
#include "spare_errors.hpp"
#include "sys/error.hpp"

namespace sidestep::inline v0::detail {
namespace {

using Word = NestedHead::Word;
using Ending = NestedHead::Ending;

void say(int socket, Word word, std::uint64_t number = 0) {
    NestedHead head;
    head.word = word;
    head.number = number;
    BlobBuffer buffer;
    begin_message(buffer, head);
    send_blob(socket, buffer, {});
}

void say_failure(int socket, NestedHead head, const std::exception_ptr& failure) {
    head.ending = Ending::failure;
    BlobBuffer buffer;
    begin_message(buffer, head);
    OutputArchive archive(buffer);
    save_failure(archive, failure);
    send_blob(socket, buffer, {});
}

std::exception_ptr lost_with(std::uint32_t lane, int pid, const PoolTask& task) noexcept {
    return made_or(spare_errors().lost, [&] {
        TaskError::Details details;
        details.pid = pid;
        details.worker_index = lane;
        details.exit_status = ExitStatus::lost_status();
        details.note = "it ran inside of another task there, which waited, as all workers did";
        tell_task(details, task);
        details.attempts = 1;
        return std::make_exception_ptr(WorkerLost(std::move(details)));
    });
}

// What a worker has sent may be anything: of what is no socket, nobody could end the wait.
bool is_unix_socket(int fd) {
    int domain = 0;
    socklen_t size = sizeof domain;
    return ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
}

// It has to have a worker of its own, or they would be those of the task that it runs inside of.
bool is_limited(const TaskOptions& options) {
    return options.timeout.count() != 0 || options.soft_timeout.count() != 0 ||
           options.memory_limit != 0 || options.retry.max_attempts > 1 || !options.uses.empty();
}

void say_bytes(int socket, const NestedHead& head, std::span<const std::byte> bytes) {
    BlobBuffer buffer;
    begin_message(buffer, head);
    buffer.write(bytes.data(), bytes.size());
    send_blob(socket, buffer, {});
}

}  // namespace

NestedDesk::NestedDesk(const PoolRooms& rooms, Relief& relief, Stopper& stopper,
                       std::function<std::shared_ptr<PoolCore>()> core)
    : rooms_(rooms), relief_(relief), stopper_(stopper), core_(std::move(core)) {}

NestedDesk::~NestedDesk() = default;

// --- lines -------------------------------------------------------------------------------------

bool NestedDesk::open(std::uint32_t lane, int pid, Fd socket) {
    if (!is_unix_socket(socket.get())) return false;
    Lines ended;
    std::lock_guard lock(mutex_);
    for (auto at = lines_.begin(); at != lines_.end();) {
        auto next = std::next(at);
        if (at->pid == pid && !at->is_shut) return false;
        if (at->ended) {
            at->thread.join();
            ended.splice(ended.end(), lines_, at);
        }
        at = next;
    }
    Lines one;
    try {
        Line& line = one.emplace_back(lane, pid, std::move(socket));
        line.thread.start("sidestep-nested", ServiceThread::Runs::library_code,
                          [this, &line] { serve(line); });
        lines_.splice(lines_.end(), one);
    } catch (const std::exception&) {  // the worker finds its line cut, and says what that may be
    }
    return true;
}

void NestedDesk::close(int pid) noexcept {
    std::lock_guard lock(mutex_);
    for (Line& line : lines_)
        if (line.pid == pid) line.shut();
}

void NestedDesk::end() noexcept {
    Lines lines;
    {
        std::lock_guard lock(mutex_);
        for (Line& line : lines_) line.shut();
    }
    for (;;) {  // a line is in the list until its thread has ended: others may look for it
        Line* line = nullptr;
        {
            std::lock_guard lock(mutex_);
            if (lines_.empty()) return;
            line = &lines_.front();
        }
        line->thread.join();
        std::lock_guard lock(mutex_);
        lines.splice(lines.end(), lines_, lines_.begin());
    }
}

void NestedDesk::abandon() {
    for (Line& line : lines_) line.thread.abandon();
}

void NestedDesk::serve(Line& line) noexcept {
    try {
        serve_until_it_ends(line);
    } catch (const std::exception&) {  // no message of ours, or no memory for one: the line ends
    }
    end_line(line);
}

void NestedDesk::serve_until_it_ends(Line& line) {
    for (;;) {
        pollfd entries[] = {{line.socket.get(), POLLIN, 0}, {line.finished->fd(), POLLIN, 0}};
        if (::poll(entries, 2, -1) < 0 && errno != EINTR) throw_errno(errno, "poll(nested)");
        while (std::optional<std::size_t> tag = line.finished->pop()) {
            if (*tag == Line::kOrderTag)
                send_order(line);
            else
                deliver(line, *tag);
        }
        if (entries[0].revents == 0) continue;
        std::optional<Blob> message = Blob::receive(line.socket.get());
        if (!message) return;
        handle(line, std::move(*message));
    }
}

void NestedDesk::end_line(Line& line) noexcept {
    line.shut();  // its worker is told, if it lives
    while (std::shared_ptr<Flight> flight = take_any(line.flights)) {
        {
            std::lock_guard lock(mutex_);
            flight->asker = nullptr;
            flight->is_cancelled = true;
            if (flight->ticket != 0) continue;
        }
        flight->task->cancel_parts(true);
    }
    std::shared_ptr<Flight> not_sent;
    {
        std::lock_guard lock(mutex_);
        if (line.order && line.order_sent != line.order->ticket) {
            not_sent = std::move(line.order);
            not_sent->take_place(lent_.extract(not_sent->ticket));
        }
        line.order = nullptr;
        line.can_serve = false;
    }
    if (not_sent) submit_again(not_sent);
    lose_lent(line);
    set_duty(line, LaneDuty::works);
    std::lock_guard lock(mutex_);
    line.ended = true;
}

std::shared_ptr<NestedDesk::Flight> NestedDesk::take_any(Flights& flights) {
    std::lock_guard lock(mutex_);
    if (flights.empty()) return {};
    std::shared_ptr<Flight> flight = std::move(flights.begin()->second);
    flights.erase(flights.begin());
    return flight;
}

// What it ran for others has gone with it.
void NestedDesk::lose_lent(const Line& line) {
    std::lock_guard lock(mutex_);
    for (auto at = lent_.begin(); at != lent_.end();) {
        Flight& flight = *at->second;
        if (flight.borrower != &line) {
            ++at;
            continue;
        }
        if (flight.asker || flight.result) {
            flight.failure = lost_with(line.lane, line.pid, *flight.task);
            flight.come_back();
        }
        at = lent_.erase(at);
    }
}

void NestedDesk::set_duty(const Line& line, LaneDuty duty) {
    Hold hold(rooms_.mutex, rooms_.sleepers);
    relief_.set_duty(line.lane, line.pid, duty, hold);
}

// --- what workers say --------------------------------------------------------------------------

void NestedDesk::handle(Line& line, Blob message) {
    const NestedHead head = head_of(message);
    switch (head.word) {
        case Word::submit:
            return submit(line, head, std::move(message));
        case Word::wait:
            return let_wait(line, head);
        case Word::go_on:
            return go_on(line);
        case Word::ran:
            return finish(line, head, message);
        case Word::cancel:
            return say(line.socket.get(), Word::answer, cancel(line, head.number));
        case Word::forget: {
            std::shared_ptr<Flight> flight;  // it goes without the mutex
            std::lock_guard lock(mutex_);
            if (auto found = line.flights.find(head.number); found != line.flights.end()) {
                flight = std::move(found->second);
                flight->asker = nullptr;
                line.flights.erase(found);
            }
            return;
        }
        default:
            throw SerializationError("a worker sent what only the pool's process sends");
    }
}

PoolTaskRef NestedDesk::make_task(Flight& flight) {
    const NestedHead& head = flight.head;
    const std::optional<TaskOptions> options = options_of(flight.order);
    if (options && is_limited(*options)) flight.can_be_lent = false;
    const TaskEntry& entry = require_entry(head.id, "the nested task");
    PoolTaskRef task =
        PoolTask::create(core_(), {ids_.lasting(head.id), entry}, options ? &*options : nullptr);
    if (head.after != 0) return task;
    const std::span<const std::byte> arguments = arguments_of(flight.order);
    TaskWriter writer(*task);
    writer.write(arguments.data(), arguments.size());
    for (const Fd& fd : flight.fds) (void)writer.put(fd.get());
    return task;
}

void NestedDesk::submit(Line& line, const NestedHead& head, Blob message) {
    auto flight = std::make_shared<Flight>();
    try {
        flight->head = head;
        for (std::uint64_t i = 0; i < head.fds; ++i) flight->fds.emplace_back(message.get(i));
        message.shrink();
        flight->order = std::move(message);
        flight->make_room(line.finished);
        flight->can_be_lent = head.after == 0;
        flight->task = make_task(*flight);
        if (head.after == 0)
            begin(line, flight);
        else if (!begin_after(line, flight))
            return say(line.socket.get(), Word::known, head.number);
    } catch (...) {
        {
            std::lock_guard lock(mutex_);
            line.flights.erase(head.number);
        }
        NestedHead refusal;
        refusal.word = Word::refused;
        refusal.number = head.number;
        return say_failure(line.socket.get(), refusal, std::current_exception());
    }
    say(line.socket.get(), Word::accepted, head.number);
    if (!flight->task->listen(line.finished, head.number)) {
        std::lock_guard lock(mutex_);
        flight->tell_if_done();
    }
    lend();
}

void NestedDesk::begin(Line& line, const std::shared_ptr<Flight>& flight) {
    {
        std::lock_guard lock(mutex_);
        flight->asker = &line;
        line.flights[flight->head.number] = flight;
        if (!flight->can_be_lent) flight->task->priority = next_priority();
    }
    PoolTask::submit(flight->task, nullptr, true);
}

// False: what it is to come after is done, as its worker has been told.
bool NestedDesk::begin_after(Line& line, const std::shared_ptr<Flight>& flight) {
    TaskRef first = needed(line, flight->head.after);
    if (!first) return false;
    auto arguments = std::make_unique<LateArguments>();
    const std::span<const std::byte> own = arguments_of(flight->order);
    arguments->archive().write(own.data(), own.size());
    for (const Fd& fd : flight->fds) (void)arguments->descriptors().put(fd.get());
    arguments->expect(first, [](LateArguments& all, const TaskState& done) {
        all.put({done.result(), nullptr});
    });
    {
        std::lock_guard lock(mutex_);
        flight->asker = &line;
        line.flights[flight->head.number] = flight;
        flight->task->priority = next_priority();
    }
    submit_late(flight->task, std::move(arguments), true);
    return true;
}

// A task of the line's that another one is to come after; null: its worker has been told of its
// end. It is not lent from now on, since the pool would take its end for the task's; of one that is
// lent already the desk itself tells the result.
TaskRef NestedDesk::needed(Line& line, std::uint64_t number) {
    std::lock_guard lock(mutex_);
    auto found = line.flights.find(number);
    if (found == line.flights.end()) return {};
    Flight& flight = *found->second;
    if (flight.ticket == 0) {
        if (std::exchange(flight.can_be_lent, false)) {
            Hold hold(rooms_.mutex, rooms_.sleepers);
            stopper_.hurry(*flight.task, next_priority(), hold);
        }
        flight.task->add_reference();
        return TaskRef(flight.task.get());
    }
    if (!flight.result) {
        flight.result = Ref<LentResult>(new LentResult);
        if (flight.came_back) flight.settle();
    }
    flight.result->add_reference();
    return TaskRef(flight.result.get());
}

std::int32_t NestedDesk::next_priority() {
    return last_priority_ < std::numeric_limits<std::int32_t>::max() ? ++last_priority_
                                                                     : last_priority_;
}

bool NestedDesk::cancel(Line& line, std::uint64_t number) {
    PoolTaskRef task;
    {
        std::lock_guard lock(mutex_);
        auto found = line.flights.find(number);
        if (found == line.flights.end() || found->second->ticket != 0) return false;
        task = found->second->task;
    }
    return task->cancel();
}

// Its result is there, or it was taken back.
void NestedDesk::deliver(Line& line, std::uint64_t number) {
    std::shared_ptr<Flight> flight;
    {
        std::lock_guard lock(mutex_);
        auto found = line.flights.find(number);
        if (found == line.flights.end()) return;  // nobody wants it any more
        const Flight& its = *found->second;       // or it was lent, and that was its task before
        if (its.ticket != 0 ? !its.came_back : !its.task->done()) return;
        flight = std::move(found->second);
        line.flights.erase(found);
    }
    NestedHead head;
    head.word = Word::done;
    head.number = number;
    if (flight->ticket != 0) {
        head.ending = flight->ending;
        if (flight->failure) return say_failure(line.socket.get(), head, flight->failure);
        return say_bytes(line.socket.get(), head, flight->bytes);
    }
    const PoolTask::Ending ending = flight->task->ending();
    if (ending.failure) return say_failure(line.socket.get(), head, ending.failure);
    head.ending = ending.has_value ? Ending::value : Ending::error;
    say_bytes(line.socket.get(), head, ending.bytes);
}

}  // namespace sidestep::detail
