// What outlives one process of an actor: which calls it had begun, and its last checkpoint. It is
// in memory that the keeper (actor_keeper.hpp) makes before it forks the first one.
//
// The object's process may write anywhere, and die of it: the keeper believes the least that is
// safe. Each call's name is there twice, far from each other, and a call has begun if either says
// so: rather is one lost that had not begun than one run twice. Names that nobody has are harmless.
//
// A checkpoint is in a file, which is mapped nowhere. It is written into the one that does not hold
// the last one: its head, with a sum over all of it, comes last, and is wiped first. So whoever is
// killed in between leaves a whole one, and what was written over is not taken for a state.
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
    // This is the state that the next process begins with. Throws std::system_error. One at a time.
    void save(std::span<const std::byte> state);

    // --- in the keeper, when that process has ended ------------------------------------------
    // Those that had begun, some of them twice; they are forgotten here.
    struct Begun {
        CallName call;
        bool overdue;
    };
    std::vector<Begun> take_begun();

    // --- in the next process -----------------------------------------------------------------
    // Nothing: there is no checkpoint. Throws std::runtime_error if there was one, and it was
    // written over.
    std::optional<std::vector<std::byte>> last_state();

  private:
    struct Name {
        void set(const CallName& call) noexcept;
        // SYNC(begun): release when it is whole, and acquire by who reads it. 0: none.
        std::atomic<std::uint64_t> session;
        std::atomic<std::uint64_t> request;  // relaxed: by the session
    };
    static constexpr std::uint32_t kOverdue = 0x0d7e0d7e;  // a word that is not there by chance
    struct Shared {
        Name names[kMostBegun];
        std::atomic<std::uint32_t> overdue[kMostBegun];
        Name again[kMostBegun];
    };
    Shared& shared() const { return *memory_.at<Shared>(); }

    // At the beginning of a checkpoint's file.
    struct Head {
        std::uint64_t magic, generation, size, sum;
    };
    // Nothing: there is none in this file, or a part of one, or it was written over.
    std::optional<std::vector<std::byte>> read(int file, Head& head, bool& written_over) const;

    Segment memory_;  // constant after construction
    Fd files_[2];
    // Of the last checkpoint, and which file has it: the process's that has the object.
    std::uint64_t generation_ = 0;
    unsigned last_ = 1;
    std::mutex mutex_;
    // Guarded by mutex_.
    std::vector<Place> free_;
    Place used_ = 0;  // so many were ever in use
};

}  // namespace sidestep::detail
