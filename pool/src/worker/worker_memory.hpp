// The shared memory of one worker, as the parent has it.
#pragma once

#include <cstddef>
#include <vector>

#include "memory/arena.hpp"
#include "memory/segment.hpp"
#include "queue/task_ring.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

// The shared memory of one worker process. It stays mapped until the last result in it is dropped.
class WorkerMemory {
  public:
    static constexpr std::size_t kLeastArena = std::size_t(16) << 20;  // bytes, where less fits
    explicit WorkerMemory(std::size_t arena_bytes);
    CrashRecord& crash() const;
    const WorkerWords& words() const;
    void close_descriptors();  // once the worker has its own
    // One more block of results is in use. False: there is no memory to note it when it comes back.
    bool lend() noexcept;
    void take_back(BlockId block) noexcept;
    // Blocks wait to be given back: the queue to the worker was full. Now as many as it takes.
    bool owes() const { return !to_give_back_.empty(); }
    void give_back_queued() noexcept;

    Segment ring_segment;
    Segment results;
    RingParent ring;
    bool alive = true;  // a dead worker takes no blocks back

  private:
    std::vector<BlockId> to_give_back_;  // blocks that found the queue full; has room for lent_
    std::size_t lent_ = 0;
};

}  // namespace sidestep::detail
