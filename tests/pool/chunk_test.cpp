// Maps in which single items crash, hang, throw or use too much memory: the others of their chunk
// do not notice.
#include <poll.h>
#include <signal.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "pool_support.hpp"

namespace chunk_test {

namespace mp = sidestep;
using namespace std::chrono_literals;
using test::methods;
using test::numbers;

namespace {

// Counts how often each item ran, in word i; every 10th item dies.
struct Crasher {
    std::string path;
    int modulus = 10;
    int operator()(int x) const {
        test::bump(path, static_cast<std::size_t>(x));
        return x % modulus == 3 ? test::die(SIGKILL) : 2 * x;
    }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(path, modulus);
    }
};

// The first time that an item of these runs it dies, throws or hangs; then it works.
struct Flaky {
    std::string path;
    int operator()(int x) const {
        std::uint64_t before = test::bump(path, static_cast<std::size_t>(x));
        if (before == 0 && x % 7 == 2) test::die(SIGKILL);
        if (before == 0 && x % 7 == 3) throw std::runtime_error("flaky");
        while (before == 0 && x % 7 == 5) pause();  // a timeout's question ends one
        return static_cast<int>(mp::this_task::attempt());
    }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(path);
    }
};

std::string long_text(int x) {
    if (x == 25) test::die(SIGSEGV);
    return std::string(10'000, static_cast<char>('a' + x % 26));
}

// What happens to an item while it is read.
enum class Reading { works, dies, throws, hangs, takes_long };
struct Read {
    int number = 0;
    Reading how = Reading::works;
    template <class Archive>
    void save(Archive& archive) const {
        archive(number, how);
    }
    template <class Archive>
    void load(Archive& archive) {
        archive(number, how);
        if (how == Reading::dies) test::die(SIGKILL);
        if (how == Reading::throws) throw std::runtime_error("unreadable");
        while (how == Reading::hangs) pause();
        if (how == Reading::takes_long) poll(nullptr, 0, 400);
    }
};
int number_of(const Read& item) { return item.number; }
std::vector<Read> readable(int count) {
    std::vector<Read> items;
    for (int i = 0; i < count; ++i) items.push_back({i, Reading::works});
    return items;
}

// Leaves something in an archive for those that come after: a version, and a pointer that several
// share. One of them cannot be written, or read, or dies there.
struct Versioned {
    std::shared_ptr<int> number;
    Reading how = Reading::works;
    bool writable = true;
    template <class Archive>
    void save(Archive& archive, std::uint32_t) const {
        archive(number);
        if (!writable) throw std::runtime_error("unwritable");
        archive(how);
    }
    template <class Archive>
    void load(Archive& archive, std::uint32_t version) {
        archive(number, how);
        if (version != 7) throw std::runtime_error("not version 7");
        if (how == Reading::dies) test::die(SIGKILL);
        if (how == Reading::throws) throw std::runtime_error("unreadable");
    }
};
Versioned same(const Versioned& item) { return item; }
Versioned unwritable_at_two(const Versioned& item) {
    Versioned result = item;
    result.writable = *item.number != 2;
    return result;
}
std::vector<Versioned> sharing(int count, int first_of_two) {
    std::vector<Versioned> items;
    for (int i = 0; i < count; ++i) {
        items.push_back({std::make_shared<int>(i)});
        if (i == first_of_two + 1)
            items.back().number = items[static_cast<std::size_t>(first_of_two)].number;
    }
    return items;
}

int hang_at(int x) {
    while (x == 5 || x == 17) pause();
    return x;
}

}  // namespace
}  // namespace chunk_test

CEREAL_CLASS_VERSION(chunk_test::Versioned, 7)

namespace chunk_test {

TEST_CASE("items that kill their workers fail alone, and every other item runs once",
          "[pool][chunk][lost]") {
    auto method = GENERATE(from_range(methods()));
    bool ordered = GENERATE(true, false);
    test::SharedWords words(60);
    mp::Pool pool({.processes = 2, .start_method = method});
    std::set<std::size_t> failed, seen;
    auto check = [&](auto&& stream) {
        for (auto& item : std::move(stream).outcomes()) {
            CHECK(seen.insert(item.index()).second);
            if (item) {
                CHECK(item.value() == 2 * static_cast<int>(item.index()));
                continue;
            }
            failed.insert(item.index());
            try {
                item.value();
            } catch (const mp::WorkerLost& error) {
                CHECK(error.item() == item.index());
                CHECK_THAT(error.what(), Catch::Contains("item " + std::to_string(item.index())));
            }
        }
    };
    if (ordered)
        check(pool.imap(Crasher{words.path()}, numbers(60), {.chunksize = 20}));
    else
        check(pool.imap_unordered(Crasher{words.path()}, numbers(60), {.chunksize = 20}));
    CHECK(seen.size() == 60);
    CHECK(failed == std::set<std::size_t>{3, 13, 23, 33, 43, 53});
    for (std::size_t i = 0; i < 60; ++i) CHECK(words[i] == 1);
}

TEST_CASE("an item that kills its worker, throws or hangs while it is read fails alone",
          "[pool][chunk][lost][read]") {
    auto method = GENERATE(from_range(methods()));
    Reading how = GENERATE(Reading::dies, Reading::throws, Reading::hangs);
    mp::Pool pool(
        {.processes = 2, .start_method = method, .stop_grace = 10ms, .terminate_grace = 10ms});
    auto items = readable(20);
    const std::set<std::size_t> bad{0, 3, 4, 19};
    for (std::size_t i : bad) items[i].how = how;
    std::set<std::size_t> failed;
    mp::MapOptions options{.chunksize = 20};
    if (how == Reading::hangs) options.task.timeout = 500ms;
    for (auto& item : pool.imap(number_of, items, options).outcomes()) {
        if (item)
            CHECK(item.value() == static_cast<int>(item.index()));
        else
            failed.insert(item.index());
    }
    CHECK(failed == bad);
    std::size_t deaths =
        how == Reading::throws ? 0 : bad.size();  // that of one stopped comes later
    CHECK(test::eventually([&] { return pool.stats().worker_deaths == deaths; }));
}

TEST_CASE("the time that items take to be read is their own", "[pool][chunk][timeout][read]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    auto items = readable(9);  // to read all of them again would take longer than the timeout
    for (std::size_t i = 0; i < 7; ++i) items[i].how = Reading::takes_long;
    items[7].how = Reading::dies;
    std::vector<std::size_t> failed;
    mp::MapOptions options{.chunksize = 9, .task = {.timeout = 2500ms}};
    for (auto& item : pool.imap(number_of, items, options).outcomes())
        if (!item) failed.push_back(item.index());
    CHECK(failed == std::vector<std::size_t>{7});
}

TEST_CASE("what an item leaves in its archive is no other item's", "[pool][chunk][lost][read]") {
    auto method = GENERATE(from_range(methods()));
    Reading how = GENERATE(Reading::dies, Reading::throws, Reading::works);
    int bad = GENERATE(0, 2);  // 0: the first, with the version; 2: with what the next one shares
    mp::Pool pool({.processes = 1, .start_method = method});
    auto items = sharing(6, bad);
    auto at = static_cast<std::size_t>(bad);
    items[at].how = how;
    items[at].writable = how != Reading::works;  // then it is that which fails
    std::vector<std::size_t> failed;
    for (auto& item : pool.imap(same, items, {.chunksize = 6}).outcomes()) {
        int number =
            static_cast<int>(item.index()) == bad + 1 ? bad : static_cast<int>(item.index());
        if (item)
            CHECK(*item.value().number == number);
        else
            failed.push_back(item.index());
    }
    CHECK(failed == std::vector<std::size_t>{at});
    // The same of results.
    failed.clear();
    items = sharing(6, 2);
    for (auto& item : pool.imap(unwritable_at_two, items, {.chunksize = 6}).outcomes())
        if (!item) failed.push_back(item.index());
    CHECK(failed == std::vector<std::size_t>{2, 3});  // 3 points to the same number
}

TEST_CASE("results that were finished before the crash are kept, large ones too",
          "[pool][chunk][lost]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    std::size_t good = 0;
    for (auto& item : pool.imap(long_text, numbers(40), {.chunksize = 40}).outcomes()) {
        if (item.index() == 25) {
            CHECK_THROWS_AS(item.value(), mp::WorkerLost);
            continue;
        }
        REQUIRE(item.has_value());
        good += item.value() == long_text(static_cast<int>(item.index()));
    }
    CHECK(good == 39);
}

TEST_CASE("an item that hangs fails with TaskTimeout, the rest of its chunk runs",
          "[pool][chunk][timeout]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<std::size_t> failed;
    auto stream = pool.imap(hang_at, numbers(20), {.chunksize = 20, .task = {.timeout = 1s}});
    for (auto& item : stream.outcomes()) {
        if (item) {
            CHECK(item.value() == static_cast<int>(item.index()));
            continue;
        }
        failed.push_back(item.index());
        CHECK_THROWS_AS(item.value(), mp::TaskTimeout);
    }
    CHECK(failed == std::vector<std::size_t>{5, 17});
}

TEST_CASE("the timeout is each item's, not the chunk's", "[pool][chunk][timeout]") {
    mp::Pool pool({.processes = 1});
    auto nap = [](int x) {
        poll(nullptr, 0, 300);
        return x;
    };
    CHECK(pool.map(nap, numbers(12), {.chunksize = 12, .task = {.timeout = 3s}}) == numbers(12));
}

TEST_CASE("in a chunk only the items that failed are run again", "[pool][chunk][retry]") {
    auto method = GENERATE(from_range(methods()));
    bool ordered = GENERATE(true, false);
    test::SharedWords words(28);
    mp::Pool pool({.processes = 2, .start_method = method});
    mp::MapOptions options{.chunksize = 14, .task = {.timeout = 1s, .retry = {.max_attempts = 2}}};
    std::map<std::size_t, int> attempts;
    auto take = [&](auto&& stream) {
        for (auto& item : std::move(stream).outcomes()) attempts[item.index()] = item.value();
    };
    if (ordered)
        take(pool.imap(Flaky{words.path()}, numbers(28), options));
    else
        take(pool.imap_unordered(Flaky{words.path()}, numbers(28), options));
    CHECK(attempts.size() == 28);
    for (std::size_t i = 0; i < 28; ++i) {
        bool flaky = i % 7 == 2 || i % 7 == 3 || i % 7 == 5;
        CAPTURE(i);
        CHECK(words[i] == (flaky ? 2u : 1u));
        CHECK(attempts[i] == (flaky ? 2 : 1));
    }
}

TEST_CASE("an item that fails as often as it may fails with its last error",
          "[pool][chunk][retry]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    auto bad = [](int x) {
        if (x == 4) throw std::runtime_error("attempt " + std::to_string(mp::this_task::attempt()));
        if (x == 6) test::die(SIGKILL);
        return x;
    };
    mp::MapOptions options{.chunksize = 10,
                           .task = {.retry = {.max_attempts = 3, .max_crashes = 2}}};
    for (auto& item : pool.imap(bad, numbers(10), options).outcomes()) {
        if (item.index() == 4)
            CHECK_THROWS_WITH(item.value(), Catch::Contains("attempt 3"));
        else if (item.index() == 6)
            CHECK_THROWS_AS(item.value(), mp::WorkerLost);
        else
            CHECK(item.value() == static_cast<int>(item.index()));
    }
}

TEST_CASE("an item that takes too much memory fails alone", "[pool][chunk][memory]") {
    mp::Pool pool({.processes = 2});
    auto eat = [](int x) {
        std::vector<std::vector<char>> hoard;
        while (x == 3 && hoard.size() < 4096) {
            hoard.emplace_back(std::size_t(1) << 20, 'x');
            poll(nullptr, 0, 1);  // so that it can be looked at
        }
        return x;
    };
    mp::MapOptions options{.chunksize = 8, .task = {.memory_limit = std::size_t(256) << 20}};
    for (auto& item : pool.imap(eat, numbers(8), options).outcomes()) {
        if (item.index() == 3)
            CHECK_THROWS_AS(item.value(), mp::OutOfMemory);
        else
            CHECK(item.value() == static_cast<int>(item.index()));
    }
}

TEST_CASE("an item's place in the input decides its random numbers, not its chunk or worker",
          "[pool][chunk][random]") {
    auto draw = [](int) { return mp::this_task::random_seed(); };
    mp::Pool one({.processes = 1, .seed = 7});
    mp::Pool three({.processes = 3, .seed = 7});
    mp::Pool other({.processes = 1, .seed = 8});
    auto expected = one.map(draw, numbers(50), {.chunksize = 50});
    CHECK(three.map(draw, numbers(50), {.chunksize = 3}) == expected);
    CHECK(other.map(draw, numbers(50)) != expected);
    CHECK(std::set(expected.begin(), expected.end()).size() == 50);
}

#ifndef TEST_SANITIZED
TEST_CASE("a crash in a chunk whose results cannot be saved costs the chunk, not the pool",
          "[pool][chunk][memory]") {
    // Two workers: one cannot be replaced while the limit holds.
    mp::Pool pool({.processes = 2, .arena_bytes = std::size_t(1) << 30});
    auto large = [](int x) {
        if (x == 3) test::die(SIGKILL);
        return std::string(std::size_t(64) << 20, 'x');
    };
    pool.apply(test::add, 1, 2);  // the worker is there
    std::size_t lost = 0;
    {
        test::AddressSpaceLimit limit(std::size_t(96) << 20);  // 192 MiB are to be saved
        for (auto& item : pool.imap(large, numbers(4), {.chunksize = 4}).outcomes()) {
            CHECK_THROWS_AS(item.value(), mp::WorkerLost);
            ++lost;
        }
    }
    CHECK(lost == 4);
    CHECK(pool.apply(test::add, 1, 2) == 3);
}
#endif

}  // namespace chunk_test
