// Output::lines: what tasks print comes out in whole lines.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "policy_support.hpp"
#include "stdout_file.hpp"

namespace line_output_test {

namespace mp = sidestep;
using test::get;
using test::lines_of;
using test::methods;
using namespace std::chrono_literals;

namespace {

constexpr int kLines = 40;

mp::PoolOptions printing(mp::StartMethod method, unsigned processes, std::string prefix) {
    return {.processes = processes,
            .start_method = method,
            .output = mp::Output::lines,
            .line_prefix = std::move(prefix)};
}
// Lines in pieces, each written by itself.
int print_lines(int task) {
    for (int line = 0; line < kLines; ++line) {
        std::printf("task %d", task);
        std::cout << " line ";
        std::cout << line;
        (void)!write(STDOUT_FILENO, " end\n", 5);
    }
    return task;
}
int print_to_both(const std::string& out, const std::string& err) {
    std::printf("%s", out.c_str());
    std::fprintf(stderr, "%s", err.c_str());
    return getpid();
}
void print_and_die(const std::string& text) {
    std::printf("%s", text.c_str());
    test::die(SIGKILL);
}
// Counts what it has written, in lines of 64 bytes.
std::size_t flood(const std::string& path, std::size_t bytes) {
    test::SharedWords::Word* words = test::SharedWords::attach(path);
    const std::string line = std::string(63, 'x') + "\n";
    for (std::size_t done = 0; done < bytes; done += line.size()) {
        if (write(STDOUT_FILENO, line.data(), line.size()) != ssize_t(line.size())) return 0;
        words[test::kCount] += line.size();
    }
    return bytes;
}

// A pipe that is this process's stdout, and that nobody reads before read_all().
struct StdoutPipe {
    StdoutPipe() {
        REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
        redirected = std::make_unique<test::Redirected>(STDOUT_FILENO, ends[1]);
        close(ends[1]);
    }
    ~StdoutPipe() {
        redirected.reset();
        if (ends[0] >= 0) close(ends[0]);
    }
    StdoutPipe(const StdoutPipe&) = delete;
    StdoutPipe& operator=(const StdoutPipe&) = delete;
    std::size_t read_bytes(std::size_t most) {
        std::vector<char> bytes(most);
        std::size_t got = 0;
        for (ssize_t n; got < most && (n = read(ends[0], bytes.data(), most - got)) > 0;)
            got += static_cast<std::size_t>(n);
        return got;
    }
    int ends[2];
    std::unique_ptr<test::Redirected> redirected;
};

}  // namespace

TEST_CASE("lines of several workers stay whole, and have their worker in front",
          "[pool][output][lines]") {
    auto method = GENERATE(from_range(methods()));
    constexpr int kTasks = 30;
    test::StdoutFile out;
    {
        mp::Pool pool(printing(method, 3, "[{index}] "));
        std::vector<mp::Future<int>> tasks;
        for (int i = 0; i < kTasks; ++i) tasks.push_back(pool.submit(print_lines, i));
        for (int i = 0; i < kTasks; ++i) CHECK(get(tasks[static_cast<std::size_t>(i)]) == i);
    }
    std::map<int, int> next_line;  // of each task
    int whole = 0;
    for (const std::string& line : lines_of(out.text())) {
        int worker = -1, task = -1, number = -1, length = 0;
        std::sscanf(line.c_str(), "[%d] task %d line %d end%n", &worker, &task, &number, &length);
        whole += length == static_cast<int>(line.size()) && worker >= 0 && worker < 3 &&
                 next_line[task]++ == number;
    }
    CHECK(whole == kTasks * kLines);
}

TEST_CASE("a worker that is killed in the middle of a line loses nothing of it",
          "[pool][output][lines]") {
    auto method = GENERATE(from_range(methods()));
    test::StdoutFile out;
    mp::Pool pool(printing(method, 1, "{index}: "));
    CHECK_THROWS_AS(get(pool.submit(print_and_die, "whole\nhalf a line")), mp::WorkerLost);
    CHECK(test::eventually([&] { return out.text() == "0: whole\n0: half a line\n"; }));
    // The one in its place begins with a line of its own.
    CHECK(get(pool.submit(print_lines, 1)) == 1);
    CHECK(test::eventually([&] { return lines_of(out.text()).size() == 2 + kLines; }));
    CHECK(lines_of(out.text())[2] == "0: task 1 line 0 end");
}

TEST_CASE("stdout and stderr go where this process's go; the prefix may be the process",
          "[pool][output][lines]") {
    auto method = GENERATE(from_range(methods()));
    test::StdoutFile out;
    std::string pid;
    {
        test::CapturedStderr err;
        {
            mp::Pool pool(printing(method, 1, "{pid} {index%1} "));
            pid = std::to_string(get(pool.submit(print_to_both, "a\nb", "c\n\nd\n")));
        }
        CHECK(err.text() == pid + " 0 c\n" + pid + " 0 \n" + pid + " 0 d\n");
    }
    CHECK(out.text() == pid + " 0 a\n" + pid + " 0 b\n");
}

TEST_CASE("a line of more than 64 KiB comes in pieces", "[pool][output][lines]") {
    test::StdoutFile out;
    const std::string text(200'000, 'x');
    {
        mp::Pool pool(printing(mp::StartMethod::spawn, 1, ">"));
        (void)get(pool.submit(print_to_both, text + "\nend\n", ""));
    }
    std::string joined;
    const std::vector<std::string> lines = lines_of(out.text());
    REQUIRE(lines.size() > 2);
    for (std::size_t i = 0; i + 1 < lines.size(); ++i) {
        CHECK(lines[i].size() < 128 * 1024);
        joined += lines[i].substr(1);
    }
    CHECK(joined == text);
    CHECK(lines.back() == ">end");
}

TEST_CASE("a slow reader has the task wait: what is not written yet is bounded",
          "[pool][output][lines]") {
    auto method = GENERATE(from_range(methods()));
    constexpr std::size_t kBytes = std::size_t(2) << 20;
    constexpr std::size_t kBound = std::size_t(512) << 10;  // three pipes, and what is in between
    test::SharedWords words(test::kWords);
    StdoutPipe out;
    mp::Pool pool(printing(method, 1, ""));
    auto task = pool.submit(flood, words.path(), kBytes);
    CHECK(test::eventually([&] { return words[test::kCount] > 64 * 1024; }));
    CHECK_FALSE(task.wait_for(50ms));  // and it has time to be wrong
    CHECK(words[test::kCount] < kBound);
    CHECK(out.read_bytes(kBytes) == kBytes);
    CHECK(get(task) == kBytes);
}

TEST_CASE("a pool ends although nobody reads what its tasks print", "[pool][output][lines]") {
    StdoutPipe out;
    test::SharedWords words(test::kWords);
    {
        mp::Pool pool(printing(mp::StartMethod::spawn, 1, ""));
        auto task = pool.submit(flood, words.path(), std::size_t(2) << 20);
        CHECK(test::eventually([&] { return words[test::kCount] > 64 * 1024; }));
        pool.terminate();
        CHECK_THROWS_AS(get(task), mp::CancelledError);
    }
    CHECK(out.read_bytes(4096) == 4096);  // as much as went into the pipe
}

TEST_CASE("a pool whose output nobody can read goes on", "[pool][output][lines]") {
    const bool is_closed = GENERATE(false, true);
    StdoutPipe out;
    std::optional<test::Redirected> read_only;
    if (is_closed)
        close(std::exchange(out.ends[0], -1));  // EPIPE
    else
        read_only.emplace(STDOUT_FILENO, out.ends[0]);  // EBADF
    mp::Pool pool(printing(mp::StartMethod::spawn, 1, ""));
    for (int i = 0; i < 100; ++i) CHECK(get(pool.submit(print_lines, i)) == i);
}

}  // namespace line_output_test
