// For tests of what a pool does with its lanes, without a process: a lane whose worker is the test,
// and the rooms of a pool around it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include <sidestep/archive.hpp>
#include <sidestep/remote_error.hpp>

#include "pool_parts.hpp"
#include "room_support.hpp"

namespace test {

using namespace sidestep::detail;

class FakeLane final : public Lane {
  public:
    static constexpr std::uint32_t kMost = 4;

    FakeLane(std::uint32_t its_number, LaneEvents& events) : Lane(its_number), events_(events) {
        come();
    }

    // --- what its worker does ---
    void begin() { runs_ = runs_ || (!tasks_.empty() && !ended_); }
    bool runs() const { return runs_; }
    PoolTask* front() const { return tasks_.empty() ? nullptr : tasks_.front(); }
    // The front has ended; drain() tells.
    void end(bool with_value) {
        ended_ = with_value;
        runs_ = false;
    }
    bool has_ended() const { return ended_.has_value(); }
    // Its process dies, and is reaped; of a chunk so many items were finished.
    void die(Hold& hold) POOL_LOCKED {
        (void)drain(hold);
        load.most = 0;
        load.works = false;
        bool was_begun = std::exchange(runs_, false);
        if (stopping) end_stopping(hold);
        while (!tasks_.empty()) {
            PoolTask* task = tasks_.back();
            bool is_front = tasks_.size() == 1;
            if (task && !(is_front && was_begun)) {
                events_.handed_back(*task, hold);
            } else if (task) {
                events_.lost(*this, *task,
                             std::make_exception_ptr(sidestep::WorkerLost(describe(*task))), hold);
            }
            tasks_.pop_back();
            load.in_flight = static_cast<std::uint32_t>(tasks_.size());
        }
    }
    void come() {
        load = {};
        load.most = kMost;
        load.works = true;
    }
    bool is_dead() const { return !load.works && load.most == 0; }
    // A look at which the same task was still at the front, run or not.
    void be_stuck() {
        load.stuck = tasks_.empty() ? 0 : load.stuck + 1;
        if (load.most > 0) load.most = load.stuck > 0 ? 1 : kMost;
    }

    // --- the lane ---
    bool start(PoolTask& task, Hold& hold) POOL_LOCKED override {
        if (refuses) {
            load.most = 0;
            return false;
        }
        tasks_.push_back(&task);
        ++load.in_flight;
        load.gathers = true;
        most_at_once = std::max(most_at_once, load.in_flight);
        if (task.options) events_.given(task, hold);
        return true;
    }
    void flush(Hold&) POOL_LOCKED override { ++flushes; }
    bool drain(Hold& hold) POOL_LOCKED override {
        if (!ended_) return false;
        bool with_value = *ended_;
        if (PoolTask* task = tasks_.front())
            events_.finished(*this, *task, {with_value, with_value ? value() : error(), 1, 1000},
                             hold);
        else
            end_stopping(hold);
        ended_.reset();
        tasks_.pop_front();
        --load.in_flight;
        load.stuck = 0;
        load.unresponsive = false;
        if (load.most > 0) load.most = kMost;
        return true;
    }
    void take_back(std::uint32_t keep, Hold& hold) noexcept POOL_LOCKED override {
        while (load.in_flight > keep && tasks_.back() &&
               !(load.in_flight == 1 && (runs_ || ended_))) {
            PoolTask* task = tasks_.back();
            tasks_.pop_back();
            --load.in_flight;
            events_.handed_back(*task, hold);
        }
        load.unresponsive = load.unresponsive || (load.in_flight == 0 && load.stuck > 0);
    }
    PoolTask* task_at(std::uint32_t i) const POOL_LOCKED override { return tasks_[i]; }
    std::uint32_t waiting() POOL_LOCKED override {
        return load.in_flight - (load.in_flight > 0 && (runs_ || load.stuck == 0) ? 1 : 0);
    }
    bool front_runs() POOL_LOCKED override { return runs_; }
    bool stop(Hold& hold) noexcept POOL_LOCKED override {
        tasks_.front() = nullptr;
        if (finished_items) ++*finished_items;  // the one that runs comes to its end for that
        stopping.emplace();
        take_back(1, hold);
        load.most = 0;
        return true;
    }
    void signal(int which, Hold&) noexcept POOL_LOCKED override { signals.push_back(which); }
    LaneFront look_at_front(Time) POOL_LOCKED override {
        return {runs_, finished_items.value_or(0), begun};
    }
    std::optional<PartialResult> partial(std::uint64_t) noexcept POOL_LOCKED override {
        if (!finished_items) return {};
        return PartialResult{*finished_items, std::vector<std::byte>(8)};
    }
    sidestep::TaskError::Details describe(const PoolTask& task) const POOL_LOCKED override {
        sidestep::TaskError::Details details;
        details.task = task.serial;
        details.worker_index = number;
        return details;
    }

    bool refuses = false;  // its socket is full
    std::optional<std::uint32_t>
        finished_items;  // of the chunk at the front; none: nobody can tell
    Time begun{};
    std::vector<int> signals;
    std::uint32_t most_at_once = 0;
    unsigned flushes = 0;

  private:
    static std::span<const std::byte> value() {
        static const std::vector<std::byte> bytes(300, std::byte(7));  // too long to lie inline
        return bytes;
    }
    static std::span<const std::byte> error() {
        static const std::vector<std::byte> bytes = [] {
            sidestep::detail::HeapBuffer buffer;
            sidestep::OutputArchive archive(buffer);
            try {
                throw std::runtime_error("it failed");
            } catch (...) {
                sidestep::detail::save_current_exception(archive, "a fake lane");
            }
            return std::vector<std::byte>(buffer.bytes().begin(), buffer.bytes().end());
        }();
        return bytes;
    }
    void end_stopping(Hold& hold) POOL_LOCKED {
        Stopping done = std::move(*stopping);
        stopping.reset();
        if (load.works) load.most = kMost;
        events_.stopped(std::move(done), hold);
    }

    LaneEvents& events_;
    std::deque<PoolTask*> tasks_;  // null: it is being stopped
    bool runs_ = false;
    std::optional<bool> ended_;  // with a value
};

// A pool without processes.
class FakePool final : public Sleepers {
  public:
    explicit FakePool(unsigned count)
        : options_(with(count)),
          shared_(options_),
          rooms_tasks(options_, with_known_speed(shared_), callbacks_),
          rooms{options_,
                mutex,
                *this,
                rooms_tasks.life,
                rooms_tasks.timers,
                rooms_tasks.arguments,
                rooms_tasks.task_end,
                rooms_tasks.insight,
                rooms_tasks.dispatcher},
          policies(rooms) {
        for (unsigned i = 0; i < count; ++i)
            rooms.dispatcher.add(lanes.emplace_back(i, policies.outcomes));
    }

    // As Intake::submit() does.
    PoolTask* submit(const sidestep::TaskOptions& options = {},
                     std::uint32_t items = 0) POOL_UNLOCKED {
        PoolTask* task = made_.make(options);
        if (items > 0) task->set_chunk(items, 0);
        task->add_reference();  // the pool's own
        Hold hold(mutex, *this);
        rooms.task_end.begin(*task);
        rooms.dispatcher.place(task, hold);
        return task;
    }
    void wake_waiters() noexcept override {}
    void kick_supervisor() noexcept override {}

  private:
    static sidestep::PoolOptions with(unsigned count) {
        sidestep::PoolOptions options;
        options.processes = count;
        options.arena_bytes = std::size_t(16) << 20;
        return options;
    }
    // A lane holds two tasks of unknown length then; what was measured may be more.
    static const PoolShared& with_known_speed(PoolShared& shared) {
        shared.wake_ns = 20'000;
        return shared;
    }

    const sidestep::PoolOptions options_;
    PoolShared shared_;
    CallbackThread callbacks_;
    Tasks made_;

  public:
    PoolMutex mutex;
    PoolTasks rooms_tasks;
    const PoolRooms rooms;
    PoolPolicies policies;
    std::deque<FakeLane> lanes;
};

}  // namespace test
