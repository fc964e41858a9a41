// What can be a task: callables and arguments that another process can be given.
//
// A callable is one of
//   - a function pointer: where the function lies in the program travels, the program is the same;
//   - a pointer to a member (function or not): the object is the first argument;
//   - a lambda that captures nothing, or any empty default-constructible functor: the type is all;
//   - a functor with state and a cereal `serialize`: its state travels;
//   - bind(f, args...): a callable with its first arguments, which it gets as const& each time.
// A lambda with captures is none of these and does not compile as a task: what it captured may be a
// pointer, and that would mean nothing over there.
//
// Arguments are copied as std::thread does (decayed); `const char*` and std::string_view travel as
// std::string. Parameters are taken by value, const& or &&. A result that is returned by lvalue
// reference is written from where it is (it may be one of the arguments), and arrives as a value.
//
// There is no registration: a task is known by where its trampoline lies in which module, and the
// receiver checks the module's build-id, the place and the signature before it jumps. (A module
// without a build-id is known by its contents. Two loaded copies of one library are refused.)
//
// Trust: a process does what its tasks say, so it takes them from whoever started it, and from
// nobody else. In messages, results and items of queues a bind() of a function pointer does not
// compile, and where a type of yours hides one it is not read: whoever wrote the bytes could name
// any function. A captureless lambda or a functor names none: it is part of the type.
//
// Threads: the checks are of compile time; a TaskId is a value.
// Errors:  what cannot be a task does not compile, and the first error says what to do instead (for
//          an overloaded function, anywhere but in the calls of a Pool or ThreadPool, it is the
//          compiler's own: name one by a lambda, or a cast);
//          SerializationError for a task of another build of the program.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <sidestep/archive.hpp>
#include <sidestep/detail/call_times.hpp>
#include <sidestep/detail/checks.hpp>

namespace sidestep::inline v0 {

template <class F, class... Args>
struct Bound;

namespace detail {

// --- what travels ----------------------------------------------------------------------------

// A place in the program that is the same in all its processes.
struct CodeAddress {
    std::uint64_t module = 0;
    std::uint64_t offset = 0;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(module, offset);
    }
};
CodeAddress locate_code(const void* function);
// Of a function pointer among arguments: damaged bytes, or a function of another type, are no
// address to jump to. `signature`: of the pointer's type.
std::uint64_t check_word(const CodeAddress& address, std::uint64_t signature) noexcept;
// A pointer to a member function, for the processes of one build: a place in the program, or of a
// virtual one an offset in vtables; and what is added to the object's address.
struct MemberAddress {
    CodeAddress where;  // not of a virtual one
    std::uint64_t is_virtual = 0;
    std::uint64_t entry = 0;
    std::uint64_t adjustment = 0;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(where, is_virtual, entry, adjustment);
    }
};
using MemberWords = std::array<std::uint64_t, 2>;  // as the compiler has it
MemberAddress locate_member(const MemberWords& words);
std::uint64_t check_word(const MemberAddress& address, std::uint64_t signature) noexcept;
// Null of a virtual one: which function it is, the object says.
const void* member_function(const MemberWords& words) noexcept;
[[noreturn]] void throw_function_refused();
[[noreturn]] void throw_function_damaged();
// Throws SerializationError if this process has no such code.
const void* resolve_code(const CodeAddress& address);
MemberWords resolve_member(const MemberAddress& address);

class SentCall;

// The constant that describes one task type; its address is the task's identity.
struct TaskEntry {
    static constexpr std::uint64_t kMagic = 0x6b73617470657473;
    using Run = void (*)(InputArchive& arguments, OutputArchive& result);
    using Load = std::unique_ptr<SentCall> (*)(InputArchive& arguments);

    std::uint64_t magic;
    std::uint64_t signature;  // of the body's type name: guards against a stale or foreign entry
    Run run;
    const char* type_name;  // __PRETTY_FUNCTION__ of the body's type
    Load load = nullptr;    // of a SentCall: makes it, to be called later
};
struct TaskId {
    CodeAddress where;  // of the TaskEntry
    std::uint64_t signature = 0;
};
TaskId identify(const TaskEntry& entry);
// Null if the module is not loaded, the place is no entry, or the signature differs.
const TaskEntry* find_entry(const TaskId& id);
// Throws SerializationError instead: "the code of " whose " is not in this process", and why.
const TaskEntry& require_entry(const TaskId& id, std::string_view whose);
// "Call<int (*)(int, int)>" shortened from a type name as the compiler prints it.
std::string describe_entry(const TaskEntry& entry);
// "divide(int, int)" for a function's address, from the program's symbols; else "0x1234 in name".
std::string describe_function(const void* function);

template <class T>
constexpr const char* type_text() {
    return __PRETTY_FUNCTION__;
}
constexpr std::uint64_t hash_text(std::string_view text) {  // FNV-1a
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    return hash;
}

template <class Body>
constexpr TaskEntry::Load load_of() {
    if constexpr (requires { &Body::load; })
        return &Body::load;
    else
        return nullptr;
}
// Body: a type with `static void run(InputArchive&, OutputArchive&)`; and a `load`, if it can.
// Hidden: each library has its own, and a worker needs none but the one that submitted. (Else those
// of all libraries would be one, that of the library that was loaded first.)
template <class Body>
[[gnu::visibility("hidden")]] inline constexpr TaskEntry kTaskEntry{
    TaskEntry::kMagic, hash_text(type_text<Body>()), &Body::run, type_text<Body>(),
    load_of<Body>()};
template <class Body>
[[gnu::visibility("hidden")]] const TaskId& task_id() {
    static const TaskId id = identify(kTaskEntry<Body>);
    return id;
}

// --- callables -------------------------------------------------------------------------------

template <class F>
concept FunctionPointer = std::is_pointer_v<F> && std::is_function_v<std::remove_pointer_t<F>>;
template <class F>
concept MemberFunctionPointer = std::is_member_function_pointer_v<F>;
// Names a place in the program: another process finds its own.
template <class F>
concept CodePointer = FunctionPointer<F> || MemberFunctionPointer<F>;
template <class F>
concept Captureless =
    std::is_class_v<F> && std::is_empty_v<F> && std::is_default_constructible_v<F>;
template <class F>
concept StatefulFunctor =
    std::is_class_v<F> && !Captureless<F> && Travels<F> && std::is_default_constructible_v<F>;
template <class F>
concept TaskCallable =
    CodePointer<F> || std::is_member_object_pointer_v<F> || Captureless<F> || StatefulFunctor<F>;

template <MemberFunctionPointer F>
MemberWords words_of(const F& f) {
    static_assert(sizeof(F) == sizeof(MemberWords), "the Itanium C++ ABI has two words for it");
    MemberWords words;
    std::memcpy(&words, &f, sizeof f);
    return words;
}
// For messages: the function that a pointer points to, else null.
template <class F>
const void* function_address(const F& f) {
    if constexpr (FunctionPointer<std::decay_t<F>>)
        return reinterpret_cast<const void*>(static_cast<std::decay_t<F>>(f));
    else if constexpr (MemberFunctionPointer<F>)
        return member_function(words_of(f));
    else
        return nullptr;
}

template <FunctionPointer F>
CodeAddress locate_code(const F& f) {
    return locate_code(reinterpret_cast<const void*>(f));
}
template <MemberFunctionPointer F>
MemberAddress locate_code(const F& f) {
    return locate_member(words_of(f));
}
template <CodePointer F>
F resolve_as(const decltype(locate_code(std::declval<const F&>()))& address) {
    if constexpr (FunctionPointer<F>) {
        return reinterpret_cast<F>(const_cast<void*>(resolve_code(address)));
    } else {
        MemberWords words = resolve_member(address);
        F f;
        std::memcpy(&f, &words, sizeof f);
        return f;
    }
}

template <class F>
void save_callable(OutputArchive& archive, const F& f) {
    if constexpr (CodePointer<F>)
        archive(locate_code(f));
    else if constexpr (std::is_member_object_pointer_v<F>)
        archive.write(&f, sizeof f);  // an offset, which is the same in all processes of a build
    else if constexpr (!Captureless<F>)
        archive(f);
}
// A task's arguments begin with its callable: from here on they may name functions.
template <class F>
F load_callable(InputArchive& archive) {
    archive.allow_functions();
    if constexpr (CodePointer<F>) {
        decltype(locate_code(std::declval<const F&>())) address;
        archive(address);
        return resolve_as<F>(address);
    } else {
        F f{};
        if constexpr (std::is_member_object_pointer_v<F>)
            archive.read(&f, sizeof f);
        else if constexpr (!Captureless<F>)
            archive(f);
        return f;
    }
}

// The same inside of a bind(), which may be a part of anything.
template <class F>
void save_bound(OutputArchive& archive, const F& f) {
    if constexpr (CodePointer<F>) {
        auto address = locate_code(f);
        archive(address, check_word(address, hash_text(type_text<F>())));
    } else {
        save_callable(archive, f);
    }
}
template <class F>
void load_bound(InputArchive& archive, F& f) {
    if constexpr (CodePointer<F>) {
        if (!archive.functions_allowed()) throw_function_refused();
        decltype(locate_code(std::declval<const F&>())) address;
        std::uint64_t check = 0;
        archive(address, check);
        if (check != check_word(address, hash_text(type_text<F>()))) throw_function_damaged();
        f = resolve_as<F>(address);
    } else if constexpr (!Captureless<F>) {
        archive(f);
    }
}

template <CodePointer F, class... Args>
inline constexpr bool names_code<Bound<F, Args...>> = true;

// --- arguments and results -------------------------------------------------------------------

template <class T>
struct StoredAs {
    using type = T;
};
template <>
struct StoredAs<const char*> {
    using type = std::string;
};
template <>
struct StoredAs<char*> {
    using type = std::string;
};
template <>
struct StoredAs<std::string_view> {
    using type = std::string;
};
template <class Key, class T>
struct StoredAs<std::pair<const Key, T>> {  // an element of a map
    using type = std::pair<Key, T>;
};
// As what an argument travels and arrives.
template <class T>
using Stored = typename StoredAs<std::decay_t<T>>::type;

template <class F, class... Args>
using ResultOf = std::decay_t<std::invoke_result_t<F&, Args&&...>>;

// Whether callable and arguments can be sent, and why not.
template <class F, class... Args>
constexpr Why why_no_call() {
    if constexpr ((std::is_same_v<F, Refused> || ... || std::is_same_v<Args, Refused>))
        return Why::refused;
    else if constexpr (is_std_function<F>)
        return Why::function_object;
    else if constexpr (!TaskCallable<F>)
        return Why::captures;
    else {
        Why why = Why::fine;
        ((why = why == Why::fine ? why_not_sent<Args>() : why), ...);
        return why;
    }
}
// Of a result that travels.
template <class Result>
constexpr Why why_not_taken() {
    if constexpr (std::is_void_v<Result>)
        return Why::fine;
    else if constexpr (!kCanBeRead<Result>)
        return Why::result_not_read;
    else
        return names_code<Result> ? Why::names_code : Why::fine;
}
// The same of the whole call: with its result (a task), or without.
template <class F, bool kWithResult, class... Args>
constexpr Why why_no_task() {
    if constexpr (why_no_call<F, Args...>() != Why::fine)
        return why_no_call<F, Args...>();
    else if constexpr (!(kCanBeRead<Args> && ...))
        return Why::not_read;
    else if constexpr (!std::is_invocable_v<F&, Args&&...>)
        return Why::not_called;
    else if constexpr (!kWithResult || std::is_void_v<ResultOf<F, Args...>>)
        return Why::fine;
    else {
        using Result = ResultOf<F, Args...>;
        if constexpr (requires { typename Result::promise_type; }) return Why::coroutine;
        if constexpr (!Travels<Result>) return why_not_sent<Result>();
        return why_not_taken<Result>();
    }
}
template <Why why, class F, class... Args>
auto check_of() {
    if constexpr (why == Why::not_read)
        return Check<why, TheTypeIs<typename FirstUnread<Args...>::type>>();
    else if constexpr (why == Why::result_not_read)
        return Check<why, TheTypeIs<ResultOf<F, Args...>>>();
    else if constexpr (!is_about_sent(why) || is_std_function<F>)
        return Check<why, F, Args...>();
    else if constexpr (!(travels<Args>() && ...))
        return Check<why, TheTypeIs<typename FirstUnsent<Args...>::type>>();
    else
        return Check<why, TheTypeIs<typename Culprit<ResultOf<F, Args...>>::type>>();
}
template <class F, class... Args>
using TaskCheck = decltype(check_of<why_no_task<F, true, Args...>(), F, Args...>());
template <class F, class... Args>
using CallCheck = decltype(check_of<why_no_task<F, false, Args...>(), F, Args...>());
template <class Result>
constexpr void check_result() {
    Check<why_not_taken<Result>(), Result>::check();
}

// A callable with its arguments: how it is written, and read back.
template <class F, class... Args>
struct CallParts {
    F f;
    std::tuple<Args...> args;

    void save(OutputArchive& archive) const {
        save_callable<F>(archive, f);
        archive(args);
    }
    static CallParts load(InputArchive& archive) {
        CallParts parts{load_callable<F>(archive), std::tuple<Args...>{make_blank<Args>()...}};
        std::size_t read = 0;
        try {
            std::apply([&](Args&... each) { ((archive(each), ++read), ...); }, parts.args);
        } catch (...) {
            rethrow_argument_unread(read, sizeof...(Args));
        }
        return parts;
    }
};

// Calls f with these arguments, and writes its result.
template <class F, class... Args>
void call_for_result(F& f, std::tuple<Args...>& values, OutputArchive& result) {
    CallTimes* times = result.times();
    if (times) times->arguments_read();
    if constexpr (std::is_void_v<ResultOf<F, Args...>>) {
        std::apply(f, std::move(values));
        if (times) times->called();
    } else {
        // What is returned by reference is written from where it is: the arguments live on.
        using Result = ResultOf<F, Args...>;
        using Returned = std::invoke_result_t<F&, Args&&...>;
        constexpr bool kInPlace = std::is_lvalue_reference_v<Returned> &&
                                  std::is_same_v<std::remove_cvref_t<Returned>, Result>;
        std::conditional_t<kInPlace, Returned, Result> value(std::apply(f, std::move(values)));
        if (times) times->called();
        result(std::forward<decltype(value)>(value));
        if (times) times->result_written();
    }
}

// Call f(args...) once, for its result.
template <class F, class... Args>
struct Call {
    static void run(InputArchive& arguments, OutputArchive& result) {
        auto [f, values] = CallParts<F, Args...>::load(arguments);
        arguments.expect_end();
        call_for_result(f, values, result);
    }
};

}  // namespace detail

// A callable together with its first arguments: bind(f, a)(b) calls f(a, b). It travels whole.
template <class F, class... Args>
struct Bound {
    F f{};
    std::tuple<Args...> args;

    // To be read into: handles among the arguments refer to nothing yet.
    Bound() : args(detail::make_blank<Args>()...) {}
    Bound(F callable, std::tuple<Args...> first) : f(std::move(callable)), args(std::move(first)) {}

    template <class... Rest>
    requires std::is_invocable_v<const F&, const Args&..., Rest...>
    auto operator()(Rest&&... rest) const {
        return std::apply(
            [&](const Args&... bound) {
                return std::invoke(f, bound..., std::forward<Rest>(rest)...);
            },
            args);
    }
    void save(OutputArchive& archive) const {
        detail::save_bound(archive, f);
        archive(args);
    }
    void load(InputArchive& archive) {
        detail::load_bound(archive, f);
        archive(args);
    }
};

template <class F, class... Args>
auto bind([[maybe_unused]] F&& f, [[maybe_unused]] Args&&... args) {
    using Callable = std::decay_t<F>;
    constexpr bool sendable = detail::TaskCallable<Callable>;
    static_assert(sendable,
                  "bind() takes a function pointer, a captureless lambda or a functor with a "
                  "`serialize` member");
    constexpr bool callable = !std::is_member_object_pointer_v<Callable>;
    static_assert(callable,
                  "bind() takes no pointer to a data member: a lambda that reads it does the same");
    if constexpr (sendable && callable)
        return Bound<Callable, detail::Stored<Args>...>(
            std::forward<F>(f), std::tuple<detail::Stored<Args>...>(std::forward<Args>(args)...));
    else
        return detail::Refused();
}

}  // namespace sidestep
