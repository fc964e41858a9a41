// Arguments that are futures: of a task that waits for others, and begins when they are there.
// Internal.
//
// In a tuple or a vector futures are looked for, too; in nothing else. A Future<void> is waited
// for, and is no argument.
#pragma once

#include <array>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <sidestep/detail/pool_task.hpp>
#include <sidestep/detail/result_reader.hpp>
#include <sidestep/detail/stored.hpp>
#include <sidestep/future.hpp>

namespace sidestep::inline v0::detail {

// --- which they are ------------------------------------------------------------------------------

// `Values`: what arrives in place of a T, nothing or one thing; as a std::tuple.
template <class T>
struct Late {
    static constexpr bool kIs = false;
    using Values = std::tuple<T>;
    static void needs(const T&, std::vector<TaskRef>&) {}
};
template <class T>
inline constexpr bool kIsLate = Late<std::decay_t<T>>::kIs;

inline void need(const TaskRef& task, std::vector<TaskRef>& all) {
    if (!task) throw_empty_future();
    all.push_back(task);
}

template <class T>
struct Late<Future<T>> {
    static constexpr bool kIs = true;
    using Values = std::tuple<T>;
    static void needs(const Future<T>& future, std::vector<TaskRef>& all) {
        need(future.state(), all);
    }
    static T value(const Future<T>& future) { return result_of<T>(*future.state()); }
};
template <>
struct Late<Future<void>> {
    static constexpr bool kIs = true;
    using Values = std::tuple<>;
    static void needs(const Future<void>& future, std::vector<TaskRef>& all) {
        need(future.state(), all);
    }
};
template <class T, class Allocator>
struct Late<std::vector<Future<T>, Allocator>> {
    static_assert(!std::is_void_v<T>,
                  "a vector of Future<void> is no argument: pass when_all(futures)");
    static constexpr bool kIs = true;
    using Values = std::tuple<std::vector<T>>;
    static void needs(const std::vector<Future<T>, Allocator>& futures, std::vector<TaskRef>& all) {
        for (const Future<T>& future : futures) need(future.state(), all);
    }
    static std::vector<T> value(const std::vector<Future<T>, Allocator>& futures) {
        std::vector<T> values;
        values.reserve(futures.size());
        for (const Future<T>& future : futures) values.push_back(result_of<T>(*future.state()));
        return values;
    }
};
// What is in place of an argument when all is there: a tuple of one value, or of none.
template <class T>
typename Late<T>::Values late_values(const T& argument) {
    if constexpr (std::is_same_v<typename Late<T>::Values, std::tuple<>>)
        return {};
    else if constexpr (Late<T>::kIs)
        return typename Late<T>::Values(Late<T>::value(argument));
    else
        return typename Late<T>::Values(argument);
}
template <class... Ts>
requires(kIsLate<Ts> || ...) struct Late<std::tuple<Ts...>> {
    static constexpr bool kIs = true;
    using Value = decltype(std::tuple_cat(std::declval<typename Late<Ts>::Values>()...));
    using Values = std::tuple<Value>;
    static void needs(const std::tuple<Ts...>& elements, std::vector<TaskRef>& all) {
        std::apply([&](const Ts&... each) { (Late<Ts>::needs(each, all), ...); }, elements);
    }
    static Value value(const std::tuple<Ts...>& elements) {
        return std::apply([](const Ts&... each) { return std::tuple_cat(late_values(each)...); },
                          elements);
    }
};

// --- as bytes ------------------------------------------------------------------------------------

// Types whose bytes are the same wherever they are in an archive: a result's can be an argument's.
// Others may have pointers in them, which an archive numbers. skip() goes over one, or throws: a
// worker wrote it, and what comes behind it among the arguments may name functions.
template <class T>
struct SameBytes {
    static constexpr bool kIs = false;
};
template <class T>
inline constexpr bool kSameAnywhere = SameBytes<T>::kIs;

template <class T>
requires(std::is_arithmetic_v<T> || std::is_enum_v<T> || BitwiseElement<T>) struct SameBytes<T> {
    static constexpr bool kIs = true;
    static void skip(InputArchive& archive) { (void)archive.view(sizeof(T)); }
};
template <class T>
void skip_all(InputArchive& archive, std::size_t count) {
    for (; count != 0; --count) SameBytes<T>::skip(archive);
}
template <class C, class Traits, class Allocator>
struct SameBytes<std::basic_string<C, Traits, Allocator>> {
    static constexpr bool kIs = true;
    static void skip(InputArchive& archive) {
        (void)archive.view(read_length<C>(archive) * sizeof(C));
    }
};
template <class T, class Allocator>
struct SameBytes<std::vector<T, Allocator>> {
    static constexpr bool kIs = kSameAnywhere<T>;
    static void skip(InputArchive& archive) {
        std::size_t count = read_length<T>(archive);
        if constexpr (BulkElement<T>)
            (void)archive.view(count * sizeof(T));
        else
            skip_all<T>(archive, count);
    }
};
template <class T, std::size_t n>
struct SameBytes<std::array<T, n>> {
    static constexpr bool kIs = kSameAnywhere<T>;
    static void skip(InputArchive& archive) { skip_all<T>(archive, n); }
};
template <class T>
struct SameBytes<std::optional<T>> {
    static constexpr bool kIs = kSameAnywhere<T>;
    static void skip(InputArchive& archive) {
        bool is_empty = false;
        archive(is_empty);
        if (!is_empty) SameBytes<T>::skip(archive);
    }
};
template <class A, class B>
struct SameBytes<std::pair<A, B>> {
    static constexpr bool kIs = kSameAnywhere<std::remove_const_t<A>> && kSameAnywhere<B>;
    static void skip(InputArchive& archive) {
        SameBytes<std::remove_const_t<A>>::skip(archive);
        SameBytes<B>::skip(archive);
    }
};
template <class... Ts>
struct SameBytes<std::tuple<Ts...>> {
    static constexpr bool kIs = (kSameAnywhere<Ts> && ...);
    static void skip(InputArchive& archive) { (SameBytes<Ts>::skip(archive), ...); }
};
template <class Container>
struct SameBytesOfEach {
    using Element = typename Container::value_type;
    static constexpr bool kIs = kSameAnywhere<Element>;
    static void skip(InputArchive& archive) {
        skip_all<Element>(archive, read_length<Element>(archive));
    }
};
template <class K, class T, class Compare, class Allocator>
struct SameBytes<std::map<K, T, Compare, Allocator>>
    : SameBytesOfEach<std::map<K, T, Compare, Allocator>> {};
template <class K, class T, class Hash, class Equal, class Allocator>
struct SameBytes<std::unordered_map<K, T, Hash, Equal, Allocator>>
    : SameBytesOfEach<std::unordered_map<K, T, Hash, Equal, Allocator>> {};
template <class K, class Compare, class Allocator>
struct SameBytes<std::set<K, Compare, Allocator>>
    : SameBytesOfEach<std::set<K, Compare, Allocator>> {};

inline constexpr const char* kResultAsArgument = "an argument of the task, a result of another,";

// Throws SerializationError if these are not the bytes of one T.
template <class T>
void check_bytes(std::span<const std::byte> bytes) {
    try {
        InputArchive archive(bytes);
        SameBytes<T>::skip(archive);
        archive.expect_end();
    } catch (...) {
        rethrow_unread(kResultAsArgument);
    }
}

// The arguments of a task that waits. What is there is written at once, so that it is as it was
// then, and what its `serialize` throws is thrown by submit(); the rest when it has come.
// Threads: one at a time.
class LateArguments {
  public:
    // Writes a result that has come: put() its bytes, or into the archive.
    using Write = void (*)(LateArguments& arguments, const TaskState& done);

    LateArguments() : archive_(buffer_, &descriptors_) {}
    OutputArchive& archive() { return archive_; }
    // Null: it is waited for, and is no argument.
    void expect(const TaskRef& task, Write write);
    const std::vector<TaskRef>& needs() const { return needs_; }

    // Bytes of a result. They may lie where a worker can write still: the copy is checked.
    struct Foreign {
        std::span<const std::byte> bytes{};
        void (*check)(std::span<const std::byte> copy) = nullptr;
    };
    // Once all have come. Throws what a value throws that is written. Returns the size of all.
    std::size_t gather();
    void put(const Foreign& foreign) { foreign_ = foreign; }
    // Throws SerializationError if a copy is not what it should be.
    void copy_to(std::byte* place) const;
    TaskDescriptors& descriptors() { return descriptors_; }

  private:
    struct Expected {
        Write write;
        std::size_t at;  // of the buffer's bytes, so many come before
        std::size_t own_begin = 0, own_end = 0;
        Foreign foreign{};  // instead of the buffer's from own_begin on
    };

    HeapBuffer buffer_;
    TaskDescriptors descriptors_;
    OutputArchive archive_;  // one for all: pointers are numbered through
    std::vector<TaskRef> needs_;
    std::vector<Expected> expected_;  // of each of these
    std::size_t here_ = 0;            // bytes that were written before gather()
    Foreign foreign_;
};

// The task begins when all that its arguments need has come. (begun: see PoolTask::submit().)
void submit_late(const PoolTaskRef& task, std::unique_ptr<LateArguments> arguments,
                 bool begun = false);
// This thread runs a task of that one's pool.
bool in_task_beside(const TaskState& task);

template <class T>
void write_result(LateArguments& arguments, const TaskState& done) {
    if constexpr (kSameAnywhere<T>) {
        if (!done.value()) return arguments.put({done.result(), &check_bytes<T>});
    }
    auto value = [&done]() -> T {
        try {
            return result_of<T>(done);
        } catch (...) {
            rethrow_unread(kResultAsArgument);
        }
    }();
    arguments.archive()(value);
}
template <class T>
void write_late(LateArguments& to, const T& argument) {
    to.archive()(stored_as<Stored<T>>(argument));
}
template <class T>
void write_late(LateArguments& to, const Future<T>& future) {
    if constexpr (std::is_void_v<T>)
        to.expect(future.state(), nullptr);
    else
        to.expect(future.state(), &write_result<T>);
}
template <class T, class Allocator>
void write_late(LateArguments& to, const std::vector<Future<T>, Allocator>& futures) {
    to.archive()(cereal::make_size_tag(static_cast<cereal::size_type>(futures.size())));
    for (const Future<T>& future : futures) write_late(to, future);
}
template <class... Ts>
requires(kIsLate<Ts> || ...) void write_late(LateArguments& to, const std::tuple<Ts...>& elements) {
    std::apply([&](const Ts&... each) { (write_late(to, each), ...); }, elements);
}

// As what an argument arrives in another process, as a tuple of one type or of none.
template <class T>
using LateStored =
    std::conditional_t<kIsLate<T>, typename Late<std::decay_t<T>>::Values, std::tuple<Stored<T>>>;

// A call of F with what is in a tuple.
template <class F, class Values>
struct LateCall;
template <class F, class... Values>
struct LateCall<F, std::tuple<Values...>> {
    using Body = Call<F, Values...>;
    using Check = TaskCheck<F, Values...>;
    template <class Callable = F>  // so that it is looked at after the check
    static auto result() -> ResultOf<Callable, Values...>;
};

template <class F, class... Args>
auto submit_late_call([[maybe_unused]] const std::shared_ptr<PoolCore>& core,
                      [[maybe_unused]] const TaskOptions* options, [[maybe_unused]] bool begun,
                      [[maybe_unused]] F&& f, [[maybe_unused]] const Args&... args) {
    using Callable = std::decay_t<F>;
    using Values = decltype(std::tuple_cat(std::declval<LateStored<Args>>()...));
    using Check = typename LateCall<Callable, Values>::Check;
    Check::check();
    if constexpr (!Check::kFine) {
        return Refused();
    } else {
        using Result = decltype(LateCall<Callable, Values>::result());
        using Body = typename LateCall<Callable, Values>::Body;
        PoolTaskRef task = PoolTask::create(core, task_kind<Body>(f), options);
        auto arguments = std::make_unique<LateArguments>();
        save_callable<Callable>(arguments->archive(), f);
        (write_late(*arguments, args), ...);
        submit_late(task, std::move(arguments), begun);
        return Future<Result>(std::move(task));
    }
}

}  // namespace sidestep::detail
