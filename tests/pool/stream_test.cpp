// imap and imap_unordered: order, laziness, errors of single items, early ends.
#include <unistd.h>

#include <map>
#include <numeric>
#include <ranges>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>

#include <catch2/catch.hpp>

#include "pool_support.hpp"

namespace stream_test {

namespace mp = sidestep;
using test::methods;

namespace {

int picky(int x) {
    if (x % 5 == 0) throw std::invalid_argument("no multiples of five");
    return x;
}
std::size_t length(const std::string& text) { return text.size(); }
void nothing(int) {}

// Numbers that count how many of them were pulled, and throw at `bad`.
class Numbers : public std::ranges::view_interface<Numbers> {
  public:
    Numbers(int end, int* pulled, int bad = -1) : end_(end), pulled_(pulled), bad_(bad) {}
    class Iterator {
      public:
        using value_type = int;
        using difference_type = std::ptrdiff_t;
        Iterator() = default;
        explicit Iterator(const Numbers* of) : of_(of) {}
        int operator*() const {
            if (at_ == of_->bad_) throw std::range_error("the input broke");
            ++*of_->pulled_;
            return at_;
        }
        Iterator& operator++() {
            ++at_;
            return *this;
        }
        void operator++(int) { ++at_; }
        bool operator==(std::default_sentinel_t) const { return at_ == of_->end_; }

      private:
        const Numbers* of_ = nullptr;
        int at_ = 0;
    };
    Iterator begin() const { return Iterator(this); }
    std::default_sentinel_t end() const { return {}; }

  private:
    int end_;
    int* pulled_;
    int bad_;
};

// Numbers side by side that cannot be had.
struct BrokenNumbers {
    const long* begin() const { throw std::range_error("the input broke"); }
    const long* end() const { return nullptr; }
    std::size_t size() const { return 3; }
};

// Throws when it is saved, or when it is loaded, if told so.
struct Touchy {
    enum Mode { good, bad_save, bad_load };
    int value = 0;
    int mode = good;
    template <class Archive>
    void save(Archive& archive) const {
        if (mode == bad_save) throw std::domain_error("will not be saved");
        archive(value, mode);
    }
    template <class Archive>
    void load(Archive& archive) {
        archive(value, mode);
        if (mode == bad_load) throw std::domain_error("will not be loaded");
    }
};
int value_of(const Touchy& touchy) { return touchy.value; }
Touchy touchy_if_even(int x) { return {x, x % 2 ? Touchy::good : Touchy::bad_save}; }
Touchy unreadable_if_even(int x) { return {x, x % 2 ? Touchy::good : Touchy::bad_load}; }

}  // namespace

TEST_CASE("imap yields all results in the order of the items",
          "[pool][imap][py:_TestPool.test_imap]") {
    auto method = GENERATE(from_range(methods()));
    std::size_t chunksize = GENERATE(0u, 1u, 100u);
    mp::Pool pool({.processes = 4, .start_method = method});
    long expected = 0;
    for (long x : pool.imap(test::square, std::views::iota(0L, 1000L), {.chunksize = chunksize})) {
        CHECK(x == expected * expected);
        ++expected;
    }
    CHECK(expected == 1000);
}

TEST_CASE("imap_unordered yields each result once",
          "[pool][imap][py:_TestPool.test_imap_unordered]") {
    auto method = GENERATE(from_range(methods()));
    std::size_t chunksize = GENERATE(0u, 1u, 100u);
    mp::Pool pool({.processes = 4, .start_method = method});
    std::multiset<long> results, expected;
    for (long i = 0; i < 1000; ++i) expected.insert(i * i);
    for (long x :
         pool.imap_unordered(test::square, std::views::iota(0L, 1000L), {.chunksize = chunksize}))
        results.insert(x);
    CHECK(results == expected);
}

TEST_CASE("imap_unordered does not wait for a slow item", "[pool][imap]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(2);
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<std::string> items(20, words.path());
    items[0] = "!" + words.path();
    auto slow_if_marked = [](const std::string& item) {
        if (item[0] == '!') test::wait_at(item.substr(1), 0, 1);
        return item[0] == '!';
    };
    int fast = 0;
    for (bool slow : pool.imap_unordered(slow_if_marked, items, {.chunksize = 1})) {
        if (!slow && ++fast == 19) words[1] = 1;  // the others did not wait for it
    }
    CHECK(fast == 19);
}

TEST_CASE("the input is pulled lazily: never more than the window is under way",
          "[pool][imap][window]") {
    auto method = GENERATE(from_range(methods()));
    auto [chunksize, window] = GENERATE(table<std::size_t, std::size_t>(
        {{1, 1}, {1, 2}, {1, 10}, {4, 4}, {3, 4}, {5, 4}, {0, 1}, {0, 4}, {0, 100}, {64, 100}}));
    CAPTURE(chunksize, window);
    mp::Pool pool({.processes = 2, .start_method = method});
    mp::MapOptions options{.chunksize = chunksize, .window = window};
    int pulled = 0, taken = 0;
    for (int x : pool.imap(picky, Numbers(0, &pulled), options)) CHECK(x == -1);
    CHECK(pulled == 0);
    bool within = true;
    for (int x : pool.imap([](int n) { return n; }, Numbers(3000, &pulled), options)) {
        within = within && x == taken;
        ++taken;
        within = within && pulled <= taken + static_cast<int>(window);
    }
    CHECK(within);
    CHECK(taken == 3000);
    CHECK(pulled == 3000);
    taken = pulled = 0;
    for (int x : pool.imap_unordered([](int n) { return n; }, Numbers(3000, &pulled), options)) {
        within = within && x >= 0;
        ++taken;
        within = within && pulled <= taken + static_cast<int>(window);
    }
    CHECK(within);
    CHECK(taken == 3000);
}

TEST_CASE("without a window, an endless input is pulled a few chunks at a time", "[pool][imap]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    int pulled = 0, taken = 0;
    Numbers endless(-1, &pulled);
    for (int x : pool.imap([](int n) { return n; }, endless, {.chunksize = 10})) {
        CHECK(x == taken);
        if (++taken == 100) break;
    }
    CHECK(pulled < 300);
}

TEST_CASE("a window of one item needs no item beyond it", "[pool][imap][window]") {
    auto method = GENERATE(from_range(methods()));
    // A pipe with one line: reading a second would block for ever.
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    struct Lines : std::ranges::view_interface<Lines> {
        int fd;
        explicit Lines(int f) : fd(f) {}
        struct Iterator {
            using value_type = char;
            using difference_type = std::ptrdiff_t;
            int fd = -1;
            char current = 0;
            char operator*() const { return current; }
            Iterator& operator++() {
                if (read(fd, &current, 1) != 1) current = 0;
                return *this;
            }
            void operator++(int) { ++*this; }
            bool operator==(std::default_sentinel_t) const { return current == 0; }
        };
        Iterator begin() const { return ++Iterator{fd}; }
        std::default_sentinel_t end() const { return {}; }
    };
    {
        mp::Pool pool({.processes = 1, .start_method = method});
        CHECK(write(ends[1], "a", 1) == 1);
        std::string got;
        for (char c :
             pool.imap([](char x) { return x; }, Lines(ends[0]), {.chunksize = 1, .window = 1})) {
            got += c;
            if (got == "a") CHECK(write(ends[1], "b", 1) == 1);
            if (got == "ab") CHECK(write(ends[1], "", 1) == 1);  // the end
        }
        CHECK(got == "ab");
    }
    close(ends[0]);
    close(ends[1]);
}

TEST_CASE("any input range will do: single pass, move only, moved in, references", "[pool][imap]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    std::istringstream text("one three five seven");
    std::vector<std::size_t> lengths;
    for (std::size_t n : pool.imap(length, std::views::istream<std::string>(text)))
        lengths.push_back(n);
    CHECK(lengths == std::vector<std::size_t>{3, 5, 4, 5});
    std::istringstream again("a bb ccc");  // basic_istream_view moves, and is not copied
    CHECK(pool.map(length, std::views::istream<std::string>(again)) ==
          std::vector<std::size_t>{1, 2, 3});
    CHECK(pool.map(length, std::vector<std::string>{"x", "yy"}) == std::vector<std::size_t>{1, 2});
    const std::vector<const char*> literals{"x", "yy", "zzz"};
    CHECK(pool.map(length, literals) == std::vector<std::size_t>{1, 2, 3});
    std::map<int, std::string> dictionary{{1, "x"}, {2, "y"}};
    CHECK(pool.starmap([](int, const std::string& s) { return s; }, dictionary) ==
          std::vector<std::string>{"x", "y"});
    std::vector<bool> bits{true, false, true};
    CHECK(pool.map([](bool b) { return !b; }, bits) == std::vector<bool>{false, true, false});
}

TEST_CASE("numbers that lie side by side are sent in pieces, whatever the chunks and the end",
          "[pool][imap]") {
    mp::Pool pool({.processes = 2});
    std::size_t chunksize = GENERATE(0u, 1u, 7u, 100u);
    std::size_t window = GENERATE(0u, 1u, 10u);
    for (std::size_t size : {0u, 1u, 6u, 7u, 8u, 14u, 100u, 101u}) {
        CAPTURE(chunksize, window, size);
        std::vector<long> numbers(size), expected;
        std::iota(numbers.begin(), numbers.end(), -3L);
        for (long x : numbers) expected.push_back(x * x);
        mp::MapOptions options{.chunksize = chunksize, .window = window};
        CHECK(pool.map(test::square, numbers, options) == expected);
        CHECK(pool.map(test::square, std::span<const long>(numbers), options) == expected);
        std::vector<long> streamed;
        for (long x : pool.imap(test::square, std::vector<long>(numbers), options))
            streamed.push_back(x);
        CHECK(streamed == expected);
    }
    CHECK(pool.map([](char c) { return c + 1; }, std::string("abc")) ==
          std::vector<int>{'b', 'c', 'd'});
    int outcomes = 0;
    for (auto& item : pool.imap(test::square, BrokenNumbers()).outcomes()) {
        CHECK_THROWS_AS(item.value(), std::range_error);
        ++outcomes;
    }
    CHECK(outcomes == 1);
}

TEST_CASE("an input that throws fails at that item, after all results before it",
          "[pool][imap][py:_TestPool.test_imap_handle_iterable_exception]"
          "[py:_TestPool.test_imap_unordered_handle_iterable_exception]"
          "[py:_TestPool.test_map_handle_iterable_exception]") {
    auto method = GENERATE(from_range(methods()));
    std::size_t chunksize = GENERATE(0u, 1u, 3u, 4u, 100u);
    int bad = GENERATE(0, 1, 7);
    mp::Pool pool({.processes = 4, .start_method = method});
    int pulled = 0;
    auto same = [](int x) { return x; };
    int taken = 0;
    auto ordered = [&] {
        for (int x : pool.imap(same, Numbers(20, &pulled, bad), {.chunksize = chunksize}))
            if (x == taken) ++taken;
    };
    CHECK_THROWS_AS(ordered(), std::range_error);
    CHECK(taken == bad);
    auto unordered = [&] {
        for (int x : pool.imap_unordered(same, Numbers(20, &pulled, bad), {.chunksize = chunksize}))
            CHECK(x < bad);
    };
    CHECK_THROWS_AS(unordered(), std::range_error);
    CHECK_THROWS_AS(pool.map(same, Numbers(20, &pulled, bad), {.chunksize = chunksize}),
                    std::range_error);
    CHECK(pool.apply(test::add, 1, 2) == 3);
}

TEST_CASE("outcomes show every item's value or error, with its index", "[pool][outcomes]") {
    auto method = GENERATE(from_range(methods()));
    std::size_t chunksize = GENERATE(0u, 1u, 4u, 100u);
    mp::Pool pool({.processes = 2, .start_method = method});
    std::size_t next = 0, failed = 0;
    auto stream = pool.imap(picky, std::views::iota(1, 31), {.chunksize = chunksize});
    for (const mp::Outcome<int>& item : stream.outcomes()) {
        CHECK(item.index() == next++);
        if (item) {
            CHECK(item.has_value());
            CHECK(item.value() == static_cast<int>(item.index()) + 1);
        } else {
            ++failed;
            CHECK_THROWS_AS(item.value(), std::invalid_argument);
            CHECK(item.error() != nullptr);
        }
    }
    CHECK(next == 30);
    CHECK(failed == 6);
    std::set<std::size_t> indices;
    for (auto& item :
         pool.imap_unordered(picky, std::views::iota(1, 31), {.chunksize = chunksize}).outcomes()) {
        indices.insert(item.index());
        CHECK(item.has_value() == ((item.index() + 1) % 5 != 0));
    }
    CHECK(indices.size() == 30);
    std::size_t done = 0;
    for (const mp::Outcome<void>& item : pool.imap(nothing, std::views::iota(0, 9)).outcomes())
        done += item.has_value();
    CHECK(done == 9);
}

TEST_CASE("an item that cannot be sent, or sent back, is that item's error alone",
          "[pool][outcomes][serialize]") {
    auto method = GENERATE(from_range(methods()));
    std::size_t chunksize = GENERATE(0u, 1u, 100u);
    mp::MapOptions options{.chunksize = chunksize};
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<Touchy> items;
    std::vector<int> numbers;
    for (int i = 0; i < 20; ++i) {
        items.push_back(touchy_if_even(i));
        numbers.push_back(i);
    }
    auto check = [](auto outcomes) {
        std::set<std::size_t> seen;
        for (auto& item : outcomes) {
            seen.insert(item.index());
            CHECK(item.has_value() == (item.index() % 2 == 1));
            if (!item) CHECK_THROWS_AS(item.value(), std::domain_error);
        }
        CHECK(seen.size() == 20);
    };
    check(pool.imap(value_of, items, options).outcomes());
    check(pool.imap_unordered(value_of, items, options).outcomes());
    check(pool.imap(touchy_if_even, numbers, options).outcomes());
    CHECK_THROWS_AS(pool.map(value_of, items, options), std::domain_error);
    CHECK(pool.apply(test::add, 1, 2) == 3);
}

TEST_CASE("a result that cannot be read back is that item's error alone",
          "[pool][outcomes][serialize]") {
    auto method = GENERATE(from_range(methods()));
    std::size_t chunksize = GENERATE(1u, 5u, 20u);
    mp::Pool pool({.processes = 2, .start_method = method});
    std::size_t seen = 0;
    for (auto& item :
         pool.imap(unreadable_if_even, std::views::iota(0, 20), {.chunksize = chunksize})
             .outcomes()) {
        CHECK(item.index() == seen++);
        CHECK(item.has_value() == (item.index() % 2 == 1));
        if (!item) CHECK_THROWS_AS(item.value(), std::domain_error);
    }
    CHECK(seen == 20);
}

TEST_CASE("leaving a loop early cancels what no worker has begun", "[pool][imap]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(2);
    mp::Pool pool({.processes = 1, .start_method = method});
    std::vector<std::string> items(1000, words.path());
    auto run = [](const std::string& path) { return test::bump(path, 0); };
    {
        auto stream = pool.imap(run, items, {.chunksize = 1, .window = 500});
        for (std::uint64_t x : stream) {
            CHECK(x == 0);
            break;
        }
    }
    CHECK(pool.apply(test::add, 1, 2) == 3);
    CHECK(words[0] <= 500);
    for (std::uint64_t x : pool.imap_unordered(run, items, {.chunksize = 1, .window = 500})) {
        (void)x;
        break;
    }
    CHECK(pool.apply(test::add, 1, 2) == 3);
    pool.close();
    pool.join();  // nothing that was cancelled is waited for
}

TEST_CASE("a stream may outlive its pool", "[pool][imap]") {
    auto method = GENERATE(from_range(methods()));
    auto pool = std::make_unique<mp::Pool>(mp::PoolOptions{.processes = 2, .start_method = method});
    auto stream = pool->imap(test::square, std::views::iota(0L, 4L), {.chunksize = 1});
    auto first = stream.next_outcome();
    REQUIRE(first);
    CHECK(first->value() == 0);
    pool.reset();
    // What was under way was finished by ~Pool; then the pool takes no more.
    std::size_t more = 0;
    try {
        while (auto item = stream.next_outcome()) ++more;
    } catch (const std::logic_error&) {
    }
    CHECK(more == 3);
    auto unused = mp::Pool({.processes = 1, .start_method = method})
                      .imap_unordered(test::square, std::views::iota(0L, 4L));
    CHECK_THROWS_AS(unused.begin(), std::logic_error);
}

}  // namespace stream_test
