// A job in one process: its ranks are threads, and what they say goes through memory. So all but
// MPI itself runs without a launcher, and hosts can be cut off.
#pragma once

#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include <sidestep/pool.hpp>

#include "agent.hpp"
#include "back_off.hpp"
#include "hub.hpp"

namespace test {

namespace detail = sidestep::detail;

// What the ranks of a job share.
struct Wires {
    explicit Wires(int n) : inboxes(static_cast<std::size_t>(n)) {}

    std::mutex mutex;
    // Guarded by mutex.
    std::vector<std::deque<detail::ReceivedFrame>> inboxes;  // by rank
    std::set<int> cut;                     // what they say, and what is said to them, is lost
    std::set<int> gone;                    // that was seen by who is told of it
    std::map<int, std::size_t> most_body;  // of what is said to them: for more there is no memory
    std::exception_ptr failure;            // when the first is to take what came
    bool is_over = false;                  // the first has gone

    // How often in a row the first has looked long after the time before: it awaits no answer then.
    std::atomic<int> calm_looks = 0;
    std::atomic<int> placed = 0;  // bodies that came to where they were wanted
};

class ThreadTransport final : public detail::Transport {
  public:
    ThreadTransport(std::shared_ptr<Wires> wires, int rank)
        : wires_(std::move(wires)), rank_(rank) {}

    int rank() const override { return rank_; }
    int size() const override { return static_cast<int>(wires_->inboxes.size()); }
    void place_bodies(PlaceBody place) override { place_body_ = std::move(place); }
    void send(int to, detail::Frame&& frame) override {
        detail::ReceivedFrame sent{rank_, {}, {frame.body.begin(), frame.body.end()}};
        std::lock_guard lock(wires_->mutex);
        if (wires_->cut.count(to) + wires_->cut.count(rank_) > 0) return;
        auto most = wires_->most_body.find(to);
        if (most != wires_->most_body.end() && sent.body.size() > most->second)
            sent.missing = std::exchange(sent.body, {}).size();
        auto& inbox = wires_->inboxes[static_cast<std::size_t>(to)];
        inbox.push_back(std::move(sent));
        inbox.back().head = std::move(frame.head);
    }
    bool progress() override {
        if (rank_ != 0) return false;
        constexpr std::chrono::microseconds kLong{5 * detail::BackOff::kLastBusyUs};
        const auto now = std::chrono::steady_clock::now();
        if (now - std::exchange(looked_, now) > kLong)
            ++wires_->calm_looks;
        else
            wires_->calm_looks = 0;
        return false;
    }
    std::optional<detail::ReceivedFrame> receive() override {
        std::optional<detail::ReceivedFrame> frame = take();
        if (!frame || !place_body_ || frame->body.size() <= kLargeBody) return frame;
        detail::BodyPlace place = place_body_(frame->head, frame->body.size());
        if (!place.data) return frame;
        ++wires_->placed;
        const std::vector<std::byte> body = std::exchange(frame->body, {});
        std::copy(body.begin(), body.end(), place.data);
        frame->place = std::move(place.keep);
        return frame;
    }
    bool all_sent() const override { return true; }
    std::optional<int> lost() override {
        std::lock_guard lock(wires_->mutex);
        if (rank_ != 0 && wires_->is_over) return 0;
        for (int rank : wires_->gone)
            if (rank != rank_ && (rank == 0 || rank_ == 0) && told_.insert(rank).second)
                return rank;
        return {};
    }

  private:
    static constexpr std::size_t kLargeBody = std::size_t(64) << 10;

    std::optional<detail::ReceivedFrame> take() {
        std::lock_guard lock(wires_->mutex);
        auto& inbox = wires_->inboxes[static_cast<std::size_t>(rank_)];
        if (inbox.empty()) return {};
        if (rank_ == 0 && wires_->failure)
            std::rethrow_exception(std::exchange(wires_->failure, nullptr));
        detail::ReceivedFrame frame = std::move(inbox.front());
        inbox.pop_front();
        return frame;
    }

    const std::shared_ptr<Wires> wires_;
    const int rank_;
    PlaceBody place_body_;
    std::set<int> told_;
    std::chrono::steady_clock::time_point looked_{};
};

// Each rank but the first has an agent, on a host of its own by name. The first has one worker of
// its own, and the others as many as are asked for.
class ThreadJob {
  public:
    static constexpr const char* kAgentThread = "agent";

    explicit ThreadJob(int agents, unsigned cpus = 2, detail::HubTimes times = {},
                       detail::HubLauncher launcher = {}, const detail::Agent::Signs& signs = {})
        : wires_(std::make_shared<Wires>(agents + 1)) {
        detail::Hello own = hello(0, 1);
        hub_ = std::make_shared<detail::Hub>(std::make_unique<ThreadTransport>(wires_, 0), times,
                                             std::move(launcher));
        for (int rank = 1; rank <= agents; ++rank)
            agents_.threads.emplace_back([agent = std::make_unique<OneAgent>(wires_, rank, signs),
                                          said = hello(rank, cpus)] {
                ::prctl(PR_SET_NAME, kAgentThread);
                (void)agent->agent.run(said);
            });
        hub_->welcome(own);
        hub_->start();
    }
    ~ThreadJob() {
        if (!stopped_) (void)stop();
    }

    sidestep::PoolOptions options(sidestep::PoolOptions options = {}) const {
        options.start_method = sidestep::StartMethod::forkserver;
        options.hosts = hub_;
        return options;
    }
    void cut_off(int rank) {
        std::lock_guard lock(wires_->mutex);
        wires_->cut.insert(rank);
    }
    void end(int rank) {
        std::lock_guard lock(wires_->mutex);
        wires_->gone.insert(rank);
    }
    // The first process has come to look for answers less often, since it awaits none.
    bool is_calm() const { return wires_->calm_looks > 100; }
    int placed() const { return wires_->placed; }
    // Goodbye. False: a host was lost, and not because it resigned.
    bool stop() {
        stopped_ = true;
        return hub_->stop();
    }
    // Whoever has this rank has no memory for arguments, or results, that are larger.
    void limit_bodies(int rank, std::size_t most) {
        std::lock_guard lock(wires_->mutex);
        wires_->most_body[rank] = most;
    }
    // The first cannot take the next that is said to it.
    template <class Exception>
    void fail_with(Exception error) {
        std::lock_guard lock(wires_->mutex);
        wires_->failure = std::make_exception_ptr(std::move(error));
    }
    // Something that an agent would not say.
    void say(int rank, std::vector<std::byte> head) {
        ThreadTransport(wires_, rank).send(0, {std::move(head), {}, {}});
    }

    // Something that the first process would not say.
    void confuse(int rank) {
        using namespace detail;
        ThreadTransport(wires_, 0).send(rank, framed(MessageKind::farewell, Nothing{}));
    }

    static detail::Hello hello(int rank, unsigned cpus) {
        detail::Hello hello = detail::introduce();
        hello.host = rank == 0 ? hello.host : "host" + std::to_string(rank);
        hello.cpus = rank == 0 ? 1 : cpus;
        hello.cpus_bound_to = hello.cpus_of_host;
        return hello;
    }

  private:
    struct OneAgent {
        OneAgent(std::shared_ptr<Wires> wires, int rank, const detail::Agent::Signs& signs)
            : transport(std::move(wires), rank), agent(transport, signs) {}
        ThreadTransport transport;
        detail::Agent agent;
    };
    // They end when they are told goodbye, and those that were cut off with this object.
    struct Agents {
        ~Agents() {
            {
                std::lock_guard lock(wires->mutex);
                wires->is_over = true;
            }
            for (std::thread& agent : threads) agent.join();
        }
        std::shared_ptr<Wires> wires;
        std::vector<std::thread> threads;
    };

    std::shared_ptr<Wires> wires_;
    std::shared_ptr<detail::Hub> hub_;
    Agents agents_{wires_, {}};
    bool stopped_ = false;
};

}  // namespace test
