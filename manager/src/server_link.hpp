// This process's connection to one server of objects.
//
// No thread reads it: whoever waits for an answer does, one at a time, and hands out what comes;
// the others sleep until they have theirs, or it is their turn to read. So a call costs no change
// of threads here, and the process can be forked.
//
// A link to a ManagerServer is a session. A thread beats: it tells the server that this process
// lives, takes what came if nobody else reads, and ends the session if the server is silent. It
// reads no more than that, so that a call costs no change of threads there either.
//
// A link to an actor that is started again outlives its connections: see link_restart.cpp.
//
// Threads: thread-safe.
// Fork:    a link belongs to the process that made it; a forked child leaves its copy alone.
// Peer death: all calls fail with ActorLost (Disconnected), at once for who waits.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sidestep/connection.hpp>
#include <sidestep/detail/held_object.hpp>
#include <sidestep/process.hpp>
#include <sidestep/server_stats.hpp>

#include "call_task.hpp"
#include "connection/frame_batch.hpp"
#include "handshake_failures.hpp"
#include "object_frame.hpp"
#include "service_thread.hpp"
#include "sys/fork_marker.hpp"

namespace sidestep::inline v0::detail {

class ObjectServer;

class ServerLink : public std::enable_shared_from_this<ServerLink> {
  public:
    // This process's link to the server: the one that there is, or a new one. In the server itself
    // it is a short cut: calls run in the thread that makes them.
    static std::shared_ptr<ServerLink> to(const ServerName& server);
    // A new session at a ManagerServer, or the one that this process has there.
    static std::shared_ptr<ServerLink> connect(ServerName server, const Deadline& deadline);
    // For who ends the server: everything that is under way fails.
    static void close(const std::shared_ptr<ServerLink>& link) noexcept;
    // The same, of a server in this process that is about to be destroyed.
    static void close_local(const ServerName& server) noexcept;
    // For the owner of its process, which is told by `control`: what runs is finished, and its
    // answers are read, within the grace; everything else fails.
    static void end(const std::shared_ptr<ServerLink>& link, Process& process, Connection& control,
                    Timeout grace) noexcept;

    // local: within the server itself.
    ServerLink(ServerName server, ObjectServer* local);
    ServerLink(ServerName server, Connection connection);
    ~ServerLink();

    const ServerName& server() const { return server_; }
    bool same_process() const noexcept { return here_.same_process(); }
    ForkGeneration generation() const noexcept { return here_.generation(); }
    bool broken() const;
    // It is broken, and not by this process, which has waited in vain for a sign of life.
    bool ended_by_server() const;
    // How its process ended, if it was this process's child; waits for that.
    Casualty end_of_server() const;
    // It is this process's child: its end can be told. Before the first call.
    void set_process(std::shared_ptr<Process> process);

    // Throws what `write` throws; nothing was sent then.
    TaskRef call(std::uint64_t object, const CallKind& kind, const WriteArguments& write,
                 const CallLimits& limits = {});
    // False: so many calls of this process are under way that another one would have to wait.
    bool has_room() const;
    // Its result is the next Casualty of the server.
    TaskRef watch_death();
    // True: the request was taken back, and its call is over.
    bool cancel(std::uint64_t request);
    // What the server does: see server_stats.hpp. The path is as this process means it; empty: the
    // trace is completed.
    ServerStats stats();
    void trace(const std::string& path);
    // What a ManagerServer exposes: its number, and whether functions may be called of it.
    std::pair<std::uint64_t, bool> get(const std::string& name, const std::string& type);
    // A reference goes on its way: returns its ticket, which the server knows by now.
    std::uint64_t pin(std::uint64_t object);
    void claim(std::uint64_t object, std::uint64_t ticket);
    void release(std::uint64_t object) noexcept;
    void flush(std::uint64_t object);
    void send_at_exit() noexcept;
    // On stderr, what flush() would have thrown.
    void report_unseen() noexcept;

    // For CallTask.
    bool wait_until(const std::function<bool()>& ready, const Deadline& deadline);
    void poll() {
        (void)wait_until([] { return false; }, std::chrono::steady_clock::now());
    }
    // Until nobody waits, and no callback is left, a thread reads, and runs those.
    void read_in_background();
    void post(Callbacks callback);  // takes no memory
    void note_unseen(std::uint64_t object, const std::exception_ptr& error) noexcept;

  private:
    struct PerObject {
        std::size_t outstanding = 0;
        std::exception_ptr error;  // the first that nobody has seen
    };
    // The pauses between beats, and their end.
    class Beating {
      public:
        enum class Next { beat, send, end };
        void stop();
        void ask();  // to send what is queued
        Next pause_until(std::chrono::steady_clock::time_point time);

      private:
        std::mutex mutex_;
        std::condition_variable changed_;
        bool ended_ = false, asked_ = false;  // guarded by mutex_
    };
    // How closely the calls follow each other.
    struct Pace {
        std::uint64_t caller = 0;
        std::chrono::steady_clock::time_point last{};  // when the last one was sent, or queued
        unsigned calls = 0;                            // of that caller, in a row
    };
    // A call, as it is sent again to an actor that was started again.
    struct SentFrame {
        FrameHead head;
        std::vector<std::byte> body;
        std::vector<DupFd> owned;
        std::vector<int> fds;
    };
    struct Pending {
        Ref<CallTask> task = {};
        bool waits = false;                          // the next of the same thread may have begun
        std::shared_ptr<SentFrame> frame = nullptr;  // to be sent again; null: it is not
        bool is_call = false;                        // it takes one of most_pending() places
        bool sent = false;                           // so it may have begun
        bool told_begun = false;                     // the server says that it may have
        std::uint64_t takes_back = 0;                // it asks the server for that; 0: it does not
    };
    static constexpr std::size_t kMostPending = 4096;

    TaskRef send(const FrameHead& head, const HeapBuffer& body, const OutgoingFds& fds,
                 const CallKind* kind, const CallLimits& limits = {}, std::uint64_t takes_back = 0);
    TaskRef ask(FrameKind kind, std::uint64_t object, const WriteArguments& write,
                std::uint64_t takes_back = 0);
    // It is not sent, and never was.
    void withdraw(std::uint64_t request);
    // See link_sending.cpp.
    void add_pending(FrameHead& head, Pending call);
    bool try_queue(FrameHead& head, std::span<const std::byte> body, Pending& call);
    // While it lives, others may queue: it sends what was queued before, and what is meanwhile.
    class Turn {
      public:
        explicit Turn(ServerLink& link) noexcept;
        ~Turn();
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;

      private:
        ServerLink& link_;
    };
    void send_queued() noexcept;
    enum class Next { own, nothing };  // to send
    bool send_batch(Next next) noexcept;
    void send_before_waiting(std::unique_lock<std::mutex>& lock, const Deadline& deadline);
    void send_as_asked() noexcept;
    // With a session that the server watches, for its life: see session_beats.cpp.
    void start_beating();
    void beat();
    bool send_beat();
    // by_server: it has ended the connection; else this process does, for that reason.
    void end_session(std::string why, bool by_server = true) noexcept;
    // See link_restart.cpp.
    std::shared_ptr<SentFrame> keep_frame(const HeapBuffer& body, const OutgoingFds& fds,
                                          const CallLimits& limits) const;
    bool try_again(const FrameHead& failed);
    void send_resume();
    void look_for_restart();
    void reconnect(std::unique_lock<std::mutex>& lock, const Deadline& deadline);
    void send_again(Connection fresh);
    void send_kept(const SentFrame& frame) noexcept;
    void fail_calls(const std::string& why) noexcept;
    void hear_state(const ObjectFrame& frame);
    static void tell_death(CallTask& watch, const Casualty& end);
    void tell_watches(const Casualty& end) noexcept;
    bool is_watched();
    std::exception_ptr lost_with(const CallTask& call, const ObjectFrame& frame) const;
    std::exception_ptr timed_out(const CallTask& call) const;

    void send_alone(FrameKind kind, std::uint64_t object, std::uint64_t ticket);
    bool read_one(std::unique_lock<std::mutex>& lock, const Deadline& deadline);
    void hand_out(ObjectFrame frame);
    void note_begun(const FrameHead& head);
    void end_taken_back(const ObjectFrame& answer);
    void take(std::uint64_t request, const std::function<void(CallTask&)>& finish);
    void serve_callbacks();
    void break_off() noexcept;
    void fail_all(std::map<std::uint64_t, Pending> calls) noexcept;
    std::size_t most_pending() const;
    std::exception_ptr lost(const CallTask& call, bool began) const;

    // Constant after construction.
    const ServerName server_;
    const ForkMarker here_;
    ObjectServer* const local_;  // null: it is another process
    ServiceThread beats_;        // of a session
    const std::shared_ptr<Beating> beating_ = std::make_shared<Beating>();
    const std::uint64_t session_;  // of an actor's client: for all its connections
    const bool carries_fds_;       // so do all of them
    // Relaxed: there is a thread for that; nothing hangs on who knows it first.
    std::atomic<bool> queues_{false};

    std::mutex sending_;  // held while frames are written; before mutex_
    // Guarded by sending_: what is being sent.
    FrameBatch batch_;
    std::vector<std::uint64_t> batch_requests_;
    // Written with `sending_`, read by who has `reading_`; replaced with both, and mutex_.
    Connection connection_;

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    // Guarded by mutex_.
    bool reading_ = false;
    bool in_frame_ = false;  // who reads has begun to: the silence of the connection counts
    bool background_ = false;
    bool broken_ = false;
    bool down_ = false;  // this connection has ended, and there will be another one
    int pid_ = 0;        // of an actor, since it has said so
    std::optional<std::uint32_t> restarts_;
    bool over_ = false;  // it is not started again; then end_told_ is there
    std::chrono::steady_clock::time_point no_reconnect_before_{};
    HandshakeFailures failures_;  // of who has set reading_
    std::string end_;             // why
    bool by_server_ = true;
    // Atomic: set by who reads. The connection was closed behind all that the server has said.
    std::atomic<bool> all_said_{false};
    unsigned unanswered_beats_ = 0;  // since anything came
    Pace pace_;
    bool sends_ = false;          // who has `sending_` looks at the queue again
    bool sending_asked_ = false;  // the thread that beats is
    FrameBatch queued_;
    std::vector<std::uint64_t> queued_requests_;
    std::uint64_t last_request_ = 0;
    std::map<std::uint64_t, Pending> pending_;
    std::size_t calls_ = 0;  // of these
    std::vector<std::weak_ptr<DeathWatch>> watches_;
    std::map<std::uint64_t, PerObject> objects_;
    Callbacks callbacks_;  // of calls that were answered
    std::shared_ptr<Process> process_;
    mutable std::optional<Casualty> end_told_;  // how it ended, since somebody looked
};

// After a send that failed: nothing was sent, and the connection is as good as it was. It is this
// process that lacks something, or the descriptors that it sends are not open.
bool failed_here(const Connection& connection, const std::exception& error) noexcept;
// What an error says, also where there is no memory for that.
std::string text_of_end(const std::exception& error) noexcept;
// To an actor that is started again. Nothing: it took too long, or the process that took the
// connection has died meanwhile. Throws if nobody listens, if that went on for long (where there is
// no deadline), or if this process lacks something.
std::optional<Connection> connect_to_actor(const ServerName& server, const Deadline& deadline,
                                           HandshakeFailures& failures);

// One reference to an object.
class HeldObject {
  public:
    // Takes one over that the server counts already.
    HeldObject(std::shared_ptr<ServerLink> link, std::uint64_t object, bool functions = true)
        : server_(link->server()), object_(object), functions_(functions), link_(std::move(link)) {}
    ~HeldObject();
    HeldObject(const HeldObject&) = delete;
    HeldObject& operator=(const HeldObject&) = delete;

    const ServerName& server() const { return server_; }
    std::uint64_t object() const { return object_; }
    // False: only exposed methods may be called.
    bool takes_functions() const { return functions_; }
    // In a forked child, a new one, with a reference of its own.
    std::shared_ptr<ServerLink> link();
    // Null: it is the parent's of this forked child.
    std::shared_ptr<ServerLink> own_link() const;

  private:
    void leave_parents_link() noexcept;
    const ServerName server_;
    const std::uint64_t object_;
    const bool functions_;
    std::shared_ptr<ServerLink> link_;  // guarded by the registry's mutex
};

}  // namespace sidestep::detail
