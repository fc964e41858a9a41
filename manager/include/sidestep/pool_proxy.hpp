// PoolProxy: a Pool whose workers are the server's children, used by all who have the proxy. A
// Manager makes it: manager.pool(4).
//
//     auto pool = manager.pool(4);
//     sidestep::Process user([](sidestep::PoolProxy p) { p.submit(resize, path).get(); }, pool);
//
//     auto size = pool.submit({.timeout = 2s, .retry = {.max_attempts = 3}}, fetch, url)
//                     .then([](const std::string& page) { return page.size(); });
//
// Arguments and results go through the server as they are: it does not read them.
//
// Ownership: the pool ends, when its tasks are finished, with the last proxy. A future counts as
//            one, while there is no other. A task whose future is dropped is run all the same.
// Threads, Fork: as Proxy (proxy.hpp). A task takes a thread of the server while it runs; the tasks
//            of one thread run beside each other.
// Peer death: a client that dies or disconnects takes its tasks with it: those that wait are taken
//            back, those that run are stopped, as by cancel(). So does the server's end, for all.
// Errors:    by type: what the task throws, and what befalls it in the pool (WorkerLost,
//            TaskTimeout, OutOfMemory, CancelledError, BrokenPool). ActorLost (Disconnected) if the
//            server is lost. std::logic_error if the pool is closed. submit() itself throws
//            std::invalid_argument for options that make no sense, and for `key` and `retry.when`,
//            which cannot be had from afar; of tokens that the pool has not, get() does.
// Limits:    PoolOptions::task holds for them, and max_pending does not hold them up: that is 4096
//            calls of one process, beyond which submit() waits. Future::running() says nothing.
//            cancel() asks the server, and has its answer when it returns. What then() begins comes
//            when this process has read what it comes after: flush() does not wait for it.
//
// Of a ManagerServer (manager_server.hpp), by name: server.expose<Pool>("cores", 4), or with a pool
// of the program's own, expose<Pool>("cores", std::make_shared<Pool>()); and on the other machine
// manager.get<Pool>("cores"). The client has to be the same program, of the same build: what it
// submits is a function of the program. (Another one gets SerializationError.)
#pragma once

#include <concepts>
#include <memory>
#include <ranges>
#include <type_traits>
#include <utility>

#include <sidestep/detail/exposed.hpp>
#include <sidestep/pool.hpp>
#include <sidestep/proxy.hpp>
#include <sidestep/task_pool.hpp>

namespace sidestep::inline v0 {

namespace detail {

struct PoolObject {
    explicit PoolObject(unsigned processes)
        : pool(std::make_shared<Pool>(PoolOptions{.processes = processes})) {}
    explicit PoolObject(std::shared_ptr<Pool> users) : pool(std::move(users)) {}
    unsigned processes() const { return pool->processes(); }
    const std::shared_ptr<Pool> pool;
};

// The pool of that PoolObject, as who submits tasks has it.
std::shared_ptr<NestedPool> remote_pool(const HeldRef& object);

}  // namespace detail

class PoolProxy : public Proxy<detail::PoolObject> {
  public:
    using Proxy::Proxy;

    // f(args...) in a worker of the pool; what can be a task (task.hpp).
    template <class F, class... Args>
    requires(!std::same_as<std::decay_t<F>, TaskOptions>) auto submit(F&& f, Args&&... args) const {
        return tasks().submit(std::forward<F>(f), std::forward<Args>(args)...);
    }
    // With options of its own: pool.submit({.timeout = 2s}, f, x).
    template <class F, class... Args>
    auto submit(const TaskOptions& options, F&& f, Args&&... args) const {
        return tasks().submit(options, std::forward<F>(f), std::forward<Args>(args)...);
    }
    // The results of f(item), in order, as a std::vector; nothing if f returns nothing. Some items
    // are one task. Throws what the first of them that fails throws.
    template <class F, std::ranges::input_range Range>
    auto map(F&& f, Range&& items) const {
        return tasks().map(std::forward<F>(f), std::forward<Range>(items));
    }
    unsigned processes() const { return call<&Object::processes>(); }

  private:
    TaskPool tasks() const { return TaskPool(detail::remote_pool(held())); }
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
