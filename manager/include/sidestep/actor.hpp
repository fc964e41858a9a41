// Actor<T>: an object that lives in a process of its own. Whoever has its proxy calls its methods.
//
//     sidestep::Actor<Account> account("ada");                      // Account("ada"), over there
//     double left = account.call<&Account::deposit>(10.0);          // waits; throws what it throws
//     Future<double> later = account.submit<&Account::deposit>(5.0);
//     pool.map(bind(pay, account.proxy()), amounts);                // for other processes
//
//     Actor<Account> sturdy({.max_restarts = 3, .checkpoint_every = 1}, "bob");  // if it dies
//     sturdy.with({.timeout = 2s}).call<&Account::audit>();                      // if it hangs
//
// Calls are those of a Proxy (proxy.hpp): order, exceptions by type, flush(), cancel() of a Future
// that has not begun. The constructor's arguments travel as a Process's do; what it throws comes
// out of the Actor's.
//
// Restart:    with max_restarts, an actor that dies is started again at its address: all proxies
//             stay valid. It begins with the constructor's arguments as they were when the Actor
//             was made (handles among them are the same objects); then the last checkpoint is read
//             into it, if there is one. Calls that had begun fail with ActorLost, unless their
//             retry.max_attempts (Proxy::with) is more than 1; all others go to the new process.
//             A constructor that throws, or a process that is not to be had, is one more death; but
//             for descriptors, processes and memory that the system lacks it asks again first, for
//             ten seconds, while callers wait.
//             One that dies within a second is started again later and later: at once for the
//             first time, then after 10, 20, 40 ms... up to a second. Proxies that arrive meanwhile
//             wait, as calls do.
// Checkpoint: after each checkpoint_every calls that are not of const methods, the object's
//             `serialize` writes it before the caller has the answer: what a caller was told is not
//             lost. It goes to memory, not to a disk. Handles in it are refused; proxies must not
//             be in it (each checkpoint would keep their object once more). What `serialize` throws
//             is thrown by the call, whose change is made all the same. Calls that an object makes
//             of itself are settled with the outermost one, be that const or not.
// Ownership:  owns its process, which ends with it (shutdown()), and at once with this process,
//             however that ends. It does not move.
// Threads:    thread-safe, but for shutdown() and destroying. It starts no thread here.
// Fork:       a forked child's copy owns nothing; its calls go over a connection of its own. In
//             what T itself forks, by fork(2), the connections of the actor's callers are closed:
//             it hides the actor's death from none of them. It has the listening socket: as long as
//             it is there, who connects for the first time to an actor that has ended, and had no
//             max_restarts, learns that after half a minute. (_Fork(3) and clone(2) close nothing.)
// Peer death: of the actor: ActorLost, or restart. Of a caller: what it had queued is dropped, what
//             runs for it finishes. With max_restarts there is a process that keeps the other; who
//             kills that has killed the actor for good. A call that closes the descriptors of its
//             process, or puts others in their places (close_range(2), dup2(2)), has ended that: it
//             exits with code 113 when it has to answer, and the error says why.
// Terminal:   what a call has printed is out when it has ended, as a task's. The process leads a
//             group of its own: Ctrl-C is its owner's, and to read the terminal is an error (EIO).
// Errors:     std::invalid_argument for options that make no sense; as Process for what start
//             methods refuse (fork: threads of a Pool do not count); what T's constructor throws;
//             ActorLost if it dies there; std::system_error if the system has no descriptor or no
//             process for it, which names the limit, and nothing is left of it. A caller that is
//             not the owner learns of an actor without max_restarts that it cannot be reached, and
//             not of what it died.
// Limits:     a thread in the actor for each process that has a proxy, and for each thread there
//             with calls under way, and one that looks after these; a process more with
//             max_restarts; five descriptors here (a thousand actors, which are some megabytes
//             each, need `ulimit -n` of more than 5000). Abstract sockets are of one network
//             namespace: a process in another cannot connect.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>

#include <sidestep/actor_lost.hpp>
#include <sidestep/detail/actor_host.hpp>
#include <sidestep/detail/call_face.hpp>
#include <sidestep/init.hpp>
#include <sidestep/process.hpp>
#include <sidestep/proxy.hpp>
#include <sidestep/server_stats.hpp>
#include <sidestep/start_method.hpp>
#include <sidestep/timeout.hpp>

namespace sidestep::inline v0 {

struct ActorOptions {
    // In messages, and of its process. Empty: T's name.
    std::string name = {};
    // None: get_start_method() at that moment.
    std::optional<StartMethod> start_method = std::nullopt;
    // How often it is started again within `within`. The next death is its last.
    unsigned max_restarts = 0;
    Timeout within = Timeout::forever();
    // 0: there are no checkpoints. More need max_restarts, and T to have `serialize`.
    unsigned checkpoint_every = 0;
    // So many calls by read() are in the object at a time; 1: as all others.
    unsigned readers = 1;
    // So many calls of each process may be under way: call() and submit() wait for the oldest then,
    // try_submit() does not. 0: 4096, which is also the most.
    std::size_t max_pending = 0;
    // How long a call whose timeout has passed may run on before the process is ended.
    Timeout timeout_grace = std::chrono::milliseconds(100);
    // How long shutdown() waits for calls that run, before the process is killed.
    Timeout stop_grace = std::chrono::seconds(5);
};

namespace detail {

// An Actor without its type.
class ActorOwner {
  public:
    using Start = std::function<std::shared_ptr<Process>(
        const ProcessOptions&, const ActorSetup&, Connection, const RawValue<ActorNumbers>&)>;
    ActorOwner(const ActorOptions& options, const std::type_info& type, bool serializes,
               const Start& start);
    ~ActorOwner();
    ActorOwner(const ActorOwner&) = delete;
    ActorOwner& operator=(const ActorOwner&) = delete;

    const HeldRef& object() const { return object_; }
    const std::string& name() const;
    int pid() const;
    bool is_alive() const;
    unsigned restarts() const;
    ServerStats stats() const;
    void trace(const std::string& path) const;
    void shutdown() noexcept;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
    HeldRef object_;
};

}  // namespace detail

template <class T>
class Actor : public detail::CallFace<Actor<T>, T> {
  public:
    using Object = T;

    // T(args...), made in its process. Returns when it serves.
    template <class... Args>
    explicit Actor(ActorOptions options, Args&&... args)
        : owner_(options, typeid(T), detail::Travels<T>, start_with(std::forward<Args>(args)...)) {}
    Actor() : Actor(ActorOptions{}) {}
    template <class First, class... Args>
    requires(!std::same_as<std::remove_cvref_t<First>, ActorOptions> &&
             !std::same_as<std::remove_cvref_t<First>, Actor>) explicit Actor(First&& first,
                                                                              Args&&... args)
        : Actor(ActorOptions{}, std::forward<First>(first), std::forward<Args>(args)...) {}

    // call, submit, try_submit, read, submit_read as of a Proxy (proxy.hpp), and:
    Proxy<T> proxy() const { return Proxy<T>(owner_.object()); }
    ProxyWith<T> with(const TaskOptions& options) const { return proxy().with(options); }
    Future<ActorDeath> death() const { return proxy().death(); }
    void flush() const { proxy().flush(); }

    const std::string& name() const { return owner_.name(); }
    // Of the process that has the object; 0: it is over.
    int pid() const { return owner_.pid(); }
    // False: it has ended, and is not started again.
    bool is_alive() const { return owner_.is_alive(); }
    unsigned restarts() const { return owner_.restarts(); }

    // What the actor does, and has done since it was last started: server_stats.hpp. It is told
    // beside the calls. Throws ActorLost when it is over.
    ServerStats stats() const { return owner_.stats(); }
    // From now on its process writes when each call was in the object, and whose, to a file, as
    // Pool::trace() does: one track for each thread there. A process that is started again writes
    // nothing before this is called again. Throws std::system_error if the file cannot be opened,
    // or the former one not be completed; ActorLost.
    void trace(const std::string& path) const { owner_.trace(path); }
    // Completes the file. Throws std::system_error if not all could be written.
    void trace_stop() const { owner_.trace({}); }

    // Ends it: calls that run are finished and answered, all others fail (ActorLost). Idempotent.
    void shutdown() noexcept { owner_.shutdown(); }

  private:
    friend class detail::CallFace<Actor<T>, T>;
    const detail::HeldRef& held() const { return owner_.object(); }
    detail::CallLimits limits() const { return {}; }

    // Called within the constructor: the arguments are still there.
    template <class... Args>
    static detail::ActorOwner::Start start_with(Args&&... args) {
        static_assert(std::is_constructible_v<T, detail::Stored<Args>&&...>,
                      "T cannot be made from these arguments: they arrive as temporaries");
        return [&args...](const ProcessOptions& options, const detail::ActorSetup& setup,
                          Connection owner, const RawValue<detail::ActorNumbers>& numbers) {
            auto process = std::make_shared<Process>(
                options, &detail::ActorMain<T, detail::Stored<Args>...>::run, setup,
                std::move(owner), numbers, std::forward<Args>(args)...);
            process->start();
            return process;
        };
    }

    detail::ActorOwner owner_;
};

}  // namespace sidestep
