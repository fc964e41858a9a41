// What becomes of workers whose tasks wait: others work in their place, or they are lent nested
// tasks.
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include <sidestep/archive.hpp>

#include "nested/nested_line.hpp"
#include "spare_errors.hpp"

namespace sidestep::inline v0::detail {

void NestedDesk::Flight::settle() noexcept {
    if (!result) return;
    try {
        if (failure) return void(result->try_fail(failure));
        if (ending != NestedHead::Ending::value)
            return void(result->try_fail(load_ending(ending, bytes)));
        auto kept = std::make_shared<const std::vector<std::byte>>(bytes);
        result->set_bytes(kept, *kept);
    } catch (const std::bad_alloc&) {
        (void)result->try_fail(spare_errors().no_memory);
    }
}

// Others work in its place, if there are any: see lend().
void NestedDesk::let_wait(Line& line, const NestedHead& head) {
    {
        std::lock_guard lock(mutex_);
        if (!line.has_room) line.finished->expect();
        line.has_room = true;
        line.order = nullptr;  // it has begun, this is a wait in it: its end comes by its ticket
        line.wait = head.wait;
        line.awaited = head.number;
        line.can_serve = head.can_serve == 1;
    }
    set_duty(line, LaneDuty::waits);
    lend();
}

void NestedDesk::go_on(Line& line) {
    std::shared_ptr<Flight> not_run;
    {
        std::lock_guard lock(mutex_);
        line.wait = 0;
        line.can_serve = false;
        not_run = std::exchange(line.order, nullptr);
        if (not_run) not_run->take_place(lent_.extract(not_run->ticket));
    }
    if (not_run) submit_again(not_run);
    set_duty(line, LaneDuty::works);
}

// Who waits runs nested tasks meanwhile, while fewer workers work than the pool is to have and it
// may have no more of them. So a pool cannot come to a stop: if all wait for what has begun, each
// waits for what began later than itself, and whoever began last waits for nobody.
void NestedDesk::lend() {
    auto is_short = [this] {
        PoolLock lock(rooms_.mutex);
        return relief_.is_short();
    };
    std::lock_guard lock(mutex_);
    while (is_short() && lend_one()) {
    }
    Hold hold(rooms_.mutex, rooms_.sleepers);
    relief_.grow_if_needed(hold);
}

// What a worker waits for, or another one of its own, the newest, which keeps its stack as deep as
// the recursion is; else anybody's. False: there is none, or nobody for it.
bool NestedDesk::lend_one() {
    for (Line& line : lines_) {
        if (!line.can_serve || line.order) continue;
        if (auto found = line.flights.find(line.awaited);
            found != line.flights.end() && lend_to(line, found->second))
            return true;
        for (auto at = line.flights.rbegin(); at != line.flights.rend(); ++at)
            if (lend_to(line, at->second)) return true;
    }
    for (Line& line : lines_) {
        if (!line.can_serve || line.order) continue;
        for (Line& other : lines_)
            for (auto& [number, flight] : other.flights)
                if (lend_to(line, flight)) return true;
        return false;
    }
    return false;
}

bool NestedDesk::lend_to(Line& line, const std::shared_ptr<Flight>& flight) {
    if (flight->ticket != 0 || !flight->can_be_lent) return false;
    flight->ticket = last_ticket_ + 1;  // before: who is told of its end is to know
    if (!take(*flight)) {
        flight->ticket = 0;
        return false;
    }
    flight->borrower = &line;
    flight->place.key() = ++last_ticket_;
    flight->place.mapped() = flight;
    lent_.insert(std::move(flight->place));
    line.order = flight;
    set_duty(line, LaneDuty::helps);
    line.has_room = false;
    line.finished->push(Line::kOrderTag);
    return true;
}

// False: it has begun, or is on another host, which does not say so at once.
bool NestedDesk::take(Flight& flight) {
    Hold hold(rooms_.mutex, rooms_.sleepers);
    if (flight.task->done() || flight.task->place == PoolTask::Place::elsewhere) return false;
    return stopper_.cancel(*flight.task, false, hold);
}

// It was lent, and nobody has begun it.
void NestedDesk::submit_again(const std::shared_ptr<Flight>& flight) {
    std::shared_ptr<CompletionQueue> finished;
    {
        std::lock_guard lock(mutex_);
        if (flight->is_cancelled && flight->result)
            (void)flight->result->fail_cancelled(spare_errors().cancelled);
        if (flight->is_cancelled) return;
        if (flight->asker) finished = flight->asker->finished;
    }
    const std::uint64_t number = flight->head.number;
    try {
        PoolTaskRef task = make_task(*flight);
        PoolTask::submit(task, nullptr, true);
        {
            std::lock_guard lock(mutex_);
            flight->task = task;
            flight->ticket = 0;
            flight->borrower = nullptr;
            if (flight->result) {
                flight->can_be_lent = false;
                Hold hold(rooms_.mutex, rooms_.sleepers);
                stopper_.hurry(*task, next_priority(), hold);
            }
        }
        if (flight->result) follow(task, flight->result);
        if (!finished || task->listen(finished, number)) return;
        std::lock_guard lock(mutex_);
        flight->tell_if_done();
    } catch (...) {
        std::lock_guard lock(mutex_);
        flight->failure = std::current_exception();
        flight->come_back();
    }
}

// If it has not gone on meanwhile.
void NestedDesk::send_order(Line& line) {
    std::shared_ptr<Flight> flight;
    NestedHead head;
    {
        std::lock_guard lock(mutex_);
        if (!line.order || line.order_sent == line.order->ticket) return;
        flight = line.order;
        line.order_sent = head.ticket = flight->ticket;
        head.wait = line.wait;
        head.number = flight->task->serial;
    }
    head.word = NestedHead::Word::run;
    head.id = flight->head.id;
    head.fds = flight->fds.size();
    BlobBuffer buffer;
    begin_message(buffer, head);
    std::span<const std::byte> arguments = arguments_of(flight->order);
    buffer.write(arguments.data(), arguments.size());
    send_blob(line.socket.get(), buffer, message_fds(numbers_of(flight->fds)));
}

void NestedDesk::finish(Line& line, const NestedHead& head, const Blob& message) {
    std::uint64_t own = 0;
    {
        std::lock_guard lock(mutex_);
        auto found = lent_.find(head.ticket);
        const bool is_unknown = line.order && line.order->ticket == head.ticket &&
                                line.order_sent != head.ticket;  // it was not told of it yet
        if (found == lent_.end() || found->second->borrower != &line || is_unknown)
            throw SerializationError("a worker has run what it was not given");
        std::shared_ptr<Flight> flight = std::move(found->second);
        lent_.erase(found);
        try {
            std::span<const std::byte> bytes = body_of(message);
            flight->bytes.assign(bytes.begin(), bytes.end());
        } catch (const std::bad_alloc&) {
            flight->failure = spare_errors().no_memory;
        }
        flight->ending = head.ending == NestedHead::Ending::value ? NestedHead::Ending::value
                                                                  : NestedHead::Ending::error;
        flight->came_back = true;
        flight->settle();
        if (flight->asker == &line)
            own = flight->head.number;
        else
            flight->tell();
    }
    if (own != 0) deliver(line, own);
    let_wait(line, head);
}

}  // namespace sidestep::detail
