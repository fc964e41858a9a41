#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include <sys/uio.h>

#include <catch2/catch.hpp>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <iterator>

#include "support.hpp"

namespace test {
namespace {

int leaks = 0;
char running[512];
std::chrono::steady_clock::time_point running_since;

// Looks for leaks after each test case; a child may need a moment to be reaped.
struct LeakListener : Catch::TestEventListenerBase {
    using TestEventListenerBase::TestEventListenerBase;
    Resources before;

    void testCaseStarting(const Catch::TestCaseInfo& info) override {
        TestEventListenerBase::testCaseStarting(info);
        before = Resources::now();
        std::snprintf(running, sizeof running, "\"%s\"", info.name.c_str());
        running_since = std::chrono::steady_clock::now();
    }
    void testCaseEnded(const Catch::TestCaseStats& stats) override {
        std::string leaked;
        bool clean =
            eventually([&] { return (leaked = Resources::now().leaked_since(before)).empty(); });
        if (!clean) {
            ++leaks;
            Catch::cout() << "LEAK in \"" << stats.testInfo.name << "\":\n" << leaked;
        }
        TestEventListenerBase::testCaseEnded(stats);
    }
};
CATCH_REGISTER_LISTENER(LeakListener)

}  // namespace

int leaks_found() { return leaks; }

void write_running_test(int fd) {
    const auto ran = std::chrono::steady_clock::now() - running_since;
    char seconds[24];
    char* end = std::to_chars(seconds, std::end(seconds), ran / std::chrono::seconds(1)).ptr;
    iovec parts[] = {{const_cast<char*>("it ran "), 7},
                     {running, std::strlen(running)},
                     {const_cast<char*>(", for "), 6},
                     {seconds, static_cast<std::size_t>(end - seconds)},
                     {const_cast<char*>(" s\n"), 3}};
    (void)!::writev(fd, parts, 5);
}

}  // namespace test
