#include "hub.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <stdexcept>
#include <utility>

#include <sidestep/remote_error.hpp>

#include "complaint.hpp"
#include "sys/error.hpp"

namespace sidestep::inline v0::detail {

// One agent, for one pool.
class AgentLane final : public HostLane {
  public:
    AgentLane(std::shared_ptr<Hub> hub, int rank, Hub::LaneId id)
        : hub_(std::move(hub)), rank_(rank), id_(id) {}

    void start(const HostOrder& order) override {
        SubmitTask message;
        message.pool = id_;
        message.number = order.number;
        message.id = order.id;
        if (const TaskOptions* options = order.options) {
            message.has_options = true;
            message.timeout_ns = options->timeout.count();
            message.soft_timeout_ns = options->soft_timeout.count();
            message.memory_limit = options->memory_limit;
            message.key = options->key;
            message.priority = options->priority;
        }
        message.items_begin = order.items_begin;
        message.items_end = order.items_end;
        message.first_item = order.first_item;
        message.attempts = order.attempts;
        Frame frame{packed(MessageKind::submit, message), order.arguments, order.keep};
        if (!frame.keep) {
            auto copy = std::make_shared<std::vector<std::byte>>(order.arguments.begin(),
                                                                 order.arguments.end());
            frame.body = *copy;
            frame.keep = std::move(copy);
        }
        hub_->post(rank_, std::move(frame), 1);
    }
    void cancel(std::uint64_t number, Cancel mode) override {
        hub_->post(rank_, framed(MessageKind::cancel,
                                 TaskNumber{id_, number, mode == Cancel::running_too}));
    }
    void close() override { hub_->post(rank_, framed(MessageKind::close, PoolWord{id_, {}})); }
    void terminate() override {
        hub_->post(rank_, framed(MessageKind::terminate, PoolWord{id_, {}}));
    }

  private:
    const std::shared_ptr<Hub> hub_;
    const int rank_;
    const Hub::LaneId id_;
};

namespace {

constexpr auto kGoodbyeTime = std::chrono::seconds(5);

// What is wrong with who says this; empty: nothing.
std::string objection(const Hello& own, const Hello& other) {
    if (other.protocol != own.protocol)
        return fmt::format("the program on host {} has another version of Sidestep than on host {}",
                           other.host, own.host);
    if (other.program != own.program)
        return fmt::format(
            "the program on host {} is another build (id {}) than on host {} (id {})", other.host,
            other.program, own.host, own.program);
    return {};
}

}  // namespace

Hub::Hub(std::unique_ptr<Transport> transport, HubTimes times, HubLauncher launcher)
    : transport_(std::move(transport)),
      times_(times),
      launcher_(std::move(launcher)),
      hellos_(static_cast<std::size_t>(transport_->size())),
      peers_(hellos_.size()) {}

Hub::~Hub() { SIDESTEP_ASSERT(!thread_.joinable()); }

void Hub::welcome(const Hello& own) {
    hellos_[0] = own;
    std::size_t missing = hellos_.size() - 1;
    std::string why;
    sys::Clock::time_point deadline = sys::Clock::now() + times_.welcome;
    BackOff back_off;
    while (missing > 0 && why.empty()) {
        bool any = transport_->progress();
        auto frame = transport_->receive();
        if (frame) {
            InputArchive archive(frame->head);
            if (kind_of(archive) != MessageKind::hello) continue;
            Hello& hello = hellos_.at(static_cast<std::size_t>(frame->from));
            archive(hello.protocol, hello.host);
            archive.reset(frame->head);
            (void)kind_of(archive);
            if (hello.protocol == own.protocol) hello = unpacked<Hello>(archive);
            why = objection(own, hello);
            --missing;
        }
        if (any || frame) {
            back_off.reset();
        } else if (sys::Clock::now() > deadline) {
            why = fmt::format(
                "{} of {} processes have not said that they are there: is the same program started "
                "everywhere, and does it call sidestep::init() first?",
                missing, hellos_.size());
        } else if (unsigned us = back_off.next(true)) {
            std::this_thread::sleep_for(std::chrono::microseconds(us));
        }
    }
    if (why.empty()) return;
    why += ": start the same file on all hosts";
    refuse_all(why);
    throw std::runtime_error(why);
}

// All agents are to say this, and to end as after an error.
void Hub::refuse_all(const std::string& why) {
    for (int rank = 1; rank < transport_->size(); ++rank)
        if (!peers_[static_cast<std::size_t>(rank)].lost)
            transport_->send(rank, framed(MessageKind::refused, Refusal{why}));
    auto deadline = sys::Clock::now() + kGoodbyeTime;
    while (!transport_->all_sent() && sys::Clock::now() < deadline) (void)transport_->progress();
}

void Hub::start() {
    for (Peer& peer : peers_) peer.heard = sys::Clock::now();
    stopped_ = false;
    thread_.start("sidestep-hosts", ServiceThread::Runs::library_code, [this] { run(); });
}

std::vector<Hosts::Share> Hub::share_out(std::optional<unsigned> processes) const {
    // Those that are lost have none; the first process is none of them.
    std::vector<Hello> living;
    std::vector<bool> lives(hellos_.size());
    {
        std::lock_guard lock(mutex_);
        for (std::size_t i = 0; i < hellos_.size(); ++i) lives[i] = !peers_[i].lost;
    }
    for (std::size_t i = 0; i < hellos_.size(); ++i)
        if (lives[i]) living.push_back(hellos_[i]);
    std::vector<Share> shares = shares_of(living, processes);
    for (std::size_t i = 0; i < hellos_.size(); ++i)
        if (!lives[i])
            shares.insert(shares.begin() + static_cast<std::ptrdiff_t>(i), {hellos_[i].host, 0});
    return shares;
}

std::unique_ptr<HostLane> Hub::open(std::size_t host, const PoolOptions& options,
                                    unsigned processes, std::uint32_t place,
                                    std::shared_ptr<HostListener> listener) {
    int rank = static_cast<int>(host);
    OpenPool message;
    message.processes = processes;
    message.options = options;
    message.initializer = wired(options.initializer);
    message.finalizer = wired(options.finalizer);
    {
        std::lock_guard lock(mutex_);
        if (stopped_ || stops_)
            throw std::logic_error("a pool over several hosts cannot begin: the program is ending");
        message.pool = ++last_lane_;
        lanes_[message.pool] = {std::move(listener), place, rank};
    }
    post(rank, framed(MessageKind::open, message), 0, message.pool);
    return std::make_unique<AgentLane>(shared_from_this(), rank, message.pool);
}

void Hub::post(int rank, Frame frame, int expected_answers, LaneId opens) {
    std::lock_guard lock(mutex_);
    if (stopped_) return;  // its lane has been told that it is gone
    posted_.push_back({rank, std::move(frame), opens});
    Peer& peer = peers_[static_cast<std::size_t>(rank)];
    if (!peer.lost) {
        peer.expected += expected_answers;
        expected_ += expected_answers;
    }
    if (sleeps_) posted_one_.notify_one();
}

// --- the hub's thread --------------------------------------------------------------------------

void Hub::run() {
    BackOff back_off;
    for (;;) {
        bool any = false;
        try {
            any = round();
        } catch (const std::exception&) {  // what was read in part cannot be resumed
            failure_ = std::current_exception();
        }
        if (any) back_off.reset();
        std::unique_lock lock(mutex_);
        if (stops_ && posted_.empty()) return;
        if (any || !posted_.empty()) continue;
        unsigned us = back_off.next(expected_ > 0);
        if (us == 0) continue;
        sleeps_ = true;
        posted_one_.wait_for(lock, std::chrono::microseconds(us));
        sleeps_ = false;
    }
}

namespace {

// Why nothing that hosts say can be taken any more.
std::string reason_of(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const std::bad_alloc&) {
        return "the first process had no memory for what it said";
    } catch (const std::exception& error) {
        return fmt::format("the first process could not take what it said: {}", error.what());
    }
}

}  // namespace

// True: there was something to do.
bool Hub::round() {
    if (failure_) {
        const std::string why = reason_of(failure_);
        for (int rank = 1; rank < transport_->size(); ++rank) lose(rank, why);
        failure_ = nullptr;
    }
    bool any = send_posted();
    any = transport_->progress() || any;
    while (auto frame = transport_->receive()) {
        any = true;
        take(*frame);
    }
    while (auto rank = transport_->lost()) lose(*rank, "its agent has ended");
    look_at_times();
    return tell() || any;
}

bool Hub::send_posted() {
    std::vector<Posted> all;
    {
        std::lock_guard lock(mutex_);
        all.swap(posted_);
    }
    for (Posted& each : all) {
        if (!peers_[static_cast<std::size_t>(each.rank)].lost)
            transport_->send(each.rank, std::move(each.frame));
        else if (each.opens != 0)  // it was not there yet when all lanes were told
            note(each.opens, HostGone{"it was lost before this pool began"});
    }
    return !all.empty();
}

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

// What makes no sense costs the host that said it: its tasks cannot be told any more.
void Hub::take(const ReceivedFrame& frame) {
    Peer& peer = peers_[static_cast<std::size_t>(frame.from)];
    if (peer.lost) return;  // its tasks have been told, and nothing may come behind that
    peer.heard = sys::Clock::now();
    std::int64_t answers = 0;
    try {
        InputArchive archive(frame.head);
        switch (kind_of(archive)) {
            case MessageKind::reply: {
                auto reply = unpacked<WiredReply>(archive);
                note(reply.pool, HostReply{reply.number, reply.is_value, std::move(frame.body),
                                           reply.duration_ns, std::move(reply.output.output)});
                answers = 1;
                break;
            }
            case MessageKind::failure: {
                auto failure = unpacked<WiredFailure>(archive);
                LaneId lane = failure.pool;
                answers = failure.rest ? 0 : 1;
                note(lane, host_failure(std::move(failure), std::move(frame.body)));
                break;
            }
            case MessageKind::cancelled: {
                auto cancelled = unpacked<TaskNumber>(archive);
                note(cancelled.pool, HostCancelled{cancelled.number});
                answers = 1;
                break;
            }
            case MessageKind::broken: {
                auto word = unpacked<PoolWord>(archive);
                note(word.pool, HostBroken{std::move(word.why)});
                break;
            }
            case MessageKind::closed:
                note(unpacked<PoolWord>(archive).pool, HostClosed{});
                break;
            default:
                break;  // pong
        }
    } catch (const SerializationError& error) {
        lose(frame.from, fmt::format("it says what makes no sense: {}", error.what()));
    }
    std::lock_guard lock(mutex_);
    if (peer.lost) return;
    peer.expected -= answers;
    expected_ -= answers;
}

// H3.
bool Hub::tell() {
    bool any = false;
    for (auto& [id, events] : std::exchange(events_, {})) {
        if (events.empty()) continue;
        bool last = std::holds_alternative<HostClosed>(events.back()) ||
                    std::holds_alternative<HostGone>(events.back());
        Lane lane;
        {
            std::lock_guard lock(mutex_);
            auto found = lanes_.find(id);
            if (found == lanes_.end()) continue;
            lane = found->second;
            if (last) lanes_.erase(found);
        }
        lane.listener->hosts_told(lane.place, std::move(events));
        any = true;
    }
    return any;
}

void Hub::look_at_times() {
    auto now = sys::Clock::now();
    if (now < pinged_ + times_.ping) return;
    bool first = pinged_ == sys::Clock::time_point{} || now > pinged_ + 2 * times_.ping;
    pinged_ = now;
    if (launcher_.has_ended && launcher_.has_ended()) return end_job();
    const Ping ping{times_.lost.count()};
    for (int rank = 1; rank < transport_->size(); ++rank) {
        Peer& peer = peers_[static_cast<std::size_t>(rank)];
        if (peer.lost) continue;
        if (first) peer.heard = now;  // nobody has asked for a while
        if (now - peer.heard > times_.lost)
            lose(rank,
                 fmt::format(
                     "it has not answered for {} ms",
                     std::chrono::duration_cast<std::chrono::milliseconds>(times_.lost).count()));
        else
            transport_->send(rank, framed(MessageKind::ping, ping));
    }
}

// What the launcher does not know, it is told by its processes on the other hosts, whose agents end
// with an error.
void Hub::end_job() {
    const std::string why = fmt::format(
        "the job ends: the launcher's process on host {}, where the program runs, has ended",
        hellos_[0].host);
    refuse_all(why);
    complain(why);
    for (int rank = 1; rank < transport_->size(); ++rank) lose(rank, why);
    launcher_.has_ended = nullptr;  // if there was no memory for all that, it is done again
    launcher_.gone();
}

void Hub::lose(int rank, const std::string& why) {
    Peer& peer = peers_[static_cast<std::size_t>(rank)];
    if (peer.lost) return;
    any_lost_ = true;
    std::lock_guard lock(mutex_);
    for (const auto& [id, lane] : lanes_)
        if (lane.rank == rank) note(id, HostGone{why});
    peer.lost = true;  // if there is no memory for that, another time
    expected_ -= std::exchange(peer.expected, 0);
}

// --- the end -----------------------------------------------------------------------------------

bool Hub::stop() noexcept {
    {
        std::lock_guard lock(mutex_);
        stops_ = true;
        posted_one_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
    std::vector<Posted> unsent;  // H2
    {
        std::lock_guard lock(mutex_);
        stopped_ = true;
        unsent.swap(posted_);
    }
    unsent.clear();
    try {
        {
            std::lock_guard lock(mutex_);
            for (const auto& [id, lane] : lanes_) note(id, HostGone{"the program is ending"});
        }
        (void)tell();
        say_goodbye();
    } catch (const std::exception&) {  // there is no memory for that: the job is aborted
        any_lost_ = true;
    }
    return !any_lost_;
}

void Hub::say_goodbye() {
    for (int rank = 1; rank < transport_->size(); ++rank)
        if (!peers_[static_cast<std::size_t>(rank)].lost)
            transport_->send(rank, framed(MessageKind::goodbye, Nothing{}));
    auto deadline = sys::Clock::now() + kGoodbyeTime;
    auto missing = std::count_if(peers_.begin() + 1, peers_.end(),
                                 [](const Peer& peer) { return !peer.lost; });
    BackOff back_off;
    while (missing > 0 && sys::Clock::now() < deadline) {
        bool any = transport_->progress();
        while (auto frame = transport_->receive()) {
            any = true;
            if (frame->head == packed(MessageKind::farewell, Nothing{})) --missing;
        }
        if (any)
            back_off.reset();
        else if (unsigned us = back_off.next(true))
            std::this_thread::sleep_for(std::chrono::microseconds(us));
    }
    if (missing > 0) any_lost_ = true;
}

}  // namespace sidestep::detail
