// The first process of a job: what it knows of the others, and the one thread that talks to them.
//
// H1 The transport belongs to the hub's thread from start() to stop(), before and after to their
//    caller.
// H2 mutex_ is taken last: pools call with their own mutex held. Nothing of a pool's is called with
//    it held, and frames are dropped without it, since their bodies belong to pools.
// H3 A pool is told of one event after the other, in the hub's thread, until it was told that its
//    lane has ended: HostClosed or HostGone, which comes once for each lane.
// H4 A step for which there is no memory is done again, and has lost nothing: what is being sent
//    and what is being taken is kept. What there is no memory for at all costs the task that it is
//    about. If nothing can be done for as long as a host may be silent, all of them are lost.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lanes/host_lane.hpp"
#include "messages.hpp"
#include "service_thread.hpp"
#include "shares.hpp"
#include "sys/fork_marker.hpp"
#include "sys/sys.hpp"
#include "transport.hpp"

namespace sidestep::inline v0::detail {

struct HubTimes {
    // For all others to say hello.
    std::chrono::nanoseconds welcome = std::chrono::seconds(60);
    // How often the others are asked whether they are there; and after how long without a word a
    // host is lost, or this process is to an agent.
    std::chrono::nanoseconds ping = std::chrono::seconds(1);
    std::chrono::nanoseconds lost = std::chrono::seconds(30);
};

// The launcher's process on this host. MPICH's mpirun does not notice that it has ended, and waits
// for ever, so the hub looks. (Elsewhere the agents look: agent.hpp.)
struct HubLauncher {
    std::function<bool()> has_ended;  // empty: nobody looks
    std::function<void()> gone;       // called once, by the hub's thread, when all have been told
};

class Hub final : public Hosts, public std::enable_shared_from_this<Hub> {
  public:
    explicit Hub(std::unique_ptr<Transport> transport, HubTimes times = {},
                 HubLauncher launcher = {});
    ~Hub() override;

    // Waits until all have said hello. Throws std::runtime_error, which names the host: one that
    // runs another build of the program, or says nothing. All are told, then.
    void welcome(const Hello& own);
    void start();
    // Says goodbye to all; what pools have with them is lost. False: some host was lost before, and
    // not because it resigned.
    bool stop() noexcept;
    // What is worth a word before all begins: ranks that are bound to fewer CPUs than there are.
    std::string warning() const { return bound_too_tightly(hellos_); }

    // Nothing in a forked copy, which has no thread that talks to the others.
    std::vector<Share> share_out(std::optional<unsigned> processes) const override;
    std::unique_ptr<HostLane> open(std::size_t host, const PoolOptions& options, unsigned processes,
                                   std::uint32_t lane,
                                   std::shared_ptr<HostListener> listener) override;

  private:
    friend class AgentLane;
    static constexpr std::chrono::seconds kGoodbyeTime{5};
    enum class End { none, close, terminate };  // of a pool there
    struct Lane {
        std::shared_ptr<HostListener> listener;  // the pool
        std::uint32_t place = 0;                 // what the pool calls it
        int rank = 0;
        std::vector<HostEvent> last_word;  // empty; has room for one
        std::int64_t expected = 0;         // answers
        bool is_broken = false;            // there: tasks of it may have no answer
        End wanted = End::none, said = End::none;
    };
    using LaneId = std::uint32_t;  // what agents call a pool
    struct Peer {
        sys::Clock::time_point heard{};
        bool lost = false;      // changes with the mutex held
        bool resigned = false;  // it is lost, but its agent stays until goodbye is said
        bool parts = false;     // goodbye was said
        std::string why;        // it is lost; empty: there was no memory for that
    };

    struct Posted {
        int rank = 0;
        Frame frame;
    };

    // Thread-safe.
    void post(int rank, Frame frame);
    void post_task(LaneId id, int rank, Frame frame);
    void end(LaneId id, End how) noexcept;
    void run();
    bool try_round();
    bool round();
    void lose_all();
    bool send_posted();
    bool say_ends();
    bool take_received();
    void take(ReceivedFrame& frame);
    LaneId read(ReceivedFrame& frame);
    LaneId give_up(const ReceivedFrame& frame);
    void expect_none_of(LaneId id) noexcept;
    void expect_no_more(Lane& lane) noexcept { expected_ -= std::exchange(lane.expected, 0); }
    std::vector<HostEvent>& room_for_one(LaneId lane);
    static void tell_gone(Lane lane, std::string_view why);
    bool tell_lost();
    bool tell();
    void look_at_times();
    void refuse_all(const std::string& why);
    void end_job();
    void lose(int rank, std::string_view why) noexcept;
    bool hears(const Peer& peer) const { return !peer.lost || peer.resigned; }
    void say_goodbye();
    bool go_on_parting(std::ptrdiff_t& missing);

    const std::unique_ptr<Transport> transport_;
    const HubTimes times_;
    HubLauncher launcher_;       // owned by the hub's thread
    std::vector<Hello> hellos_;  // by rank; constant after welcome()
    const ForkMarker process_;
    ServiceThread thread_;

    // Owned by the hub's thread.
    std::vector<Peer> peers_;  // by rank
    std::map<LaneId, std::vector<HostEvent>> events_;
    std::vector<Posted> sending_;  // up to sent_, they have been
    std::size_t sent_ = 0;
    std::optional<ReceivedFrame> received_;  // that is being taken
    sys::Clock::time_point pinged_{};
    sys::Clock::time_point short_since_{};  // of memory; the epoch: it is not
    bool any_lost_ = false;
    bool in_order_ = true;        // all that are lost have resigned
    std::exception_ptr failure_;  // of what came, or of saying so; null: there is none

    mutable std::mutex mutex_;
    // Guarded by mutex_.
    std::condition_variable posted_one_;
    std::vector<Posted> posted_;
    std::map<LaneId, Lane> lanes_;  // that were not told the last
    LaneId last_lane_ = 0;
    std::int64_t expected_ = 0;  // answers, of all lanes
    bool ends_to_say_ = false;
    bool sleeps_ = false, stops_ = false, stopped_ = true;
};

}  // namespace sidestep::detail
