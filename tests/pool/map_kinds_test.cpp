// Maps over several ranges, merged in the workers, looking for an item, and inputs that grow; in
// each kind of pool.
#include <signal.h>

#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <cereal/types/string.hpp>
#include <cereal/types/vector.hpp>

#include <catch2/catch.hpp>

#include "both_pools.hpp"
#include "pool_cases.hpp"
#include "pool_support.hpp"

namespace map_kinds_test {

namespace mp = sidestep;
using namespace std::chrono_literals;
using test::numbers;
using test::Pools;
using test::Processes;
using test::Threads;

namespace {

bool rest(mp::Timeout time) { return mp::this_task::sleep_for(time); }  // style-ok: ends early

std::string named(const std::string& name, int number) { return name + std::to_string(number); }
int sum_of(int a, int b, int c) { return 100 * a + 10 * b + c; }
int sum_of_four(int a, int b, int c, int d) { return 10 * sum_of(a, b, c) + d; }

std::string as_text(int number) { return std::to_string(number) + ","; }
std::string joined(std::string a, const std::string& b) { return a += b; }
std::string picky_text(int number) {
    if (number == 30) throw std::domain_error("thirty");
    return as_text(number);
}
std::string picky_join(std::string a, const std::string& b) {
    if (b == "7,") throw std::domain_error("seven");
    return joined(std::move(a), b);
}
std::string all_texts(int count) {
    std::string all;
    for (int i = 0; i < count; ++i) all += as_text(i);
    return all;
}

bool is_forty_two(int number) { return number == 42; }
bool sleeps_at_zero(int number) {
    if (number == 0) rest(1h);
    return number == 3;
}
bool is_bad(int number) {
    if (number % 10 == 5) throw std::domain_error("bad " + std::to_string(number));
    return false;
}

// Each makes two smaller ones.
std::vector<int> halves(int number) {
    if (number < 2) return {};
    return {number / 2, number - number / 2};
}

// An input range that is no container.
class Lines {
  public:
    explicit Lines(std::string text) : text_(std::make_shared<std::istringstream>(text)) {}
    class Iterator {
      public:
        using value_type = std::string;
        using difference_type = std::ptrdiff_t;
        explicit Iterator(std::istringstream* text) : text_(text) { ++*this; }
        std::string operator*() const { return line_; }
        Iterator& operator++() {
            is_over_ = !std::getline(*text_, line_);
            return *this;
        }
        void operator++(int) { ++*this; }
        bool operator==(std::default_sentinel_t) const { return is_over_; }

      private:
        std::istringstream* text_;
        std::string line_;
        bool is_over_ = false;
    };
    Iterator begin() { return Iterator(text_.get()); }
    std::default_sentinel_t end() const { return {}; }

  private:
    std::shared_ptr<std::istringstream> text_;
};

}  // namespace

POOL_CASE("Maps and streams", "a map over several ranges ends with the shortest", "[maps]") {
    TestType t;
    std::vector<std::string> names{"a", "b", "c"};
    std::list<int> few{1, 2};
    const std::vector<std::string> expected{"a1", "b2"};
    CHECK(t.pool.map(named, names, few) == expected);
    CHECK(t.pool.map(named, names, std::vector<int>{1, 2}, {.chunksize = 1}) == expected);
    CHECK(t.pool.map({.chunksize = 1}, named, names, few) == expected);
    CHECK(t.pool.map(named, names, std::vector<int>{}).empty());
    CHECK(t.pool.map(sum_of, few, numbers(3, 9), std::list<int>{5, 6}) == std::vector{135, 246});
    CHECK(t.pool.map(sum_of, few, few, few, {.chunksize = 1}) == std::vector{111, 222});
    CHECK(t.pool.map({}, sum_of_four, few, few, few, numbers(9)) == std::vector{1110, 2221});
    CHECK(t.pool.map({}, test::square, few) == std::vector<long>{1, 4});
    CHECK(t.pool.map(named, Lines("x\ny\nz"), few) == std::vector<std::string>{"x1", "y2"});
    CHECK(names == std::vector<std::string>{"a", "b", "c"});
}

POOL_CASE("Maps and streams", "streams and map_async run over several ranges", "[maps]") {
    TestType t;
    std::vector<std::string> names{"a", "b", "c"};
    std::vector<std::string> seen;
    for (std::string& text : t.pool.imap({.chunksize = 2}, named, names, numbers(5)))
        seen.push_back(text);
    CHECK(seen == std::vector<std::string>{"a0", "b1", "c2"});
    std::set<std::string> as_they_come;
    for (std::string& text : t.pool.imap_unordered({}, joined, names, Lines("0\n1")))
        as_they_come.insert(text);
    CHECK(as_they_come == std::set<std::string>{"a0", "b1"});
    mp::Future<std::vector<int>> map;
    {
        std::vector<int> gone{1, 2, 3};
        map = t.pool.map_async({}, test::add, gone, numbers(3));
    }
    CHECK(map.get() == std::vector{1, 3, 5});
    CHECK(t.pool.map_async({.chunksize = 1}, test::square, numbers(3)).get() ==
          std::vector<long>{0, 1, 4});
    CHECK(t.pool.map_async({.deadline = 1h}, sum_of, numbers(2), numbers(2), numbers(2)).get() ==
          std::vector{0, 111});
}

TEST_CASE("items that cannot be copied come out of containers that were moved in", "[pool][maps]") {
    Threads t;
    std::vector<std::unique_ptr<int>> owned;
    for (int i : {1, 2}) owned.push_back(std::make_unique<int>(i));
    auto plus = [](std::unique_ptr<int> a, int b) { return *a + b; };
    CHECK(t.pool.map(plus, std::move(owned), numbers(5)) == std::vector{1, 3});
}

POOL_CASE("Maps and streams", "items may be listed in the call", "[maps]") {
    TestType t;
    const std::vector<long> squares{1, 4, 9};
    CHECK(t.pool.map(test::square, {1L, 2L, 3L}) == squares);
    CHECK(t.pool.map(test::square, {1L, 2L, 3L}, {.chunksize = 2}) == squares);
    CHECK(t.pool.map({.chunksize = 2}, test::square, {1L, 2L, 3L}) == squares);
    CHECK(t.pool.map_async(test::square, {1L, 2L, 3L}).get() == squares);
    CHECK(t.pool.imap(test::square, {1L, 2L, 3L}).collect() == squares);
    CHECK(t.pool.map(test::add, {1, 2}, {3, 4}) == std::vector{4, 6});
    CHECK(t.pool.map(test::add, numbers(5), {3, 4}) == std::vector{3, 5});  // no options
    CHECK(t.pool.starmap(test::add, {std::pair(1, 2), std::pair(3, 4)}) == std::vector{3, 7});
    CHECK(t.pool.map(as_text, {1, 2}) == std::vector<std::string>{"1,", "2,"});
    auto size = [](const std::string& text) { return text.size(); };
    CHECK(t.pool.map(size, {"to", "be"}) == std::vector<std::size_t>{2, 2});
    CHECK(t.pool.map_reduce(as_text, joined, {1, 2, 3}) == "1,2,3,");
    CHECK(t.pool.map_reduce(as_text, joined, {1, 2}, "from ") == "from 1,2,");
    CHECK(t.pool.find_any(is_forty_two, {7, 42}) == 1u);
}

POOL_CASE("Maps and streams", "map_reduce merges in the order of the items", "[maps]") {
    TestType t;
    CHECK(t.pool.map_reduce(as_text, joined, numbers(1000)) == all_texts(1000));
    CHECK(t.pool.map_reduce(as_text, joined, numbers(97), {.chunksize = 3}) == all_texts(97));
    CHECK(t.pool.map_reduce(as_text, joined, numbers(9), std::string("from "),
                            {.chunksize = 1, .window = 2}) == "from " + all_texts(9));
    CHECK(t.pool.map_reduce(as_text, joined, numbers(1), "text ") == "text 0,");
    CHECK(t.pool.map_reduce(as_text, joined, std::vector<int>{}).empty());
    CHECK(t.pool.map_reduce(as_text, joined, std::vector<int>{}, "nothing") == "nothing");
    CHECK(t.pool.map_reduce(test::square, std::plus<long>(), numbers(1001)) == 333833500);
    auto size = [](const std::string& line) { return line.size(); };
    CHECK(t.pool.map_reduce(size, std::plus<std::size_t>(), Lines("to\nbe\n\nnot")) == 7);
}

POOL_CASE("Maps and streams", "map_reduce ends with an error of an item or of a merge", "[maps]") {
    TestType t;
    CHECK_THROWS_WITH(t.pool.map_reduce(picky_text, joined, numbers(100), {.chunksize = 1}),
                      Catch::Contains("thirty"));
    CHECK_THROWS_WITH(t.pool.map_reduce(as_text, picky_join, numbers(8), {.chunksize = 4}),
                      Catch::Contains("seven"));
    CHECK_THROWS_WITH(t.pool.map_reduce(as_text, joined, numbers(3), {.task = {.key = 1}}),
                      Catch::Contains("MapOptions::task.key"));
    CHECK(t.pool.map_reduce(as_text, joined, numbers(8)) == all_texts(8));
    t.pool.close();
    CHECK_THROWS_AS(t.pool.map_reduce(as_text, joined, numbers(8)), std::logic_error);
}

WORKERS_CASE("Maps and streams", "map_reduce ends at its deadline, and with what it runs", "[maps]",
             "without workers a deadline is looked at between two chunks") {
    TestType t;
    auto sleeps = [](int number) {
        if (number >= 4) rest(1h);
        return number;
    };
    auto item_at = [&](mp::Timeout deadline) {
        try {
            (void)t.pool.map_reduce(sleeps, std::plus<int>(), numbers(100),
                                    {.chunksize = 2, .deadline = deadline});
            FAIL("it came back with a result");
        } catch (const mp::TaskTimeout& timeout) {
            return timeout.item().value();
        }
        return std::uint64_t(0);
    };
    mp::Timeout deadline = 50ms;  // by which the first four are done, on whatever machine
    std::uint64_t item = item_at(deadline);
    for (; item < 4 && deadline < 60s; item = item_at(deadline)) deadline = 2 * deadline.time();
    CHECK(item == 4);
    CHECK(t.pool.map_reduce(test::square, std::plus<long>(), numbers(4)) == 14);
    CHECK(test::eventually([&] { return t.pool.stats().running == 0; }));
    CHECK(t.pool.stats().waiting == 0);
}

PROCESSES_CASE("Maps and streams", "map_reduce: a worker's death ends it, or is made good",
               "[maps]", "without workers, and in threads, a crash ends the program",
               "without workers, and in threads, a crash ends the program") {
    Processes t;
    auto dies = [](int number) { return number == 5 ? test::die(SIGKILL) : number; };
    CHECK_THROWS_AS(t.pool.map_reduce(dies, std::plus<int>(), numbers(50)), mp::WorkerLost);
    auto dies_once = [](int number) {
        if (number == 5 && mp::this_task::attempt() == 1) return test::die(SIGKILL);
        return number;
    };
    CHECK(t.pool.map_reduce(dies_once, std::plus<int>(), numbers(50),
                            {.task = {.retry = {.max_attempts = 2}}}) == 1225);
}

TEST_CASE("an error of map_reduce names the item that was at work", "[pool][maps][errors]") {
    auto method = GENERATE(from_range(test::methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    const mp::MapOptions options{.chunksize = 4};
    auto traceback = [](auto f) {
        try {
            f();
        } catch (const std::domain_error& error) {
            return mp::remote_traceback(error);
        }
        return std::string("there was no error");
    };
    CHECK_THAT(traceback([&] { pool.map_reduce(picky_text, joined, numbers(50), options); }),
               Catch::Contains("  in item 30 of the map, task "));
    CHECK_THAT(traceback([&] { pool.map_reduce(as_text, picky_join, numbers(8), options); }),
               Catch::Contains("  in item 7 of the map, task "));
    CHECK_THAT(traceback([&] { pool.apply(picky_text, 30); }),  // in the same worker
               Catch::Contains("  in task ") && !Catch::Contains("item"));
    auto dies = [](int number) { return number == 5 ? test::die(SIGKILL) : number; };
    try {
        pool.map_reduce(dies, std::plus<int>(), numbers(50), options);
        FAIL("it came back with a result");
    } catch (const mp::WorkerLost& lost) {
        CHECK(lost.item() == 5u);
        CHECK_THAT(lost.what(), Catch::Contains("while it ran item 5 of task "));
    }
    auto hangs = [](int number) { return number == 6 && rest(1h) ? number : 1; };
    try {
        pool.map_reduce(hangs, std::plus<int>(), numbers(50),
                        {.chunksize = 4, .task = {.timeout = 300ms}});
        FAIL("it came back with a result");
    } catch (const mp::TaskTimeout& timeout) {
        CHECK(timeout.item() == 6u);
        CHECK_THAT(timeout.what(), Catch::StartsWith("item 6 of task "));
    }
}

TEST_CASE("an error of map_reduce names its item without workers, too", "[pool][maps][errors]") {
    mp::Pool pool({.processes = 0});
    auto traceback = [](auto f) {
        try {
            f();
        } catch (const std::domain_error& error) {
            return mp::remote_traceback(error);
        }
        return std::string("there was no error");
    };
    CHECK_THAT(traceback([&] { pool.map_reduce(picky_text, joined, numbers(50)); }),
               Catch::Contains("  in item 30 of the map, task "));
    CHECK(traceback([&] { pool.apply(picky_text, 30); }).empty());  // it is the object itself
}

TEST_CASE("in threads, map_reduce takes what cannot travel", "[pool][maps]") {
    Threads t;
    int calls = 0;
    std::mutex mutex;
    auto own = [&](int number) {
        std::lock_guard lock(mutex);
        ++calls;
        return std::make_unique<int>(number);
    };
    auto plus = [](std::unique_ptr<int> a, std::unique_ptr<int> b) {
        *a += *b;
        return a;
    };
    CHECK(*t.pool.map_reduce(own, plus, numbers(10), std::make_unique<int>(100)) == 145);
    CHECK(calls == 10);
}

POOL_CASE("Maps and streams", "find_any gives the place of an item", "[maps]") {
    TestType t;
    CHECK(t.pool.find_any(is_forty_two, numbers(10'000)) == 42u);
    CHECK_FALSE(t.pool.find_any(is_forty_two, numbers(42)));
    CHECK_FALSE(t.pool.find_any(is_forty_two, std::vector<int>{}));
    CHECK_THROWS_WITH(t.pool.find_any(is_bad, numbers(100), {.chunksize = 7}),
                      Catch::Contains("bad 5"));
}

WORKERS_CASE("Maps and streams", "find_any does not wait for what it does not need", "[maps]",
             "without workers find_any looks at one item after the other") {
    TestType t;
    CHECK(t.pool.find_any(sleeps_at_zero, numbers(100), {.chunksize = 1}) == 3u);
    CHECK(test::eventually([&] { return t.pool.stats().running == 0; }));
}

POOL_CASE("Maps and streams", "istarmap takes tuples apart, and a task knows its item", "[maps]") {
    TestType t;
    std::vector<std::pair<int, int>> pairs{{1, 2}, {3, 4}};
    std::vector<int> sums;
    for (int sum : t.pool.istarmap(test::add, pairs)) sums.push_back(sum);
    CHECK(sums == std::vector{3, 7});
    auto place = [](int) { return static_cast<int>(mp::this_task::item().value()); };
    CHECK(t.pool.map(place, std::vector<int>(100)) == numbers(100));
    CHECK(t.pool.map_reduce(place, std::plus<int>(), std::vector<int>(100)) == 4950);
    CHECK_FALSE(t.pool.apply([] { return mp::this_task::item().has_value(); }));
    CHECK_FALSE(mp::this_task::item());
}

POOL_CASE("Maps and streams", "an input grows by what comes of it", "[maps]") {
    TestType t;
    auto count = [](auto stream) {
        std::size_t seen = 0;
        for (const std::vector<int>& more : stream) {
            ++seen;
            for (int number : more) stream.add(number);
        }
        return seen;
    };
    CHECK(count(t.pool.imap(halves, std::vector{500})) == 999);
    CHECK(count(t.pool.imap_unordered(halves, std::vector{500})) == 999);
    CHECK(count(t.pool.imap(halves, std::list{300, 200}, {.chunksize = 1})) == 998);
    CHECK(count(t.pool.imap_unordered(halves, std::vector{100}, {.window = 1})) == 199);
}

POOL_CASE("Maps and streams", "what is added comes after the input's own, also behind its end",
          "[maps]") {
    TestType t;
    auto stream = t.pool.imap(test::square, numbers(3), {.chunksize = 1});
    CHECK(stream.next_outcome()->value() == 0);
    stream.add(9);
    CHECK(stream.next_outcome()->value() == 1);
    CHECK(stream.next_outcome()->value() == 4);
    CHECK(stream.next_outcome()->value() == 81);
    CHECK_FALSE(stream.next_outcome());
    stream.add(8);
    auto last = stream.next_outcome();
    REQUIRE(last);
    CHECK(last->value() == 64);
    CHECK(last->index() == 4);
    CHECK_FALSE(stream.next_outcome());
    auto lines = t.pool.imap([](const std::string& line) { return line.size(); }, Lines("a\nbb"));
    CHECK(lines.next_outcome()->value() == 1);
    lines.add("four");
    CHECK(lines.next_outcome()->value() == 2);
    CHECK(lines.next_outcome()->value() == 4);
    CHECK_FALSE(lines.next_outcome());
}

TEST_CASE("map_reduce of threads takes items that can be moved only", "[pool][maps]") {
    Threads t;
    std::vector<std::unique_ptr<int>> items;
    for (int i = 0; i < 100; ++i) items.push_back(std::make_unique<int>(i));
    auto value = [](std::unique_ptr<int> item) { return *item; };
    CHECK(t.pool.map_reduce(value, std::plus<int>(), std::move(items)) == 4950);
}

}  // namespace map_kinds_test
