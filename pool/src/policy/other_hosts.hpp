// Tasks that run on other hosts: which of them go there, and what becomes of them.
//
// A host has a bounded number of tasks, and its own order among them. Here it is decided what it
// gets next, and whether what failed is run again; see lanes/host_lane.hpp for the rest.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include <sidestep/pool_stats.hpp>

#include "dispatch/elsewhere.hpp"
#include "lanes/host_link.hpp"
#include "policy/chunk_recovery.hpp"
#include "policy/pool_end.hpp"
#include "policy/pool_rooms.hpp"
#include "policy/retry_desk.hpp"

namespace sidestep::inline v0::detail {

// Which hosts have how many workers, this one first, and the options for the others' pools.
struct HostPlan {
    std::vector<Hosts::Share> shares;
    PoolOptions options;
};

class OtherHosts final : public Elsewhere {
  public:
    struct Policies {  // all of it outlives this object
        RetryDesk& retries;
        ChunkRecovery& chunks;
        PoolEnd& end;
    };
    OtherHosts(const PoolRooms& rooms, const Policies& policies)
        : rooms_(rooms), policies_(policies) {}

    // Begins a pool on each of the others. Throws what kept it from that; then end() those that
    // were begun.
    void open(const HostPlan& plan, const std::shared_ptr<HostListener>& pool) POOL_UNLOCKED;
    // Throw std::invalid_argument: for hooks with handles, if there are other hosts; for a task
    // with some.
    static void require_no_hosts(const HostPlan& plan);
    static void require_no_handles(const TaskDescriptors& descriptors);

    std::uint32_t workers() const { return workers_; }
    void add_shares(std::vector<Hosts::Share>& shares) const POOL_LOCKED;
    void add_stats(std::vector<HostStats>& stats) const POOL_LOCKED;

    // What a host has said. (Then refill.)
    void told(std::uint32_t host, std::vector<HostEvent> events, Hold& hold) POOL_LOCKED;

    bool is_sooner(std::uint64_t ns, std::uint64_t task_ns) const POOL_LOCKED override;
    bool take(PoolTask& task, std::uint64_t task_ns) noexcept POOL_LOCKED override;
    bool take_by_key(PoolTask& task) noexcept POOL_LOCKED override;
    void take_back_stuck(bool idle_here) noexcept POOL_LOCKED override;
    bool cancel(PoolTask& task, bool running_too, Hold& hold) POOL_LOCKED override;
    void cancel_waiting() POOL_LOCKED override;
    void end(bool now) noexcept POOL_LOCKED override;
    bool has_ended() const POOL_LOCKED override;
    void for_each_task(const std::function<void(PoolTask*)>& f) const POOL_LOCKED override;

  private:
    HostLink* soonest(std::uint64_t task_ns) POOL_LOCKED;
    HostLink* host_of_key(std::uint64_t key) POOL_LOCKED;
    bool start_on(HostLink& host, PoolTask& task) noexcept POOL_LOCKED;
    static PoolTask* end_on(HostLink& host, std::uint64_t number);
    void take(HostLink& host, HostReply& reply, Hold& hold) POOL_LOCKED;
    void take(HostLink& host, HostFailure& failure, Hold& hold) POOL_LOCKED;
    void take(HostLink& host, HostCancelled& cancelled, Hold& hold) POOL_LOCKED;
    void take(HostLink& host, HostBroken& broken, Hold& hold) POOL_LOCKED;
    void take(HostLink& host, HostClosed& closed, Hold& hold) POOL_LOCKED;
    void take(HostLink& host, HostGone& gone, Hold& hold) POOL_LOCKED;
    std::uint32_t first_track() const POOL_LOCKED;
    void note(const HostLink& host, PoolTask& task, std::uint64_t duration_ns,
              const char* outcome) POOL_LOCKED;

    const PoolRooms rooms_;
    const Policies policies_;
    std::uint32_t workers_ = 0;                // constant after open()
    std::deque<HostLink> hosts_ POOL_GUARDED;  // constant in number after open()
};

}  // namespace sidestep::detail
