// What holds objects for others: a Manager's process, or a ManagerServer within a program.
//
// A thread for each client reads what it sends. Calls of one thread of a client are a strand: one
// begins when the one before it has ended, or waits (wait_here). Each strand with calls has a
// thread, and so has each call that waits: so a call that waits holds up nobody. A call behind
// which nothing has come yet is run by the thread that has read it, which spares a change of
// threads; if it takes more than a millisecond or two, or waits, another one goes on reading
// (client_reading.cpp). A thread per object would be ten thousand for as many idle objects, and a
// fixed number would stand still when as many calls wait. Where the system gives no thread, or no
// memory, the call is refused; what was taken is answered all the same, if it takes a while.
//
// Threads: thread-safe. Objects are destroyed outside of all locks: they may hold proxies.
// Peer death: a client is gone when its connection ends, or its process (forked children may have
//            copies of its socket), or when it is silent for too long: its references, tickets,
//            queued calls and waits go, and its locks are freed. The other way round, a process
//            that a call has forked has none of the server's sockets (ParentFdMark): who listens,
//            and who is connected, ends with the server.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <sidestep/connection.hpp>
#include <sidestep/detail/hosted.hpp>
#include <sidestep/server_stats.hpp>
#include <sidestep/thread_pool.hpp>

#include "actor_board.hpp"
#include "call_clock.hpp"
#include "call_stage.hpp"
#include "call_task.hpp"
#include "insight/task_names.hpp"
#include "insight/trace_writer.hpp"
#include "object_frame.hpp"
#include "object_table.hpp"
#include "server_threads.hpp"
#include "session_table.hpp"
#include "sys/fd.hpp"
#include "sys/fork_marker.hpp"

namespace sidestep::inline v0::detail {

// What the server of an actor is told by its keeper.
struct ActorDuty {
    ActorState state;  // as clients are told
    // How long a call may run on whose timeout has passed, before the process ends itself.
    std::chrono::nanoseconds timeout_grace{};
    ActorBoard* board = nullptr;  // null: it is not started again, and nothing is noted
    std::map<CallName, Casualty> begun_before;  // calls that ended with the processes before
};

// A call from its arrival to its answer.
struct CallState {
    void ask_to_stop() noexcept;
    void set_stop_work(StopScope::Stop stop);  // null: there is none (any more)
    // Ends what the call waits for; or only if that has not begun.
    void end_work(bool running_too) noexcept;
    std::atomic<std::uint32_t> stop{0};  // see this_task::stop_requested(); a futex
    std::atomic<bool> answered{false};   // or it is not to be answered any more
    std::atomic<bool> overdue{false};
    std::atomic<bool> running{false};
    CallStage stage;               // begun: in its object, or reading its arguments
    std::uint64_t arrived_ns = 0;  // constant once it is queued
    CallClock::Key due = {};       // guarded by the client's `queueing` once it is queued

    std::mutex stopping;
    StopScope::Stop stop_work;  // guarded by stopping
};

// A call's end that is answered to nobody, or by whoever ends it.
struct GivenUp : std::runtime_error {
    GivenUp() : std::runtime_error("nobody waits for this call any more") {}
};

// What a call is answered whose thread has ended under it.
struct ThreadExit : std::runtime_error {
    ThreadExit()
        : std::runtime_error(
              "the call has ended its thread (pthread_exit), and has no result: a method returns, "
              "or throws") {}
};

// What clients may do.
struct ServerRules {
    bool exposed_only = false;  // a ManagerServer: what is exposed, and nothing else
    std::optional<Timeout> lost_after = {};
    std::optional<std::size_t> max_call_bytes = {};
    const ActorDuty* actor = nullptr;  // it serves one; lives longer than the server
};

class ObjectServer {
  public:
    // Null unless that server is one of this process.
    static ObjectServer* here(const ServerName& server);

    explicit ObjectServer(ServerName name, ServerRules rules = {});
    ~ObjectServer();
    ObjectServer(const ObjectServer&) = delete;
    ObjectServer& operator=(const ObjectServer&) = delete;

    const ServerName& name() const { return name_; }
    // Serves until the owner sends a message, or is gone. Calls that run are finished, and
    // answered.
    void run(Listener& listener, Connection& owner);
    void expose(Exposure exposure, std::shared_ptr<Hosted> object) {
        table_.expose(std::move(exposure), std::move(object));
    }

    // For a ServerLink within the server.
    void call_here(const FrameHead& head, std::span<const std::byte> body, std::span<const int> fds,
                   CallTask& task);
    void pin_here(std::uint64_t object, std::uint64_t ticket);
    void claim_here(std::uint64_t object, std::uint64_t ticket);
    void release_here(std::uint64_t object);
    std::uint64_t get_here(const std::string& name, const std::string& type);

    // See server_stats.cpp.
    ServerStats stats();
    void start_trace(const std::string& path);
    void stop_trace() { trace_.stop(); }

    // For the call that this thread runs: see hosted.hpp.
    struct Client;
    struct CurrentCall {
        ObjectServer& server;
        std::shared_ptr<Client> client;
        Caller caller;
        std::shared_ptr<Hosted> object;
        std::uint64_t request = 0;
        std::shared_ptr<CallState> state = nullptr;  // null: it is one within the server
        // For who looks on (stats()).
        std::uint64_t number = 0;                      // of the object
        std::atomic<const TaskEntry*> entry{nullptr};  // one of these two, when it is known
        std::atomic<const char*> method{nullptr};
        std::uint64_t arrived_ns = 0;
        std::atomic<std::uint64_t> begun_ns{0};
        std::size_t running_at = 0;  // guarded by running_mutex_

        std::atomic<bool> waits{false};  // the next call of its strand may have begun
        // What the bytes are that its body writes: of a value, or as it says.
        FrameKind answers = FrameKind::value;
        bool given_up = false;         // nobody is to be answered
        bool may_hold = false;         // others of its strand follow: see answer_run.hpp
        CurrentCall* outer = nullptr;  // the call that this thread made it in
    };
    static CurrentCall& current();
    static CurrentCall* current_or_none() noexcept;
    // What this thread's call has printed is out before it is answered, and before another call is
    // in the object: the next one may cost the process. Not in a ManagerServer's, which is a
    // program of the user's.
    static void let_out_what_is_printed() noexcept;
    // This thread is in a call of this server.
    bool runs_here() const noexcept;
    // What it serves by is gone: its process ends, if that is all that it does.
    void lose_descriptors() noexcept;
    // While it lives, a call waits in the object, and is woken when its client has left.
    class Waiting {
      public:
        Waiting(ObjectServer& server, std::shared_ptr<Hosted> object);
        ~Waiting();
        Waiting(const Waiting&) = delete;
        Waiting& operator=(const Waiting&) = delete;

      private:
        ObjectServer& server_;
        std::list<std::shared_ptr<Hosted>>::iterator place_;
    };
    // This call is about to wait: the next one of its strand may begin.
    void let_next_begin(CurrentCall& call);
    // Nobody waits any more for what this client has asked for.
    bool has_left(const Client& client) const;
    std::uint64_t host(Client& client, std::shared_ptr<Hosted> object);
    // An actor's object: it stays for ever. Returns its number.
    std::uint64_t keep(std::shared_ptr<Hosted> object) { return table_.keep(std::move(object)); }
    // That the call is in its object, or (again) not yet, is noted for who comes after this
    // process. begin_call throws std::runtime_error if there is no place for that, and GivenUp if
    // it is overdue.
    static void begin_call(CurrentCall& call);
    static void unbegin_call(CurrentCall& call) noexcept;

  private:
    struct Call {
        ObjectFrame frame;
        ObjectTable::Found target;
        std::exception_ptr refused;
        std::optional<Casualty> lost = {};
        std::shared_ptr<CallState> state = nullptr;  // of one that was taken out of a frame
    };
    struct Strand {
        std::deque<Call> calls;
        bool has_thread = false;
    };
    class AnswerRun;
    struct Answer {
        FrameKind kind = FrameKind::value;
        HeapBuffer bytes;
    };
    // More than a client of this library sends: it waits for answers first.
    static constexpr std::size_t kMostUnanswered = 8192;

    // False: the owner wants the end.
    bool look(Listener& listener, Connection& owner);
    void accept(Listener& listener);
    void admit(const std::shared_ptr<Client>& client);
    // See client_reading.cpp.
    void read(const std::shared_ptr<Client>& client);
    bool take_next(const std::shared_ptr<Client>& client);
    bool run_here(Client& client, std::uint64_t caller) noexcept;
    bool go_on_here(const std::shared_ptr<Client>& client);
    void pass_reading_on(const std::shared_ptr<Client>& client) noexcept;
    void watch_readers();
    void look_at_readers() noexcept;
    void watch_held(Client& client) noexcept;
    bool look_at_held(const std::shared_ptr<Client>& client) noexcept;
    void receive(const std::shared_ptr<Client>& client, ObjectFrame frame);
    void reply(const std::shared_ptr<Client>& client, const FrameHead& head,
               const std::function<void(OutputArchive&)>& write);
    // For threads that must not wait until a client reads. Its reader: the client may wait, before
    // it reads, until what it sends has been read. The clock's: others are due. For want of memory
    // they do wait: who has nothing to hope for would wait for ever.
    void tell(const std::shared_ptr<Client>& client, FrameKind kind, std::uint64_t request,
              std::span<const std::byte> body) noexcept;
    static void send_owed(const std::shared_ptr<Client>& client) noexcept;
    void forget(const std::shared_ptr<Client>& client);
    void end_clients();
    static void end_work(const std::vector<std::shared_ptr<Client>>& clients);
    void wake_waiting();

    void queue_call(const std::shared_ptr<Client>& client, ObjectFrame frame);
    void add_to_strand(const std::shared_ptr<Client>& client, Call call);
    void start_strand(const std::shared_ptr<Client>& client, std::uint64_t caller);
    void run_strand(const std::shared_ptr<Client>& client, std::uint64_t caller);
    bool run_call(const std::shared_ptr<Client>& client, Call call, bool may_hold);
    bool try_answer(CurrentCall& call, const Answer& answer) noexcept;
    void end_run(CurrentCall& call, Answer& answer);
    // In another thread: this one goes.
    void hand_on(const std::shared_ptr<Client>& client, std::uint64_t caller) noexcept;
    // Limits of calls: see call_limits.cpp.
    void resume(const std::shared_ptr<Client>& client, InputArchive& body);
    std::optional<Casualty> find_lost(Client& client, std::uint64_t request) const;
    static void tell_lost(const Casualty& end, Answer& answer);
    void watch_timeout(const std::shared_ptr<Client>& client, const FrameHead& head,
                       const std::shared_ptr<CallState>& state);
    void time_out(const std::shared_ptr<Client>& client, std::uint64_t request,
                  const std::shared_ptr<CallState>& state) noexcept;
    void end_for(const std::shared_ptr<Client>& client, std::uint64_t request,
                 CallState& state) noexcept;
    bool cancel(Client& client, std::uint64_t request);
    static bool take_back(Client& client, std::uint64_t request);
    void end_call(Client& client, std::uint64_t request, CallState& state);

    void execute(CurrentCall& call, const FrameHead& head, const Exposure* exposure,
                 std::span<const std::byte> body, FdSource* fds, Answer& answer);
    TaskEntry::Run body_of(CurrentCall& call, const FrameHead& head, const Exposure* exposure,
                           InputArchive& arguments) const;
    // While it lives, the call is among those that run: see server_stats.cpp.
    class Enlisted {
      public:
        Enlisted(ObjectServer& server, CurrentCall& call);
        ~Enlisted();
        Enlisted(const Enlisted&) = delete;
        Enlisted& operator=(const Enlisted&) = delete;

      private:
        ObjectServer& server_;
        CurrentCall& call_;
    };
    void note_end(const CurrentCall& call, bool failed) noexcept;
    void list_running(ServerStats& stats);
    void answer_insight(const std::shared_ptr<Client>& client, const FrameHead& head,
                        InputArchive& body);
    static void refuse(const std::exception_ptr& why, Answer& answer);

    // Constant after construction.
    const ServerName name_;
    const ServerRules rules_;
    const ForkMarker here_;
    const std::shared_ptr<Client> self_;

    ObjectTable table_;
    std::atomic<bool> ending_{false};  // nothing new begins, and nothing waits
    std::atomic<bool> lost_descriptors_{false};

    std::mutex mutex_;
    // Guarded by mutex_.
    std::map<std::uint64_t, std::shared_ptr<Client>> clients_;
    std::list<std::shared_ptr<Hosted>> waiting_;  // where calls wait

    std::uint64_t last_client_ = 0;  // run()'s

    SessionTable sessions_;  // of an actor's clients

    std::mutex running_mutex_;
    std::vector<CurrentCall*> running_;  // guarded by running_mutex_: calls that have a thread

    TaskNames trace_names_;
    Tracing trace_;

    std::atomic<bool> readers_watched_{false};  // clock_ calls look_at_readers()

    // An eventfd, told when a client is gone: run() stops watching its process.
    Fd bell_;
    void ring() noexcept;

    ServerThreads readers_, callers_;
    CallClock clock_;  // ends first: what is due uses the others
};

// What a server is told when it starts.
struct ServerSetup {
    std::string authkey;
    bool has_initializer = false;
    TaskId initializer;
    std::vector<std::byte> initializer_state;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(authkey, has_initializer, initializer.where, initializer.signature,
                initializer_state);
    }
};
// The function of the server's process: tells the owner where it listens, then serves.
void serve_objects(ServerSetup setup, Connection owner);

// This process leads a group of its own, which is never in the terminal's foreground. Ctrl-C is for
// its owner, who ends it; a handler takes it, since what this process starts must not find it
// ignored. What reads the terminal gets EIO, and what writes there writes, `stty tostop` or not: by
// default either would stop the process for ever, in a constructor or an initializer. (The threads
// that run calls block signals, which comes to the same.)
void leave_terminal_alone();

}  // namespace sidestep::detail
