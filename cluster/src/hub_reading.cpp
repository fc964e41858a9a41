// What the first process makes of what hosts say.
#include "hub.hpp"

#include <algorithm>
#include <exception>
#include <new>
#include <span>
#include <utility>

#include <fmt/format.h>

#include <sidestep/remote_error.hpp>

#include "no_memory_for.hpp"

namespace sidestep::inline v0::detail {
namespace {

HostFailure host_failure(WiredFailure wire, std::vector<std::byte> body) {
    HostFailure failure;
    failure.number = wire.number;
    if (wire.kind > static_cast<std::uint8_t>(FailureKind::cancelled))
        throw SerializationError("a host tells of a failure of no known kind");
    failure.kind = static_cast<FailureKind>(wire.kind);
    if (!wire.other_error.empty()) {
        InputArchive archive(std::as_bytes(std::span(wire.other_error)));
        failure.error = load_exception(archive);
    }
    failure.details = unwired(std::move(wire.details));
    if (wire.is_chunk) failure.chunk = {wire.items, std::move(body), wire.rest};
    failure.output = std::move(wire.output.output);
    return failure;
}

}  // namespace

// From here on push_back() of one event does not throw.
std::vector<HostEvent>& Hub::room_for_one(LaneId lane) {
    std::vector<HostEvent>& events = events_[lane];
    if (events.size() == events.capacity())
        events.reserve(std::max<std::size_t>(4, 2 * events.size()));
    return events;
}

// What makes no sense costs the host that said it: its tasks cannot be told any more.
void Hub::take(ReceivedFrame& frame) {
    Peer& peer = peers_[static_cast<std::size_t>(frame.from)];
    if (peer.lost) return;  // its tasks have been told, and nothing may come behind that
    peer.heard = sys::Clock::now();
    LaneId answered = 0;
    try {
        answered = frame.missing > 0 ? give_up(frame) : read(frame);
    } catch (const std::bad_alloc&) {
        answered = give_up(frame);
    } catch (const SerializationError& error) {
        lose(frame.from, fmt::format("it says what makes no sense: {}", error.what()));
    }
    if (answered == 0) return;
    std::lock_guard lock(mutex_);
    auto found = lanes_.find(answered);
    if (found == lanes_.end() || found->second.expected == 0) return;  // not any more
    --found->second.expected;
    --expected_;
}

// The lane of which a task has its answer now; 0: none has.
Hub::LaneId Hub::read(ReceivedFrame& frame) {
    InputArchive archive(frame.head);
    switch (kind_of(archive)) {
        case MessageKind::reply: {
            auto reply = unpacked<WiredReply>(archive);
            room_for_one(reply.pool)
                .push_back(HostReply{reply.number, reply.is_value, std::move(frame.body),
                                     reply.duration_ns, std::move(reply.output.output)});
            return reply.pool;
        }
        case MessageKind::failure: {
            auto failure = unpacked<WiredFailure>(archive);
            auto& events = room_for_one(failure.pool);
            const LaneId answered = failure.rest == 0 ? failure.pool : 0;  // or it goes on
            events.push_back(host_failure(std::move(failure), std::move(frame.body)));
            return answered;
        }
        case MessageKind::cancelled: {
            auto cancelled = unpacked<TaskNumber>(archive);
            room_for_one(cancelled.pool).push_back(HostCancelled{cancelled.number});
            return cancelled.pool;
        }
        case MessageKind::broken: {
            auto word = unpacked<PoolWord>(archive);
            room_for_one(word.pool).push_back(HostBroken{std::move(word.why)});
            expect_none_of(word.pool);
            return 0;
        }
        case MessageKind::closed:
            room_for_one(unpacked<PoolWord>(archive).pool).push_back(HostClosed{});
            return 0;
        case MessageKind::resigned: {
            auto word = unpacked<Refusal>(archive);
            peers_[static_cast<std::size_t>(frame.from)].resigned = true;
            lose(frame.from, word.why);
            return 0;
        }
        default:
            return 0;  // pong
    }
}

// Its pool there is broken: of the tasks that it has, and of those that are on their way, many have
// no answer.
void Hub::expect_none_of(LaneId id) noexcept {
    std::lock_guard lock(mutex_);
    auto found = lanes_.find(id);
    if (found == lanes_.end()) return;
    found->second.is_broken = true;
    expect_no_more(found->second);
}

// There is no memory for what a host says of a task, which fails with that. Returns what read()
// does. Throws std::bad_alloc: it is not about a task, or there is none for that either.
Hub::LaneId Hub::give_up(const ReceivedFrame& frame) {
    InputArchive archive(frame.head);
    const MessageKind kind = kind_of(archive);
    if (kind != MessageKind::reply && kind != MessageKind::failure) throw std::bad_alloc();
    LaneId pool = 0;
    HostFailure failure;
    std::uint64_t rest = 0;
    archive(pool, failure.number);
    if (kind == MessageKind::failure) archive(rest);
    failure.error = std::make_exception_ptr(
        NoMemoryFor("task {} has run on host {}, and the first process has no memory for its "
                    "answer ({} bytes): "
                    "give it more, or have tasks return and print less",
                    failure.number, hellos_[static_cast<std::size_t>(frame.from)].host,
                    frame.head.size() + frame.body.size() + frame.missing));
    auto& events = room_for_one(pool);
    if (rest != 0)
        transport_->send(frame.from, framed(MessageKind::cancel, TaskNumber{pool, rest, true}));
    events.push_back(std::move(failure));
    return rest != 0 ? 0 : pool;
}

}  // namespace sidestep::detail
