// Output::lines with a prefix that names the task: each line has the name of who printed it.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sidestep/subprocess.hpp>

#include "policy_support.hpp"
#include "stdout_file.hpp"
#include "sys/fd.hpp"

namespace line_task_test {

namespace mp = sidestep;
using test::get;
using test::lines_of;
using test::methods;
using Lines = std::vector<std::string>;

namespace {

mp::PoolOptions named_lines(mp::StartMethod method, unsigned processes = 1,
                            std::string prefix = "{task}: ") {
    return {.processes = processes,
            .start_method = method,
            .output = mp::Output::lines,
            .line_prefix = std::move(prefix)};
}
mp::TaskOptions named(std::string name) { return {.name = std::move(name)}; }

std::size_t print(const std::string& text) { return fwrite(text.data(), 1, text.size(), stdout); }
int print_number(int number) {
    std::printf("%d\n", number);
    return number;
}
void print_error(const std::string& text) { std::fprintf(stderr, "%s", text.c_str()); }
void print_and_die() {
    std::printf("half a line");
    test::die(SIGKILL);
}
// What it starts prints, too.
void print_from_children() {
    if (pid_t child = fork(); child == 0) {
        (void)!write(STDOUT_FILENO, "of a fork\n", 10);
        _exit(0);
    } else {
        waitpid(child, nullptr, 0);
    }
    (void)mp::subprocess::run({"echo", "of a program"});
}
void close_output() {
    close(STDOUT_FILENO);
    close(STDERR_FILENO);
}
// Its own file has the number of a descriptor of the library's.
std::string put_file_in_place(const std::string& path) {
    closefrom(STDERR_FILENO + 1);
    int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (int other = fd + 1; other < 64; ++other) dup2(fd, other);
    return path;
}
void make_non_blocking() { fcntl(STDOUT_FILENO, F_SETFL, O_WRONLY | O_NONBLOCK); }
int fail_once() {
    std::printf("attempt %u\n", mp::this_task::attempt());
    if (mp::this_task::attempt() == 1) throw std::runtime_error("the first");
    return 5;
}

}  // namespace

TEST_CASE("a line has the name of the task that printed it", "[pool][output][lines][task]") {
    auto method = GENERATE(from_range(methods()));
    test::StdoutFile out;
    {
        mp::Pool pool(named_lines(method, 1, "[{index} {number} {task}] "));
        auto cat = pool.submit(named("cat"), print, "one\ntwo\n");
        auto dog = pool.submit(named("dog"), print, "three\n");
        auto plain = pool.submit(print, "four\n");
        CHECK(get(cat) == 8);
        CHECK(get(dog) == 6);
        CHECK(get(plain) == 5);
    }
    const Lines lines = lines_of(out.text());
    REQUIRE(lines.size() == 4);
    CHECK(lines[0] == "[0 1 cat] one");
    CHECK(lines[1] == "[0 1 cat] two");
    CHECK(lines[2] == "[0 2 dog] three");
    CHECK_THAT(lines[3], Catch::StartsWith("[0 3 ") && Catch::Contains("print(") &&
                             Catch::EndsWith("] four"));
}

TEST_CASE("lines of many tasks in several workers have their own task's name",
          "[pool][output][lines][task]") {
    auto method = GENERATE(from_range(methods()));
    constexpr int kTasks = 400;
    test::StdoutFile out;
    {
        mp::Pool pool(named_lines(method, 3));
        std::vector<mp::Future<int>> tasks;
        for (int i = 0; i < kTasks; ++i)
            tasks.push_back(pool.submit(named("task " + std::to_string(i)), print_number, i));
        for (int i = 0; i < kTasks; ++i) CHECK(get(tasks[static_cast<std::size_t>(i)]) == i);
    }
    std::map<std::string, int> seen;
    for (const std::string& line : lines_of(out.text())) ++seen[line];
    for (int i = 0; i < kTasks; ++i) {
        const std::string number = std::to_string(i);
        CHECK(seen["task " + number + ": " + number] == 1);
    }
    CHECK(seen.size() == kTasks);
}

TEST_CASE("half a line is the task's that printed it, and ends with it",
          "[pool][output][lines][task]") {
    auto method = GENERATE(from_range(methods()));
    test::StdoutFile out;
    {
        mp::Pool pool(named_lines(method));
        (void)get(pool.submit(named("a"), print, "whole\nhalf"));
        (void)get(pool.submit(named("silent"), print, ""));
        (void)get(pool.submit(named("b"), print, "next\nlast"));
        CHECK_THROWS_AS(get(pool.submit(named("c"), print_and_die)), mp::WorkerLost);
        (void)get(pool.submit(named("d"), print, "of another worker\n"));
    }
    Lines lines = lines_of(out.text());
    // The pipe of the worker that died comes to its end beside the other's.
    std::sort(lines.begin(), lines.end());
    CHECK(lines == Lines{"a: half", "a: whole", "b: last", "b: next", "c: half a line",
                         "d: of another worker"});
}

TEST_CASE("what a task starts prints under its name; so does stderr",
          "[pool][output][lines][task]") {
    auto method = GENERATE(from_range(methods()));
    test::StdoutFile out;
    test::CapturedStderr err;
    {
        mp::Pool pool(named_lines(method));
        get(pool.submit(named("parent"), print_from_children));
        get(pool.submit(named("broken"), print_error, "oh\nno"));
        get(pool.submit(named("fine"), print_error, "well\n"));
    }
    CHECK(lines_of(out.text()) == Lines{"parent: of a fork", "parent: of a program"});
    CHECK(lines_of(err.text()) == Lines{"broken: oh", "broken: no", "fine: well"});
}

TEST_CASE("bytes of any kind are a task's own, and a name is one line",
          "[pool][output][lines][task]") {
    auto method = GENERATE(from_range(methods()));
    std::string bytes;
    for (int i = 0; i < 256; ++i)
        if (i != '\n') bytes += static_cast<char>(i);
    for (int i = 0; i < 6; ++i) bytes += bytes;  // 16 KiB: more than is read at once
    test::StdoutFile out;
    {
        mp::Pool pool(named_lines(method));
        (void)get(pool.submit(named("two\nlines {number} {task}"), print, "x\n"));
        CHECK(get(pool.submit(named("bytes"), print, bytes + "\n")) == bytes.size() + 1);
        CHECK(get(pool.submit(named(std::string(5000, 'n')), print, "y\n")) == 2);
    }
    const Lines lines = lines_of(out.text());
    REQUIRE(lines.size() == 3);
    CHECK(lines[0] == "two lines {number} {task}: x");
    CHECK(lines[1] == "bytes: " + bytes);
    CHECK(lines[2] == std::string(256, 'n') + ": y");
}

TEST_CASE(
    "a task that closes its output, or takes descriptors of the library, names no wrong lines",
    "[pool][output][lines][task]") {
    auto method = GENERATE(from_range(methods()));
    const mp::Fd file(memfd_create("test-file", MFD_CLOEXEC));
    const std::string path =
        "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file.get());
    test::StdoutFile out;
    {
        mp::Pool pool(named_lines(method));
        get(pool.submit(named("first"), make_non_blocking));
        (void)get(pool.submit(named("second"), print, "fine\n"));
        get(pool.submit(named("third"), close_output));
        (void)get(pool.submit(named("fourth"), print, "lost\n"));
        pool.close();
        pool.join();
        mp::Pool other(named_lines(method));
        CHECK(get(other.submit(named("fifth"), put_file_in_place, path)) == path);
        (void)other.submit(named("sixth"), print, "out\n").wait_for(test::kPatience);
    }
    CHECK(lines_of(out.text()) == Lines{"second: fine", "sixth: out"});
    std::string text(4096, ' ');
    const ssize_t size = pread(file.get(), text.data(), text.size(), 0);
    REQUIRE(size >= 0);
    text.resize(static_cast<std::size_t>(size));
    CHECK_THAT(text, !Catch::Contains("sixth"));  // no mark went there
}

TEST_CASE("the items of a map, tasks that wait for others and those that are run again have names",
          "[pool][output][lines][task]") {
    auto method = GENERATE(from_range(methods()));
    test::StdoutFile out;
    {
        mp::Pool pool(named_lines(method));
        const std::vector<int> items{1, 2, 3};
        CHECK(pool.map(print_number, items, {.chunksize = 2, .task = named("map")}) == items);
        auto seven = pool.submit(named("seven"), print_number, 7);
        CHECK(get(pool.submit(named("late"), print_number, seven)) == 7);
        CHECK(get(pool.submit({.retry = {.max_attempts = 2}, .name = "again"}, fail_once)) == 5);
        const std::vector<char> large(1 << 20, 'x');
        auto size = pool.submit(
            named("large"),
            [](const std::vector<char>& all) { return std::printf("%zu\n", all.size()); }, large);
        CHECK(get(size) == 8);
    }
    CHECK(lines_of(out.text()) == Lines{"map: 1", "map: 2", "map: 3", "seven: 7", "late: 7",
                                        "again: attempt 1", "again: attempt 2", "large: 1048576"});
}

TEST_CASE("a pool without workers runs tasks whose lines would have names",
          "[pool][output][lines][task]") {
    mp::Pool pool(named_lines(mp::StartMethod::spawn, 0));
    CHECK(pool.submit(named("here"), test::add, 1, 2).get() == 3);
    auto first = pool.submit(test::add, 1, 1);
    CHECK(pool.submit(test::add, first, 3).get() == 5);
    CHECK(pool.map(test::square, std::vector<long>{1, 2}) == std::vector<long>{1, 4});
}

}  // namespace line_task_test
