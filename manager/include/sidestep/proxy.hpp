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
//             itself; two objects that call each other at the same moment wait for ever.
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
// Errors:     what the method throws, by type (remote_error.hpp); ActorLost, NoSuchObject;
//             SerializationError; std::logic_error for a proxy that refers to nothing. What a call
//             throws whose Future was dropped comes out of flush(), or goes to stderr at the end.
// Trust:      whoever has a proxy can run code in the server: its key is in the proxy. Results
//             carry no function pointers.
// Limits:     results carry no descriptors; arguments up to 253. 4096 calls of a process are under
//             way at a time: submit() waits for the oldest then.
#pragma once

#include <cstdint>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include <sidestep/actor_lost.hpp>
#include <sidestep/detail/held_object.hpp>
#include <sidestep/detail/hosted.hpp>
#include <sidestep/detail/result_reader.hpp>
#include <sidestep/future.hpp>
#include <sidestep/task.hpp>

namespace sidestep::inline v0 {

class Manager;

namespace detail {

// The parameters of a member function, as what they travel.
template <class Method>
struct Signature;
template <class R, class C, class... P>
struct Signature<R (C::*)(P...)> {
    using Values = std::tuple<Stored<P>...>;
    template <class T, auto method>
    using Body = MethodBody<T, method, Stored<P>...>;
    template <class T, auto method>
    using Exposed = ExposedBody<T, method, Stored<P>...>;
};
template <class R, class C, class... P>
struct Signature<R (C::*)(P...) const> : Signature<R (C::*)(P...)> {};
template <class R, class C, class... P>
struct Signature<R (C::*)(P...) noexcept> : Signature<R (C::*)(P...)> {};
template <class R, class C, class... P>
struct Signature<R (C::*)(P...) const noexcept> : Signature<R (C::*)(P...)> {};
template <class R, class C, class... P>
struct Signature<R (C::*)(P...)&> : Signature<R (C::*)(P...)> {};
template <class R, class C, class... P>
struct Signature<R (C::*)(P...) const&> : Signature<R (C::*)(P...)> {};
template <class R, class C, class... P>
struct Signature<R (C::*)(P...)& noexcept> : Signature<R (C::*)(P...)> {};
template <class R, class C, class... P>
struct Signature<R (C::*)(P...) const& noexcept> : Signature<R (C::*)(P...)> {};

template <class T, auto method, class... P>
using MethodResult = std::decay_t<std::invoke_result_t<decltype(method), T&, P...>>;
template <class T, auto method, class Values>
struct ResultOfMethod;
template <class T, auto method, class... P>
struct ResultOfMethod<T, method, std::tuple<P...>> {
    using type = MethodResult<T, method, P...>;
};

}  // namespace detail

template <class T>
class Proxy {
  public:
    using Object = T;

    Proxy() = default;
    explicit Proxy(detail::HeldRef object) : object_(std::move(object)) {}

    // Calls a method, or f(T&, args...), and waits for its result.
    template <auto method, class... Args>
    auto call(Args&&... args) const {
        return submit<method>(std::forward<Args>(args)...).get();
    }
    template <class F, class... Args>
    requires(!std::is_member_pointer_v<std::decay_t<F>>) auto call(F&& f, Args&&... args) const {
        return submit(std::forward<F>(f), std::forward<Args>(args)...).get();
    }

    // The same without waiting. Arguments are converted to the method's parameters here.
    template <auto method, class... Args>
    auto submit(Args&&... args) const {
        using Signature = detail::Signature<std::remove_const_t<decltype(method)>>;
        using Values = typename Signature::Values;
        static_assert(std::is_constructible_v<Values, Args&&...>,
                      "the method cannot be called with these arguments: they are converted to its "
                      "parameters (without default arguments), which travel by value");
        using Result = typename detail::ResultOfMethod<T, method, Values>::type;
        detail::check_result<Result>();
        Values values(std::forward<Args>(args)...);
        return Future<Result>(
            detail::start_call(object_,
                               detail::call_kind<typename Signature::template Body<T, method>>(
                                   detail::method_name<method>()),
                               [&](OutputArchive& archive) { archive(values); }));
    }
    template <class F, class... Args>
    requires(!std::is_member_pointer_v<std::decay_t<F>>) auto submit(F&& f, Args&&... args) const {
        using Callable = std::decay_t<F>;
        static_assert(detail::TaskCallable<Callable>,
                      "this callable cannot be sent to another process: pass what a lambda "
                      "captures as arguments");
        static_assert(std::is_invocable_v<Callable&, T&, detail::Stored<Args>&&...>,
                      "the callable takes the object by reference, and then these arguments");
        using Result = std::decay_t<std::invoke_result_t<Callable&, T&, detail::Stored<Args>&&...>>;
        detail::check_result<Result>();
        std::tuple<detail::Stored<Args>...> values(std::forward<Args>(args)...);
        return Future<Result>(detail::start_call(
            object_,
            detail::call_kind<detail::FunctionBody<T, Callable, detail::Stored<Args>...>>(),
            [&](OutputArchive& archive) {
                detail::save_callable<Callable>(archive, f);
                archive(values);
            }));
    }

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

  private:
    detail::HeldRef object_;
};

}  // namespace sidestep
