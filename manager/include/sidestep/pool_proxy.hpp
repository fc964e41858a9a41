// PoolProxy: a Pool whose workers are the server's children, used by all who have the proxy. A
// Manager makes it: manager.pool(4).
//
//     auto pool = manager.pool(4);
//     sidestep::Process user([](sidestep::PoolProxy p) { p.submit(resize, path).get(); }, pool);
//
// Ownership: the pool ends, when its tasks are finished, with the last proxy.
// Threads, Fork, Peer death: as Proxy (proxy.hpp). A task takes a thread of the server while it
//            runs; the tasks of one thread run beside each other.
// Errors:    what the task throws, by type. What befalls it in the pool (WorkerLost...) arrives as
//            PoolError, whose message tells it, and remote_type_name() which it was.
//
// Of a ManagerServer (manager_server.hpp), by name: server.expose<Pool>("cores", 4), or with a pool
// of the program's own, expose<Pool>("cores", std::make_shared<Pool>()); and on the other machine
// manager.get<Pool>("cores"). The client has to be the same program, of the same build: what it
// submits is a function of the program. (Another one gets SerializationError.)
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include <sidestep/detail/exposed.hpp>
#include <sidestep/pool.hpp>
#include <sidestep/proxy.hpp>

namespace sidestep::inline v0 {

namespace detail {

struct PoolObject {
    explicit PoolObject(unsigned processes)
        : pool(std::make_shared<Pool>(PoolOptions{.processes = processes})) {}
    explicit PoolObject(std::shared_ptr<Pool> users) : pool(std::move(users)) {}
    unsigned processes() const { return pool->processes(); }
    const std::shared_ptr<Pool> pool;
};

// Runs f in the pool, and waits for it without holding up others.
template <class F>
struct RunInPool {
    Bound<F> f;

    template <class... Args>
    auto operator()(PoolObject& object, Args&&... args) const {
        auto future = object.pool->submit(f, std::forward<Args>(args)...);
        auto done = std::make_shared<std::atomic<bool>>(false);
        future.add_done_callback([done, wake = waker_here()](const auto&) {
            *done = true;
            wake();
        });
        (void)wait_here([&] { return done->load(); }, {});
        return future.get();
    }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(f);
    }
};

}  // namespace detail

class PoolProxy : public Proxy<detail::PoolObject> {
  public:
    using Proxy::Proxy;

    // f(args...) in a worker of the pool; what can be a task (task.hpp).
    template <class F, class... Args>
    auto submit([[maybe_unused]] F&& f, [[maybe_unused]] Args&&... args) const {
        using Callable = std::decay_t<F>;
        using Check = detail::TaskCheck<Callable, detail::Stored<Args>...>;
        Check::check();
        if constexpr (Check::kFine)
            return Proxy::submit(
                detail::RunInPool<Callable>{Bound<Callable>(std::forward<F>(f), {})},
                std::forward<Args>(args)...);
        else
            return detail::Refused();
    }
    unsigned processes() const { return call<&Object::processes>(); }
};

namespace detail {

template <>
struct FaceMethods<PoolObject> : MethodList<PoolObject, &PoolObject::processes> {
    static constexpr bool kFunctions = true;
};
template <>
struct FaceOf<Pool> {
    using Proxy = PoolProxy;
    template <class... Args>
    static std::shared_ptr<PoolObject> make(Args&&... args) {
        return std::make_shared<PoolObject>(std::forward<Args>(args)...);
    }
};

}  // namespace detail

}  // namespace sidestep
