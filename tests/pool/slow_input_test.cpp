// Streams whose input takes its time, or waits for the results of what it gave before.
#include <catch2/catch.hpp>

#include <pthread.h>

#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "both_pools.hpp"
#include "paced.hpp"
#include "pool_support.hpp"

namespace slow_input_test {

namespace mp = sidestep;
using test::Paced;
using test::Pools;
using test::Processes;
using test::Threads;
using namespace std::chrono_literals;

namespace {

// Words that lie in one place, one after the other.
class Words {
  public:
    explicit Words(int count) : count_(count) {}
    class Iterator {
      public:
        using value_type = std::string;
        using difference_type = std::ptrdiff_t;
        explicit Iterator(Words* of) : of_(of) {}
        const std::string& operator*() const { return of_->word_ = std::to_string(of_->at_); }
        Iterator& operator++() {
            ++of_->at_;
            return *this;
        }
        void operator++(int) { ++*this; }
        bool operator==(std::default_sentinel_t) const { return of_->at_ == of_->count_; }

      private:
        Words* of_;
    };
    Iterator begin() { return Iterator(this); }
    std::default_sentinel_t end() const { return {}; }

  private:
    int count_;
    int at_ = 0;
    std::string word_;
};

int twice(int x) { return 2 * x; }
std::string same(std::string word) { return word; }

// The first waits until another one runs.
int meet(const std::string& path, int i) {
    test::SharedWords::Word* words = test::SharedWords::attach(path);
    words[i] = 1;
    if (i == 0) test::await(words[1]);
    return i;
}

const std::vector<mp::MapOptions> kOptions = {
    {}, {.chunksize = 1}, {.chunksize = 100}, {.window = 1}, {.chunksize = 7, .window = 20}};

}  // namespace

TEMPLATE_TEST_CASE("an input may wait for the result of each item before it gives the next",
                   "[pool][stream][slow]", Pools, Threads) {
    TestType t;
    for (const mp::MapOptions& options : kOptions) {
        std::atomic<int> taken{0};
        Paced input(10, [&](int i) { return taken >= i; });
        for (int x : t.pool.imap(twice, input, options)) CHECK(x == 2 * taken++);
        CHECK(taken == 10);
        taken = 0;
        Paced again(10, [&](int i) { return taken >= i; });
        for (int x : t.pool.imap_unordered(twice, again, options)) CHECK(x == 2 * taken++);
        CHECK(taken == 10);
    }
}

TEMPLATE_TEST_CASE("a chunk goes when the input pauses", "[pool][stream][slow]", Pools, Threads) {
    TestType t;
    std::atomic<int> taken{0};
    Paced input(23, [&](int i) { return taken >= i / 5 * 5; });  // five at a time
    for (auto& item : t.pool.imap(twice, input, {.chunksize = 100}).outcomes())
        CHECK(item.value() == 2 * taken++);
    CHECK(taken == 23);
}

TEMPLATE_TEST_CASE("while a result is waited for, what the input gives is sent off",
                   "[pool][stream][slow]", Processes, Threads) {
    TestType t;
    for (bool ordered : {true, false}) {
        test::SharedWords words(2);
        Paced input(2, [&](int i) { return i == 0 || words[0] == 1; });
        std::vector<int> met;
        auto f = mp::bind(meet, words.path());
        if (ordered) {
            for (int x : t.pool.imap(f, input)) met.push_back(x);
        } else {
            for (int x : t.pool.imap_unordered(f, input)) met.push_back(x);
        }
        std::sort(met.begin(), met.end());
        CHECK(met == std::vector{0, 1});
    }
}

TEMPLATE_TEST_CASE("an input that breaks in the end is the error of that item",
                   "[pool][stream][slow]", Pools, Threads) {
    TestType t;
    std::atomic<int> taken{0};
    Paced input(10, [&](int i) {
        if (i == 3 && taken == 3) throw std::range_error("the input broke");
        return taken >= i;
    });
    for (auto& item : t.pool.imap(twice, input).outcomes()) {
        CHECK(item.index() == static_cast<std::size_t>(taken));
        CHECK(item.has_value() == (taken < 3));
        if (!item) CHECK_THROWS_AS(item.value(), std::range_error);
        ++taken;
    }
    CHECK(taken == 4);
}

TEMPLATE_TEST_CASE("an input that ends its thread is the error of that item",
                   "[pool][stream][slow]", Processes, Threads) {
    TestType t;
    auto quits = [](int i) {
        if (i == 3) ::pthread_exit(nullptr);
        return true;
    };
    int taken = 0;
    for (auto& item : t.pool.imap(twice, Paced(10, quits)).outcomes()) {
        CHECK(item.has_value() == (taken < 3));
        if (!item) CHECK_THROWS_WITH(item.value(), Catch::Matchers::Contains("pthread_exit"));
        ++taken;
    }
    CHECK(taken == 4);
    // Of a map in the background it is the thread that feeds it. (A ThreadPool's first items are
    // pulled by who calls.)
    if constexpr (std::is_same_v<TestType, Processes>) {
        auto all = t.pool.map_async(twice, Paced(10, quits));
        CHECK(all.wait_for(test::kPatience));
        CHECK_THROWS_AS(all.get(), mp::PoolError);
    }
    CHECK(t.pool.apply(twice, 1) == 2);
}

TEMPLATE_TEST_CASE("leaving the loop early ends the input", "[pool][stream][slow]", Processes,
                   Threads) {
    TestType t;
    std::atomic<int> given{0};
    {
        auto stream =
            t.pool.imap(twice, Paced(1'000'000, [&](int) { return ++given; }), {.window = 10});
        for (int x : stream) {
            CHECK(x == 0);
            break;
        }
    }
    CHECK(given <= 11);
    int last = given;
    CHECK(t.pool.submit(twice, 1).get() == 2);
    CHECK(given == last);
}

TEMPLATE_TEST_CASE("an input that is quick loses nothing, and keeps its order",
                   "[pool][stream][slow]", Pools, Threads) {
    TestType t;
    auto at_once = [](int) { return true; };
    int expected = 0;
    for (int x : t.pool.imap(twice, Paced(20'000, at_once))) CHECK(x == 2 * expected++);
    CHECK(expected == 20'000);
    long sum = 0;
    for (int x : t.pool.imap_unordered(twice, Paced(20'000, at_once))) sum += x;
    CHECK(sum == 19'999L * 20'000);
    int word = 0;
    for (const std::string& s : t.pool.imap(same, Words(500))) CHECK(s == std::to_string(word++));
    CHECK(word == 500);
    std::vector<std::string> all = t.pool.map(same, Words(500));
    REQUIRE(all.size() == 500);
    CHECK(all[0] == "0");
    CHECK(all[499] == "499");
}

TEMPLATE_TEST_CASE("a chunk of a map has what the input gave in the time that it should take",
                   "[pool][map][slow]", Processes, Threads) {
    TestType t;
    auto slowly = [](int) {
        (void)test::eventually([] { return false; }, 2ms);
        return true;
    };
    CHECK(t.pool.map(twice, Paced(8, slowly), {.chunksize = 100}).size() == 8);
    CHECK(test::eventually([&] { return t.pool.stats().completed >= 8; }));
}

}  // namespace slow_input_test
