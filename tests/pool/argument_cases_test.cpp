// What can be passed to a task: one list of cases, for each way to pass it, on Pool and ThreadPool.
#include <catch2/catch.hpp>
#include <cereal/types/map.hpp>
#include <cereal/types/string.hpp>
#include <cereal/types/vector.hpp>

#include <list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <sidestep/process.hpp>

#include "both_pools.hpp"
#include "pool_cases.hpp"
#include "pool_support.hpp"

namespace argument_cases_test {

namespace mp = sidestep;
using test::Pools;
using test::Threads;

namespace {

// A functor with state.
struct Longer {
    int by = 0;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(by);
    }
    int operator()(std::string_view text) const { return static_cast<int>(text.size()) + by; }
};

// Functions that take a text in each way.
int by_value(std::string text) { return static_cast<int>(text.size()); }
int by_reference(const std::string& text) { return static_cast<int>(text.size()); }
int by_rvalue(std::string&& text) { return static_cast<int>(text.size()); }
int by_view(std::string_view text) { return static_cast<int>(text.size()); }
const std::string& itself(const std::string& text) { return text; }
int both(const std::string& text, int more) { return static_cast<int>(text.size()) + more; }
void exit_with(std::string_view text, const std::string& more) {
    mp::exit_process(static_cast<int>(text.size() + more.size()));
}

// A text ("abc") by each way of passing it.
template <class Pool, class Text>
void check_ways(Pool& pool, const Text& text) {
    CHECK(pool.submit(by_view, text).get() == 3);
    CHECK(pool.submit({.priority = 1}, by_view, text).get() == 3);
    CHECK(pool.apply_async(by_view, text).get() == 3);
    const std::vector<Text> texts{text, text};
    const std::vector threes{3, 3};
    CHECK(pool.map(by_view, texts) == threes);
    CHECK(pool.map_async(by_view, texts).get() == threes);
    std::vector<int> ordered, unordered;
    for (int n : pool.imap(by_view, texts)) ordered.push_back(n);
    for (int n : pool.imap_unordered(by_view, texts)) unordered.push_back(n);
    CHECK(ordered == threes);
    CHECK(unordered == threes);
    CHECK(pool.starmap(by_view, std::vector{std::make_tuple(text)}) == std::vector{3});
}
// A callable that takes it in its own way.
template <class Pool, class F>
void check_callable(Pool& pool, F f) {
    std::vector<std::string_view> texts{"abc"};
    CHECK(pool.submit(f, texts[0]).get() == 3);
    CHECK(pool.submit(f, "abc").get() == 3);
    CHECK(pool.map(f, texts) == std::vector{3});
}

}  // namespace

POOL_CASE("Tasks", "a text can be passed as a string, a view or a pointer, in each way",
          "[both][arguments]") {
    TestType t;
    std::string text = "abc";
    check_ways(t.pool, text);
    check_ways(t.pool, std::string_view(text));
    check_ways(t.pool, text.c_str());
    check_ways(t.pool, text.data());
}

POOL_CASE("Tasks", "each callable takes a text in its way", "[both][arguments]") {
    TestType t;
    check_callable(t.pool, by_value);
    check_callable(t.pool, by_reference);
    check_callable(t.pool, by_rvalue);
    check_callable(t.pool, [](auto text) { return static_cast<int>(text.size()); });
    check_callable(t.pool, Longer{0});
    CHECK(t.pool.submit(itself, std::string_view("abc")).get() == "abc");
    CHECK(t.pool.submit(mp::bind(both, std::string_view("abc")), 4).get() == 7);
}

POOL_CASE("Tasks", "starmap's elements are arguments", "[both][arguments]") {
    TestType t;
    std::string text = "abc";
    const std::vector sevens{7};
    CHECK(t.pool.starmap(both, std::vector{std::pair(std::string_view(text), 4)}) == sevens);
    CHECK(t.pool.starmap(both, std::vector{std::pair<const char*, int>("abc", 4)}) == sevens);
    CHECK(t.pool.starmap(both, std::vector{std::tuple(std::string_view(text), 4)}) == sevens);
    CHECK(t.pool.starmap_async(both, std::vector{std::tuple(text, 4)}).get() == sevens);
    CHECK(t.pool.starmap(both, std::map<std::string, int>{{text, 4}}) == sevens);
    CHECK(t.pool.starmap(both, std::map<std::string_view, int>{{text, 4}}) == sevens);
}

POOL_CASE("Tasks", "bools, and the elements of maps, are items like others", "[both][arguments]") {
    TestType t;
    std::vector<bool> bits{true, false, true};
    CHECK(t.pool.map([](bool b) { return int(b); }, bits) == std::vector{1, 0, 1});
    CHECK(t.pool.map([](bool b) { return !b; }, bits) == std::vector{false, true, false});
    CHECK(t.pool.map([](bool b) { return !b; }, std::vector{true}) == std::vector{false});
    CHECK(t.pool.map_async([](bool b) { return !b; }, bits).get() ==
          std::vector{false, true, false});
    int set = 0;
    for (bool b : t.pool.imap([](bool bit) { return bit; }, bits)) set += b;
    for (bool b : t.pool.imap_unordered([](bool bit) { return bit; }, bits)) set += b;
    CHECK(set == 4);
    std::map<int, int> squares{{2, 4}, {3, 9}};
    CHECK(t.pool.map([](std::pair<int, int> e) { return e.first + e.second; }, squares) ==
          std::vector{6, 12});
    CHECK(t.pool.map([](const std::pair<const int, int>& e) { return e.second; }, squares) ==
          std::vector{4, 9});
    CHECK(t.pool.starmap([](int a, int b) { return a * b; }, squares) == std::vector{8, 27});
    int numbers[] = {1, 2};
    CHECK(t.pool.map([](int x) { return x; }, numbers) == std::vector{1, 2});
    t.pool.map([](bool) {}, bits);
}

TEST_CASE("a thread that comes late has the text, not a view of what was", "[pool][arguments]") {
    mp::ThreadPool pool({.threads = 1});
    std::atomic<bool> may_go{false};
    auto first = pool.submit([&] { test::eventually([&] { return may_go.load(); }); });
    auto text = std::make_unique<std::string>("a text that is longer than what a string holds");
    auto size = pool.submit(by_view, std::string_view(*text));
    auto copy = pool.submit([](std::string_view view) { return std::string(view); },
                            std::string_view(*text));
    std::string expected = *text;
    std::fill(text->begin(), text->end(), 'x');
    text.reset();
    may_go = true;
    CHECK(size.get() == static_cast<int>(expected.size()));
    CHECK(copy.get() == expected);
}

TEST_CASE("a thread's task may take a pointer as it is", "[pool][arguments]") {
    mp::ThreadPool pool({.threads = 1});
    const char* text = "abc";
    CHECK(pool.submit([](const char* p) { return p; }, text).get() == text);
    CHECK(pool.map([](const char* p) { return *p; }, std::vector{text}) == std::vector{'a'});
}

TEST_CASE("a Process takes the same texts", "[pool][arguments]") {
    auto method = GENERATE(from_range(test::methods()));
    std::string text = "abc";
    auto exits_with_six = [&](auto&& a, auto&& b) {
        mp::Process child({.start_method = method}, exit_with, a, b);
        child.start();
        CHECK(child.join().code() == 6);
    };
    exits_with_six(text, std::string_view(text));
    exits_with_six(std::string_view(text), text);
    exits_with_six("abc", text.data());
    if (method == mp::StartMethod::forkserver) mp::stop_forkserver();
}

}  // namespace argument_cases_test
