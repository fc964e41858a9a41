#include <sidestep/detail/number_writer.hpp>
#include <sidestep/detail/sent_call.hpp>

#include <functional>
#include <memory>
#include <stdexcept>
#include <thread>
#include <utility>

#include <catch2/catch.hpp>

#include "task_support.hpp"

namespace task_test {

using namespace test;
using namespace sidestep::detail;
using sidestep::SerializationError;
using std::string_literals::operator""s;

namespace {

int calls = 0;

int add(int a, int b) { return a + b; }
int add_noexcept(int a, int b) noexcept { return a + b; }
std::size_t length(const std::string& text) { return text.size(); }
std::string moved(std::string&& text) { return std::move(text) + "!"; }
std::string by_value(std::string text, std::vector<int> numbers) {
    return text + std::to_string(numbers.size());
}
void count_up(int by) { calls += by; }
const std::string& reference_result(const std::string& text) { return text; }
int answer() { return 42; }
void fail(int) { throw std::out_of_range("no such thing"); }

Bytes written(const SentCall& call) {
    HeapBuffer buffer;
    sidestep::OutputArchive archive(buffer);
    call.save(archive);
    return {buffer.bytes().begin(), buffer.bytes().end()};
}

struct Tools {
    static int twice(int x) { return 2 * x; }
    int member(int x) const { return x; }
};

struct Scale {  // a functor with state
    double factor = 1;
    double operator()(double x) { return factor * x; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(factor);
    }
};
struct HalfWritten {  // saves, but cannot be loaded
    int state = 0;
    int operator()() const { return state; }
    template <class Archive>
    void save(Archive& archive) const {
        archive(state);
    }
};
struct Generic {
    template <class T>
    T operator()(T a, T b) const {
        return a + b;
    }
};

template <class T>
auto make_generic_lambda() {
    return [](T x) { return x + T(1); };
}

}  // namespace

TEST_CASE("function pointers are tasks, noexcept ones and static members too", "[core][task]") {
    CHECK(run_task(&add, 1, 2) == 3);
    CHECK(run_task(&add_noexcept, 1, 2) == 3);
    CHECK(run_task(&Tools::twice, 4) == 8);
    CHECK(run_task(&answer) == 42);
    CHECK(run_task(static_cast<double (*)(double)>(&std::fabs), -2.5) == 2.5);
    // One type, one trampoline: the address travels with the arguments.
    int (*other)(int, int) = [](int a, int b) { return a * b; };
    CHECK(run_task(other, 3, 4) == 12);
}

TEST_CASE("parameters by value, const& and && are served; results are copied out", "[core][task]") {
    CHECK(run_task(&length, "four") == 4);
    CHECK(run_task(&moved, "hey"s) == "hey!");
    CHECK(run_task(&by_value, std::string_view("n"), std::vector<int>{1, 2}) == "n2");
    CHECK(run_task(&reference_result, "kept"s) == "kept");
    calls = 0;
    CHECK(run_task(&count_up, 5) == std::tuple<>());
    CHECK(calls == 5);
}

TEST_CASE("captureless lambdas and empty functors are tasks by their type alone", "[core][task]") {
    CHECK(run_task([] { return "none"s; }) == "none");
    CHECK(run_task([](int a, int b) { return a - b; }, 5, 3) == 2);
    CHECK(run_task([](auto a, auto b) { return a + b; }, 1, 2.5) == 3.5);
    CHECK(run_task([](int x) mutable noexcept { return x; }, 7) == 7);
    CHECK(run_task(std::plus<>(), 1, 2) == 3);
    CHECK(run_task(std::plus<std::string>(), "a", "b") == "ab");
    CHECK(run_task(Generic(), 2, 3) == 5);
    CHECK(run_task(make_generic_lambda<int>(), 1) == 2);
    CHECK(run_task(make_generic_lambda<double>(), 1.5) == 2.5);
    CHECK(run_task([](std::unique_ptr<int> p) { return *p; }, std::make_unique<int>(9)) == 9);
    CHECK(saved_call([](int x) { return x; }, 1).size() == sizeof(int));
}

TEMPLATE_TEST_CASE("what is written without an archive is what an archive writes", "[core][task]",
                   bool, char, signed char, unsigned char, wchar_t, short, int, long, unsigned long,
                   float, double, long double) {
    const auto value = static_cast<TestType>(1.7);
    auto written_by = [&](auto f) {
        using F = decltype(f);
        static_assert(kIsOfNumbers<F, TestType, int>);
        HeapBuffer numbers, archived;
        save_numbers<F, TestType, int>(numbers, f, value, -3);
        sidestep::OutputArchive archive(archived);
        save_callable<F>(archive, f);
        archive(value, -3);
        return std::pair(Bytes(numbers.bytes().begin(), numbers.bytes().end()),
                         Bytes(archived.bytes().begin(), archived.bytes().end()));
    };
    SECTION("by a function") {
        auto [numbers, archived] = written_by(&add);
        CHECK(numbers == archived);
        CHECK(numbers.size() == 16 + sizeof(TestType) + sizeof(int));
    }
    SECTION("by a member function") {
        auto [numbers, archived] = written_by(&Tools::member);
        CHECK(numbers == archived);
    }
    SECTION("by a lambda without captures") {
        auto [numbers, archived] = written_by([](TestType, int) {});
        CHECK(numbers == archived);
    }
    STATIC_REQUIRE_FALSE(kIsOfNumbers<decltype(&add), std::string>);
    STATIC_REQUIRE_FALSE(kIsOfNumbers<std::function<int(int)>, int>);
}

TEST_CASE("a function is located again when another was asked for meanwhile", "[core][task]") {
    auto place = [](auto* f) { return locate_code(reinterpret_cast<const void*>(f)).offset; };
    std::uint64_t first = place(&add), second = place(&answer);
    CHECK(first != second);
    for (int i = 0; i < 3; ++i) {
        CHECK(place(&add) == first);
        CHECK(place(&answer) == second);
    }
    std::uint64_t there = 0;
    std::thread([&] { there = place(&add); }).join();
    CHECK(there == first);
}

TEST_CASE("a functor's state travels", "[core][task]") {
    CHECK(run_task(Scale{2.5}, 4.0) == 10);
    CHECK(run_task(Scale{-1}, 4.0) == -4);
}

TEST_CASE("bind() carries first arguments, nested and around every callable", "[core][task]") {
    CHECK(run_task(sidestep::bind(&add, 1), 2) == 3);
    CHECK(run_task(sidestep::bind(&add, 1, 2)) == 3);
    CHECK(run_task(sidestep::bind(sidestep::bind(&add, 10), 20)) == 30);
    CHECK(run_task(sidestep::bind([](std::string a, int b) { return a + std::to_string(b); }, "n"),
                   5) == "n5");
    CHECK(run_task(sidestep::bind(&length, std::string_view("five!"))) == 5);
    CHECK(run_task(sidestep::bind([](const std::vector<int>& v, std::size_t i) { return v[i]; },
                                  std::vector<int>{4, 5, 6}),
                   std::size_t(2)) == 6);
    CHECK(run_task(sidestep::bind(std::plus<>(), 1.5), 1) == 2.5);
    CHECK(sidestep::bind(&add, 1)(2) == 3);  // callable at home too
}

TEST_CASE("arguments are stored as std::thread does, texts as strings", "[core][task]") {
    STATIC_REQUIRE(std::is_same_v<Stored<const char*>, std::string>);
    STATIC_REQUIRE(std::is_same_v<Stored<char*>, std::string>);
    STATIC_REQUIRE(std::is_same_v<Stored<const char(&)[5]>, std::string>);
    STATIC_REQUIRE(std::is_same_v<Stored<char(&)[5]>, std::string>);
    STATIC_REQUIRE(std::is_same_v<Stored<std::string_view&>, std::string>);
    STATIC_REQUIRE(std::is_same_v<Stored<const std::string&>, std::string>);
    STATIC_REQUIRE(std::is_same_v<Stored<int&&>, int>);
    STATIC_REQUIRE(std::is_same_v<ResultOf<decltype(&reference_result), std::string>, std::string>);
}

TEST_CASE("what may be a task, and what may not, is known to the compiler", "[core][task]") {
    int captured = 0;
    auto by_copy = [captured] { return captured; };
    auto by_reference = [&captured] { return captured; };
    auto nothing = [] {};
    STATIC_REQUIRE(TaskCallable<decltype(&add)>);
    STATIC_REQUIRE(TaskCallable<decltype(&add_noexcept)>);
    STATIC_REQUIRE(TaskCallable<decltype(nothing)>);
    STATIC_REQUIRE(TaskCallable<Scale>);
    STATIC_REQUIRE(TaskCallable<sidestep::Bound<int (*)(int, int), int>>);
    STATIC_REQUIRE_FALSE(TaskCallable<decltype(by_copy)>);
    STATIC_REQUIRE_FALSE(TaskCallable<decltype(by_reference)>);
    STATIC_REQUIRE_FALSE(TaskCallable<std::function<int(int)>>);
    STATIC_REQUIRE_FALSE(TaskCallable<HalfWritten>);
    STATIC_REQUIRE_FALSE(TaskCallable<int>);
    STATIC_REQUIRE(Travels<std::vector<std::string>>);
    STATIC_REQUIRE_FALSE(Travels<int*>);
    STATIC_REQUIRE_FALSE(Travels<void (*)()>);
    STATIC_REQUIRE_FALSE(Travels<std::string_view>);
    (void)by_copy, (void)by_reference, (void)&Tools::member;
}

TEST_CASE("lambdas and functions of one name in two sources are told apart", "[core][task]") {
    CHECK(run_twin_a(1) == 101);
    CHECK(run_twin_b(1) == 201);
    CHECK(run_twin_a_function(1) == 102);
    CHECK(run_twin_b_function(1) == 202);
    TaskId a = twin_a_id(), b = twin_b_id();
    CHECK(a.where.module == b.where.module);
    CHECK(a.where.offset != b.where.offset);
    // Two functions of one type share a trampoline.
    CHECK(twin_a_function_id().signature == twin_b_function_id().signature);
}

TEST_CASE("a task's entry is found by the right module, place and signature only", "[core][task]") {
    using Body = CallOf<decltype(&add), int, int>;
    const TaskId& good = task_id<Body>();
    CHECK(find_entry(good) == &kTaskEntry<Body>);
    auto changed = [&](std::uint64_t module, std::uint64_t offset, std::uint64_t signature) {
        TaskId id = good;
        id.where.module += module;
        id.where.offset += offset;
        id.signature += signature;
        return find_entry(id);
    };
    CHECK(changed(1, 0, 0) == nullptr);
    CHECK(changed(0, 0, 1) == nullptr);
    for (std::uint64_t step :
         {1u, 2u, 4u, 7u, 8u, 16u, 32u}) {  // misaligned, or another thing's bytes
        CHECK(changed(0, step, 0) == nullptr);
        CHECK(changed(0, 0 - step, 0) == nullptr);
    }
    for (std::uint64_t far : {std::uint64_t(1) << 32, std::uint64_t(1) << 47, ~std::uint64_t(7)})
        CHECK(changed(0, far, 0) == nullptr);
    TaskId in_code = good;
    in_code.where = locate_code(reinterpret_cast<const void*>(&add));
    CHECK(find_entry(in_code) == nullptr);
    CHECK(find_entry(TaskId{}) == nullptr);
    // Another task's entry, which is genuine, but not for these arguments.
    TaskId other = task_id<CallOf<decltype(&length), std::string>>();
    other.signature = good.signature;
    CHECK(find_entry(other) == nullptr);
}

TEST_CASE("a function's address is resolved to code of this process only", "[core][task]") {
    CodeAddress good = locate_code(reinterpret_cast<const void*>(&add));
    CHECK(resolve_code(good) == reinterpret_cast<const void*>(&add));
    CHECK_THROWS_AS(resolve_code({good.module + 1, good.offset}), SerializationError);
    CHECK_THROWS_AS(resolve_code({good.module, std::uint64_t(1) << 40}), SerializationError);
    CHECK_THROWS_AS(resolve_code({good.module, ~std::uint64_t(0)}), SerializationError);
    CodeAddress constant = task_id<CallOf<decltype(&add), int, int>>().where;
    CHECK_THROWS_WITH(resolve_code(constant), Catch::Contains("has nothing of the kind"));
    CHECK_THROWS_AS(saved_call(static_cast<int (*)(int, int)>(nullptr), 1, 2),
                    std::invalid_argument);
}

TEST_CASE("damaged arguments are refused by the trampoline, not called with", "[core][task]") {
    calls = 0;
    const TaskEntry& entry = kTaskEntry<CallOf<decltype(&count_up), int>>;
    Bytes good = saved_call(&count_up, 1);
    for (std::size_t size = 0; size < good.size(); ++size) {
        Bytes cut(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
        CHECK_THROWS_AS(run_entry(entry, cut), SerializationError);
    }
    Bytes longer = good;
    longer.push_back(std::byte{});
    CHECK_THROWS_AS(run_entry(entry, longer), SerializationError);
    CHECK(calls == 0);
    run_entry(entry, good);
    CHECK(calls == 1);
}

TEST_CASE("a call that is sent is made anew by its entry, and called when that is wanted",
          "[core][task]") {
    calls = 0;
    auto sent = make_sent_call(&count_up, 1);
    CHECK(sent->function() == reinterpret_cast<const void*>(&count_up));
    Bytes bytes = written(*sent);
    sidestep::InputArchive archive(bytes);
    auto arrived = load_sent_call(sent->id(), "a test", archive);
    archive.expect_end();
    CHECK(calls == 0);
    arrived->call();
    CHECK(calls == 1);
    sent->call();  // it can be called here, too
    CHECK(calls == 2);
    run_entry(sent->entry(), bytes);  // and where it arrives, at once
    CHECK(calls == 3);
}

TEST_CASE("a call that is sent is refused where its bytes or its entry are not a call's",
          "[core][task]") {
    calls = 0;
    auto sent = make_sent_call(&count_up, 1);
    Bytes good = written(*sent);
    for (std::size_t size = 0; size < good.size(); ++size) {
        Bytes cut(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
        CHECK_THROWS_AS(run_entry(sent->entry(), cut), SerializationError);
    }
    Bytes longer = good;
    longer.push_back(std::byte{});
    CHECK_THROWS_AS(run_entry(sent->entry(), longer), SerializationError);
    sidestep::InputArchive archive(good);
    CHECK_THROWS_WITH(
        load_sent_call(task_id<CallOf<decltype(&count_up), int>>(), "a test", archive),
        Catch::Contains("the code of a test is that of a task with a result"));
    CHECK_THROWS_WITH(load_sent_call(TaskId{}, "a test", archive),
                      Catch::Contains("the code of a test is not in this process"));
    CHECK(calls == 0);
}

TEST_CASE("what a task throws passes through its trampoline", "[core][task]") {
    CHECK_THROWS_WITH(run_task(&fail, 1), "no such thing");
}

TEST_CASE("entries and functions describe themselves in the words of the source", "[core][task]") {
    std::string entry = describe_entry(kTaskEntry<CallOf<decltype(&add), int, int>>);
    CHECK(entry == "Call<int (*)(int, int), int, int>");
    CHECK(describe_entry(kTaskEntry<CallOf<Scale, double>>).find("Scale") != std::string::npos);
    CHECK_THAT(describe_function(reinterpret_cast<const void*>(&add)),
               Catch::Contains("add(int, int)"));
    CHECK(function_address(&add) == reinterpret_cast<const void*>(&add));
    CHECK(function_address(Scale()) == nullptr);
    int local = 0;
    CHECK_FALSE(describe_function(&local).empty());  // no function: an address, no crash
    CHECK_FALSE(describe_function(nullptr).empty());
}

}  // namespace task_test
