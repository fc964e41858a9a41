// What outlives one process of an actor: which calls it had begun, and its last checkpoint. It is
// in memory that the keeper (actor_keeper.hpp) makes before it forks the first one.
//
// A checkpoint is written into the file that does not hold the last one, and then one word says
// that this is the last: whoever is killed in between leaves a whole one.
//
// Threads:    thread-safe.
// Peer death: of the process that writes: the keeper's view is as if each call of these functions
//             had been made or not.
#pragma once

#include <atomic>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "memory/segment.hpp"
#include "sys/fd.hpp"

namespace sidestep::inline v0::detail {

// A call, as its client's session has numbered it.
struct CallName {
    std::uint64_t session = 0;
    std::uint64_t request = 0;
    auto operator<=>(const CallName&) const = default;
};

class ActorBoard {
  public:
    // Calls that have begun and are not answered, at most: each has a thread.
    static constexpr std::size_t kMostBegun = 4096;
    using Place = std::size_t;

    explicit ActorBoard(bool checkpoints);
    ActorBoard(const ActorBoard&) = delete;
    ActorBoard& operator=(const ActorBoard&) = delete;

    // --- in the actor's process: a call begins, and has been answered ------------------------
    // Throws std::runtime_error if there are too many.
    Place begin(const CallName& call);
    void end(Place place) noexcept;
    // The process ends itself, since this call does not heed its timeout.
    void note_overdue(Place place) noexcept;
    // This is the state that the next process begins with. Throws std::system_error.
    void save(std::span<const std::byte> state);

    // --- in the keeper, when that process has ended ------------------------------------------
    // Those that had begun; they are forgotten here.
    struct Begun {
        CallName call;
        bool overdue;
    };
    std::vector<Begun> take_begun();

    // --- in the next process -----------------------------------------------------------------
    // Nothing: there is no checkpoint.
    std::optional<std::vector<std::byte>> last_state() const;

  private:
    struct Slot {
        // SYNC(begun): release when it is whole, and acquire by who reads it. 0: none.
        std::atomic<std::uint64_t> session;
        std::uint64_t request;
        std::atomic<bool> overdue;
    };
    struct Shared {
        // Which file, and how many bytes of it: size << 2 | file << 1 | 1; 0: there is none.
        // SYNC(checkpoint): release when the file is written, acquire by who reads it.
        std::atomic<std::uint64_t> last;
        Slot slots[kMostBegun];
    };
    Shared& shared() const { return *memory_.at<Shared>(); }

    Segment memory_;  // constant after construction
    Fd files_[2];
    std::mutex mutex_;
    // Guarded by mutex_.
    std::vector<Place> free_;
    Place used_ = 0;  // so many were ever in use
};

}  // namespace sidestep::detail
