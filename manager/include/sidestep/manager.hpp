// Manager: a server process that holds objects for all others, who use them through proxies.
//
//     sidestep::Manager manager;
//     auto totals = manager.dict<std::string, int>();
//     auto histogram = manager.make<Histogram>(4);      // any type of yours
//     pool.submit(count, totals, histogram, "word");    // proxies are arguments: proxy.hpp
//
// The faces: dict, list, set (container_proxies.hpp); queue, joinable_queue, value, array
// (queue_proxies.hpp); lock, rlock, semaphore, bounded_semaphore, condition, event, barrier
// (sync_proxies.hpp); pool (pool_proxy.hpp). For what one machine's processes share, the handles of
// shared memory (Queue, Lock, Value...) are some hundred times faster; a Manager is for containers,
// for objects of your own, and for locks that are taken back from clients that are cut off.
//
// Ownership:  owns its server, which ends with it (shutdown()), and at once with the process of the
//             Manager, however that ends. Objects belong to whoever has proxies; at the end of the
//             server they are destroyed. It does not move.
// Threads:    thread-safe, but for shutdown() and destroying.
// Fork:       a forked child's copy owns nothing; its proxies work (proxy.hpp).
// Peer death: a server that dies is not replaced: calls fail with ActorLost. So do they when one of
//             them has closed the descriptors of its process, or put others in their places
//             (close_range(2), dup2(2)): it exits with code 113 then, and the error says why.
// Terminal:   as of an Actor (actor.hpp): what a call has printed is out when it has ended.
// Trust:      the server listens on a fresh abstract Unix socket, for those who prove a random key
//             that is this Manager's alone, before anything else of theirs is read. The key is in
//             each proxy: who has a proxy can run any code of the program in the server.
// Errors:     as Process for what start methods refuse; what the initializer throws, by type.
// Limits:     a thread for each client, and one for each call that waits. Abstract sockets are of
//             one network namespace: a process in another cannot connect.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <sidestep/address.hpp>
#include <sidestep/container_proxies.hpp>
#include <sidestep/detail/faces.hpp>
#include <sidestep/detail/hook_maker.hpp>
#include <sidestep/exit_status.hpp>
#include <sidestep/init.hpp>
#include <sidestep/listener.hpp>
#include <sidestep/proxy.hpp>
#include <sidestep/queue_proxies.hpp>
#include <sidestep/server_stats.hpp>
#include <sidestep/start_method.hpp>
#include <sidestep/sync_proxies.hpp>
#include <sidestep/timeout.hpp>
#include <sidestep/worker_hook.hpp>

#include <sidestep/manager_server.hpp>  // IWYU pragma: export

namespace sidestep::inline v0 {

class PoolProxy;

struct ConnectOptions {
    std::optional<std::string> authkey = std::nullopt;
    // For connecting, the handshake and the server's first answer together; none: as long as it
    // takes. (Making the key of TLS, about 60 ms once for each authkey, is not counted.)
    std::optional<Timeout> timeout = std::chrono::seconds(30);
    // A server of which nothing is heard for so long, though it is asked four times meanwhile, is
    // taken for gone; and it for this client. Its own limit holds if that is shorter. Positive.
    Timeout lost_after = std::chrono::seconds(30);
};

struct ManagerOptions {
    // Of the server's process. Empty: "Manager-N".
    std::string name = {};
    // None: get_start_method() at that moment.
    std::optional<StartMethod> start_method = std::nullopt;
    // Called in the server before it serves; what a task takes, without handles.
    WorkerHook initializer = {};
    // How long shutdown() waits for calls that run, before the server is killed.
    Timeout stop_grace = std::chrono::seconds(5);
};

class Manager {
  public:
    // Returns when the server serves.
    explicit Manager(ManagerOptions options = {});
    // shutdown().
    ~Manager();
    Manager(const Manager&) = delete;
    Manager& operator=(const Manager&) = delete;

    // A session at a ManagerServer of another program, on this machine or elsewhere: get() and its
    // proxies are all that there is of such a Manager. A process has one for each server: what is
    // connected again is the same, as long as it lasts. It ends with the last proxy, or with
    // shutdown(). pid() is on the server's machine; it is alive while the session is; make() and
    // the faces throw NotExposed.
    // Throws std::system_error (ECONNREFUSED: nobody listens; ETIMEDOUT; EHOSTUNREACH...),
    // AuthenticationError (the key is another one), SerializationError (another version of this
    // library that says other things).
    static Manager connect(const Address& address, const ConnectOptions& options = {});
    // A proxy of what the server exposes by this name: of a T, or of a face (Queue<int>, Lock,
    // Pool...; manager_server.hpp has them all). Throws NotExposed if there is no such name, or if
    // it is of another type; a Manager that is no server's client has none.
    template <class T>
    detail::FaceProxy<T> get(const std::string& name) {
        return detail::FaceProxy<T>(
            detail::find_object(server_, name, typeid(detail::FaceObject<T>).name()));
    }

    // T(args...), made in the server. Throws what its constructor throws.
    template <class T, class... Args>
    Proxy<T> make(Args&&... args) {
        return Proxy<T>(make_held<T, detail::Stored<Args>...>(std::forward<Args>(args)...));
    }

    template <class K, class V>
    DictProxy<K, V> dict(const std::map<K, V>& items = {}) {
        return face<DictProxy<K, V>>(items);
    }
    template <class T>
    ListProxy<T> list(const std::vector<T>& items = {}) {
        return face<ListProxy<T>>(items);
    }
    template <class T>
    SetProxy<T> set(const std::set<T>& items = {}) {
        return face<SetProxy<T>>(items);
    }
    // max_items 0: without a bound.
    template <class T>
    QueueProxy<T> queue(std::size_t max_items = 0) {
        return face<QueueProxy<T>>(max_items);
    }
    template <class T>
    JoinableQueueProxy<T> joinable_queue(std::size_t max_items = 0) {
        return face<JoinableQueueProxy<T>>(max_items);
    }
    template <class T>
    ValueProxy<T> value(const T& initial = {}) {
        return face<ValueProxy<T>>(initial);
    }
    template <class T>
    ArrayProxy<T> array(const std::vector<T>& items) {
        return face<ArrayProxy<T>>(items);
    }
    LockProxy lock();
    RLockProxy rlock();
    // Throw std::invalid_argument for a number that one in shared memory refuses (semaphore.hpp).
    SemaphoreProxy semaphore(unsigned permits = 1);
    // With no more than these permits, ever.
    SemaphoreProxy bounded_semaphore(unsigned permits = 1);
    ConditionProxy condition();
    EventProxy event();
    BarrierProxy barrier(unsigned parties);
    // Include <sidestep/pool_proxy.hpp>. 0: as many as CPUs.
    PoolProxy pool(unsigned processes = 0);

    // Ends the server: calls that wait are given up, those that run are finished and answered, all
    // others fail (ActorLost). Of a session: ends that. Idempotent.
    void shutdown() noexcept;

    // What the server does, and has done: server_stats.hpp. It is told beside the calls. Throws
    // ActorLost; NotExposed of a session: that is for the server's own program.
    ServerStats stats() const;
    // From now on the server writes when each call was in its object, and whose, to a file, as
    // Pool::trace() does: one track for each thread there. Throws as stats(), and
    // std::system_error if the file cannot be opened, or the former one not be completed.
    void trace(const std::string& path) const;
    // Completes the file. Throws std::system_error if not all could be written.
    void trace_stop() const;

    // Of the server.
    int pid() const;
    bool is_alive() const;
    std::optional<int> exitcode() const;

  private:
    explicit Manager(std::shared_ptr<detail::ServerLink> session);
    template <class T, class... Args>
    detail::HeldRef make_held(Args... args) {
        static_assert(std::is_constructible_v<T, Args&&...>,
                      "T cannot be made from these arguments: they arrive as temporaries");
        return detail::make_object(server_, detail::call_kind<detail::MakeBody<T, Args...>>(),
                                   [&](OutputArchive& archive) { (archive(args), ...); });
    }
    template <class Face, class... Args>
    Face face(const Args&... args) {
        using Object =
            std::remove_pointer_t<decltype(object_of(static_cast<const Face*>(nullptr)))>;
        return Face(make_held<Object, Args...>(args...));
    }
    template <class T>
    static T* object_of(const Proxy<T>* proxy);

    struct Impl;
    std::shared_ptr<detail::ServerLink> server_;
    std::unique_ptr<Impl> impl_;
};

}  // namespace sidestep
