// Want of memory, and system calls that fail, where objects are made and let go.
#include <sidestep/shared.hpp>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cstddef>
#include <cstdlib>
#include <new>
#include <optional>

#include <catch2/catch.hpp>

#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/sync.hpp>

#include "processes.hpp"

namespace memory_fault_test {
namespace {

// How many allocations of this thread succeed yet; negative: all.
thread_local long allowed = -1;

}  // namespace
}  // namespace memory_fault_test

void* operator new(std::size_t size) {
    if (memory_fault_test::allowed == 0) throw std::bad_alloc();
    if (memory_fault_test::allowed > 0) --memory_fault_test::allowed;
    if (void* memory = std::malloc(size > 0 ? size : 1)) return memory;
    throw std::bad_alloc();
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    if (memory_fault_test::allowed == 0) return nullptr;
    if (memory_fault_test::allowed > 0) --memory_fault_test::allowed;
    return std::malloc(size > 0 ? size : 1);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace memory_fault_test {

using namespace sidestep;

namespace {

bool exists(const std::string& name) { return ::access(("/dev/shm/" + name).c_str(), F_OK) == 0; }
bool is_linked(const std::string& name) {
    char target[64];
    return ::readlink(("/dev/shm/.sidestep." + name).c_str(), target, sizeof target) > 0;
}

// From now on these two fail, in the calling process.
bool refuse_fstat() {
    constexpr unsigned kAnswer = SECCOMP_RET_ERRNO | EIO;
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(offsetof(seccomp_data, nr))),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_newfstatat, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fstat, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, kAnswer),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog filter = {sizeof program / sizeof program[0], program};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

}  // namespace

TEST_CASE("a SharedMemory whose making fails at any allocation leaves no name",
          "[ipc][shm][fault]") {
    std::string name = "test_fault" + std::to_string(getpid());
    std::optional<SharedMemory> memory;
    long n = 0;
    for (; !memory && n < 1000; ++n) {
        allowed = n;
        try {
            memory.emplace(create_only, name, 100u);
        } catch (const std::bad_alloc&) {
        }
        allowed = -1;
        CAPTURE(n);
        REQUIRE(exists(name) == memory.has_value());
        REQUIRE(is_linked(name) == memory.has_value());
    }
    CHECK(n > 3);
    memory.reset();
    CHECK_FALSE(exists(name));
}

TEST_CASE("a list that cannot be made leaves no name", "[ipc][shm][fault]") {
    std::string name = "test_list" + std::to_string(getpid());
    std::vector<ShareableItem> items = {std::string(10'000'000, 'x')};
    CHECK_THROWS_AS(ShareableList(std::span<const ShareableItem>(items), name, {.keep_name = true}),
                    std::length_error);
    CHECK_FALSE(exists(name));
}

TEST_CASE("handles are let go without memory, and names go with them", "[ipc][fault]") {
    std::string name = "test_drop" + std::to_string(getpid());
    test::Child child([&] {
        std::optional<SharedMemory> memory;
        memory.emplace(create_only, name, 100u);
        std::optional<Shared<std::string>> stored, arrived;
        stored.emplace("a value");
        arrived = test::travel(*stored);
        std::optional<RLock> lock;
        lock.emplace();
        std::optional<Barrier> barrier;
        barrier.emplace(2);
        std::optional<Queue<int>> queue;
        queue.emplace();
        std::optional<Queue<int>::Producer> producer;
        producer.emplace(queue->producer());
        RawArray<long> array(100'000);
        allowed = 0;
        producer.reset();
        queue.reset();
        barrier.reset();
        lock.reset();
        arrived.reset();
        stored.reset();
        memory.reset();
        array = RawArray<long>();
        allowed = -1;
        return exists(name) || is_linked(name) ? 1 : 0;
    });
    CHECK(child.wait() == 0);
    (void)remove_stale_names();
}

#ifndef TEST_SANITIZED  // a sanitizer needs memory for itself, there and then

namespace {

// In a process that has made no object yet.
void lock_without_memory() {
    rlimit none = {0, RLIM_INFINITY}, before = {};
    ::getrlimit(RLIMIT_AS, &before);
    none.rlim_max = before.rlim_max;
    ::setrlimit(RLIMIT_AS, &none);
    bool refused = false;
    try {
        Lock lock;
    } catch (const std::system_error& error) {
        refused = error.code().value() == ENOMEM;
    } catch (const std::bad_alloc&) {
        refused = true;
    }
    ::setrlimit(RLIMIT_AS, &before);
    if (!refused) exit_process(3);
    Lock lock;  // now there is
    lock.lock();
    lock.unlock();
}

}  // namespace

TEST_CASE("a lock that cannot be made for want of memory is an error", "[ipc][sync][fault]") {
    Process child({.start_method = StartMethod::spawn}, lock_without_memory);
    child.start();
    child.join();
    CHECK(child.exitcode() == 0);
}

#endif

TEST_CASE("a segment goes without asking the system about itself", "[ipc][fault]") {
    test::Child child([] {
        RawArray<long> array(100'000);
        if (!refuse_fstat()) return 1;
        array = RawArray<long>();
        return 0;
    });
    CHECK(child.wait() == 0);
}

}  // namespace memory_fault_test
