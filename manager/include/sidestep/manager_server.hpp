// ManagerServer: objects of this program, by name, for other programs, here and on other machines.
//
//     sidestep::ManagerServer server({.address = sidestep::TcpAddress{"", 4711}, .authkey = key});
//     server.expose<&JobBoard::post, &JobBoard::take>("board", std::make_shared<JobBoard>());
//     server.expose<sidestep::Queue<int>>("jobs", 16);     // a face of Manager
//     server.expose<sidestep::Pool>("cores", 4);           // <sidestep/pool_proxy.hpp>
//     server.serve();                                      // or start(): in threads of its own
//
//     auto manager = sidestep::Manager::connect(sidestep::TcpAddress{"host", 4711},
//                                               {.authkey = key});
//     auto board = manager.get<JobBoard>("board");          // a Proxy<JobBoard>
//     auto jobs = manager.get<sidestep::Queue<int>>("jobs");
//
// A client can be another program, built by another compiler, if it has the declarations: a method
// is known by its mangled name. Where standard types are parameters, both need the same standard
// library.
//
// Threads:    thread-safe, but for destroying. One call at a time is in an object (proxy.hpp),
//             calls of the program's own through object() included: what the program does to an
//             exposed object without a proxy needs a lock of its own.
// Ownership:  an exposed object stays until the server's end. ~ManagerServer stops. It does not
//             move.
// Fork:       a forked child has no server: its copy does nothing.
// Peer death: a client is gone when its connection ends, or when nothing is heard of it for
//             `lost_after`: its references and queued calls go, its locks are free (owner_died()),
//             what it was in the middle of finishes. If it comes back, it is another one. When a
//             call has closed the program's descriptors, or put others in their places
//             (close_range(2), dup2(2)), the server ends, and says so on stderr; its clients are
//             Disconnected within `lost_after`.
// Trust:      with an authkey nobody else gets in: over TCP all is TLS 1.3 with a key made of it,
//             on Unix sockets both sides prove it (listener.hpp). Without one, a Unix socket is for
//             this user, and TCP for everybody on this machine; beyond it there is none
//             (std::invalid_argument). Who has the key can call what is exposed, with any values,
//             and nothing else; values name no functions. A Pool is another matter: its clients run
//             any function of the program, in the workers and, if they want to, in the server.
// Errors:     std::system_error as Listener's (EADDRINUSE...), std::logic_error for a name that is
//             taken, and for a second start().
// Limits:     a thread for each client, and one for each call that runs; 8192 calls of one client
//             are unanswered at a time (one that sends more is cut off), and 65536 references of
//             one are on their way. Answers of short calls of one thread go out together, 64 at
//             most, as long as more of its calls are there: one that then takes long holds them up
//             for two milliseconds.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <sidestep/address.hpp>
#include <sidestep/detail/exposed.hpp>
#include <sidestep/detail/faces.hpp>
#include <sidestep/server_stats.hpp>
#include <sidestep/timeout.hpp>

namespace sidestep::inline v0 {

struct ManagerServerOptions {
    Address address = UnixAddress{};  // the default: a fresh abstract name
    std::optional<std::string> authkey = std::nullopt;
    // A client that is silent for so long (its heartbeats are four times as frequent) is taken for
    // dead. Positive.
    Timeout lost_after = std::chrono::seconds(30);
    // The largest call, in bytes; a client that sends more is cut off.
    std::size_t max_call_bytes = std::size_t(1) << 30;
    // For clients that have not proved the key, see ListenerOptions.
    Timeout handshake_timeout = std::chrono::seconds(10);
    std::size_t max_handshakes = 64;
};

class ManagerServer {
  public:
    // Listens: clients that come before start() wait.
    explicit ManagerServer(ManagerServerOptions options = {});
    // stop().
    ~ManagerServer();
    ManagerServer(const ManagerServer&) = delete;
    ManagerServer& operator=(const ManagerServer&) = delete;

    // Offers these methods of the object, and no other. Also while it serves.
    template <auto... methods, class T>
    void expose(const std::string& name, std::shared_ptr<T> object) {
        static_assert(sizeof...(methods) > 0,
                      "say which methods: expose<&T::f, &T::g>(name, object)");
        constexpr bool its = (detail::check_method<T, methods>() && ...);
        if constexpr (its)
            add({name, typeid(T).name(), {detail::exposed_method<T, methods>()...}},
                std::make_shared<detail::HostedShared<T>>(std::move(object)));
    }
    // A new object of a face, made with what Manager's call for it takes: Queue<T>,
    // JoinableQueue<T>, Lock, RLock, Semaphore, BoundedSemaphore, Condition, Event, Barrier, Pool,
    // DictProxy<K, V>, ListProxy<T>, SetProxy<T>, ValueProxy<T>, ArrayProxy<T>. Without update(),
    // which would run code of the client's.
    template <class Face, class... Args>
    void expose(const std::string& name, Args&&... args) {
        using Object = detail::FaceObject<Face>;
        detail::Exposure exposure{name, typeid(Object).name(), detail::FaceMethods<Object>::all()};
        if constexpr (requires { detail::FaceMethods<Object>::kFunctions; })
            exposure.functions = true;
        add(std::move(exposure), std::make_shared<detail::HostedShared<Object>>(
                                     detail::FaceOf<Face>::make(std::forward<Args>(args)...)));
    }

    // The program's own proxy of an exposed object, of which it can call everything: as
    // Manager::get(), and it throws the same.
    template <class T>
    detail::FaceProxy<T> object(const std::string& name) {
        return detail::FaceProxy<T>(find(name, typeid(detail::FaceObject<T>).name()));
    }

    // Serves in threads of its own. Throws std::logic_error if it serves, or has, already.
    void start();
    // Serves in this thread, until another one calls stop(). Throws as start().
    void serve();
    // Ends it: nothing new begins, calls that run are finished and answered, those that wait are
    // given up (Disconnected). Returns when it has ended; in a call of one of its objects at once,
    // since the end waits for that call. Idempotent.
    void stop() noexcept;

    // What it does, and has done: server_stats.hpp.
    ServerStats stats() const;
    // From now on writes when each call was in its object, and whose, to a file, as Pool::trace()
    // does, until trace_stop(), another trace(), or the server's end. Throws std::system_error if
    // the file cannot be opened, or the former one not be completed.
    void trace(const std::string& path);
    void trace_stop();

    // Where it really listens: with the port, or the name, that was picked.
    const Address& address() const;

  private:
    void add(detail::Exposure exposure, std::shared_ptr<detail::Hosted> object);
    detail::HeldRef find(const std::string& name, const char* type);

    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace sidestep
