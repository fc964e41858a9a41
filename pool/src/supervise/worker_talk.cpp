#include "supervise/worker_talk.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <chrono>
#include <exception>
#include <span>
#include <system_error>
#include <utility>

#include <sidestep/remote_error.hpp>

#include "process_memory.hpp"
#include "spare_errors.hpp"
#include "start/boot_failure.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::chrono::milliseconds kDying{100};  // from the end of its descriptors to its own

std::string boot_error(RingLane& lane, const WorkerReady& ready) {
    std::string text = "with something that cannot be read";
    std::uint64_t block = ready.error_block;
    const Segment& results = lane.memory()->results;
    if (Arena::is_valid(block, results.size()) && ready.error_size <= Arena::capacity(block)) {
        try {
            InputArchive archive({results.data() + Arena::offset(block), ready.error_size});
            std::rethrow_exception(load_exception(archive));
        } catch (const std::exception& error) {
            text = error.what();
        } catch (...) {  // it stays unreadable
        }
    }
    if (ready.in_settings)
        return fmt::format(
            "the pool is broken: worker {} could not be set up: {}; nothing was tried again: make "
            "a new pool with other options, or when the cause is gone",
            lane.pid, text);
    return fmt::format(
        "the pool is broken: its initializer failed in worker {}: {}; nothing was "
        "tried again: make a new pool when the cause is gone",
        lane.pid, text);
}

}  // namespace

void WorkerTalk::look(Worker& worker) {
    RingLane& lane = worker.lane;
    if (!lane.condition().alive) return;
    int control = lane.process.control();
    if (auto reason = lane.condition().ready ? std::nullopt : take_boot_failure(control)) {
        worker.boot_failure = *reason;
        return;
    }
    WorkerReady ready;
    sys::Message message;
    try {
        message = sys::receive_message(control, std::as_writable_bytes(std::span(&ready, 1)));
    } catch (const std::system_error& error) {
        const int code = error.code().value();
        if (code == EAGAIN) return;
        if (code == ENOMEM || code == ENOBUFS) throw;  // tried again in a moment
        if (code == EMFILE) return;  // its line for nested tasks: it finds that cut, and asks anew
        if (code != EMSGSIZE) loop_.remove(control);  // it would be told of this for ever
        return distrust(lane);
    }
    if (message.closed) return handle_closed(lane);
    if (lane.condition().ready && message.size == sizeof ready &&
        ready.magic == WorkerReady::kLineMagic && message.fds.size() == 1 &&
        nested_.open(lane.number, lane.pid, std::move(message.fds[0])))
        return;
    if (lane.condition().ready || message.size != sizeof ready ||
        ready.magic != WorkerReady::kMagic)
        return distrust(lane);
    handle_ready(worker, ready);
}

void WorkerTalk::distrust(RingLane& lane) {
    Hold hold(rooms_.mutex, rooms_.sleepers);
    if (lane.drain(hold)) hold.wake_waiters();  // what it has finished counts
    lane.condemn(hold);
}

bool WorkerTalk::lives_on(const RingLane& lane) const {
    const RingLane::Condition& is = lane.condition();
    return is.alive && is.ready && !is.leaving && !is.corrupt && !rooms_.life.ending();
}

// It is dying, and its death comes by the pidfd; or a task closed all descriptors, and the worker
// that can be sent nothing any more is replaced, if it is there still in a moment.
void WorkerTalk::handle_closed(RingLane& lane) {
    loop_.remove(lane.process.control());
    PoolLock lock(rooms_.mutex);
    if (lives_on(lane)) lane.process.cut_off_at = sys::Clock::now() + kDying;
}

// It takes tasks, or its initializer threw.
void WorkerTalk::handle_ready(Worker& worker, const WorkerReady& ready) {
    RingLane& lane = worker.lane;
    std::optional<std::size_t> memory;  // what it says is said once: nothing else may end this
    trouble_.attempt([&] { memory = private_memory(lane.pid); });
    std::exception_ptr reason;
    if (ready.error_block) reason = broken_pool([&] { return boot_error(lane, ready); });
    Hold hold(rooms_.mutex, rooms_.sleepers);
    if (ready.error_block) {
        end_.break_down(reason, hold);
        return hold.wake_waiters();
    }
    lane.set_ready();
    lane.memory_look.at_start = memory;
    worker.private_memory = memory;
    Dispatcher& dispatcher = rooms_.dispatcher;
    dispatcher.welcome(lane, hold);
    dispatcher.rebalance(rooms_.life.ending(), hold);
    dispatcher.refill(hold);
}

}  // namespace sidestep::detail
