// The calls that a proxy has. Internal: see proxy.hpp and actor.hpp.
#pragma once

#include <functional>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

#include <sidestep/detail/held_object.hpp>
#include <sidestep/detail/hosted.hpp>
#include <sidestep/detail/result_reader.hpp>
#include <sidestep/future.hpp>
#include <sidestep/task.hpp>

namespace sidestep::inline v0 {

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
    using Read = ReadBody<T, method, Stored<P>...>;
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

// Whether these are a method's arguments: one for each parameter, converted as in any call. (A
// tuple can be made of none, of a pair, and by constructors that are explicit.)
template <class Values, class... A>
struct Takes : std::false_type {};
template <class... P, class... A>
requires(sizeof...(P) == sizeof...(A)) struct Takes<std::tuple<P...>, A...>
    : std::bool_constant<(std::is_convertible_v<A, P> && ...)> {
};

template <class Member>
struct ClassOf;
template <class Function, class C>
struct ClassOf<Function C::*> {
    using type = C;
};
// Says so if it is a method of another type.
template <class T, auto method>
constexpr bool check_method() {
    constexpr bool its =
        std::is_base_of_v<typename ClassOf<std::remove_const_t<decltype(method)>>::type, T>;
    static_assert(its, "this is no method of the object's type, nor of a base of it");
    return its;
}

// How calls are made of whoever has an object's proxy. Derived has `const HeldRef& held() const`
// and `CallLimits limits() const`.
template <class Derived, class T>
class CallFace {
  public:
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
        return start<method, typename Signature::template Body<T, method>>(
            std::forward<Args>(args)...);
    }
    template <class F, class... Args>
    requires(!std::is_member_pointer_v<std::decay_t<F>>) auto submit(F&& f, Args&&... args) const {
        using Callable = std::decay_t<F>;
        using Check = decltype(check_of<why_no_call<Callable, Stored<Args>...>(), Callable,
                                        Stored<Args>...>());
        Check::check();
        constexpr bool called = std::is_invocable_v<Callable&, T&, Stored<Args>&&...>;
        static_assert(called,
                      "the callable takes the object by reference, and then these arguments");
        if constexpr (Check::kFine && called)
            return start_function<Callable>(std::forward<F>(f), std::forward<Args>(args)...);
        else
            return Refused();
    }

    // As submit(), but where that would wait, because so many calls of this process are under way
    // (ActorOptions::max_pending), nothing is called, and there is no future. (It waits if another
    // thread takes the last place meanwhile.)
    template <auto method, class... Args>
    auto try_submit(Args&&... args) const {
        using Result = decltype(submit<method>(std::forward<Args>(args)...));
        if (!has_room(self().held())) return std::optional<Result>();
        return std::optional<Result>(submit<method>(std::forward<Args>(args)...));
    }

    // As call() and submit(), of a const method, beside other such calls (ActorOptions::readers).
    // Elsewhere than in an actor with readers it is a call like any other.
    template <auto method, class... Args>
    auto read(Args&&... args) const {
        return submit_read<method>(std::forward<Args>(args)...).get();
    }
    template <auto method, class... Args>
    auto submit_read(Args&&... args) const {
        using Method = std::remove_const_t<decltype(method)>;
        static_assert(kIsConst<Method>, "only const methods can be called by read()");
        return start<method, typename Signature<Method>::template Read<T, method>>(
            std::forward<Args>(args)...);
    }

  private:
    const Derived& self() const { return static_cast<const Derived&>(*this); }
    template <class Callable, class F, class... Args>
    auto start_function(F&& f, Args&&... args) const {
        using Result = std::decay_t<std::invoke_result_t<Callable&, T&, Stored<Args>&&...>>;
        check_result<Result>();
        std::tuple<Stored<Args>...> values(std::forward<Args>(args)...);
        return Future<Result>(start_call(
            self().held(), call_kind<FunctionBody<T, Callable, Stored<Args>...>>(),
            [&](OutputArchive& archive) {
                save_callable<Callable>(archive, f);
                archive(values);
            },
            self().limits()));
    }
    template <auto method, class Body, class... Args>
    auto start([[maybe_unused]] Args&&... args) const {
        constexpr bool its = check_method<T, method>();
        if constexpr (its)
            return start_method<method, Body>(std::forward<Args>(args)...);
        else
            return Refused();
    }
    template <auto method, class Body, class... Args>
    auto start_method(Args&&... args) const {
        using Values = typename Signature<std::remove_const_t<decltype(method)>>::Values;
        using Result = typename ResultOfMethod<T, method, Values>::type;
        check_result<Result>();
        if constexpr (Takes<Values, Args&&...>::value) {
            Values values(std::forward<Args>(args)...);
            return Future<Result>(start_call(
                self().held(), call_kind<Body>(method_name<method>()),
                [&](OutputArchive& archive) { archive(values); }, self().limits()));
        } else {
            static_assert(Takes<Values, Args&&...>::value,
                          "the method cannot be called with these arguments: they are converted to "
                          "its parameters (without default arguments), which travel by value");
            return Future<Result>();
        }
    }
};

}  // namespace detail

}  // namespace sidestep
