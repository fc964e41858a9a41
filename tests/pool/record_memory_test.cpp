// The memory of tasks' records. White box: the class alone.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <set>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/pool.hpp>

#include "task/record_memory.hpp"

namespace record_memory_test {

using sidestep::detail::RecordMemory;

namespace {

constexpr std::size_t kSize = RecordMemory::kRecord;

std::vector<void*> take(std::size_t count) {
    std::vector<void*> records;
    for (std::size_t i = 0; i < count; ++i) {
        records.push_back(RecordMemory::allocate());
        std::memset(records.back(), static_cast<int>(i), kSize);
    }
    return records;
}
void give_back(const std::vector<void*>& records) {
    for (void* record : records) RecordMemory::free(record);
}

std::size_t resident_bytes() {
    std::size_t all = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> all >> resident;
    return resident * static_cast<std::size_t>(::getpagesize());
}

// With AddressSanitizer records are malloc's, which keeps what was freed.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kIsOurs = false;
#elif defined(__has_feature)
constexpr bool kIsOurs = !__has_feature(address_sanitizer);
#else
constexpr bool kIsOurs = true;
#endif

}  // namespace

TEST_CASE("records are their own, and aligned", "[pool][rooms][records]") {
    std::vector<void*> records = take(3000);
    CHECK(std::set<void*>(records.begin(), records.end()).size() == records.size());
    std::size_t damaged = 0;
    for (std::size_t i = 0; i < records.size(); ++i) {
        auto* bytes = static_cast<unsigned char*>(records[i]);
        auto mark = static_cast<unsigned char>(i);
        damaged += bytes[0] != mark || bytes[kSize - 1] != mark;
        damaged += reinterpret_cast<std::uintptr_t>(bytes) % (kIsOurs ? 64 : 16) != 0;
    }
    CHECK(damaged == 0);
    give_back(records);
}

TEST_CASE("what one thread takes and another frees is used again", "[pool][rooms][records]") {
    if (!kIsOurs) return;
    RecordMemory::trim();
    std::set<std::uintptr_t> places;
    for (int round = 0; round < 50; ++round) {
        std::vector<void*> records;
        std::thread([&] { records = take(2000); }).join();
        for (void* record : records) places.insert(reinterpret_cast<std::uintptr_t>(record));
        std::thread([&] { give_back(records); }).join();
    }
    CHECK(places.size() < 5000);
}

TEST_CASE("records that nobody uses go back to the system when they are trimmed",
          "[pool][rooms][records]") {
    if (!kIsOurs) return;
    constexpr std::size_t kCount = 100'000;
    std::vector<void*> records = take(kCount);
    std::size_t full = resident_bytes();
    std::vector<void*> kept(records.end() - 10, records.end());
    records.resize(records.size() - 10);
    give_back(records);
    RecordMemory::trim();
    CHECK(resident_bytes() + kCount * kSize / 2 < full);
    for (void* record : kept) CHECK(static_cast<unsigned char*>(record)[kSize - 1] != 1);
    give_back(kept);
    RecordMemory::trim();
    RecordMemory::trim();  // there is nothing
    give_back(take(1000));
}

TEST_CASE("what a burst of tasks took goes back with its pool", "[pool][rooms][records]") {
    if (!kIsOurs) return;
    constexpr int kCount = 100'000;
    std::size_t full = 0;
    {
        sidestep::Pool pool({.processes = 0});
        std::vector<sidestep::Future<int>> futures;
        for (int i = 0; i < kCount; ++i) futures.push_back(pool.submit([](int x) { return x; }, i));
        CHECK(futures.back().get() == kCount - 1);
        full = resident_bytes();
    }
    CHECK(resident_bytes() + std::size_t(kCount) * sizeof(sidestep::detail::PoolTask) / 2 < full);
}

TEST_CASE("records are trimmed while others take and free them", "[pool][rooms][records]") {
    std::vector<std::thread> threads;
    std::vector<std::size_t> damaged(4);
    for (std::size_t thread = 0; thread < damaged.size(); ++thread)
        threads.emplace_back([&, thread] {
            for (int round = 0; round < 200; ++round) {
                std::vector<void*> records = take(300);
                for (std::size_t i = 0; i < records.size(); ++i)
                    damaged[thread] += static_cast<unsigned char*>(records[i])[kSize / 2] !=
                                       static_cast<unsigned char>(i);
                give_back(records);
            }
        });
    for (int i = 0; i < 50; ++i) RecordMemory::trim();
    for (std::thread& thread : threads) thread.join();
    CHECK(damaged == std::vector<std::size_t>(damaged.size()));
}

TEST_CASE("a forked child uses records, whoever had the depot's mutex", "[pool][rooms][records]") {
    if (!kIsOurs) return;  // its malloc does not survive a fork beside a busy thread
    bool stop = false;
    std::thread busy([&] {
        while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) give_back(take(500));
    });
    std::vector<void*> mine = take(100);
    for (int i = 0; i < 20; ++i) {
        pid_t child = ::fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            give_back(mine);
            give_back(take(1000));
            RecordMemory::trim();
            ::_exit(0);
        }
        int status = -1;
        REQUIRE(::waitpid(child, &status, 0) == child);
        CHECK(status == 0);
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    busy.join();
    give_back(mine);
}

}  // namespace record_memory_test
