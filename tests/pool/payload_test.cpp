// Large arguments and results: what they cost beside the copies.
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/event.hpp>

#include "policy_support.hpp"

namespace payload_test {

namespace mp = sidestep;

namespace {

constexpr std::size_t kLarge = std::size_t(4) << 20;

std::vector<double> copy_of(const std::vector<double>& values) { return values; }

struct Counted {
    int value = 7;
    static inline int copies = 0;
    Counted() = default;
    Counted(const Counted& other) : value(other.value) { ++copies; }
    Counted& operator=(const Counted&) = default;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(value);
    }
};
const Counted& what_is_there() {
    static Counted counted;
    return counted;
}

// The memory that a process has of a pool's, by the name of the file that it is.
std::size_t resident(pid_t pid, const std::string& name) {
    std::map<ino_t, std::size_t> files;  // each once: there may be two descriptors
    std::error_code gone;
    for (const auto& entry :
         std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd", gone)) {
        struct stat status = {};
        if (std::filesystem::read_symlink(entry.path(), gone).string().find(name) !=
                std::string::npos &&
            stat(entry.path().c_str(), &status) == 0)
            files[status.st_ino] = static_cast<std::size_t>(status.st_blocks) * 512;
    }
    std::size_t sum = 0;
    for (const auto& [inode, bytes] : files) sum += bytes;
    return sum;
}
std::string text_of(std::size_t size) { return std::string(size, 'x'); }
std::size_t length_of(const std::string& text) { return text.size(); }
std::size_t size_of(const std::vector<char>& bytes) { return bytes.size(); }
std::vector<char> bytes_of(std::size_t size) { return std::vector<char>(size, 'x'); }
void wait_for(mp::Event event) { event.wait(); }
// So many bytes in pieces of one size, all in flight at a time.
std::size_t burst(mp::Pool& pool, std::size_t total, std::size_t piece) {
    mp::Event go;
    auto gate = pool.submit(wait_for, go);
    std::vector<char> data(piece, 'x');
    std::vector<mp::Future<std::size_t>> sizes;
    for (std::size_t sent = 0; sent + piece <= total; sent += piece)
        sizes.push_back(pool.submit(size_of, data));
    go.set();
    std::size_t sum = 0;
    for (auto& size : sizes) sum += test::get(size);
    return sum;
}

}  // namespace

TEST_CASE("large values arrive whole, wherever they lie in the message", "[pool][payload]") {
    mp::Pool pool({.processes = 1});
    std::vector<double> values(2 * kLarge / sizeof(double));
    std::iota(values.begin(), values.end(), 0.5);
    std::string text(kLarge + 3, 'a');
    text.back() = 'z';
    CHECK(pool.apply(copy_of, values) == values);
    // Behind an odd number of bytes the numbers are not aligned.
    auto both = pool.apply(
        [](char, const std::string& s, const std::vector<double>& v) { return std::pair(s, v); },
        'c', text, values);
    CHECK(both.first == text);
    CHECK(both.second == values);
    CHECK(pool.apply(copy_of, std::vector<double>()).empty());
}

TEST_CASE("small values of any size come and go, whichever of them is larger", "[pool][payload]") {
    mp::Pool pool({.processes = 1});
    std::vector<mp::Future<std::string>> grown;
    std::vector<mp::Future<std::size_t>> sizes;
    for (std::size_t size = 0; size < 200; ++size) {
        grown.push_back(pool.submit(text_of, size));
        sizes.push_back(pool.submit(length_of, std::string(size, 'x')));
    }
    for (std::size_t size = 0; size < 200; ++size) {
        CHECK(test::get(grown[size]) == std::string(size, 'x'));
        CHECK(test::get(sizes[size]) == size);
        CHECK(grown[size].get() == std::string(size, 'x'));  // once more
    }
}

TEST_CASE("a result that is returned by reference is not copied", "[pool][payload]") {
    auto method = GENERATE(from_range(test::methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    CHECK(pool.apply(what_is_there).value == 7);
    CHECK(pool.apply([] { return Counted::copies; }) == 0);
    // It may refer to an argument.
    auto longer = [](const std::string& a, const std::string& b) -> const std::string& {
        return a.size() > b.size() ? a : b;
    };
    CHECK(pool.apply(longer, std::string(kLarge, 'a'), "b") == std::string(kLarge, 'a'));
}

#ifndef TEST_SANITIZED  // they have heaps of their own
namespace {

std::string make(std::size_t bytes) { return std::string(bytes, 'x'); }
std::size_t use_and_free(std::size_t bytes) { return std::string(bytes, 'x').size(); }

// A field of /proc/PID/stat, counted as proc(5) does.
long stat_field(int pid, int number) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string line;
    std::getline(file, line);
    std::string_view rest = std::string_view(line).substr(line.rfind(')') + 2);  // field 3
    for (; number > 3; --number) rest.remove_prefix(rest.find(' ') + 1);
    return std::stol(std::string(rest.substr(0, rest.find(' '))));
}
long faults(int pid) { return stat_field(pid, 10); }
long resident_pages(int pid) { return stat_field(pid, 24); }

}  // namespace

TEST_CASE("what a task freed the next one uses: no page is asked for again", "[pool][payload]") {
    auto method = GENERATE(from_range(test::methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    std::vector<double> values(kLarge / sizeof(double), 1.5);
    int worker = pool.worker_pids().front();
    for (int i = 0; i < 5; ++i) (void)pool.apply(copy_of, values);
    long before = faults(worker);
    for (int i = 0; i < 20; ++i) (void)pool.apply(copy_of, values);
    // 1500 for each task otherwise; large pages may be split and joined now and then.
    CHECK(faults(worker) - before < 20 * 150);
}

TEST_CASE("a worker that has nothing to do gives back what tasks freed", "[pool][payload]") {
    mp::Pool pool({.processes = 1});
    constexpr std::size_t kBytes = std::size_t(24) << 20;
    int worker = pool.worker_pids().front();
    (void)pool.apply(use_and_free, std::size_t(1));
    long small = resident_pages(worker);
    (void)pool.apply(use_and_free, kBytes);
    CHECK(test::eventually(
        [&] { return resident_pages(worker) < small + static_cast<long>(kBytes / 4096 / 4); }));
}

TEST_CASE("a worker that has nothing to do holds no huge result that was taken",
          "[pool][payload]") {
    mp::Pool pool({.processes = 1});
    constexpr std::size_t kBytes = std::size_t(600) << 20;  // more than an arena keeps
    int worker = pool.worker_pids().front();
    (void)pool.apply(make, std::size_t(1));
    long small = resident_pages(worker);
    CHECK(pool.apply(make, kBytes).size() == kBytes);
    CHECK(test::eventually(
        [&] { return resident_pages(worker) < small + static_cast<long>(kBytes / 4096 / 4); }));
}
#endif

namespace {

struct Hidden {  // what no compiler sees
    sidestep::Bound<int (*)(int, int), int> call;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(call);
    }
};
int subtract(int a, int b) { return a - b; }

struct Deep {
    std::unique_ptr<Deep> next;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(next);
    }
};
Deep deep(int nodes) {
    Deep all;
    for (Deep* last = &all; --nodes > 0; last = last->next.get())
        last->next = std::make_unique<Deep>();
    return all;
}

}  // namespace

TEST_CASE("functions go to workers as arguments, and none comes back in a result",
          "[pool][payload]") {
    auto method = GENERATE(from_range(test::methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    Hidden hidden = {mp::bind(&subtract, 44)};
    auto call = [](const Hidden& arrived) { return arrived.call(2); };
    CHECK(pool.submit(call, hidden).get() == 42);
    CHECK(pool.map(call, std::vector{hidden, hidden}) == std::vector{42, 42});
    auto give_back = [](Hidden arrived) { return arrived; };
    CHECK_THROWS_WITH(pool.submit(give_back, hidden).get(),
                      Catch::Contains("could name any function"));
    // It is that result's error, and nothing else's.
    std::vector<int> answers;
    for (int n : pool.imap([](int n) { return n; }, std::vector{1, 2})) answers.push_back(n);
    CHECK(answers == std::vector{1, 2});
}

TEST_CASE("a result that is too deep is its own error", "[pool][payload]") {
    auto method = GENERATE(from_range(test::methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    auto depth = [](const Deep& first) {
        int nodes = 0;
        for (const Deep* at = &first; at; at = at->next.get()) ++nodes;
        return nodes;
    };
    CHECK(depth(pool.submit(deep, 500).get()) == 500);
    CHECK_THROWS_WITH(pool.submit(deep, 501).get(), Catch::Contains("1000 deep"));
    // One item's error leaves the others of its chunk.
    std::vector<int> depths;
    auto stream = pool.imap(deep, std::vector{3, 5000, 4}, {.chunksize = 3});
    int failed = 0;
    for (auto& outcome : stream.outcomes()) {
        if (outcome.has_value())
            depths.push_back(depth(outcome.value()));
        else
            ++failed;
    }
    CHECK(depths == std::vector{3, 4});
    CHECK(failed == 1);
}

TEST_CASE("bursts of arguments that differ in size take 1.5 times the largest; then nothing",
          "[pool][payload][arena]") {
    auto method = GENERATE(from_range(test::methods()));
    constexpr std::size_t kBurst = std::size_t(32) << 20;
    mp::Pool pool({.processes = 1, .start_method = method, .arena_bytes = 2 * kBurst});
    for (std::size_t tenths : {10u, 14u, 20u, 28u, 3u, 41u}) {
        std::size_t piece = (std::size_t(1) << 20) * tenths / 10;
        CHECK(burst(pool, kBurst, piece) == kBurst / piece * piece);
        CHECK(resident(getpid(), "sidestep-args") <= kBurst * 3 / 2);
    }
    CHECK(resident(getpid(), "sidestep-args") > kBurst / 2);
    CHECK(test::eventually(
        [] { return resident(getpid(), "sidestep-args") < std::size_t(64) << 10; }));
    CHECK(burst(pool, kBurst, 1000) > 0);
    CHECK(test::eventually(
        [] { return resident(getpid(), "sidestep-args") < std::size_t(64) << 10; }));
}

TEST_CASE("a worker with nothing to do has no memory of the results that it had",
          "[pool][payload][arena]") {
    auto method = GENERATE(from_range(test::methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    pid_t worker = pool.worker_pids()[0];
    {
        std::vector<mp::Future<std::vector<char>>> results;
        for (std::size_t i = 0; i < 20; ++i)
            results.push_back(pool.submit(bytes_of, std::size_t(200'000) + i * 50'000));
        for (std::size_t i = 0; i < 1500; ++i)  // more than are given back at a time
            results.push_back(pool.submit(bytes_of, std::size_t(1000)));
        std::size_t sum = 0;
        for (auto& result : results) sum += test::get(result).size();
        CHECK(sum == 20 * 200'000 + 190 * 50'000 + 1500 * 1000);
        CHECK(resident(worker, "sidestep-results") > std::size_t(1) << 20);
    }
    CHECK(test::eventually(
        [&] { return resident(worker, "sidestep-results") < std::size_t(64) << 10; }));
}

TEST_CASE("an arena that is used up says how much of it is in use", "[pool][payload][arena]") {
    mp::Pool pool({.processes = 1, .arena_bytes = std::size_t(16) << 20});
    mp::Event go;
    auto gate = pool.submit(wait_for, go);
    std::vector<mp::Future<std::size_t>> sizes;
    std::string text;
    try {
        while (sizes.size() < 100)
            sizes.push_back(pool.submit(size_of, std::vector<char>(std::size_t(1) << 20)));
    } catch (const std::bad_alloc& error) {
        text = error.what();
    }
    CHECK_THAT(text, Catch::Contains("of 16777216 bytes are in use") &&
                         Catch::Contains("PoolOptions::arena_bytes"));
    go.set();
    for (auto& size : sizes) CHECK(test::get(size) == std::size_t(1) << 20);
}

}  // namespace payload_test
