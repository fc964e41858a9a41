// The limits of an ObjectServer's calls: timeouts, cancelling, and what the processes of an actor
// that came before had begun.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <utility>

#include "insist.hpp"
#include "object_client.hpp"
#include "object_server.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

namespace {
std::chrono::steady_clock::time_point time_after(std::chrono::nanoseconds time) {
    // Never further than the clock goes.
    const auto now = std::chrono::steady_clock::now();
    return time < std::chrono::steady_clock::time_point::max() - now
               ? now + time
               : std::chrono::steady_clock::time_point::max();
}
}  // namespace

// --- processes of an actor -------------------------------------------------------------------

void ObjectServer::resume(const std::shared_ptr<Client>& client, InputArchive& body) {
    std::uint64_t session = 0;
    body(session);
    if (!rules_.actor) throw SerializationError("this server is no actor's");
    client->session = session;
    // Not its first connection, if one has ended by itself: what was sent in that may have run.
    client->session_calls = insist_on_memory([&] { return sessions_.open(session, client->pid); });
    if (!client->session_calls) throw GivenUp();
    HeapBuffer buffer;
    insist_on_memory([&] {
        buffer.clear();
        OutputArchive archive(buffer);
        archive(rules_.actor->state);
    });
    tell(client, FrameKind::serves, 0, buffer.bytes());
}

// With which process it ended: one before, or the last one, as all do that come after that.
std::optional<Casualty> ObjectServer::find_lost(Client& client, std::uint64_t request) const {
    const ActorDuty* duty = rules_.actor;
    if (!duty) return std::nullopt;
    auto begun = duty->begun_before.find({client.session, request});
    if (begun != duty->begun_before.end()) return begun->second;
    if (duty->state.over) return duty->state.last;
    if (client.session_calls && !client.session_calls->take(request))
        return Casualty{.pid = ::getpid(),
                        .began = true,
                        .note = "its connection was cut, and the call may have run"};
    return std::nullopt;
}

void ObjectServer::tell_lost(const Casualty& end, Answer& answer) {
    answer.kind = end.overdue ? FrameKind::overdue : FrameKind::lost;
    try {
        OutputArchive archive(answer.bytes);
        archive(end);
    } catch (...) {  // no memory
        refuse(std::current_exception(), answer);
    }
}

void ObjectServer::begin_call(CurrentCall& call) {
    if (!call.state) return;
    if (call.state->overdue) throw GivenUp();
    const ActorDuty* duty = call.server.rules_.actor;
    ActorBoard* board = duty && call.client->session != 0 ? duty->board : nullptr;
    const auto place =
        board ? board->begin({call.client->session, call.request}) : CallStage::kUnnoted;
    if (call.state->stage.begin(place)) return;
    if (board) board->end(place);
    throw GivenUp();
}

void ObjectServer::unbegin_call(CurrentCall& call) noexcept {
    if (!call.state) return;
    const auto place = call.state->stage.unbegin();
    if (place && *place != CallStage::kUnnoted) call.server.rules_.actor->board->end(*place);
}

void CallState::ask_to_stop() noexcept {
    stop.store(1);
    sys::futex_wake(stop, INT_MAX);
    end_work(true);
}

void CallState::end_work(bool running_too) noexcept {
    std::lock_guard lock(stopping);
    try {
        if (stop_work) stop_work(running_too);
    } catch (...) {  // no memory: it goes on
    }
}

void CallState::set_stop_work(StopScope::Stop work) {
    std::lock_guard lock(stopping);
    stop_work.swap(work);
}

// Whoever asks first sets `stop`, and then looks for the work: one of the two finds the other.
StopScope::StopScope(Stop stop) : call_(ObjectServer::current().state) {
    if (!call_) return;
    call_->set_stop_work(std::move(stop));
    if (call_->stop.load() != 0) call_->ask_to_stop();
}
StopScope::~StopScope() {
    if (call_) call_->set_stop_work(nullptr);
}

// --- timeouts --------------------------------------------------------------------------------

// Before it is queued: one that cannot be watched is refused. If its time is up by then, it does
// not begin.
void ObjectServer::watch_timeout(const std::shared_ptr<Client>& client, const FrameHead& head,
                                 const std::shared_ptr<CallState>& state) {
    constexpr std::uint64_t kMost = std::uint64_t(1) << 62;
    const std::chrono::nanoseconds timeout(
        static_cast<std::int64_t>(std::min(head.timeout, kMost)));
    state->due = clock_.add(time_after(timeout), [this, client, request = head.request, state] {
        time_out(client, request, state);
    });
}

// What waits is taken back. What runs is asked to stop, and an actor that does not heed that ends:
// it is its callers' own, and is started again. Then that is what answers: who has the answer finds
// the new one. The objects of others are not ended for one caller.
void ObjectServer::time_out(const std::shared_ptr<Client>& client, std::uint64_t request,
                            const std::shared_ptr<CallState>& state) noexcept {
    state->overdue = true;  // first: one that heeds the other is late all the same
    state->ask_to_stop();
    const bool waits = take_back(*client, request) || state->stage.end_unbegun();
    if (waits || !rules_.actor) {
        if (!state->answered.exchange(true)) tell(client, FrameKind::overdue, request, {});
        return;
    }
    auto end = [this, client, request, state] { end_for(client, request, *state); };
    insist([&] { (void)clock_.add(time_after(rules_.actor->timeout_grace), end); });
}

// In the clock's thread, which waits for nobody. Who sets `answered` ends the call: this, or the
// call's own end; and its place on the board is taken by one of them, so it is no other call's yet.
void ObjectServer::end_for(const std::shared_ptr<Client>& client, std::uint64_t request,
                           CallState& state) noexcept {
    if (state.answered.exchange(true)) return;
    const auto place = state.stage.end();
    // It waits for the object after all, and does not begin any more.
    if (!place) return tell(client, FrameKind::overdue, request, {});
    if (*place != CallStage::kUnnoted)
        rules_.actor->board->note_overdue(*place);  // who comes after this process tells it
    else
        (void)client->send_now(FrameKind::overdue, request, {});
    (void)::kill(::getpid(), SIGKILL);
    ::_exit(1);  // a sandbox may refuse that
}

void ObjectServer::end_call(Client& client, std::uint64_t request, CallState& state) {
    state.running = false;
    std::lock_guard lock(client.queueing);
    clock_.remove(state.due);
    --client.unanswered;
    auto call = client.calls.find(request);
    if (call != client.calls.end() && call->second.get() == &state) client.calls.erase(call);
}

// --- cancelling ------------------------------------------------------------------------------

// True: it had not begun, and does not any more.
bool ObjectServer::take_back(Client& client, std::uint64_t request) {
    Call taken;
    std::lock_guard lock(client.queueing);
    for (auto& [caller, strand] : client.strands) {
        auto waits = std::find_if(strand.calls.begin(), strand.calls.end(), [&](const Call& call) {
            return call.frame.head.request == request && !call.lost;  // that one had begun
        });
        if (waits == strand.calls.end()) continue;
        taken = std::move(*waits);
        strand.calls.erase(waits);
        client.calls.erase(request);
        --client.unanswered;
        return true;
    }
    return false;
}

bool ObjectServer::cancel(Client& client, std::uint64_t request) {
    std::shared_ptr<CallState> state;
    {
        std::lock_guard lock(client.queueing);
        auto call = client.calls.find(request);
        if (call == client.calls.end()) return false;
        state = call->second;
    }
    state->ask_to_stop();
    if (!take_back(client, request)) return false;
    std::lock_guard lock(client.queueing);
    clock_.remove(state->due);
    return true;
}

}  // namespace sidestep::detail
