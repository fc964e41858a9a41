// The server's side of an object: a monitor, as each call's body finds it. Internal.
//
// One call at a time is in an object; or, of an actor with readers, several that only read. A call
// that waits (wait_here) lets others in meanwhile; so a get() that waits for an item holds up no
// put().
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include <sidestep/detail/deadline.hpp>
#include <sidestep/task.hpp>

namespace sidestep::inline v0 {
struct ObjectStats;
}

namespace sidestep::inline v0::detail {

struct CallState;  // of a call that came from a client

// Who calls: one thread of one client.
struct Caller {
    std::uint64_t client = 0;
    std::uint64_t thread = 0;
    int pid = 0;
    bool operator==(const Caller&) const = default;
};

enum class Entry : bool { alone, beside_readers };

// What the calls of an object came to. Relaxed: each number by itself, for who looks (stats()).
class CallCounts {
  public:
    void add(bool failed, bool overdue, std::uint64_t run_ns, std::uint64_t wait_ns) noexcept;
    void tell(ObjectStats& stats) const noexcept;

  private:
    std::atomic<std::uint64_t> calls_{0}, failed_{0}, overdue_{0};
    std::atomic<std::uint64_t> run_ns_{0}, longest_ns_{0}, wait_ns_{0};
};

class Hosted {
  public:
    explicit Hosted(std::uint64_t type, unsigned readers = 1) : type_(type), most_(readers) {}
    virtual ~Hosted() = default;
    Hosted(const Hosted&) = delete;
    Hosted& operator=(const Hosted&) = delete;

    std::uint64_t type() const { return type_; }
    virtual void* object() = 0;
    virtual const char* type_name() const = 0;  // type_info::name()
    // A client's connection has ended: what it holds goes. Called inside of the monitor, of those
    // that hold things for clients.
    virtual bool holds_for_clients() const { return false; }
    virtual void client_gone(std::uint64_t client) { (void)client; }

    // A call that may have changed the object ends, alone or with those that it was made in. Called
    // inside of the monitor.
    virtual void settle() {}

    // A thread that is inside may enter again: an object may call itself. Throws std::logic_error
    // if it is inside to read, and wants to be alone: that would wait for itself.
    void enter(Entry entry = Entry::alone);
    // False: it would have to wait.
    bool try_enter(Entry entry);
    void leave();
    // For who is alone inside: its call may have changed the object.
    void note_change() { unsettled_ = true; }
    // True: there were changes since the last time, and this thread is in no outer call.
    bool take_change();
    // For who is inside: outside until ready(), or the deadline (then false), or `give_up`, which
    // wake() has looked at.
    bool wait(const std::function<bool()>& ready, const Deadline& deadline,
              const std::function<bool()>& give_up);
    // For who is inside: work() is done outside.
    void outside(const std::function<void()>& work);
    void wake();
    CallCounts& counts() { return counts_; }

  private:
    bool may_enter(Entry entry) const;
    void note_entry(Entry entry);
    void enter_with(std::unique_lock<std::mutex>& lock, unsigned depth);

    CallCounts counts_;
    const std::uint64_t type_;
    const unsigned most_;  // that read at a time; 1: they are as all others
    std::mutex mutex_;
    std::condition_variable changed_;
    // Guarded by mutex_.
    std::thread::id inside_;
    unsigned depth_ = 0;
    bool unsettled_ = false;  // of who is alone inside
    unsigned waiting_ = 0;
    unsigned alone_waiting_ = 0;            // to be alone: no other reader goes before them
    std::vector<std::thread::id> readers_;  // that are inside, as often as they are
};

template <class T>
constexpr std::uint64_t hosted_type() {
    return hash_text(type_text<T>());
}

template <class T>
class HostedObject final : public Hosted {
  public:
    template <class... Args>
    explicit HostedObject(Args&&... args)
        : Hosted(hosted_type<T>()), value_(std::forward<Args>(args)...) {}
    void* object() override { return &value_; }
    const char* type_name() const override { return typeid(T).name(); }
    bool holds_for_clients() const override {
        return requires(T & value) { value.client_gone(std::uint64_t(0)); };
    }
    void client_gone(std::uint64_t client) override {
        if constexpr (requires { value_.client_gone(client); }) value_.client_gone(client);
    }

  private:
    T value_;
};

// --- for the bodies of calls, in the server ----------------------------------------------------

// The object of the call that this thread runs. Throws std::logic_error if it is of another type.
Hosted& hosted_here(std::uint64_t type);
Caller caller_here();
// Enters the object of this call. If it has to wait for that, it has not begun so far.
void enter_here(Hosted& object, Entry entry);
// Lets others into the object until ready(). False: the deadline passed. Throws if the caller's
// connection ends: nobody waits any more.
bool wait_here(const std::function<bool()>& ready, const Deadline& deadline);
// Wakes the calls that wait in the object of this call, so that they look again; from any thread.
std::function<void()> waker_here();
// Takes an object over; its first reference is the caller's. Returns its number.
std::uint64_t host_here(std::shared_ptr<Hosted> object);
// While it lives, stop() is called when the call of this thread is asked to stop, in another thread
// or, if that was before, at once in this one. It ends what the call waits for (or only if that has
// not begun), and waits itself for nothing.
class StopScope {
  public:
    using Stop = std::function<void(bool running_too)>;
    explicit StopScope(Stop stop);
    ~StopScope();
    StopScope(const StopScope&) = delete;
    StopScope& operator=(const StopScope&) = delete;

  private:
    const std::shared_ptr<CallState> call_;  // null: it is one within the server
};

// While it lives, this thread is in the object of its call.
template <class T>
class HostedScope {
  public:
    explicit HostedScope(Entry entry = Entry::alone) : hosted_(hosted_here(hosted_type<T>())) {
        enter_here(hosted_, entry);
    }
    ~HostedScope() { hosted_.leave(); }
    HostedScope(const HostedScope&) = delete;
    HostedScope& operator=(const HostedScope&) = delete;
    T& operator*() const { return *static_cast<T*>(hosted_.object()); }
    // The call's work is done. A const one may have made others, by a proxy of its own object.
    void settle(bool changes) {
        if (changes) hosted_.note_change();
        if (hosted_.take_change()) hosted_.settle();
    }

  private:
    Hosted& hosted_;
};

template <class... Args>
std::tuple<Args...> read_values(InputArchive& arguments) {
    std::tuple<Args...> values{make_blank<Args>()...};
    arguments(values);
    arguments.expect_end();
    return values;
}
template <class... Args>
std::tuple<Args...> read_arguments(InputArchive& arguments) {
    arguments.allow_functions();  // whoever calls has proved to be one of us
    return read_values<Args...>(arguments);
}
template <class Invoke, class Values>
void answer(OutputArchive& result, Invoke&& invoke, Values&& values) {
    if constexpr (std::is_void_v<decltype(std::apply(invoke, std::move(values)))>) {
        std::apply(invoke, std::move(values));
    } else {
        const auto& value = std::apply(invoke, std::move(values));
        result(value);
    }
}

template <class T, class... Args>
struct MakeBody {
    static void run(InputArchive& arguments, OutputArchive& result) {
        auto values = read_arguments<Args...>(arguments);
        result(host_here(std::apply(
            [](Args&... args) { return std::make_shared<HostedObject<T>>(std::move(args)...); },
            values)));
    }
};
// Once it has returned, or thrown, the object is settled.
template <class T, class Invoke, class Values>
void run_settled(HostedScope<T>& object, bool changes, OutputArchive& result, const Invoke& invoke,
                 Values& values) {
    try {
        answer(result, invoke, values);
    } catch (...) {
        object.settle(changes);
        throw;
    }
    object.settle(changes);
}
// f(object, values...)
template <class T, class F, class... Args>
void change_here(const F& f, std::tuple<Args...>& values, OutputArchive& result) {
    HostedScope<T> object;
    auto invoke = [&](Args&&... args) -> decltype(auto) {
        return std::invoke(f, *object, std::move(args)...);
    };
    run_settled(object, true, result, invoke, values);
}
// The same of what does not change it.
template <class T, auto method, class... Args>
void read_here(Entry entry, std::tuple<Args...>& values, OutputArchive& result) {
    HostedScope<T> object(entry);
    auto invoke = [&](Args&&... args) -> decltype(auto) {
        return std::invoke(method, std::as_const(*object), std::move(args)...);
    };
    run_settled(object, false, result, invoke, values);
}
template <class Method>
constexpr bool kIsConst = false;
template <class R, class C, class... P>
constexpr bool kIsConst<R (C::*)(P...) const> = true;
template <class R, class C, class... P>
constexpr bool kIsConst<R (C::*)(P...) const noexcept> = true;
template <class R, class C, class... P>
constexpr bool kIsConst<R (C::*)(P...) const&> = true;
template <class R, class C, class... P>
constexpr bool kIsConst<R (C::*)(P...) const& noexcept> = true;

template <class T, auto method, class... Args>
void invoke_here(std::tuple<Args...> values, OutputArchive& result) {
    if constexpr (kIsConst<std::remove_const_t<decltype(method)>>)
        read_here<T, method>(Entry::alone, values, result);
    else
        change_here<T>(method, values, result);
}
// method: a pointer to a member function of T or of one of its bases.
template <class T, auto method, class... Args>
struct MethodBody {
    static void run(InputArchive& arguments, OutputArchive& result) {
        invoke_here<T, method>(read_arguments<Args...>(arguments), result);
    }
};
// One that is const, beside others.
template <class T, auto method, class... Args>
struct ReadBody {
    static void run(InputArchive& arguments, OutputArchive& result) {
        auto values = read_arguments<Args...>(arguments);
        read_here<T, method>(Entry::beside_readers, values, result);
    }
};
// As MethodBody, of a client of a ManagerServer, who may name no functions.
template <class T, auto method, class... Args>
struct ExposedBody {
    static void run(InputArchive& arguments, OutputArchive& result) {
        invoke_here<T, method>(read_values<Args...>(arguments), result);
    }
};
// f(T&, args...)
template <class T, class F, class... Args>
struct FunctionBody {
    static void run(InputArchive& arguments, OutputArchive& result) {
        F f = load_callable<F>(arguments);
        auto values = read_arguments<Args...>(arguments);
        change_here<T>(f, values, result);
    }
};

}  // namespace sidestep::detail
