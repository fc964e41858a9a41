#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include <catch2/catch.hpp>
#include <iostream>

#include "support.hpp"

namespace test {
namespace {

int leaks = 0;

// Looks for leaks after each test case; a child may need a moment to be reaped.
struct LeakListener : Catch::TestEventListenerBase {
    using TestEventListenerBase::TestEventListenerBase;
    Resources before;

    void testCaseStarting(const Catch::TestCaseInfo& info) override {
        TestEventListenerBase::testCaseStarting(info);
        before = Resources::now();
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

}  // namespace test
