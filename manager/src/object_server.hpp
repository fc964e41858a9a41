// What holds objects for others: a Manager's process, or a ManagerServer within a program.
//
// A thread for each client reads what it sends, and never waits for anything else. Calls of one
// thread of a client are a strand: one begins when the one before it has ended, or waits
// (wait_here). Each strand with calls has a thread, and so has each call that waits: so a call that
// waits holds up nobody. A thread per object would be ten thousand for as many idle objects, and a
// fixed number would stand still when as many calls wait. Where the system gives no thread, the
// call is refused.
//
// Threads: thread-safe. Objects are destroyed outside of all locks: they may hold proxies.
// Peer death: a client is gone when its connection ends, or its process (forked children may have
//            copies of its socket), or when it is silent for too long: its references, tickets,
//            queued calls and waits go, and its locks are freed.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <sidestep/connection.hpp>
#include <sidestep/detail/hosted.hpp>
#include <sidestep/thread_pool.hpp>

#include "call_task.hpp"
#include "object_frame.hpp"
#include "object_table.hpp"
#include "server_threads.hpp"
#include "sys/fd.hpp"
#include "sys/fork_marker.hpp"

namespace sidestep::inline v0::detail {

// What clients may do.
struct ServerRules {
    bool exposed_only = false;  // a ManagerServer: what is exposed, and nothing else
    std::optional<Timeout> lost_after = {};
    std::optional<std::size_t> max_call_bytes = {};
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

    // For the call that this thread runs: see hosted.hpp.
    struct Client;
    struct CurrentCall {
        ObjectServer& server;
        std::shared_ptr<Client> client;
        Caller caller;
        std::shared_ptr<Hosted> object;
        std::uint64_t request = 0;
        bool waits = false;            // the next call of its strand may have begun
        bool given_up = false;         // nobody is to be answered
        CurrentCall* outer = nullptr;  // the call that this thread made it in
    };
    static CurrentCall& current();
    static CurrentCall* current_or_none() noexcept;
    // This call is about to wait: the next one of its strand may begin.
    void let_next_begin(CurrentCall& call);
    // Nobody waits any more for what this client has asked for.
    bool has_left(const Client& client) const;
    std::uint64_t host(Client& client, std::shared_ptr<Hosted> object);

  private:
    struct Call {
        ObjectFrame frame;
        ObjectTable::Found target;
        std::exception_ptr refused;
    };
    struct Strand {
        std::deque<Call> calls;
        bool has_thread = false;
    };
    struct Answer {
        FrameKind kind = FrameKind::value;
        HeapBuffer bytes;
    };
    // More than a client of this library sends: it waits for answers first.
    static constexpr std::size_t kMostUnanswered = 8192;

    void accept(Listener& listener);
    void read(const std::shared_ptr<Client>& client);
    void receive(const std::shared_ptr<Client>& client, ObjectFrame frame);
    void reply(const std::shared_ptr<Client>& client, const FrameHead& head,
               const std::function<void(OutputArchive&)>& write);
    void greet(const std::shared_ptr<Client>& client, const ObjectFrame& frame);
    void forget(const std::shared_ptr<Client>& client);
    void end_clients();

    void queue_call(const std::shared_ptr<Client>& client, ObjectFrame frame);
    void start_strand(const std::shared_ptr<Client>& client, std::uint64_t caller);
    void run_strand(const std::shared_ptr<Client>& client, std::uint64_t caller);
    bool run_call(const std::shared_ptr<Client>& client, Call call);
    void execute(CurrentCall& call, const FrameHead& head, const Exposure* exposure,
                 std::span<const std::byte> body, FdSource* fds, Answer& answer);
    TaskEntry::Run body_of(const CurrentCall& call, const FrameHead& head, const Exposure* exposure,
                           InputArchive& arguments) const;
    static void refuse(const std::exception_ptr& why, Answer& answer);

    // Constant after construction.
    const ServerName name_;
    const ServerRules rules_;
    const ForkMarker here_;
    const std::shared_ptr<Client> self_;

    ObjectTable table_;
    std::atomic<bool> ending_{false};  // nothing new begins, and nothing waits

    std::mutex mutex_;
    // Guarded by mutex_.
    std::map<std::uint64_t, std::shared_ptr<Client>> clients_;
    std::uint64_t last_client_ = 0;

    // An eventfd, told when a client is gone: run() stops watching its process.
    Fd bell_;

    ServerThreads readers_, callers_;
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

}  // namespace sidestep::detail
