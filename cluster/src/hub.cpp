#include "hub.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <stdexcept>
#include <utility>

#include <sidestep/remote_error.hpp>

#include "back_off.hpp"
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
        message.items_told = order.items_told;
        message.first_item = order.first_item;
        message.attempts = order.attempts;
        Frame frame{packed(MessageKind::submit, message), order.arguments, order.keep};
        if (!frame.keep) {
            auto copy = std::make_shared<std::vector<std::byte>>(order.arguments.begin(),
                                                                 order.arguments.end());
            frame.body = *copy;
            frame.keep = std::move(copy);
        }
        hub_->post_task(id_, rank_, std::move(frame));
    }
    void cancel(std::uint64_t number, Cancel mode) override {
        hub_->post(rank_, framed(MessageKind::cancel,
                                 TaskNumber{id_, number, mode == Cancel::running_too}));
    }
    void close() noexcept override { hub_->end(id_, Hub::End::close); }
    void terminate() noexcept override { hub_->end(id_, Hub::End::terminate); }

  private:
    const std::shared_ptr<Hub> hub_;
    const int rank_;
    const Hub::LaneId id_;
};

namespace {

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
        } else {
            back_off.wait(BackOff::For::answer);
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
    if (!process_.same_process()) return {};
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
    // Nobody there can be asked, and who cannot tell says no.
    if (options.task.retry.when) message.options.task.retry = {};
    message.initializer = wired(options.initializer);
    message.finalizer = wired(options.finalizer);
    {
        std::lock_guard lock(mutex_);
        if (stopped_ || stops_)
            throw std::logic_error("a pool over several hosts cannot begin: the program is ending");
        message.pool = ++last_lane_;
        Lane made;
        made.listener = std::move(listener);
        made.place = place;
        made.rank = rank;
        made.last_word.reserve(1);
        lanes_.emplace(message.pool, std::move(made));
    }
    try {
        auto lane = std::make_unique<AgentLane>(shared_from_this(), rank, message.pool);
        post(rank, framed(MessageKind::open, message));
        return lane;
    } catch (const std::bad_alloc&) {
        std::lock_guard lock(mutex_);
        lanes_.erase(message.pool);
        throw;
    }
}

void Hub::post(int rank, Frame frame) {
    std::lock_guard lock(mutex_);
    if (stopped_) return;  // its lane has been told that it is gone
    posted_.push_back({rank, std::move(frame)});
    if (sleeps_) posted_one_.notify_one();
}

// It has one answer, unless its pool there is lost or broken.
void Hub::post_task(LaneId id, int rank, Frame frame) {
    std::lock_guard lock(mutex_);
    if (stopped_) return;
    posted_.push_back({rank, std::move(frame)});
    auto found = lanes_.find(id);
    if (found != lanes_.end() && !found->second.is_broken &&
        !peers_[static_cast<std::size_t>(rank)].lost) {
        ++found->second.expected;
        ++expected_;
    }
    if (sleeps_) posted_one_.notify_one();
}

void Hub::end(LaneId id, End how) noexcept {
    std::lock_guard lock(mutex_);
    auto found = lanes_.find(id);
    if (found == lanes_.end() || found->second.wanted >= how) return;
    found->second.wanted = how;
    ends_to_say_ = true;
    if (sleeps_) posted_one_.notify_one();
}

// --- the hub's thread --------------------------------------------------------------------------

void Hub::run() {
    BackOff::sleep_in_time();
    BackOff back_off;
    for (;;) {
        const bool any = try_round();
        const bool is_short = short_since_ != sys::Clock::time_point{};
        if (any) back_off.reset();
        std::unique_lock lock(mutex_);
        if (stops_ && posted_.empty() && sending_.empty()) return;
        if (any || (!is_short && (!posted_.empty() || ends_to_say_))) continue;
        const unsigned us = back_off.next(transport_->is_moving() ? BackOff::For::bytes
                                          : expected_ > 0         ? BackOff::For::answer
                                                                  : BackOff::For::anything);
        if (us == 0) {
            lock.unlock();
            back_off.pause();
            continue;
        }
        sleeps_ = true;
        posted_one_.wait_for(lock, std::chrono::microseconds(us));
        sleeps_ = false;
    }
}

// H4. False: there was nothing to do, or no memory for it.
bool Hub::try_round() {
    try {
        const bool any = round();
        short_since_ = {};
        return any;
    } catch (const std::bad_alloc&) {
        const auto now = sys::Clock::now();
        if (short_since_ == sys::Clock::time_point{}) short_since_ = now;
        if (now - short_since_ > times_.lost) failure_ = std::current_exception();
    } catch (const std::exception&) {  // what was read in part cannot be resumed
        failure_ = std::current_exception();
    }
    return false;
}

// True: there was something to do.
bool Hub::round() {
    if (failure_) lose_all();
    bool any = send_posted();
    any = transport_->progress() || any;
    any = take_received() || any;
    while (auto rank = transport_->lost()) lose(*rank, "its agent has ended");
    look_at_times();
    return tell() || any;
}

// Nothing that hosts say can be taken any more.
void Hub::lose_all() {
    auto lose_each = [this](std::string_view why) {
        for (int rank = 1; rank < transport_->size(); ++rank) lose(rank, why);
    };
    try {
        std::rethrow_exception(failure_);
    } catch (const std::bad_alloc&) {
        lose_each("the first process had no memory for what it said");
    } catch (const std::exception& error) {
        lose_each(fmt::format("the first process could not take what it said: {}", error.what()));
    }
    failure_ = nullptr;
}

bool Hub::send_posted() {
    if (sending_.empty()) {
        std::lock_guard lock(mutex_);
        sending_.swap(posted_);
    }
    const bool any = !sending_.empty();
    for (; sent_ < sending_.size(); ++sent_) {
        Posted& next = sending_[sent_];
        if (!peers_[static_cast<std::size_t>(next.rank)].lost)
            transport_->send(next.rank, std::move(next.frame));
    }
    sending_.clear();
    sent_ = 0;
    return say_ends() || any;
}

// Behind all that was posted before.
bool Hub::say_ends() {
    std::lock_guard lock(mutex_);
    if (!ends_to_say_ || !posted_.empty()) return false;
    for (auto& [id, lane] : lanes_) {
        if (lane.wanted == lane.said) continue;
        auto kind = lane.wanted == End::close ? MessageKind::close : MessageKind::terminate;
        if (!peers_[static_cast<std::size_t>(lane.rank)].lost)
            transport_->send(lane.rank, framed(kind, PoolWord{id, {}}));
        lane.said = lane.wanted;
    }
    ends_to_say_ = false;
    return true;
}

bool Hub::take_received() {
    for (bool any = false;; any = true) {
        if (!received_) received_ = transport_->receive();
        if (!received_) return any;
        take(*received_);
        received_.reset();
    }
}

// Its last word, for which there is room. Takes memory for the reason alone.
void Hub::tell_gone(Lane lane, std::string_view why) {
    HostGone gone{"out of memory"};  // no longer than a string that has no memory of its own
    try {
        if (!why.empty()) gone.why = why;
    } catch (const std::bad_alloc&) {
    }
    lane.last_word.push_back(std::move(gone));
    lane.listener->hosts_told(lane.place, std::move(lane.last_word));
}

// The lanes of lost hosts, whenever they were opened. False: there are none.
bool Hub::tell_lost() {
    for (bool any = false;; any = true) {
        Lane lane;
        {
            std::lock_guard lock(mutex_);
            auto found = std::find_if(lanes_.begin(), lanes_.end(), [this](const auto& each) {
                return peers_[static_cast<std::size_t>(each.second.rank)].lost;
            });
            if (found == lanes_.end()) return any;
            expect_no_more(found->second);
            lane = std::move(found->second);
            lanes_.erase(found);
        }
        const std::string& why = peers_[static_cast<std::size_t>(lane.rank)].why;
        tell_gone(std::move(lane), why);
    }
}

// H3.
bool Hub::tell() {
    bool any = false;
    while (!events_.empty()) {
        auto first = events_.begin();
        const LaneId id = first->first;
        std::vector<HostEvent> events = std::move(first->second);
        events_.erase(first);
        if (events.empty()) continue;
        bool last = std::holds_alternative<HostClosed>(events.back()) ||
                    std::holds_alternative<HostGone>(events.back());
        std::shared_ptr<HostListener> listener;
        std::uint32_t place = 0;
        {
            std::lock_guard lock(mutex_);
            auto found = lanes_.find(id);
            if (found == lanes_.end()) continue;
            listener = found->second.listener;
            place = found->second.place;
            if (last) {
                expect_no_more(found->second);
                lanes_.erase(found);
            }
        }
        listener->hosts_told(place, std::move(events));
        any = true;
    }
    return (any_lost_ && tell_lost()) || any;
}

void Hub::look_at_times() {
    auto now = sys::Clock::now();
    if (now < pinged_ + times_.ping) return;
    bool first = pinged_ == sys::Clock::time_point{} || now > pinged_ + 2 * times_.ping;
    if (launcher_.has_ended && launcher_.has_ended()) return end_job();
    const Ping ping{times_.lost.count()};
    for (int rank = 1; rank < transport_->size(); ++rank) {
        Peer& peer = peers_[static_cast<std::size_t>(rank)];
        if (!hears(peer)) continue;
        if (first) peer.heard = now;  // nobody has asked for a while
        if (!peer.lost && now - peer.heard > times_.lost)
            lose(rank,
                 fmt::format(
                     "it has not answered for {} ms",
                     std::chrono::duration_cast<std::chrono::milliseconds>(times_.lost).count()));
        else
            transport_->send(rank, framed(MessageKind::ping, ping));
    }
    pinged_ = now;  // not before: who could not be asked for want of memory is asked again (H4)
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

// Its lanes are told by tell().
void Hub::lose(int rank, std::string_view why) noexcept {
    Peer& peer = peers_[static_cast<std::size_t>(rank)];
    if (peer.lost) return;
    try {
        peer.why = why;
    } catch (const std::bad_alloc&) {
    }
    any_lost_ = true;
    in_order_ = in_order_ && peer.resigned;
    std::lock_guard lock(mutex_);
    peer.lost = true;
    for (auto& [id, lane] : lanes_)
        if (lane.rank == rank) expect_no_more(lane);
}

}  // namespace sidestep::detail
