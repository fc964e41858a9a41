// The process that holds objects for others.
//
// A thread for each client reads what it sends, and never waits for anything else. Calls of one
// thread of a client are a strand: one begins when the one before it has ended, or waits
// (wait_here). Each strand with calls has a thread, and so has each call that waits, of a pool that
// grows (a ThreadPool starts a thread when there is work and none is idle): so a call that waits
// holds up nobody. A thread per object would be ten thousand for as many idle objects, and a fixed
// number would stand still when as many calls wait.
//
// Threads: thread-safe. Objects are destroyed outside of all locks: they may hold proxies.
// Peer death: a client is gone when its connection ends, or its process (forked children may have
//            copies of its socket): its references, tickets, queued calls and waits go, and its
//            locks are freed.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include <sidestep/connection.hpp>
#include <sidestep/detail/hosted.hpp>
#include <sidestep/thread_pool.hpp>

#include "call_task.hpp"
#include "object_frame.hpp"
#include "sys/fd.hpp"
#include "sys/fork_marker.hpp"

namespace sidestep::inline v0::detail {

class ObjectServer {
  public:
    // Null unless this process is that server.
    static ObjectServer* here(const ServerName& server);

    explicit ObjectServer(ServerName name);
    ~ObjectServer();
    ObjectServer(const ObjectServer&) = delete;
    ObjectServer& operator=(const ObjectServer&) = delete;

    // Serves until the owner sends a message, or is gone. Calls that run are finished.
    void run(Listener& listener, Connection& owner);

    // For a ServerLink within the server.
    void call_here(const FrameHead& head, std::span<const std::byte> body, std::span<const int> fds,
                   CallTask& task);
    void pin_here(std::uint64_t object, std::uint64_t ticket);
    void claim_here(std::uint64_t object, std::uint64_t ticket);
    void release_here(std::uint64_t object);

    // For the call that this thread runs: see hosted.hpp.
    struct Client;
    struct CurrentCall {
        ObjectServer& server;
        std::shared_ptr<Client> client;
        Caller caller;
        std::shared_ptr<Hosted> object;
        std::uint64_t request = 0;
        bool waits = false;  // the next call of its strand may have begun
    };
    static CurrentCall& current();
    // This call is about to wait: the next one of its strand may begin.
    void let_next_begin(CurrentCall& call);
    std::uint64_t host(Client& client, std::shared_ptr<Hosted> object);

  private:
    struct Entry {
        std::shared_ptr<Hosted> object;
        std::uint64_t references = 0;
    };
    struct Ticket {
        std::uint64_t object;
        std::uint64_t client;  // whose end ends it
    };
    struct Call {
        ObjectFrame frame;
        std::shared_ptr<Hosted> object;
        std::exception_ptr refused;
    };
    struct Strand {
        std::deque<Call> calls;
        bool has_thread = false;
    };
    struct Answer {
        FrameKind kind;
        HeapBuffer bytes;
    };

    void accept(Listener& listener);
    void read(const std::shared_ptr<Client>& client);
    void receive(const std::shared_ptr<Client>& client, ObjectFrame frame);
    void queue_call(const std::shared_ptr<Client>& client, ObjectFrame frame);
    void run_strand(const std::shared_ptr<Client>& client, std::uint64_t caller);
    bool run_call(const std::shared_ptr<Client>& client, Call call);
    void execute(CurrentCall& call, const FrameHead& head, std::span<const std::byte> body,
                 FdSource* fds, Answer& answer);
    static void refuse(const std::exception_ptr& why, Answer& answer);
    void forget(const std::shared_ptr<Client>& client);
    void end_clients();

    std::shared_ptr<Hosted> find(std::uint64_t object);
    void pin(Client& client, std::uint64_t object, std::uint64_t ticket);
    void claim(Client& client, std::uint64_t object, std::uint64_t ticket);
    void release(Client& client, std::uint64_t object);
    std::shared_ptr<Hosted> drop(std::uint64_t object, std::uint64_t count);

    // Constant after construction.
    const ServerName name_;
    const ForkMarker here_;
    const std::shared_ptr<Client> self_;

    std::mutex mutex_;
    // Guarded by mutex_; with each client's references.
    std::unordered_map<std::uint64_t, Entry> objects_;
    std::unordered_map<std::uint64_t, Ticket> tickets_;
    std::map<std::uint64_t, std::shared_ptr<Client>> clients_;
    std::uint64_t last_object_ = 0;
    std::uint64_t last_client_ = 0;

    // Told when a client is gone: run() stops watching its process.
    std::mutex ringing_;  // held while it is rung
    Connection bell_, ring_;

    ThreadPool readers_;
    ThreadPool callers_;
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
