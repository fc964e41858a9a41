#include <sidestep/shared_memory.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include <catch2/catch.hpp>

#include "support.hpp"

#include "processes.hpp"

namespace shared_memory_test {

using namespace sidestep;
using namespace std::chrono_literals;

namespace {

std::string new_name(const char* prefix) { return prefix + std::to_string(getpid()); }

void put_text(const SharedMemory& memory, std::string_view text) {
    std::memcpy(memory.bytes().data(), text.data(), text.size());
}
std::string text_of(const SharedMemory& memory, std::size_t size) {
    return {reinterpret_cast<const char*>(memory.bytes().data()), size};
}

template <class F>
int error_of(F f) {
    try {
        f();
    } catch (const std::system_error& error) {
        return error.code().value();
    }
    return 0;
}

// Runs a Python program; its output.
std::string python(const std::string& program) {
    std::string command = "/usr/bin/python3 -c '" + program + "' 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    std::string out;
    char chunk[256];
    while (std::size_t n = fread(chunk, 1, sizeof chunk, pipe)) out.append(chunk, n);
    pclose(pipe);
    return out;
}

// A created block of a process that was killed.
std::string orphan(bool keep_name = false) {
    test::SharedPage<std::array<char, 64>> name;
    test::Child child([&] {
        SharedMemory memory(create_only, 512, {.keep_name = keep_name});
        std::snprintf(name->data(), name->size(), "%s", memory.name().c_str());
        raise(SIGKILL);
    });
    child.wait();
    return name->data();
}

}  // namespace

TEST_CASE("names with NUL, slashes, none or too long are refused",
          "[ipc][shm][py:_TestSharedMemory.test_shared_memory_name_with_embedded_null]") {
    SharedMemory memory(create_only, new_name("test01_null"), 512);
    using namespace std::string_literals;
    for (const std::string& bad :
         {new_name("test01_null") + "\0a"s, ""s, "a/b"s, ".."s, std::string(246, 'x')}) {
        CHECK_THROWS_AS(SharedMemory(open_only, bad), std::invalid_argument);
        CHECK_THROWS_AS(SharedMemory(create_only, bad, 1), std::invalid_argument);
    }
    CHECK(SharedMemory(create_only, std::string(245, 'x'), 1).size() == 1);
}

TEST_CASE("a block is created once, opened often, unlinked once",
          "[ipc][shm][py:_TestSharedMemory.test_shared_memory_basics]") {
    std::string name = new_name("test01_tsmb");
    SharedMemory memory(create_only, name, 512);
    CHECK(memory.name() == name);
    CHECK(memory.size() >= 512);
    CHECK(memory.bytes().size() == memory.size());
    CHECK_THAT(to_string(memory), Catch::Contains(name) && Catch::Contains("512"));
    memory.bytes()[0] = std::byte{42};
    SharedMemory same(open_only, name);
    CHECK(same.bytes()[0] == std::byte{42});
    same.close();
    CHECK_THROWS_AS(same.bytes(), std::logic_error);
    CHECK(error_of([&] { SharedMemory(create_only, name, 512); }) == EEXIST);
    CHECK(SharedMemory(open_or_create, name, 20 * memory.size()).size() == memory.size());
    CHECK(error_of([] { SharedMemory(open_only, "test01_notthere"); }) == ENOENT);
    SharedMemory first(create_only, new_name("test01_dblunlink"), 5000);
    SharedMemory second(open_only, first.name());
    second.unlink();
    second.close();
    first.close();
    CHECK(error_of([&] { first.unlink(); }) == ENOENT);
}

TEST_CASE("blocks without a name of their own get different ones",
          "[ipc][shm][py:_TestSharedMemory.test_shared_memory_recreate]") {
    SharedMemory a(create_only, 1), b(create_only, 1);
    CHECK(a.name() != b.name());
    CHECK(a.name().starts_with("psm_"));
    std::string name = a.name();
    a.unlink();
    SharedMemory again(create_only, name, 1);
    CHECK(again.name() == name);
}

TEST_CASE("a block has at least one byte",
          "[ipc][shm][py:_TestSharedMemory.test_invalid_shared_memory_creation]") {
    CHECK_THROWS_AS(SharedMemory(create_only, 0), std::invalid_argument);
    CHECK_THROWS_WITH(SharedMemory(create_only, std::size_t(-1)),
                      Catch::Matchers::EndsWith("give 1 to 9223372036854775807"));
    CHECK_THROWS_AS(SharedMemory(create_only, static_cast<std::size_t>(-1)), std::invalid_argument);
    CHECK_THROWS_AS(SharedMemory(create_only, new_name("zero"), 0), std::invalid_argument);
}

TEST_CASE("a full /dev/shm is an error, not a signal", "[ipc][shm]") {
    CHECK(error_of([] { SharedMemory(create_only, std::size_t(1) << 45); }) == ENOSPC);
}

TEST_CASE("other processes see a block by name and by handle",
          "[ipc][shm][py:_TestSharedMemory.test_shared_memory_across_processes]") {
    test::Channel channel;
    SharedMemory memory(create_only, 512);
    test::Child by_name([&] { put_text(SharedMemory(open_only, memory.name()), "howdy"); });
    CHECK(by_name.wait() == 0);
    CHECK(text_of(memory, 5) == "howdy");
    test::Child by_handle([&] { put_text(channel.receive<SharedMemory>(), "HELLO"); });
    channel.send(memory);
    CHECK(by_handle.wait() == 0);
    CHECK(text_of(memory, 5) == "HELLO");
}

TEST_CASE("a handle travels, as a descriptor or as a name",
          "[ipc][shm][py:_TestSharedMemory.test_shared_memory_pickle_unpickle]") {
    SharedMemory memory(create_only, 512);
    put_text(memory, "pickle");
    detail::HeapBuffer buffer;
    OutputArchive archive(buffer);
    archive(memory);
    SharedMemory named{detail::Blank{}};
    InputArchive(buffer.bytes())(named);
    for (const SharedMemory& other : {named, test::travel(memory)}) {
        CHECK(other.name() == memory.name());
        put_text(memory, "newval");
        CHECK(text_of(other, 6) == "newval");
        put_text(other, "oldval");
        CHECK(text_of(memory, 6) == "oldval");
    }
}

TEST_CASE("a name that travelled is of no use once the block is gone",
          "[ipc][shm][py:_TestSharedMemory.test_shared_memory_pickle_unpickle_dead_object]") {
    detail::HeapBuffer buffer;
    SharedMemory memory(create_only, 512);
    OutputArchive archive(buffer);
    archive(memory);
    memory.close();
    memory.unlink();
    SharedMemory other{detail::Blank{}};
    CHECK(error_of([&] { InputArchive(buffer.bytes())(other); }) == ENOENT);
    OutputArchive more(buffer);
    CHECK_THROWS_AS(more(memory), std::logic_error);  // closed
}

TEST_CASE("the name that a killed creator left is removed",
          "[ipc][shm]"
          "[py:_TestSharedMemory.test_shared_memory_cleaned_after_process_termination]") {
    std::string name = orphan();
    REQUIRE(!name.empty());
    // Again, where a program that runs beside is at it.
    auto gone = [](const std::string& block) {
        return access(("/dev/shm/" + block).c_str(), F_OK) != 0;
    };
    CHECK(test::eventually(
        [&] { return error_of([&] { SharedMemory(open_only, name); }) == ENOENT && gone(name); }));
    std::string other = orphan();
    CHECK(test::eventually([&] {
        SharedMemory unrelated(create_only, 1);  // any is enough
        return gone(other);
    }));
}

TEST_CASE("the name that a killed creator left stays while another process uses the block",
          "[ipc][shm]") {
    test::Channel channel;
    test::SharedPage<std::array<char, 64>> shared;
    test::SharedPage<std::atomic<int>> stage;
    test::Child creator([&] {
        SharedMemory memory(create_only, 512);
        std::snprintf(shared->data(), shared->size(), "%s", memory.name().c_str());
        *stage = 1;
        (void)test::eventually([&] { return *stage == 2; });
        raise(SIGKILL);
    });
    REQUIRE(test::eventually([&] { return *stage == 1; }));
    std::string name = shared->data();
    {
        SharedMemory user(open_only, name);
        *stage = 2;
        creator.wait();
        test::Child another([&] { return SharedMemory(open_only, name).size() == 512 ? 0 : 1; });
        CHECK(another.wait() == 0);
    }
    CHECK(error_of([&] { SharedMemory(open_only, name); }) == ENOENT);
}

TEST_CASE("only the creator owns the name: who opens a block does not remove it",
          "[ipc][shm][py:_TestSharedMemory.test_shared_memory_tracking]") {
    std::string name;
    {
        SharedMemory memory(create_only, 100);
        name = memory.name();
        test::Child opener([&] { SharedMemory other(open_only, name); });
        CHECK(opener.wait() == 0);
        test::Child forked([copy = memory]() mutable { (void)copy; });
        CHECK(forked.wait() == 0);
        CHECK(SharedMemory(open_only, name).size() == 100);
    }
    CHECK(error_of([&] { SharedMemory(open_only, name); }) == ENOENT);
}

TEST_CASE("a kept name outlives its creator, until it is unlinked",
          "[ipc][shm][py:_TestSharedMemory.test_shared_memory_untracking]") {
    std::string name = orphan(true);
    SharedMemory memory(open_only, name);
    CHECK(memory.size() == 512);
    memory.unlink();
    CHECK(error_of([&] { SharedMemory(open_only, name); }) == ENOENT);
}

namespace {

bool is_in_shm(const std::string& name) { return access(("/dev/shm/" + name).c_str(), F_OK) == 0; }

// What another program does that wants a block of that name; unlinked at its end.
class ForeignBlock {
  public:
    explicit ForeignBlock(std::string name) : path_("/dev/shm/" + std::move(name)) {
        int fd = ::open(path_.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
        REQUIRE(fd >= 0);
        REQUIRE(::ftruncate(fd, 100) == 0);
        ::close(fd);
    }
    ForeignBlock(const ForeignBlock&) = delete;
    ForeignBlock& operator=(const ForeignBlock&) = delete;
    ~ForeignBlock() { ::unlink(path_.c_str()); }

  private:
    std::string path_;
};

}  // namespace

TEST_CASE("a creator's last handle leaves another's block of the same name", "[ipc][shm]") {
    std::string name = new_name("test_aba");
    auto mine = std::make_unique<SharedMemory>(create_only, name, 4096);
    // As Python's resource tracker does at the end of a program that opened it.
    REQUIRE(::unlink(("/dev/shm/" + name).c_str()) == 0);
    ForeignBlock foreign(name);
    SharedMemory copy = *mine;
    CHECK(error_of([&] { copy.unlink(); }) == ENOENT);
    copy.close();
    CHECK(is_in_shm(name));
    copy = SharedMemory(detail::Blank{});
    mine.reset();
    CHECK(is_in_shm(name));
    CHECK_FALSE(is_in_shm(".sidestep." + name));
}

TEST_CASE("a name that others unlinked can be had again while its creator lives", "[ipc][shm]") {
    std::string name = new_name("test_again");
    auto first = std::make_unique<SharedMemory>(create_only, name, 4096);
    REQUIRE(::unlink(("/dev/shm/" + name).c_str()) == 0);
    auto second = std::make_unique<SharedMemory>(create_only, name, 100);
    CHECK(SharedMemory(open_only, name).size() == 100);
    first.reset();
    CHECK(SharedMemory(open_only, name).size() == 100);
    REQUIRE(::unlink(("/dev/shm/" + name).c_str()) == 0);
    test::Child other([&] { return SharedMemory(open_or_create, name, 7).size() == 7 ? 0 : 1; });
    CHECK(other.wait() == 0);
    second.reset();
    CHECK_FALSE(is_in_shm(name));
    CHECK_FALSE(is_in_shm(".sidestep." + name));
}

TEST_CASE("signals do not keep a block from being made", "[ipc][shm]") {
    struct sigaction ignore = {}, before = {};
    ignore.sa_handler = [](int) {};  // without SA_RESTART
    REQUIRE(::sigaction(SIGALRM, &ignore, &before) == 0);
    itimerval often = {{0, 200}, {0, 200}}, never = {};
    REQUIRE(::setitimer(ITIMER_REAL, &often, nullptr) == 0);
    int error = error_of([] { CHECK(SharedMemory(create_only, 32 << 20).size() == 32 << 20); });
    ::setitimer(ITIMER_REAL, &never, nullptr);
    ::sigaction(SIGALRM, &before, nullptr);
    CHECK(error == 0);
}

TEST_CASE("Python opens our block, and we open Python's", "[ipc][shm][python]") {
    SharedMemory ours(create_only, 4096);
    put_text(ours, "from C++");
    // Python 3.11 takes what it opens for its own, and would remove it at its end.
    std::string untrack =
        "from multiprocessing import shared_memory as m, resource_tracker as t\n"
        "import sys\n";
    CHECK(python(untrack + "s=m.SharedMemory(\"" + ours.name() + "\")\n" +
                 "t.unregister(s._name, \"shared_memory\")\n" +
                 "print(bytes(s.buf[:8]).decode(), s.size)\ns.buf[:4]=b\"back\"\ns.close()") ==
          "from C++ 4096\n");
    CHECK(text_of(ours, 4) == "back");
    std::string name = new_name("sidestep_py");
    CHECK(python(untrack + "s=m.SharedMemory(\"" + name + "\", create=True, size=100)\n" +
                 "t.unregister(s._name, \"shared_memory\")\ns.buf[:5]=b\"hello\"\ns.close()")
              .empty());
    SharedMemory theirs(open_only, name);
    CHECK(theirs.size() == 100);
    CHECK(text_of(theirs, 5) == "hello");
    theirs.unlink();
}

}  // namespace shared_memory_test
