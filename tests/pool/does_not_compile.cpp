// What must not compile as a pool's task: as tests/core/does_not_compile/cases.cpp.
#include <array>
#include <chrono>
#include <coroutine>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

struct NoDefault {
    explicit NoDefault(int n) : number(n) {}
    int number;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(number);
    }
};
NoDefault make(int n) { return NoDefault(n); }
int open(std::unique_ptr<int> box) { return *box; }

struct Opaque {
    void* inside = nullptr;
};
struct Closed {
  private:
    int number = 0;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(number);
    }
};
struct Board {
    int points = 0;
    int add(int more) { return points += more; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(points);
    }
};
struct Coroutine {
    struct promise_type {
        Coroutine get_return_object() { return {}; }
        std::suspend_never initial_suspend() { return {}; }
        std::suspend_never final_suspend() noexcept { return {}; }
        void return_void() {}
        void unhandled_exception() {}
    };
};
Coroutine later(int) { co_return; }
int over(int n) { return n; }
double over(double n) { return n; }
template <class T>
T twice(T n) {
    return n + n;
}

void use(sidestep::Pool& pool, sidestep::ThreadPool& threads, std::vector<int>& numbers,
         std::vector<std::unique_ptr<int>>& boxes, std::string_view text, int n) {
#if SIDESTEP_CASE == 0
    threads.submit(make, 1).get();
    threads.map(open, std::move(boxes));
    pool.submit(&Board::add, Board(), n);
    pool.submit({.priority = 1}, static_cast<int (*)(int)>(over), n);
    pool.submit([](int, const std::string&) {}, pool.submit([] { return 1; }), text);
    pool.map([](const std::vector<std::string>& words) { return words.size(); },
             std::vector<std::vector<std::string>>());
    pool.starmap([](int a, const std::string&) { return a; }, std::map<int, const char*>());
    pool.starmap([](int a, int b) { return a + b; }, std::vector<std::array<int, 2>>());
    pool.map(
        {.chunksize = 2}, [](int x) { return x; }, numbers);
    pool.map([](int x, int y) { return x + y; }, numbers, numbers, {.chunksize = 2});
    threads
        .imap(
            {}, [](int x) { return x; }, numbers)
        .collect();
    pool.find_any([](int x) { return x > 2; }, numbers, {.chunksize = 2});
    pool.map_reduce(static_cast<int (*)(int)>(over), std::plus<int>(), numbers, {.chunksize = 2});
    pool.try_submit({.priority = 1}, static_cast<int (*)(int)>(over), n);
    pool.apply({.timeout = std::chrono::seconds(1)}, twice<int>, n);
    pool.submit({}, twice<int>, n);
    pool.map(twice<int>, numbers, {});
    pool.map({}, twice<int>, numbers);
    threads.submit([](sidestep::TaskOptions, int) {}, sidestep::TaskOptions(), n);
    threads.submit([](int, sidestep::TaskOptions) {}, n, sidestep::TaskOptions());
    threads.map_reduce(twice<int>, std::plus<int>(), numbers, {});
#elif SIDESTEP_CASE == 1
    // EXPECT 1: the result's type needs a default constructor, so that it can be read back
    // NAMES 1: TheTypeIs<NoDefault>
    pool.submit(make, 1);
#elif SIDESTEP_CASE == 2
    // EXPECT 2: the result's type needs a default constructor, so that it can be read back
    pool.map(make, numbers);
#elif SIDESTEP_CASE == 3
    // EXPECT 3: these items cannot be copied: move the container of them into the map or stream
    threads.map(open, boxes);
#elif SIDESTEP_CASE == 4
    // EXPECT 4: a result cannot carry function pointers: whoever wrote it could name any function
    pool.map([](int i) { return sidestep::bind(&open, std::make_unique<int>(i)); }, numbers);
#elif SIDESTEP_CASE == 5
    // EXPECT 5: A lambda with captures cannot: (1) pass what it captures as arguments, (2) use
    pool.submit([n](int a) { return a + n; }, 1).get();
#elif SIDESTEP_CASE == 6
    // EXPECT 6: A lambda with captures cannot: (1) pass what it captures as arguments, (2) use
    std::vector<int> sums = pool.map([&](int a) { return a + n; }, numbers);
#elif SIDESTEP_CASE == 7
    // EXPECT 7: pointers cannot travel, nor std::ref: the other process has memory of its own
    // NAMES 7: TheTypeIs<int
    pool.submit([](const std::vector<int*>&) {}, std::vector<int*>{&n});
#elif SIDESTEP_CASE == 8
    // EXPECT 8: they arrive as temporaries (parameters by value, const& or &&
    int sum = pool.apply([](int& a) { return ++a; }, n);
#elif SIDESTEP_CASE == 9
    // EXPECT 9: a view (string_view, span) inside of something cannot travel
    pool.submit([](std::vector<std::string_view>) {}, std::vector<std::string_view>{text});
#elif SIDESTEP_CASE == 10
    // EXPECT 10: a std::function cannot travel: nobody knows what it holds
    pool.submit([](std::map<int, std::function<void()>>) {},
                std::map<int, std::function<void()>>());
#elif SIDESTEP_CASE == 11
    // EXPECT 11: the callable cannot be called with these arguments
    pool.map([](const std::string& a) { return a; }, numbers);
#endif
}

void use_more([[maybe_unused]] sidestep::Pool& pool, [[maybe_unused]] int n) {
#if SIDESTEP_CASE == 12
    // EXPECT 12: this is the name of several functions, or of a template: say which one is meant
    pool.submit(over, 1);
#elif SIDESTEP_CASE == 13
    // EXPECT 13: its `serialize` cannot be called: make it public (or cereal::access a friend)
    // NAMES 13: TheTypeIs<Closed>
    pool.submit([](std::optional<Closed>) {}, std::optional<Closed>());
#elif SIDESTEP_CASE == 14
    // EXPECT 14: a pool, a future or a process stays in the process that made it
    pool.submit([](sidestep::Pool& other) { return other.processes(); }, pool);
#elif SIDESTEP_CASE == 15
    // EXPECT 15: a pool, a future or a process stays in the process that made it
    pool.submit([] { return sidestep::Future<int>(); });
#elif SIDESTEP_CASE == 16
    // EXPECT 16: a member function takes its object first
    pool.submit(&Board::add, n);
#elif SIDESTEP_CASE == 17
    // EXPECT 17: a coroutine cannot be a task: what it returns stays in the process that called it
    pool.submit(later, 1);
#elif SIDESTEP_CASE == 18
    // EXPECT 18: the callable cannot be called with these arguments
    pool.starmap([](int, int, int) {}, std::map<int, int>());
#elif SIDESTEP_CASE == 20
    // EXPECT 20: pointers cannot travel, nor std::ref: the other process has memory of its own
    pool.submit([](int& a) { ++a; }, std::ref(n));
#elif SIDESTEP_CASE == 21
    // EXPECT 21: this is the name of several functions, or of a template: say which one is meant
    pool.submit({.priority = 1}, over, std::string());
#elif SIDESTEP_CASE == 22
    // EXPECT 22: this is the name of several functions, or of a template: say which one is meant
    double result = pool.submit(twice, 1.5).get();
#elif SIDESTEP_CASE == 23
    // EXPECT 23: the callable cannot be called with these arguments
    pool.submit(
        {.priority = 1}, [](int) {}, std::string());
#elif SIDESTEP_CASE == 19
    // EXPECT 19: A lambda with captures cannot: (1) pass what it captures as arguments, (2) use
    pool.submit([n](int a) { return a + n; }, pool.submit([] { return 1; }));
#elif SIDESTEP_CASE == 33
    // EXPECT 33: a type that is sent cannot be serialized: give it a cereal `serialize` member
    // NAMES 33: TheTypeIs<Opaque>
    pool.submit([](const Opaque&) {}, Opaque());
#elif SIDESTEP_CASE == 34
    // EXPECT 34: a type that is sent cannot be serialized: give it a cereal `serialize` member
    // NAMES 34: TheTypeIs<Opaque>
    pool.map([](int) { return std::vector<Opaque>(); }, std::vector<int>{n});
#elif SIDESTEP_CASE == 35
    // EXPECT 35: a pool, a future or a process stays in the process that made it
    pool.map([](int) {}, std::vector<sidestep::Future<int>>());
#endif
}

// The name of several functions, or of a template.
void use_names([[maybe_unused]] sidestep::Pool& pool,
               [[maybe_unused]] sidestep::ThreadPool& threads,
               [[maybe_unused]] std::vector<int>& numbers) {
#if SIDESTEP_CASE == 24
    // EXPECT 24: this is the name of several functions, or of a template: say which one is meant
    pool.map(over, numbers);
#elif SIDESTEP_CASE == 25
    // EXPECT 25: this is the name of several functions, or of a template: say which one is meant
    threads.map(twice, numbers, {.chunksize = 2});
#elif SIDESTEP_CASE == 26
    // EXPECT 26: this is the name of several functions, or of a template: say which one is meant
    pool.map({.chunksize = 2}, over, numbers);
#elif SIDESTEP_CASE == 27
    // EXPECT 27: this is the name of several functions, or of a template: say which one is meant
    pool.map(over, numbers, numbers);
#elif SIDESTEP_CASE == 28
    // EXPECT 28: this is the name of several functions, or of a template: say which one is meant
    for (int each : pool.imap_unordered(over, numbers)) (void)each;
#elif SIDESTEP_CASE == 29
    // EXPECT 29: this is the name of several functions, or of a template: say which one is meant
    pool.map_reduce(over, std::plus<int>(), numbers);
#elif SIDESTEP_CASE == 30
    // EXPECT 30: this is the name of several functions, or of a template: say which one is meant
    pool.map_reduce(static_cast<int (*)(int)>(over), twice, numbers);
#elif SIDESTEP_CASE == 31
    // EXPECT 31: this is the name of several functions, or of a template: say which one is meant
    pool.apply(over, 1);
#elif SIDESTEP_CASE == 32
    // EXPECT 32: this is the name of several functions, or of a template: say which one is meant
    auto found = pool.find_any(over, numbers);
#endif
}

// Options that are another function's, or in the wrong place.
void use_options([[maybe_unused]] sidestep::Pool& pool,
                 [[maybe_unused]] sidestep::ThreadPool& threads,
                 [[maybe_unused]] std::vector<int>& numbers) {
    using namespace std::chrono_literals;
    [[maybe_unused]] const auto add = [](int a, int b) { return a + b; };
#if SIDESTEP_CASE == 36
    // EXPECT 36: a map has MapOptions. What is for each item goes into their `task`
    std::vector<int> results = pool.map(twice<int>, numbers, {.timeout = 1s});
#elif SIDESTEP_CASE == 37
    // EXPECT 37: a map has MapOptions. What is for each item goes into their `task`
    pool.map({.retry = {.max_attempts = 2}}, twice<int>, numbers);
#elif SIDESTEP_CASE == 38
    // EXPECT 38: a map has MapOptions. What is for each item goes into their `task`
    threads.map(add, numbers, numbers, {.timeout = 1s});
#elif SIDESTEP_CASE == 39
    // EXPECT 39: a map has MapOptions. What is for each item goes into their `task`
    for (int each : pool.imap_unordered(twice<int>, numbers, {.name = "twice"})) (void)each;
#elif SIDESTEP_CASE == 40
    // EXPECT 40: a map has MapOptions. What is for each item goes into their `task`
    pool.map_reduce(twice<int>, std::plus<int>(), numbers, {.timeout = 1s});
#elif SIDESTEP_CASE == 41
    // EXPECT 41: a map has MapOptions. What is for each item goes into their `task`
    const sidestep::TaskOptions options{.timeout = 1s};
    threads.map_async(twice<int>, numbers, options);
#elif SIDESTEP_CASE == 42
    // EXPECT 42: submit() has TaskOptions: chunksize, window, fail_fast and deadline are a map's
    int result = pool.submit({.chunksize = 1}, twice<int>, 1).get();
#elif SIDESTEP_CASE == 43
    // EXPECT 43: a task's options come first: submit({.timeout = 1s}, f, x)
    pool.submit(twice<int>, 1, {.timeout = 1s});
#elif SIDESTEP_CASE == 44
    // EXPECT 44: a task's options come first: submit({.timeout = 1s}, f, x)
    threads.submit(add, 1, 2, {.timeout = 1s});
#elif SIDESTEP_CASE == 45
    // EXPECT 45: starmap() calls f on the elements of each item, a tuple, pair or array
    std::vector<int> results = pool.starmap(twice<int>, numbers);
#elif SIDESTEP_CASE == 46
    // EXPECT 46: starmap() calls f on the elements of each item, a tuple, pair or array
    threads.starmap_async(twice<int>, numbers).get();
#elif SIDESTEP_CASE == 47
    // EXPECT 47: starmap() calls f on the elements of each item, a tuple, pair or array
    for (int each : threads.istarmap(add, std::vector<std::vector<int>>())) (void)each;
#elif SIDESTEP_CASE == 48
    // EXPECT 48: this is the name of several functions, or of a template: say which one is meant
    pool.map(over, {1, 2, 3});
#endif
}

// What bind() holds, and what comes behind it.
void use_bound([[maybe_unused]] sidestep::Pool& pool, [[maybe_unused]] std::vector<int>& numbers) {
    [[maybe_unused]] const auto fill = [](std::vector<int>& a, int n) { a.push_back(n); };
    [[maybe_unused]] const auto join = [](std::string a, std::string b) { return a + b; };
#if SIDESTEP_CASE == 49
    // EXPECT 49: those of bind() as const&
    pool.map(sidestep::bind(fill, numbers), numbers);
#elif SIDESTEP_CASE == 50
    // EXPECT 50: the callable cannot be called with these arguments
    pool.submit(sidestep::bind(join, "a"), 1);
#elif SIDESTEP_CASE == 51
    // EXPECT 51: the callable cannot be called with these arguments
    for (auto& each : pool.imap(sidestep::bind(join, "a"), numbers)) (void)each;
#endif
}

// What a new user tries.
void use_otherwise([[maybe_unused]] sidestep::Pool& pool,
                   [[maybe_unused]] sidestep::ThreadPool& threads,
                   [[maybe_unused]] std::vector<int>& numbers, [[maybe_unused]] int n) {
    [[maybe_unused]] const auto join = [](std::string a, std::string b) { return a + b; };
#if SIDESTEP_CASE == 52
    // EXPECT 52: op cannot be called with two results of f, which it merges into one
    int sum = pool.map_reduce(twice<int>, join, numbers, 0);
#elif SIDESTEP_CASE == 53
    // EXPECT 53: op cannot be called with two results of f, which it merges into one
    int sum = threads.map_reduce(twice<int>, join, numbers);
#elif SIDESTEP_CASE == 54
    // EXPECT 54: A lambda with captures cannot: (1) pass what it captures as arguments, (2) use
    int sum = pool.map_reduce(
        twice<int>, [n](int a, int b) { return a + b + n; }, numbers);
#elif SIDESTEP_CASE == 55
    // EXPECT 55: the callable cannot be called with these arguments
    pool.map_reduce([](const std::string& a) { return a; }, join, numbers);
#elif SIDESTEP_CASE == 56
    // EXPECT 56: Or an argument is in braces, and needs its type: submit(f, Point{1, 2})
    pool.submit(make, {1});
#elif SIDESTEP_CASE == 57
    // EXPECT 57: a number is no option of a map, nor a range: say what it is, as in
    std::vector<int> results = pool.map(twice<int>, numbers, 10);
#elif SIDESTEP_CASE == 58
    // EXPECT 58: a number is no option of a map, nor a range: say what it is, as in
    for (int each : threads.imap_unordered(twice<int>, numbers, 10)) (void)each;
#elif SIDESTEP_CASE == 59
    // EXPECT 59: then(f): f cannot be called with the future's value
    pool.submit(twice<int>, n).then([](const std::string& a) { return a; }).get();
#elif SIDESTEP_CASE == 60
    // EXPECT 60: What a thread is to change goes by std::ref(x)
    threads.submit([](int& a) { ++a; }, n).get();
#endif
}
