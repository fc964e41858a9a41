// Pools and blocks of shared memory that belong to a server.
#include <catch2/catch.hpp>

#include <signal.h>
#include <unistd.h>

#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <sidestep/connection.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/pool_proxy.hpp>
#include <sidestep/process.hpp>
#include <sidestep/shared_memory_manager.hpp>
#include <sidestep/subprocess.hpp>

#include "process_support.hpp"
#include "support.hpp"

namespace pool_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;

namespace {
int divide(int a, int b) {
    if (b == 0) throw std::domain_error("division by zero");
    return a / b;
}
bool is_there(const std::string& name) {
    try {
        mp::SharedMemory block(mp::open_only, name);
        return true;
    } catch (const std::system_error&) {
        return false;
    }
}
}  // namespace

TEST_CASE("another process uses a pool of the server",
          "[manager][pool][py:TestSyncManagerTypes.test_pool]") {
    mp::Manager manager;
    auto pool = manager.pool(2);
    CHECK(pool.processes() == 2);
    CHECK(pool.submit(divide, 6, 2).get() == 3);
    CHECK(pool.submit([](const std::string& s) { return s + "!"; }, "a").get() == "a!");
    CHECK_THROWS_AS(pool.submit(divide, 6, 0).get(), std::domain_error);
    mp::Process user(
        [](mp::PoolProxy mine) {
            if (mine.submit(divide, 8, 2).get() != 4) throw std::runtime_error("8 / 2");
        },
        pool);
    user.start();
    user.join();
    CHECK(user.exitcode() == 0);
}

TEST_CASE("tasks of one thread run beside each other, and a crash costs its task alone",
          "[manager][pool]") {
    mp::Manager manager;
    auto pool = manager.pool(2);
    auto meet = manager.barrier(2);
    auto wait = [](mp::BarrierProxy barrier) { return barrier.wait(); };
    auto one = pool.submit(wait, meet), two = pool.submit(wait, meet);
    CHECK(one.get() + two.get() == 1);
    auto crash = pool.submit([] { ::raise(SIGKILL); });
    CHECK_THROWS_WITH(crash.get(), Contains("SIGKILL"));
    CHECK(pool.submit(divide, 6, 2).get() == 3);
}

TEST_CASE("the blocks of a manager of shared memory end with it",
          "[manager][shared_memory]"
          "[py:_TestSharedMemory.test_shared_memory_SharedMemoryManager_basics]") {
    std::vector<std::string> names;
    {
        mp::SharedMemoryManager manager;
        auto list = manager.shareable_list({std::string("a"), std::int64_t(1), nullptr});
        auto first = manager.shared_memory(64);
        auto second = manager.shared_memory(32);
        CHECK(first.size() >= 64);
        first.bytes()[0] = std::byte(7);
        CHECK(mp::SharedMemory(mp::open_only, first.name()).bytes()[0] == std::byte(7));
        CHECK(mp::ShareableList(mp::open_only, list.memory().name()).items() == list.items());
        CHECK(list.get(0) == mp::ShareableItem(std::string("a")));
        names = {list.memory().name(), first.name(), second.name()};
        for (const auto& name : names) CHECK(is_there(name));
        manager.shutdown();
        for (const auto& name : names) CHECK_FALSE(is_there(name));
        CHECK(first.bytes()[0] == std::byte(7));  // the memory is the handles'
        CHECK_THROWS_AS(manager.shared_memory(1), mp::ActorLost);
    }
    mp::SharedMemoryManager another;
    CHECK(is_there(another.shared_memory(1).name()));
}

TEST_CASE("a manager of shared memory does not mind SIGINT",
          "[manager][shared_memory]"
          "[py:_TestSharedMemory.test_shared_memory_SharedMemoryServer_ignores_sigint]") {
    mp::SharedMemoryManager manager;
    auto list = manager.shareable_list({std::int64_t(1)});
    ::kill(manager.pid(), SIGINT);
    auto another = manager.shareable_list({std::int64_t(2)});
    CHECK(list.get(0) == mp::ShareableItem(std::int64_t(1)));
    CHECK(another.get(0) == mp::ShareableItem(std::int64_t(2)));
}

TEST_CASE("a process with a manager of shared memory ends in silence, and leaves no name",
          "[manager][shared_memory]"
          "[py:_TestSharedMemory.test_shared_memory_SharedMemoryManager_reuses_resource_tracker]") {
    const auto before = test::Resources::now();
    {
        auto [here, there] = mp::Pipe();
        mp::Process user(
            [](mp::Connection out) {
                ::close(STDERR_FILENO);
                if (::dup2(out.fd(), STDERR_FILENO) < 0) mp::exit_process(1);
                mp::SharedMemoryManager manager;
                auto list = manager.shareable_list({std::int64_t(1)});
                if (!is_there(list.memory().name())) mp::exit_process(2);
            },
            std::move(there));
        user.start();
        user.join();
        CHECK(user.exitcode() == 0);
        CHECK_THROWS_AS(here.recv_bytes(), mp::EndOfStream);
    }
    CHECK(test::nothing_left_since(before));
}

}  // namespace pool_test
