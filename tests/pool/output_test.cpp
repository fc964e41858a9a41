// PoolOptions::output: what a task writes to stdout and stderr arrives with its future.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <sidestep/thread_pool.hpp>

#include "policy_support.hpp"
#include "stdout_file.hpp"

namespace output_test {

namespace mp = sidestep;
using test::error_of;
using test::get;
using test::kTell;
using test::methods;
using namespace std::chrono_literals;

namespace {

void write_to(int fd, const std::string& text) {
    if (write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) abort();
}
// In every way that there is, without an end of line or a flush.
int write_everywhere() {
    std::printf("printf ");
    std::cout << "cout ";
    write_to(1, "write ");
    std::fprintf(stderr, "fprintf ");
    std::cerr << "cerr ";
    std::clog << "clog ";
    std::clog.flush();
    write_to(2, "write ");
    return std::system("printf child; printf child-err >&2");
}
int say(int number) {
    std::printf("out %d", number);
    std::fprintf(stderr, "err %d", number);
    return number;
}
void truncate_err(const std::string& text) {
    std::ofstream("/dev/stderr") << text;  // as `... > /dev/stderr` in a shell
}
void truncate_err_and_say(const std::string& text) {
    say(7);
    truncate_err(text);
    std::fprintf(stderr, ", err 3");
}
void truncate_err_and_die(const std::string& text) {
    truncate_err(text);
    test::die(SIGKILL);
}
void say_and_throw() {
    std::printf("before it threw");
    throw std::domain_error("no");
}
void say_and_die(int signal) {
    std::printf("half a line");
    std::cout << " and the rest";
    std::fprintf(stderr, "first line\nit is over\n");
    test::die(signal);
}
int say_and_spin(const std::string& path) {
    std::printf("still at it");
    return test::spin(path);
}
void write_bytes(std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) text += static_cast<char>('a' + i % 26);
    write_to(1, text);
}
unsigned say_attempt(const std::string& path) {
    std::printf("attempt %u", mp::this_task::attempt());
    return test::fail_first(path, 2);
}
// Writes so much, then waits.
void flood(const std::string& path, std::size_t bytes) {
    const std::string line(std::size_t(1) << 16, 'x');
    for (std::size_t done = 0; done < bytes; done += line.size()) write_to(2, line);
    write_to(2, "end");
    test::wait_at(path, kTell, test::kGate);
}
long die_at_three(long item) {
    std::printf("item %ld.", item);
    if (item == 3) test::die(SIGKILL);
    return item;
}

// The memory that captured stderr takes in this process: what is written, and what is kept.
struct Files {
    std::uint64_t size = 0, memory = 0;
};
Files stderr_files() {
    Files sum;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
        std::error_code gone;
        std::string name = std::filesystem::read_symlink(entry.path(), gone).string();
        struct stat status = {};
        if (!name.starts_with("/memfd:sidestep-err") || stat(entry.path().c_str(), &status) < 0)
            continue;
        sum.size += static_cast<std::uint64_t>(status.st_size);
        sum.memory += static_cast<std::uint64_t>(status.st_blocks) * 512;
    }
    return sum;
}

enum class Way { printf, cout, cout_unsynced, clog_unsynced, wide, own_file };
int print(Way way, const std::string& path) {
    static FILE* own = nullptr;
    switch (way) {
        case Way::printf:
            std::printf("said");
            break;
        case Way::cout_unsynced:
            std::ios::sync_with_stdio(false);
            [[fallthrough]];
        case Way::cout:
            std::cout << "said";
            break;
        case Way::clog_unsynced:
            std::ios::sync_with_stdio(false);
            dup2(1, 2);
            std::clog << "said";
            break;
        case Way::wide:
            if (std::fwide(stdout, 1) > 0)
                std::wprintf(L"said");
            else  // by fork: this process has printed narrow characters already
                std::printf("said");
            break;
        case Way::own_file:
            if (!own) own = std::fopen(path.c_str(), "a");
            std::fprintf(own, "said");
    }
    return 1;
}
int print_item(int number) {
    std::printf("%d,", number);
    if (number == 4) test::die(SIGKILL);
    return number;
}
// Leaves a process behind that writes so much to stderr, says how that went, and waits.
int leave_writer(const std::string& path, std::size_t bytes, bool own_group) {
    test::SharedWords::Word* words = test::SharedWords::attach(path);
    if (fork() == 0) {
        if (own_group) setsid();
        words[test::kCount] = 1;  // from here on it survives the worker
        if (own_group) (void)test::await(words[test::kExtra]);
        const std::string line(std::size_t(1) << 16, 'x');
        std::size_t done = 0;
        for (; done < bytes; done += line.size())
            if (write(2, line.data(), line.size()) < 0) break;
        words[kTell] = done < bytes ? static_cast<std::uint64_t>(errno) : 1000;
        (void)test::await(words[test::kGate]);
        _exit(0);
    }
    (void)test::await(words[test::kCount]);
    return getpid();
}

mp::PoolOptions capturing(mp::StartMethod method, unsigned processes = 1) {
    return {.processes = processes, .start_method = method, .output = mp::Output::capture};
}

}  // namespace

TEST_CASE("all that a task and its children write to stdout and stderr comes with its future",
          "[pool][output]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool(capturing(method));
    for (int round = 0; round < 2; ++round) {
        mp::Future<int> f = pool.submit(write_everywhere);
        mp::TaskOutput output = f.output();
        CHECK(output.out == "printf cout write child");
        CHECK(output.err == "fprintf cerr clog write child-err");
        CHECK(output.out_dropped == 0);
        CHECK(output.err_dropped == 0);
        CHECK(f.get() == 0);
    }
    CHECK(pool.submit(test::add, 1, 2).output().out.empty());
}

TEST_CASE("a task that truncates its stdout or stderr costs no later task its output",
          "[pool][output]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool(capturing(method));
    auto err_of = [&](auto f, auto... arguments) {
        return pool.submit(f, arguments...).output().err;
    };
    CHECK(err_of(say, 1) == "err 1");
    for (const char* text : {"longer than that", "short", "short", "", "very much longer"}) {
        CHECK(err_of(truncate_err, std::string(text)) == text);
        CHECK(err_of(say, 2) == "err 2");
    }
    CHECK(err_of(truncate_err_and_say, std::string("new, and longer")) == "new, and longer, err 3");
    CHECK(err_of(say, 44) == "err 44");
    CHECK(pool.submit(say, 5).output().out == "out 5");
    mp::Future<void> died = pool.submit(truncate_err_and_die, std::string("of what it dies"));
    CHECK_THROWS_AS(get(died), mp::WorkerLost);
    CHECK(died.output().err == "of what it dies");
    CHECK(err_of(say, 6) == "err 6");
}

TEST_CASE("each task has its own output, whichever worker runs it", "[pool][output]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool(capturing(method, 3));
    std::vector<mp::Future<int>> futures;
    for (int i = 0; i < 1500; ++i) futures.push_back(pool.submit(say, i));  // rings go round
    bool right = true;
    for (int i = 0; i < 1500; ++i) {
        const auto& f = futures[static_cast<std::size_t>(i)];
        right = right && get(f) == i && f.output().out == "out " + std::to_string(i) &&
                f.output().err == "err " + std::to_string(i);
    }
    CHECK(right);
    mp::Future<void> failed = pool.submit(say_and_throw);
    CHECK_THROWS_AS(get(failed), std::domain_error);
    CHECK(failed.output().out == "before it threw");
}

TEST_CASE("what a task had written before it died is there, up to the last byte",
          "[pool][output][crash]") {
    auto method = GENERATE(from_range(methods()));
    int signal = GENERATE(SIGKILL, SIGSEGV);
    mp::Pool pool(capturing(method));
    for (int round = 0; round < 2; ++round) {  // in the worker that replaced the first, too
        CHECK(pool.submit(say, 1).output().out == "out 1");
        mp::Future<void> f = pool.submit(say_and_die, signal);
        auto error = error_of<mp::WorkerLost>(f);
        CHECK(error.output().out == "half a line and the rest");
        CHECK(error.output().err == "first line\nit is over\n");
        CHECK_THAT(error.what(), Catch::Contains("it last wrote \"it is over\" to stderr"));
        CHECK(f.output().out == error.output().out);
    }
}

TEST_CASE("a task that is stopped leaves what it had written", "[pool][output][timeout][cancel]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords late_words(test::kWords), words(test::kWords);
    mp::Pool pool(capturing(method));
    // Whether it got to write in time is not said: the second one surely has.
    auto late = pool.submit({.timeout = 1s}, say_and_spin, late_words.path());
    auto error = error_of<mp::TaskTimeout>(late);
    CHECK((error.output().out.empty() || error.output().out == "still at it"));
    auto cancelled = pool.submit(say_and_spin, words.path());
    test::await(words[kTell]);
    CHECK(cancelled.cancel());
    CHECK(cancelled.output().out == "still at it");
    CHECK(pool.submit(say, 4).output().out == "out 4");
}

TEST_CASE("of each stream the last bytes are kept, and the others counted", "[pool][output]") {
    auto method = GENERATE(from_range(methods()));
    mp::PoolOptions options = capturing(method);
    options.output_limit = 10;
    mp::Pool pool(options);
    CHECK(pool.submit(write_bytes, 9u).output().out == "abcdefghi");
    mp::TaskOutput all = pool.submit(write_bytes, 10u).output();
    CHECK(all.out == "abcdefghij");
    CHECK(all.out_dropped == 0);
    mp::TaskOutput most = pool.submit(write_bytes, 11u).output();
    CHECK(most.out == "bcdefghijk");
    CHECK(most.out_dropped == 1);
    CHECK(most.err_dropped == 0);
    options.output_limit = 0;
    CHECK_THROWS_AS(mp::Pool(options), std::invalid_argument);
}

TEST_CASE("a task that writes without end takes no memory beyond its limit", "[pool][output]") {
    auto method = GENERATE(from_range(methods()));
    constexpr std::size_t kBytes = std::size_t(64) << 20;
    test::SharedWords words(test::kWords);
    mp::Pool pool(capturing(method));
    mp::Future<void> f = pool.submit(flood, words.path(), kBytes);
    test::await(words[kTell]);
    CHECK(stderr_files().size == kBytes + 3);
    CHECK(test::eventually([] { return stderr_files().memory < std::size_t(4) << 20; }));
    words[test::kGate] = 1;
    get(f);
    mp::TaskOutput output = f.output();
    CHECK(output.err.size() == std::size_t(1) << 20);
    CHECK(output.err_dropped == kBytes + 3 - output.err.size());
    CHECK(output.err.ends_with("xxend"));
    CHECK(output.err.front() == 'x');
}

TEST_CASE("a task that is run again has the output of its last attempt", "[pool][output][retry]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool(capturing(method));
    auto f = pool.submit({.retry = {.max_attempts = 5}}, say_attempt, words.path());
    CHECK(get(f) == 3);
    CHECK(f.output().out == "attempt 3");
}

TEST_CASE("the items of a map: a stream has the output of each chunk, an error its own",
          "[pool][output][map]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool(capturing(method, 2));
    std::vector<long> items{0, 1, 2, 3, 4, 5};
    auto stream = pool.imap(die_at_three, items, {.chunksize = 1});
    for (auto& outcome : stream.outcomes()) {
        std::string said = "item " + std::to_string(outcome.index()) + ".";
        if (outcome) {
            CHECK(stream.output().out == said);
        } else {
            CHECK(outcome.index() == 3);
            CHECK(stream.output().out.empty());
            try {
                outcome.value();
            } catch (const mp::WorkerLost& lost) {
                CHECK(lost.output().out == said);
            }
        }
    }
    try {
        pool.map(die_at_three, items, {.chunksize = 6});
        FAIL("an error");
    } catch (const mp::WorkerLost& lost) {
        CHECK(lost.output().out == "item 0.item 1.item 2.item 3.");
    }
}

TEST_CASE("output that nobody captures cannot be asked for", "[pool][output]") {
    mp::Pool pool({.processes = 1});
    CHECK_THROWS_AS(pool.submit(test::add, 1, 2).output(), std::logic_error);
    CHECK_THROWS_AS(mp::Future<int>().output(), std::logic_error);
    mp::ThreadPool threads({.threads = 1});
    CHECK_THROWS_AS(threads.submit([] {}).output(), std::logic_error);
    mp::Pool captured(capturing(mp::StartMethod::spawn));
    CHECK_THROWS_AS(captured.map_async(test::square, std::vector<long>{1}).output(),
                    std::logic_error);
    mp::Pool inline_pool(capturing(mp::StartMethod::spawn, 0));
    CHECK(inline_pool.submit(test::add, 1, 2).output().out.empty());
}

TEST_CASE("initializer and finalizer write to the program's own output; it may have none",
          "[pool][output]") {
    auto method = GENERATE(from_range(methods()));
    auto program = test::run_program({"captured", test::name_of(method)});
    CHECK(program.exited_with(0));
    CHECK(program.output == "initializer\ntask: out 7\nfinalizer\n");
    CHECK(test::run_program({"captured-without-stdio", test::name_of(method)}).exited_with(0));
}

TEST_CASE("what a task printed is out when its result is", "[pool][output][pass]") {
    auto method = GENERATE(from_range(methods()));
    Way way = GENERATE(Way::printf, Way::cout, Way::cout_unsynced, Way::clog_unsynced, Way::wide,
                       Way::own_file);
    CAPTURE(static_cast<int>(way));
    test::StdoutFile out;
    std::string path = "/proc/" + std::to_string(getpid()) + "/fd/1";
    mp::Pool pool({.processes = 1, .start_method = method});
    std::string text;
    for (int round = 0; round < 3; ++round) {
        CHECK(get(pool.submit(print, way, path)) == 1);
        CHECK(out.text() == (text += "said"));
    }
    CHECK_THROWS_AS(get(pool.submit(test::die, SIGKILL)), mp::WorkerLost);
    CHECK(out.text() == text);
}

TEST_CASE("what the items of a map printed is out although a later one dies",
          "[pool][output][pass][map]") {
    auto method = GENERATE(from_range(methods()));
    test::StdoutFile out;
    mp::Pool pool({.processes = 1, .start_method = method});
    std::size_t failed = 0;
    for (auto& item : pool.imap(print_item, test::numbers(6), {.chunksize = 6}).outcomes())
        if (!item) failed += item.index();
    CHECK(failed == 4);
    CHECK(out.text() == "0,1,2,3,5,");
}

TEST_CASE("what a task left running writes takes no memory while the pool has nothing to do",
          "[pool][output][idle]") {
    auto method = GENERATE(from_range(methods()));
    constexpr std::size_t kBytes = std::size_t(64) << 20;
    test::SharedWords words(test::kWords);
    mp::Pool pool(capturing(method));
    (void)get(pool.submit(leave_writer, words.path(), kBytes, false));
    test::await(words[kTell]);
    CHECK(words[kTell] == 1000);
    CHECK(test::eventually([] { return stderr_files().memory < std::size_t(4) << 20; }));
    words[test::kGate] = 1;
}

TEST_CASE("who outlives a captured worker can write no more", "[pool][output][idle]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    {
        mp::Pool pool(capturing(method));
        int worker = get(pool.submit(leave_writer, words.path(), std::size_t(1) << 20, true));
        CHECK_THROWS_AS(get(pool.submit(test::die, SIGKILL)), mp::WorkerLost);
        CHECK(test::eventually([&] { return !test::process_exists(worker); }));
        CHECK(get(pool.submit(say, 1)) == 1);
        words[test::kExtra] = 1;
        CHECK(test::await(words[kTell]) == EPERM);
        CHECK(stderr_files().memory < std::size_t(1) << 20);
    }
    words[test::kGate] = 1;
}

}  // namespace output_test
