// Where tasks run that do not run on this machine: what a pool knows of another host, and what that
// may tell the pool.
//
// An agent on the host has a pool of its own, without retries: timeouts, memory limits, output and
// what is left of a chunk are settled there. Who is next, and what is run again, is settled here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <sidestep/pool_errors.hpp>
#include <sidestep/pool_options.hpp>
#include <sidestep/task.hpp>

#include "task/failure_kind.hpp"

namespace sidestep::inline v0::detail {

// A task for another host: all that it takes to run it there.
struct HostOrder {
    std::uint64_t number = 0;  // in its pool; answers name it
    TaskId id;
    const TaskOptions* options = nullptr;          // null: none
    std::uint32_t items_begin = 0, items_end = 0;  // of a chunk; 0, 0: it is none
    std::uint32_t items_told = 0;  // of map_reduce: see TaskRecord::set_told_items(); else 0
    std::uint64_t first_item = 0;
    std::uint16_t attempts = 0;  // that failed
    std::span<const std::byte> arguments;
    // They live as long as this; null: until start() returns.
    std::shared_ptr<const void> keep;
};

// What a host tells a pool. The numbers are those of orders, but for what is left of a chunk.
struct HostReply {
    std::uint64_t number = 0;
    bool is_value = false;  // else the bytes are an error that the task threw
    std::vector<std::byte> bytes;
    std::uint64_t duration_ns = 0;
    std::optional<TaskOutput> output;
};
// It did not come to its end. Of a chunk, one item is to blame: what was finished is here, and what
// comes after runs on there, under a number of the agent's own.
struct HostFailure {
    std::uint64_t number = 0;
    FailureKind kind = FailureKind::error;
    std::exception_ptr error;  // if it is none of these three:
    TaskError::Details details;
    struct Chunk {
        std::uint32_t items = 0;  // that were finished
        std::vector<std::byte> bytes;
        std::uint64_t rest = 0;  // its number; 0: there is none
    };
    std::optional<Chunk> chunk;
    std::optional<TaskOutput> output;
};
struct HostCancelled {
    std::uint64_t number = 0;
};
// Its pool is broken.
struct HostBroken {
    std::string why;
};
// Its pool has ended in order, and nothing more comes.
struct HostClosed {};
// It is lost, and nothing more comes.
struct HostGone {
    std::string why;
};
using HostEvent =
    std::variant<HostReply, HostFailure, HostCancelled, HostBroken, HostClosed, HostGone>;

// The pool. Called in a thread of the hosts', without the pool's mutex. Each event counts, whatever
// there is no memory for: nobody says it again.
class HostListener {
  public:
    virtual void hosts_told(std::uint32_t lane, std::vector<HostEvent> events) = 0;

  protected:
    ~HostListener() = default;
};

// One host, for one pool. All calls only queue, so they may be made with the pool's mutex held.
class HostLane {
  public:
    virtual ~HostLane() = default;
    virtual void start(const HostOrder& order) = 0;
    // Answered by HostCancelled, or by what became of it: it has ended, or has begun and only what
    // waits was to be cancelled.
    enum class Cancel { waiting_only, running_too };
    virtual void cancel(std::uint64_t number, Cancel mode) = 0;
    // The pool there ends when it has done all it has; or now. Answered by HostClosed. They take no
    // memory: else join() would wait for ever.
    virtual void close() noexcept = 0;
    virtual void terminate() noexcept = 0;
};

// The hosts of a job. Threads: thread-safe.
class Hosts {
  public:
    struct Share {
        std::string name;
        unsigned processes = 0;
    };
    virtual ~Hosts() = default;
    // This process's host first: how many workers each should have, of `processes` in all (nothing:
    // as many as there are CPUs). A host without workers is in the list, too. An empty list: this
    // process, a forked copy, has no hosts, and its pool has this machine's workers.
    virtual std::vector<Share> share_out(std::optional<unsigned> processes) const = 0;
    // Begins a pool on the host with this place in the list. `lane` is what the listener is told.
    virtual std::unique_ptr<HostLane> open(std::size_t host, const PoolOptions& options,
                                           unsigned processes, std::uint32_t lane,
                                           std::shared_ptr<HostListener> listener) = 0;
};

// The inside of errors and pools, for what carries them between hosts.
struct TaskErrorAccess {
    static const TaskError::Details& details(const TaskError& error) { return error.details(); }
};

}  // namespace sidestep::detail
