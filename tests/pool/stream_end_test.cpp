// What becomes of streams and maps when their pool ends, and of items that cannot be sent.
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "both_pools.hpp"
#include "pool_support.hpp"

namespace stream_end_test {

namespace mp = sidestep;
using test::methods;
using test::numbers;
using test::Pools;
using test::Threads;

namespace {

// Cannot be loaded, if told so.
struct Touchy {
    int value = 0;
    bool bad = false;
    template <class Archive>
    void save(Archive& archive) const {
        archive(value, bad);
    }
    template <class Archive>
    void load(Archive& archive) {
        archive(value, bad);
        if (bad) throw std::domain_error("will not be loaded");
    }
};
int count_run(const std::string& path, const Touchy& touchy) {
    test::bump(path, 0);
    return touchy.value;
}
std::size_t length(const std::string& text) { return text.size(); }
int pointee(const std::shared_ptr<int>& number) { return *number; }

// What is left of a stream: values, then errors, then its end.
struct Rest {
    std::size_t values = 0;
    std::vector<std::exception_ptr> errors;
    bool value_after_error = false;
};
template <class Stream>
Rest drain(Stream& stream) {
    Rest rest;
    while (auto item = stream.next_outcome()) {
        if (!item->has_value()) {
            rest.errors.push_back(item->error());
        } else {
            ++rest.values;
            rest.value_after_error = rest.value_after_error || !rest.errors.empty();
        }
    }
    return rest;
}
template <class E>
bool is_a(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const E&) {
        return true;
    } catch (...) {
        return false;
    }
}

}  // namespace

TEMPLATE_TEST_CASE("a stream that was made before close() goes on", "[pool][stream][shutdown]",
                   Pools, Threads) {
    TestType t;
    auto items = numbers(1000);
    auto ordered = t.pool.imap(test::square, items, {.chunksize = 1});
    auto unordered = t.pool.imap_unordered(test::square, items, {.chunksize = 1});
    auto unread = t.pool.imap(test::square, items);
    CHECK(ordered.next_outcome()->value() == 0);
    CHECK(unordered.next_outcome());
    t.pool.close();
    auto check = [](auto& stream) {
        Rest rest = drain(stream);
        CHECK(rest.values == 999);
        CHECK(rest.errors.empty());
    };
    check(ordered);
    check(unordered);
    CHECK(std::move(unread).collect().size() == 1000);
    t.pool.join();
}

TEMPLATE_TEST_CASE("join() waits for a map that runs in another thread", "[pool][stream][shutdown]",
                   Pools, Threads) {
    test::SharedWords words(1);
    TestType t;
    std::vector<std::string> items(300, words.path());
    std::vector<std::uint64_t> results;
    std::exception_ptr error;
    std::thread mapper([&] {
        try {  // one item at a time: again and again there is nothing under way
            results = t.pool.map([](const std::string& path) { return test::bump(path, 0); }, items,
                                 {.chunksize = 1, .window = 1});
        } catch (...) {
            error = std::current_exception();
        }
    });
    test::await(words[0]);
    t.pool.close();
    t.pool.join();
    mapper.join();
    CHECK_FALSE(error);
    CHECK(results.size() == 300);
}

TEMPLATE_TEST_CASE("after terminate() a stream ends with CancelledError",
                   "[pool][stream][shutdown]", Pools, Threads) {
    TestType t;
    auto items = numbers(10'000);
    mp::MapOptions options{.chunksize = 1, .window = 4};
    auto ordered = t.pool.imap(test::square, items, options);
    auto unordered = t.pool.imap_unordered(test::square, items, options);
    CHECK(ordered.next_outcome()->value() == 0);
    CHECK(unordered.next_outcome());
    t.pool.terminate();
    auto check = [](auto& stream) {
        Rest rest = drain(stream);
        CHECK(rest.values + rest.errors.size() <= 4);
        REQUIRE_FALSE(rest.errors.empty());
        for (auto& error : rest.errors) CHECK(is_a<mp::CancelledError>(error));
        CHECK_FALSE(stream.next_outcome());
    };
    check(ordered);
    check(unordered);
    t.pool.join();
    CHECK_THROWS_AS(t.pool.imap(test::square, items), std::logic_error);
}

TEMPLATE_TEST_CASE(
    "a stream that nobody reads holds join() up by nothing; then its rest is refused",
    "[pool][stream][shutdown]", Pools, Threads) {
    TestType t;
    auto items = numbers(10);
    mp::MapOptions options{.chunksize = 1, .window = 4};
    auto ordered = t.pool.imap(test::square, items, options);
    auto unordered = t.pool.imap_unordered(test::square, items, options);
    CHECK(ordered.next_outcome()->value() == 0);
    CHECK(unordered.next_outcome());
    t.pool.close();
    t.pool.join();
    auto check = [](auto& stream) {
        Rest rest = drain(stream);
        CHECK(rest.values == 3);
        REQUIRE(rest.errors.size() == 1);
        CHECK(is_a<std::logic_error>(rest.errors[0]));
        CHECK_FALSE(rest.value_after_error);
    };
    check(ordered);
    check(unordered);
}

TEMPLATE_TEST_CASE("a closed pool refuses a map of nothing, too", "[pool][stream][shutdown]", Pools,
                   Threads) {
    TestType t;
    t.pool.close();
    std::vector<int> none;
    CHECK_THROWS_AS(t.pool.map(test::square, none), std::logic_error);
    CHECK_THROWS_AS(t.pool.imap(test::square, none), std::logic_error);
    CHECK_THROWS_AS(t.pool.map_async(test::square, none), std::logic_error);
}

TEST_CASE("an item for which there is no room fails alone", "[pool][stream][memory]") {
    std::size_t chunksize = GENERATE(0u, 1u, 3u);
    constexpr std::size_t kArena = std::size_t(16) << 20;
    mp::Pool pool({.processes = 1, .arena_bytes = kArena});
    std::vector<std::string> items{"small", std::string(kArena, 'x'), "little"};
    auto stream = pool.imap(length, items, {.chunksize = chunksize});
    for (std::size_t i = 0; i < 3; ++i) {
        auto item = stream.next_outcome();
        REQUIRE(item);
        CHECK(item->index() == i);
        CHECK(item->has_value() == (i != 1));
        if (i != 1) CHECK(item->value() == items[i].size());
    }
    CHECK_FALSE(stream.next_outcome());
}

TEST_CASE("an item that cannot be loaded fails alone, and costs the others no second run",
          "[pool][stream][serialize]") {
    auto method = GENERATE(from_range(methods()));
    std::size_t chunksize = GENERATE(1u, 20u);
    test::SharedWords words(1);
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<Touchy> items;
    for (int i = 0; i < 20; ++i) items.push_back({i, i % 2 == 0});
    mp::MapOptions options{.chunksize = chunksize, .task = {.retry = {.max_attempts = 2}}};
    std::size_t seen = 0;
    for (auto& item : pool.imap(mp::bind(count_run, words.path()), items, options).outcomes()) {
        CHECK(item.index() == seen++);
        CHECK(item.has_value() == (item.index() % 2 == 1));
        if (item)
            CHECK(item.value() == static_cast<int>(item.index()));
        else
            CHECK(is_a<std::domain_error>(item.error()));
    }
    CHECK(seen == 20);
    CHECK(words[0] == 10);
}

TEST_CASE("items of a chunk may share what they point to", "[pool][stream][serialize]") {
    mp::Pool pool({.processes = 1});
    std::vector<std::shared_ptr<int>> items(7, std::make_shared<int>(5));
    CHECK(pool.map(pointee, items, {.chunksize = 7}) == std::vector<int>(7, 5));
}

TEST_CASE("results may be containers of what cannot be copied", "[pool][stream][move_only]") {
    mp::Pool pool({.processes = 1});
    auto boxes = [](int n) {
        std::vector<std::unique_ptr<int>> made;
        made.push_back(std::make_unique<int>(n));
        return made;
    };
    CHECK(*pool.submit(boxes, 3).get()[0] == 3);
    CHECK(*pool.map(boxes, numbers(3))[2][0] == 2);
    auto box = [](int n) { return std::make_unique<int>(n); };
    CHECK(*pool.map_async(box, numbers(3)).get()[1] == 1);
}

}  // namespace stream_end_test
