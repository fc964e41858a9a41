// The clients of an actor in one of its processes, by the numbers of their sessions, which they
// have in all their connections.
//
// A client whose connection ended may come again, and is to be known then. It does not once its
// process has ended: what nobody has a connection of, and whose process is gone, is forgotten,
// at the latest when there are twice as many.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

namespace sidestep::inline v0::detail {

// A client's calls in one process of an actor, however often it connects to that. By each of its
// connections it sends them in the order of their numbers.
class SessionCalls {
  public:
    // False: it, or a later one, has come by another connection. So each call runs once, whichever
    // of two connections is read first.
    bool take(std::uint64_t request) noexcept {
        std::uint64_t last = last_.load();
        while (request > last)
            if (last_.compare_exchange_weak(last, request)) return true;
        return false;
    }

  private:
    std::atomic<std::uint64_t> last_{0};
};

// Threads: thread-safe.
class SessionTable {
  public:
    // Of clients whose process cannot be seen (another pid namespace), the latest so many are known
    // that have no connection.
    static constexpr std::size_t kMostUnseen = 4096;

    // pid: of the client; 0: it cannot be seen. Null: that process has ended, and the session is
    // not known (any more): calls of it may have run.
    std::shared_ptr<SessionCalls> open(std::uint64_t session, int pid);
    std::size_t size();

  private:
    struct Session {
        std::shared_ptr<SessionCalls> calls;
        int pid;
        std::uint64_t opened;  // the how manyth
        // Threads: who has a connection of it has `calls`, too.
        bool has_connection() const { return calls.use_count() > 1; }
    };
    static constexpr std::size_t kLeastLook = 64;
    void forget_ended();

    std::mutex mutex_;
    // Guarded by mutex_.
    std::map<std::uint64_t, Session> sessions_;
    std::uint64_t opened_ = 0;
    std::size_t next_look_ = kLeastLook;  // sessions; doubled, so that a look costs each little
};

}  // namespace sidestep::detail
