// What a pool over several hosts shows of them: traces and statistics.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include <catch2/catch.hpp>

#include "pool_support.hpp"
#include "thread_job.hpp"

namespace insight_test {

namespace {

using namespace std::chrono_literals;
using Catch::Contains;
using sidestep::Pool;
using test::ThreadJob;

// With one worker here and two on each of two hosts: the keys of a task of each host.
constexpr std::uint64_t kHere = 5, kOnHost1 = 1, kOnHost2 = 3;

// A file for a trace, while it lives.
struct TraceFile {
    TraceFile() = default;
    ~TraceFile() { std::filesystem::remove(path); }
    TraceFile(const TraceFile&) = delete;
    TraceFile& operator=(const TraceFile&) = delete;
    std::string text() const {
        std::ifstream file(path);
        return std::string(std::istreambuf_iterator<char>(file), {});
    }

    const std::string path =
        (std::filesystem::temp_directory_path() / ("sidestep-hosts-" + std::to_string(getpid())))
            .string();
};

// How a trace names a track, and how a task stands in one.
std::string track(int number, const std::string& name) {
    return "\"name\":\"thread_name\",\"pid\":" + std::to_string(getpid()) +
           ",\"tid\":" + std::to_string(number) + ",\"args\":{\"name\":\"" + name + "\"}";
}
std::string task(const std::string& name, int on_track) {
    return "\"name\":\"" + name + "\",\"pid\":" + std::to_string(getpid()) +
           ",\"tid\":" + std::to_string(on_track) + ",";
}

int rests(int milliseconds) {
    sidestep::this_task::sleep_for(milliseconds * 1ms);  // style-ok: one that takes its time
    return milliseconds;
}

}  // namespace

TEST_CASE("A trace has one track for each other host, which has its name",
          "[cluster][trace][stats]") {
    const TraceFile file;
    ThreadJob job(2);
    Pool pool(job.options());
    pool.trace(file.path);
    CHECK(pool.submit({.key = kHere, .name = "here"}, test::add, 1, 2).get() == 3);
    CHECK(pool.submit({.key = kOnHost1, .name = "one"}, test::add, 1, 2).get() == 3);
    CHECK(pool.submit({.key = kOnHost1 + 1, .name = "too"}, test::add, 1, 2).get() == 3);
    CHECK(pool.submit({.key = kOnHost2, .name = "two"}, test::add, 1, 2).get() == 3);
    pool.trace_stop();
    const std::string text = file.text();
    for (const std::string& part :
         {track(0, "worker 0"), track(1, "host host1"), track(2, "host host2"), task("here", 0),
          task("one", 1), task("too", 1), task("two", 2)})
        CHECK_THAT(text, Contains(part));
    CHECK_THAT(text, !Contains("worker 1") && !Contains("worker 2"));
}

TEST_CASE("describe() has a row for each host, and says which is lost", "[cluster][stats]") {
    ThreadJob job(2);
    Pool pool(job.options());
    CHECK_THAT(pool.stats().describe(), Contains("host1") && !Contains("lost"));
    CHECK(pool.submit({.key = kOnHost1, .name = "far"}, rests, 30).get() == 30);
    sidestep::PoolStats stats = pool.stats();
    CHECK_THAT(stats.describe(),
               Contains("        2           1           0           0  host1\n") &&
                   Contains("        2           0           0           0  host2\n") &&
                   Contains("  " + sidestep::this_task::host() + "\n"));
    REQUIRE(stats.slowest.size() == 1);
    CHECK(stats.slowest[0].host == "host1");
    CHECK_THAT(stats.describe(), Contains("task 1 on host host1: far\n"));
    CHECK(pool.submit({.key = kHere, .name = "near"}, rests, 60).get() == 60);
    CHECK_THAT(pool.stats().describe(), Contains("task 2 in worker 0: near\n"));
    job.end(2);
    CHECK(test::eventually([&] { return pool.stats().hosts[2].lost; }));
    CHECK_THAT(pool.stats().describe(), Contains("  lost: host2\n"));
}

TEST_CASE("describe() of hosts fits 80 columns, whatever the numbers are", "[cluster][stats]") {
    sidestep::PoolStats stats;
    stats.hosts = {{"here", 1024, 99'999'999'999, 1'048'576, 99'999'999, false},
                   {std::string(200, 'h'), 1024, 99'999'999'999, 1'048'576, 99'999'999, true}};
    stats.slowest = {{99'999'999, 0, 999'900us, "a task", std::string(200, 'h')}};
    std::istringstream lines(stats.describe());
    for (std::string line; std::getline(lines, line);) CHECK(line.size() <= 80);
}

}  // namespace insight_test
