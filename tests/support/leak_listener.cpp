#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstring>
#include <iostream>

#include "support.hpp"

namespace test {
namespace {

int leaks = 0;
char running[512];

// Looks for leaks after each test case; a child may need a moment to be reaped.
struct LeakListener : Catch::TestEventListenerBase {
    using TestEventListenerBase::TestEventListenerBase;
    Resources before;

    void testCaseStarting(const Catch::TestCaseInfo& info) override {
        TestEventListenerBase::testCaseStarting(info);
        before = Resources::now();
        std::snprintf(running, sizeof running, "the test that ran: \"%s\"\n", info.name.c_str());
    }
    void testCaseEnded(const Catch::TestCaseStats& stats) override {
        std::string leaked;
        bool clean =
            eventually([&] { return (leaked = Resources::now().leaked_since(before)).empty(); });
        if (!clean) {
            ++leaks;
            std::cout << "LEAK in \"" << stats.testInfo.name << "\":\n" << leaked << std::flush;
        }
        TestEventListenerBase::testCaseEnded(stats);
    }
};
CATCH_REGISTER_LISTENER(LeakListener)

}  // namespace

int leaks_found() { return leaks; }

void write_running_test(int fd) { (void)!::write(fd, running, std::strlen(running)); }

}  // namespace test
