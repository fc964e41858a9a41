// SharedMemory(open_or_create) while others are in the middle of creating and removing the block.
#include <sidestep/shared_memory.hpp>

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "support.hpp"

#include "memory/participant.hpp"
#include "processes.hpp"

namespace shared_memory_race_test {

using namespace sidestep;

namespace {

std::string new_name(const char* prefix) { return prefix + std::to_string(getpid()); }
std::string mark_of(const std::string& name) { return "/dev/shm/.sidestep." + name; }

// The mark that a creator makes before the name, and removes after it.
void make_mark(const std::string& name) {
    std::string target = fmt::format("{:x}-{:x}", this_process(), 1);
    if (::symlink(target.c_str(), mark_of(name).c_str()) != 0) throw std::runtime_error("symlink");
}

bool is_asleep_or_over(int pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string text;
    std::getline(file, text);
    return text.find(") S ") != std::string::npos || text.find(") Z ") != std::string::npos;
}

test::Child opener(const std::string& name) {
    return test::Child(
        [name] { return SharedMemory(open_or_create, name, 4096).size() == 4096 ? 0 : 1; });
}

}  // namespace

TEST_CASE("who opens or creates a block waits for a creator that is in the middle of it",
          "[ipc][shm]") {
    std::string name = new_name("test_between");
    make_mark(name);
    test::Child child = opener(name);
    CHECK(test::eventually([&] { return is_asleep_or_over(child.pid()); }));
    REQUIRE(::unlink(mark_of(name).c_str()) == 0);
    CHECK(child.wait() == 0);
}

TEST_CASE("who opens or creates a block does not wait for a creator that dies in the middle of it",
          "[ipc][shm][kill]") {
    std::string name = new_name("test_dies_between");
    test::SharedPage<std::atomic<int>> ready;
    test::Child creator([&] {
        make_mark(name);
        *ready = 1;
        for (;;) pause();
    });
    REQUIRE(test::eventually([&] { return *ready == 1; }));
    test::Child child = opener(name);
    CHECK(test::eventually([&] { return is_asleep_or_over(child.pid()); }));
    creator.kill();
    CHECK(child.wait() == 0);
    CHECK(::access(mark_of(name).c_str(), F_OK) != 0);
}

TEST_CASE("who opens or creates a block gives up on a creator that stays in the middle of it",
          "[ipc][shm]") {
    std::string name = new_name("test_stopped");
    make_mark(name);
    CHECK_THROWS_WITH(SharedMemory(open_or_create, name, 4096), Catch::Contains("was it stopped?"));
    CHECK(::unlink(mark_of(name).c_str()) == 0);
}

TEST_CASE("processes that open, create and drop one block at the same time all succeed",
          "[ipc][shm]") {
    std::string name = new_name("test_race");
    std::vector<test::Child> children;
    for (int i = 0; i < 6; ++i)
        children.emplace_back([&] {
            for (int round = 0; round < 300; ++round)
                if (SharedMemory(open_or_create, name, 4096).size() != 4096) return 1;
            return 0;
        });
    for (test::Child& child : children) CHECK(child.wait() == 0);
}

}  // namespace shared_memory_race_test
