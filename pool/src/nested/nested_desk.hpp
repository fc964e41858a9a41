// The nested tasks of a pool of processes, in the process that has the pool.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include <sidestep/detail/pool_task.hpp>

#include "nested/nested_message.hpp"
#include "nested/relief.hpp"
#include "policy/pool_rooms.hpp"
#include "policy/stopper.hpp"
#include "sys/fd.hpp"
#include "task/task_ids.hpp"

namespace sidestep::inline v0::detail {

// One thread for each worker whose tasks have asked for something; it reads what comes, answers,
// and sends results. It may wait for its worker, and for nobody else does. What a worker sends that
// is no message ends its line, as the worker's end does: what it had submitted and still wanted is
// cancelled.
//
// Lock order: the desk's mutex, then the pool's.
class NestedDesk {
  public:
    // All outlive this object. core(): the pool, which outlives this object.
    NestedDesk(const PoolRooms& rooms, Relief& relief, Stopper& stopper,
               std::function<std::shared_ptr<PoolCore>()> core);
    ~NestedDesk();
    NestedDesk(const NestedDesk&) = delete;
    NestedDesk& operator=(const NestedDesk&) = delete;

    // A worker's task has asked for the first time. False: it has a line already, or this is no
    // socket. Without a thread for it, the line ends at once.
    bool open(std::uint32_t lane, int pid, Fd socket) POOL_UNLOCKED;
    // That worker is dead, though others may have its descriptors.
    void close(int pid) noexcept;
    // All lines end. Returns when their threads have.
    void end() noexcept;
    void abandon();  // in a forked child

  private:
    struct Line;
    struct Flight;
    using Lines = std::list<Line>;
    using Flights = std::map<std::uint64_t, std::shared_ptr<Flight>>;

    void serve(Line& line) noexcept POOL_UNLOCKED;
    void serve_until_it_ends(Line& line) POOL_UNLOCKED;
    void handle(Line& line, Blob message) POOL_UNLOCKED;
    void submit(Line& line, const NestedHead& head, Blob message) POOL_UNLOCKED;
    void begin(Line& line, const std::shared_ptr<Flight>& flight) POOL_UNLOCKED;
    bool begin_after(Line& line, const std::shared_ptr<Flight>& flight) POOL_UNLOCKED;
    TaskRef needed(Line& line, std::uint64_t number) POOL_UNLOCKED;
    std::int32_t next_priority();  // with mutex_ held
    PoolTaskRef make_task(Flight& flight);
    void submit_again(const std::shared_ptr<Flight>& flight) POOL_UNLOCKED;
    void let_wait(Line& line, const NestedHead& head) POOL_UNLOCKED;
    void go_on(Line& line) POOL_UNLOCKED;
    void lend() POOL_UNLOCKED;
    bool lend_one() POOL_UNLOCKED;
    bool lend_to(Line& line, const std::shared_ptr<Flight>& flight) POOL_UNLOCKED;
    bool take(Flight& flight) POOL_UNLOCKED;
    void send_order(Line& line);
    void finish(Line& line, const NestedHead& head, const Blob& message) POOL_UNLOCKED;
    bool cancel(Line& line, std::uint64_t number) POOL_UNLOCKED;
    void deliver(Line& line, std::uint64_t number) POOL_UNLOCKED;
    void end_line(Line& line) noexcept POOL_UNLOCKED;
    std::shared_ptr<Flight> take_any(Flights& flights);
    void lose_lent(const Line& line);
    void set_duty(const Line& line, LaneDuty duty) POOL_UNLOCKED;

    const PoolRooms rooms_;
    Relief& relief_;
    Stopper& stopper_;
    const std::function<std::shared_ptr<PoolCore>()> core_;
    TaskIds ids_;

    std::mutex mutex_;
    // Guarded by mutex_.
    Lines lines_;
    std::uint64_t last_ticket_ = 0;
    std::int32_t last_priority_ = Relief::kOwnWorker;  // the last one comes first
    Flights lent_;                                     // to workers that wait, by ticket
};

}  // namespace sidestep::detail
