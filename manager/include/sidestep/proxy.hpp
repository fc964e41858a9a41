// Proxy<T>: an object that lives in another process, a Manager's server.
//
//     auto histogram = manager.make<Histogram>(4);              // a Proxy<Histogram>
//     histogram.call<&Histogram::add>(3);                       // waits; throws what add() throws
//     int n = histogram.call([](Histogram& h) { return h.total(); });
//     Future<void> later = histogram.submit<&Histogram::add>(3);
//     histogram.flush();                                        // all that was submitted has run
//
// A proxy is an argument of tasks, Processes and other calls, and travels in messages; what arrives
// refers to the same object. What a method takes and returns is copied, as a task's: see task.hpp.
// A proxy in an object (a dict of lists) shares; a value in it is a copy.
//
// Order:      the calls of one thread begin in the order in which it made them, each when the one
//             before has ended, or waits (a face's get, lock, wait...). One call at a time is in an
//             object; one that waits lets others in. So a call that waits holds up nobody, and one
//             that runs holds up those of its thread and its object. An object may call others, and
//             itself, but not one that calls it back, by whatever way: the two wait for each other,
//             and nobody tells. What might come to that needs a timeout (with()): the call that
//             waits is taken back then, and costs nobody his process.
// Ownership:  counted by the server, for each process that has proxies; the last to go frees the
//             object. A proxy on its way counts until it is read for the first time (or the process
//             that sent it ends): bytes that are read again, such as a task's that is retried, find
//             the object only if somebody else has a proxy. Proxies in a ring of objects keep those
//             until the Manager ends. The default one refers to nothing.
// Threads:    thread-safe; copies are the same object. No thread is started, but for Future's
//             callbacks, wait() over several futures, and co_await: one while such calls last.
//             A session at a ManagerServer has one, which beats (manager.hpp): a Pool forks beside
//             it, a Process by StartMethod::fork is refused.
// Fork:       a forked child makes a connection of its own at its first use of a proxy. Until then
//             its copy does not count: the parent's has to last as long.
// Of a ManagerServer: exposed methods only, else NotExposed; Disconnected is its ActorLost.
// Peer death: ActorLost from all calls that were not answered, and from all that follow. A client
//             that dies loses its references, and what it had queued is dropped.
// Errors:     what the method throws, by type (remote_error.hpp); ActorLost, NoSuchObject; a method
//             that ends its thread (pthread_exit) costs its call, with a std::runtime_error;
//             SerializationError; std::logic_error for a proxy that refers to nothing. What a call
//             throws whose Future was dropped comes out of flush(), or goes to stderr at the end.
// Trust:      whoever has a proxy can run code in the server: its key is in the proxy. Results
//             carry no function pointers.
// Limits:     results carry no descriptors; arguments up to 253. 4096 calls of a process are under
//             way at a time: submit() waits for the oldest then.
#pragma once

#include <cstdint>
#include <utility>

#include <sidestep/actor_lost.hpp>
#include <sidestep/detail/call_face.hpp>
#include <sidestep/detail/held_object.hpp>
#include <sidestep/future.hpp>
#include <sidestep/task.hpp>
#include <sidestep/task_options.hpp>

namespace sidestep::inline v0 {

class Manager;

// A proxy whose calls have limits: see Proxy::with().
template <class T>
class ProxyWith : public detail::CallFace<ProxyWith<T>, T> {
  public:
    ProxyWith(detail::HeldRef object, detail::CallLimits limits)
        : object_(std::move(object)), limits_(limits) {}

  private:
    friend class detail::CallFace<ProxyWith<T>, T>;
    const detail::HeldRef& held() const { return object_; }
    detail::CallLimits limits() const { return limits_; }
    detail::HeldRef object_;
    detail::CallLimits limits_;
};

// An object in a server, and its calls (`args` are converted to the method's parameters here):
//
// | call                             | what it does                                          |
// |----------------------------------|-------------------------------------------------------|
// | call<&T::method>(args...)        | waits for the result, or throws                       |
// | submit<&T::method>(args...)      | a Future of the result                                |
// | try_submit<&T::method>(args...)  | the same, but an empty optional where submit() would  |
// |                                  | wait (if no other thread takes the last place)        |
// | read<&T::method>(args...)        | call() of a const method, beside other reads in an    |
// |                                  | actor with ActorOptions::readers                      |
// | submit_read<&T::method>(args...) | submit() of a const method, likewise                  |
//
// call() and submit() also take a callable (task.hpp) that gets a T& first: call(f, args...).
template <class T>
class Proxy : public detail::CallFace<Proxy<T>, T> {
  public:
    using Object = T;

    Proxy() = default;
    explicit Proxy(detail::HeldRef object) : object_(std::move(object)) {}

    // The calls with limits: proxy.with({.timeout = 2s}).call<&T::method>(). Of TaskOptions
    // there are `timeout`, counted from when the call reaches the server, and of `retry`
    // max_attempts and max_crashes: all else throws std::invalid_argument. A call that is overdue
    // fails with CallTimeout. If it waits, it is taken back; if it runs, it is asked to stop
    // (this_task::stop_requested()). A shared object goes on with it all the same; an actor that
    // does not heed it is ended, and started again (ActorOptions::timeout_grace).
    ProxyWith<T> with(const TaskOptions& options) const {
        return ProxyWith<T>(object_, detail::call_limits(options));
    }

    // The next end of the server's process that this process learns of; at once if it has ended for
    // good. It learns of it by reading: in get(), a callback, or any call that waits. Throws
    // std::logic_error in that process.
    Future<ActorDeath> death() const { return Future<ActorDeath>(detail::watch_death(object_)); }

    // Waits until the calls that this process has submitted to the object have run (those that
    // other threads go on to submit, too). Throws the first error that no future was asked for.
    void flush() const { detail::flush_calls(object_); }

    // The object's number at its server, as errors name it.
    std::uint64_t number() const { return detail::object_number(object_); }
    explicit operator bool() const { return object_ != nullptr; }
    // The same object?
    friend bool operator==(const Proxy& a, const Proxy& b) {
        return detail::same_object(a.object_, b.object_);
    }

    void save(OutputArchive& archive) const { detail::save_held(object_, archive); }
    void load(InputArchive& archive) { object_ = detail::load_held(archive); }

  protected:
    const detail::HeldRef& held() const { return object_; }

  private:
    friend class detail::CallFace<Proxy<T>, T>;
    detail::CallLimits limits() const { return {}; }
    detail::HeldRef object_;
};

}  // namespace sidestep
