// Tasks whose arguments are futures, in each kind of pool: they begin when these are there.
#include <catch2/catch.hpp>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "both_pools.hpp"
#include "pool_cases.hpp"
#include "pool_support.hpp"

namespace late_test {

namespace mp = sidestep;
using test::Pools;
using test::Threads;
using namespace std::chrono_literals;

namespace {

using Counts = std::map<std::string, int>;
std::vector<std::string> load(int part) { return {"to", "be", part % 2 ? "or" : "not"}; }
Counts count(const std::vector<std::string>& words) {
    Counts counts;
    for (const auto& w : words) ++counts[w];
    return counts;
}
Counts merge(Counts a, const Counts& b) {
    for (const auto& [word, n] : b) a[word] += n;
    return a;
}
int throws(int) { throw std::out_of_range("the first one threw"); }

// A type that the library knows nothing of.
struct Named {
    std::string name;
    std::shared_ptr<int> value, same;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(name, value, same);
    }
};
Named make_named(int value) {
    auto shared = std::make_shared<int>(value);
    return {"n" + std::to_string(value), shared, shared};
}
int sum_named(const Named& a, const std::shared_ptr<int>& between, const Named& b) {
    bool each_is_one = a.value == a.same && b.value == b.same && a.value != b.value;
    return each_is_one ? *a.value + *between + *b.value : -1;
}

}  // namespace

POOL_CASE("Composition", "a future as an argument arrives as its value", "[both][late]") {
    TestType t;
    auto words = t.pool.submit(load, 1);
    auto counts = t.pool.submit(count, words);
    auto both = t.pool.submit(merge, counts, t.pool.submit(count, t.pool.submit(load, 2)));
    CHECK(both.get() == Counts{{"to", 2}, {"be", 2}, {"or", 1}, {"not", 1}});
    CHECK(words.get() == load(1));  // it is the caller's still
    CHECK(t.pool.submit(test::add, t.pool.submit(test::add, 1, 2), 3).get() == 6);
    CHECK(t.pool.submit(test::add, 3, t.pool.submit(test::add, 1, 2)).get() == 6);
    // With options, by the other names, and of a callable with first arguments.
    auto three = t.pool.submit(test::add, 1, 2);
    CHECK(t.pool.submit({.priority = 1}, test::add, three, three).get() == 6);
    CHECK(t.pool.apply(test::add, three, 1) == 4);
    CHECK(t.pool.apply_async(mp::bind(test::add, 5), three).get() == 8);
}

POOL_CASE("Composition", "so it does in a tuple and in a vector, and void is no argument",
          "[both][late]") {
    TestType t;
    std::vector<mp::Future<int>> parts;
    for (int i = 0; i < 5; ++i) parts.push_back(t.pool.submit(test::add, i, 1));
    auto sum = [](const std::vector<int>& all) {
        int result = 0;
        for (int each : all) result = result * 10 + each;
        return result;
    };
    CHECK(t.pool.submit(sum, parts).get() == 12345);
    CHECK(t.pool.submit(sum, std::vector<mp::Future<int>>{}).get() == 0);
    auto nothing = t.pool.submit([] {});
    auto text =
        t.pool.submit([](int x) { return std::string(200, static_cast<char>('a' + x)); }, 1);
    auto whole = [](const std::tuple<std::string, int, int>& all) {
        return std::get<0>(all).substr(198) + std::to_string(std::get<1>(all) + std::get<2>(all));
    };
    CHECK(t.pool.submit(whole, std::make_tuple(text, 7, parts[0])).get() == "bb8");
    CHECK(t.pool.submit(test::add, nothing, 1, nothing, parts[4]).get() == 6);
    CHECK(t.pool.submit([] { return 3; }, nothing).get() == 3);
    std::vector<mp::Future<std::string>> texts{text, text};
    CHECK(t.pool.submit([](const std::vector<std::string>& two) { return two[0] == two[1]; }, texts)
              .get());
}

POOL_CASE("Composition", "what shares pointers is written anew, each with its own",
          "[both][late]") {
    TestType t;
    auto a = t.pool.submit(make_named, 1), b = t.pool.submit(make_named, 2);
    CHECK(t.pool.submit(sum_named, a, std::make_shared<int>(10), b).get() == 13);
    std::vector<mp::Future<Named>> all{a, b};
    auto names = [](const std::vector<Named>& each) { return each[0].name + each[1].name; };
    CHECK(t.pool.submit(names, all).get() == "n1n2");
}

namespace {
// Says that it has more than it has.
struct Liar {
    int claims = 3;
    template <class Archive>
    void save(Archive& archive) const {
        archive(claims);
    }
    template <class Archive>
    void load(Archive& archive) {
        archive(claims);
        std::vector<std::string> more;
        if (claims != 0) archive(more);
    }
};
}  // namespace

TEST_CASE("an argument that cannot be read is said to be one", "[pool][late]") {
    mp::Pool pool({.processes = 1});
    auto claims = [](const Liar& liar) { return liar.claims; };
    CHECK_THROWS_WITH(pool.submit(claims, Liar()).get(),
                      Catch::StartsWith("argument 1 of 1 could not be read: "));
    auto third = [](int, const std::string&, const Liar& liar, int) { return liar.claims; };
    CHECK_THROWS_WITH(pool.submit(third, 1, "two", Liar(), 4).get(),
                      Catch::StartsWith("argument 3 of 4 could not be read: "));
    std::vector<Liar> items(20, Liar{0});
    items[17].claims = 1;
    const char* const unread = "item 17 of the map could not be read: ";
    CHECK_THROWS_WITH(pool.map(claims, items), Catch::StartsWith(unread));
    for (auto& item : pool.imap(claims, items, {.chunksize = 7}).outcomes()) {
        CHECK(item.has_value() == (item.index() != 17));
        if (item.index() == 17) CHECK_THROWS_WITH(item.value(), Catch::StartsWith(unread));
    }
    auto liar = pool.submit([] { return Liar(); });
    CHECK_THROWS_AS(liar.get(), mp::SerializationError);
    CHECK_THROWS_WITH(pool.submit(claims, liar).get(),
                      Catch::StartsWith("an argument of the task, a result of another, could "));
}

TEST_CASE("bytes that are to be an argument are those of one value", "[pool][late]") {
    using Value = std::tuple<int, std::map<std::string, std::vector<double>>, std::optional<bool>,
                             std::vector<std::string>, std::pair<char, std::set<int>>>;
    Value value{1, {{"a", {1.5, 2.5}}, {"b", {}}}, true, {"x", "", "yz"}, {'c', {7, 8}}};
    mp::detail::HeapBuffer buffer;
    mp::OutputArchive archive(buffer);
    archive(value);
    auto bytes = buffer.bytes();
    STATIC_REQUIRE(mp::detail::kSameAnywhere<Value>);
    STATIC_REQUIRE_FALSE(mp::detail::kSameAnywhere<std::vector<Named>>);
    STATIC_REQUIRE_FALSE(mp::detail::kSameAnywhere<std::pair<int, std::shared_ptr<int>>>);
    mp::detail::check_bytes<Value>(bytes);
    for (std::size_t size = 0; size < bytes.size(); ++size)
        CHECK_THROWS_AS(mp::detail::check_bytes<Value>(bytes.first(size)), mp::SerializationError);
    archive(value);
    CHECK_THROWS_AS(mp::detail::check_bytes<Value>(buffer.bytes()), mp::SerializationError);
}

POOL_CASE("Composition", "a task waits for what comes later, and for whoever makes it",
          "[both][late]") {
    TestType t;
    mp::Promise<int> promise;
    mp::ThreadPool threads({.threads = 1});
    mp::Pool other({.processes = 1});
    auto late = t.pool.submit(test::add, promise.future(), 1);
    auto later = t.pool.submit(test::add, late, threads.submit(test::add, 1, 1));
    auto last = t.pool.submit(test::add, other.submit(test::add, later, 0), 10);
    std::vector<int> items{1, 2};
    auto mapped = t.pool.submit([](const std::vector<long>& v) { return v.size(); },
                                t.pool.map_async(test::square, items));
    CHECK(mapped.get() == 2);
    CHECK_FALSE(last.ready());
    CHECK_FALSE(late.running());
    CHECK(t.pool.submit(test::add, 1, 1).get() == 2);  // nobody waits for it meanwhile
    // (A thread may be at the end of what is done.)
    auto left = [&t] { return t.pool.stats().submitted - t.pool.stats().completed; };
    CHECK(test::eventually([&] { return left() == 3; }));
    promise.set_value(4);
    CHECK(last.get() == 17);
    CHECK(late.get() == 5);
    CHECK(test::eventually([&] { return left() == 0; }));
}

POOL_CASE("Composition", "a failure or a cancellation becomes the dependent's, and so on",
          "[both][late]") {
    TestType t;
    auto bad = t.pool.submit(throws, 1);
    auto next = t.pool.submit(test::add, bad, 1);
    auto end = t.pool.submit(test::add, 1, next);
    CHECK_THROWS_MATCHES(end.get(), std::out_of_range, Catch::Message("the first one threw"));
    CHECK_FALSE(next.cancelled());
    // It does not wait for the others to know.
    mp::Promise<int> never;
    CHECK_THROWS_AS(t.pool.submit(test::add, never.future(), bad).get(), std::out_of_range);
    mp::Promise<int> promise;
    auto waits = t.pool.submit(test::add, promise.future(), 1);
    auto behind = t.pool.submit(test::add, waits, 1);
    CHECK(waits.cancel());
    CHECK(waits.cancelled());
    CHECK_THROWS_AS(behind.get(), mp::CancelledError);
    CHECK(behind.cancelled());
    CHECK_FALSE(promise.future().cancelled());  // never upwards
    CHECK(promise.future().cancel());
    CHECK_THROWS_AS(t.pool.submit(test::add, promise.future(), 1).get(), mp::CancelledError);
}

THREADS_CASE("Composition",
             "in threads std::ref(future) passes the handle, and nobody waits for it", "[late]",
             "pointers cannot travel, nor std::ref: the other process has memory of its own") {
    Threads t;
    mp::Promise<int> promise;
    mp::Future<int> pending = promise.future(), done = t.pool.submit(test::add, 1, 2);
    auto is_ready = [](mp::Future<int>& future) { return future.ready(); };
    CHECK_FALSE(t.pool.submit(is_ready, std::ref(pending)).get());
    auto looks = [](const mp::Future<int>& future) { return &future; };
    CHECK(t.pool.submit(looks, std::cref(pending)).get() == &pending);
    // Beside one that is waited for.
    auto both = [](int value, mp::Future<int>& future) { return future.ready() ? -1 : value; };
    CHECK(t.pool.submit(both, done, std::ref(pending)).get() == 3);
    CHECK(pending.cancel());
}

TEST_CASE("in threads a map's items are not looked into", "[pool][late]") {
    Threads t;
    mp::Promise<int> promise;
    auto done = t.pool.submit(test::add, 1, 2);
    done.wait();
    const std::vector<mp::Future<int>> items{promise.future(), done};
    auto is_ready = [](const mp::Future<int>& future) { return future.ready() ? 1 : 0; };
    CHECK(t.pool.map(is_ready, items) == std::vector{0, 1});
    CHECK(t.pool.map_async(is_ready, items).get() == std::vector{0, 1});
    for (int ready : t.pool.imap(is_ready, std::vector{done})) CHECK(ready == 1);
    auto count_ready = [](const std::vector<mp::Future<int>>& all) {
        return std::count_if(all.begin(), all.end(), [](auto& future) { return future.ready(); });
    };
    CHECK(t.pool.map(count_ready, std::vector{items, {done, done}}) == std::vector{1L, 2L});
    auto of_two = [](const mp::Future<int>& future, int x) { return future.ready() ? x : 0; };
    CHECK(t.pool.starmap(of_two, std::vector{std::pair(items[0], 5), std::pair(items[1], 6)}) ==
          std::vector{0, 6});
}

TEST_CASE("in threads a future that is the value of another one is not unwrapped, nor a member",
          "[pool][late]") {
    Threads t;
    mp::Promise<int> promise;
    const mp::Future<int> inner = promise.future();
    auto outer = t.pool.submit([inner] { return inner; });
    auto is_ready = [](const mp::Future<int>& future) { return future.ready(); };
    CHECK_FALSE(t.pool.submit(is_ready, outer).get());
    CHECK_FALSE(outer.then(is_ready).get());
    CHECK_FALSE(t.pool.submit(is_ready, t.pool.submit([outer] { return outer; }).get()).get());
    auto first_is_ready = [](const std::vector<mp::Future<int>>& all) { return all[0].ready(); };
    CHECK_FALSE(t.pool.submit(first_is_ready, std::vector{outer}).get());
    struct Holder {
        mp::Future<int> future;
    };
    auto holds_ready = [](const Holder& holder) { return holder.future.ready(); };
    CHECK_FALSE(t.pool.submit(holds_ready, Holder{inner}).get());
    promise.set_value(4);
    CHECK(outer.get().get() == 4);
    CHECK(t.pool.submit([](const mp::Future<int>& future) { return future.get(); }, outer).get() ==
          4);
}

namespace {
// What whoever catches the future's error is told: type and text, and where it came from.
std::string traceback_of(const mp::Future<int>& future) {
    try {
        (void)future.get();
    } catch (const std::exception& error) {
        return mp::remote_traceback(error);
    }
    return "no error";
}
}  // namespace

TEST_CASE("a dependent's error says which task of which process threw it, however long the way",
          "[pool][late]") {
    mp::Pool pool({.processes = 1});
    mp::Pool other({.processes = 1});
    mp::ThreadPool threads({.threads = 1});
    const std::string process = "(process " + std::to_string(pool.apply(test::own_pid)) + ")";
    auto bad = pool.submit(throws, 1);  // the second of its pool
    const std::string where = traceback_of(bad);
    CHECK_THAT(where, Catch::StartsWith("std::out_of_range: the first one threw\n") &&
                          Catch::Contains(process) && Catch::Contains("  in task 2\n"));
    auto next = pool.submit(test::add, bad, 1);
    CHECK(traceback_of(next) == where);
    CHECK(traceback_of(other.submit(test::add, 1, next)) == where);
    CHECK(traceback_of(threads.submit(test::add, next, next)) == where);
    CHECK(traceback_of(other.submit(test::add, threads.submit(test::add, next, 1), 1)) == where);
    CHECK(traceback_of(bad.then(test::square).then([](long) { return 1; })) == where);
    auto sum = [](const std::vector<int>& all) { return all[0]; };
    CHECK(traceback_of(other.submit(sum, mp::when_all(std::vector{bad, bad}))) == where);
    auto value = [](const mp::FirstOf<int>& first) { return first.value; };
    CHECK(traceback_of(other.submit(value, mp::when_any(std::vector{bad}))) == where);
    auto promise = std::make_unique<mp::Promise<int>>();
    auto late = other.submit(test::add, promise->future(), 1);
    promise->set_exception(bad.exception());
    CHECK(traceback_of(late) == where);
    // Of a map: the item, too.
    auto picky = [](int x) { return x == 17 ? throws(x) : x; };
    auto mapped = pool.map_async(picky, test::numbers(20));
    auto last = other.submit([](const std::vector<int>& all) { return all.back(); }, mapped);
    CHECK_THAT(traceback_of(last),
               Catch::Contains(process) && Catch::Contains("  in item 17 of the map\n"));
}

TEST_CASE("what can be moved only is an argument of one attempt", "[pool][late]") {
    Threads t;
    auto value = [](std::unique_ptr<int> number) { return *number; };
    mp::Promise<std::unique_ptr<int>> promise;
    CHECK_THROWS_AS(t.pool.submit({.retry = {.max_attempts = 2}}, value, promise.future()),
                    std::invalid_argument);
    auto result = t.pool.submit(value, promise.future());
    promise.set_value(std::make_unique<int>(7));
    CHECK(result.get() == 7);
}

}  // namespace late_test
