// What CPython's TestResourceTracker asks of its tracker process, asked of ours, which is no
// process: names that a killed creator left are removed by whoever comes next.
#include <sidestep/shared_memory.hpp>

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/shareable_list.hpp>

#include "support.hpp"

#include "processes.hpp"

namespace stale_names_test {

using namespace sidestep;

namespace {

bool exists(const std::string& name) { return access(("/dev/shm/" + name).c_str(), F_OK) == 0; }
bool has_mark(const std::string& name) {
    char target[64];
    return readlink(("/dev/shm/.sidestep." + name).c_str(), target, sizeof target) > 0;
}

using Name = test::SharedPage<std::array<char, 64>>;
void tell(const Name& name, const std::string& text) {
    std::snprintf(name->data(), name->size(), "%s", text.c_str());
}

// A process that has made a block, or a list, and waits for its death.
class Creator {
  public:
    enum class Makes { block, list };
    explicit Creator(Makes makes = Makes::block) {
        child_.emplace([&] {
            std::optional<SharedMemory> block;
            std::optional<ShareableList> list;
            if (makes == Makes::block) block.emplace(create_only, 512);
            if (makes == Makes::list) list.emplace(std::initializer_list<ShareableItem>{"a", 1.5});
            tell(name_, block ? block->name() : list->memory().name());
            *ready_ = 1;
            for (;;) pause();
        });
        REQUIRE(test::eventually([&] { return *ready_ == 1; }));
    }
    std::string name() const { return name_->data(); }
    int end(int signal) {
        child_->signal(signal);
        return child_->wait();
    }

  private:
    Name name_;
    test::SharedPage<std::atomic<int>> ready_;
    std::optional<test::Child> child_;
};

// The name of a block whose creator was killed.
std::string orphan() {
    Creator creator;
    creator.end(SIGKILL);
    return creator.name();
}

// (Tests that run beside may be faster: what is reported is looked at in one test only.)
void check_removed(const std::string& name) {
    CHECK(test::eventually([&] {  // one that runs beside may be at it
        (void)remove_stale_names();
        return !exists(name) && !has_mark(name);
    }));
}

// The creator is ended by a signal; afterwards its name is gone, and can be had again.
void check_ended_by(int signal, Creator::Makes makes = Creator::Makes::block) {
    Creator creator(makes);
    std::string name = creator.name();
    (void)remove_stale_names();
    CHECK(exists(name));  // while it lives
    CHECK(creator.end(signal) == -signal);
    check_removed(name);
    CHECK_THROWS_AS(SharedMemory(open_only, name), std::system_error);
    CHECK(SharedMemory(create_only, name, 100).size() == 100);
}

// Kills a child at its k-th stop before or after a system call, k = 0, 1, 2...: all that others see
// of it are its system calls. check() runs after each. Returns how many stops there were.
unsigned kill_at_every_system_call(const std::function<void()>& prepare,
                                   const std::function<void()>& operation,
                                   const std::function<void()>& check) {
    for (unsigned k = 0;; ++k) {
        prepare();
        test::Child child([&] {
            ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
            ::raise(SIGSTOP);
            operation();
        });
        int status = 0;
        ::waitpid(child.pid(), &status, 0);
        for (unsigned stops = 0; stops < k && WIFSTOPPED(status); ++stops) {
            ::ptrace(PTRACE_SYSCALL, child.pid(), nullptr, nullptr);
            ::waitpid(child.pid(), &status, 0);
        }
        bool killed = WIFSTOPPED(status);
        if (killed) child.kill();
        check();
        if (!killed) return k;
    }
}

}  // namespace

TEST_CASE("what a terminated process created is removed",
          "[ipc][shm][py:TestResourceTracker.test_resource_tracker]") {
    check_ended_by(SIGTERM, Creator::Makes::list);
    // Two at a time: the one whose creator still runs stays.
    Creator dies, lives;
    dies.end(SIGTERM);
    check_removed(dies.name());
    CHECK(exists(lives.name()));
    lives.end(SIGTERM);
    check_removed(lives.name());
}

TEST_CASE("SIGINT costs no name",
          "[ipc][shm][py:TestResourceTracker.test_resource_tracker_sigint]") {
    check_ended_by(SIGINT);
}

TEST_CASE("SIGTERM costs no name",
          "[ipc][shm][py:TestResourceTracker.test_resource_tracker_sigterm]") {
    check_ended_by(SIGTERM);
}

TEST_CASE("SIGKILL costs no name: neither the creator's, nor, at any system call, the cleaner's",
          "[ipc][shm][kill][py:TestResourceTracker.test_resource_tracker_sigkill]") {
    check_ended_by(SIGKILL);
    std::string name;
    unsigned removed = 0;
    unsigned stops =
        kill_at_every_system_call([&] { name = orphan(); }, [] { (void)remove_stale_names(); },
                                  [&] {
                                      removed += !exists(name);
                                      check_removed(name);
                                  });
    INFO(stops << " stops, removed by " << removed);
    CHECK(stops > 10);
    CHECK(removed > 0);
}

TEST_CASE("a child shares its parent's tracking: both own what they made, and no more",
          "[ipc][shm][py:TestResourceTracker.test_resource_tracker_reused]") {
    SharedMemory ours(create_only, 100);
    Name name;
    test::Child child([&] {
        SharedMemory opened(open_only, ours.name());
        SharedMemory theirs(create_only, 100);
        tell(name, theirs.name());
        raise(SIGKILL);
    });
    child.wait();
    check_removed(name->data());
    CHECK(exists(ours.name()));
    test::Child cleaner([] { (void)remove_stale_names(); });
    CHECK(cleaner.wait() == 0);
    CHECK(exists(ours.name()));
}

TEST_CASE("a name too long is refused, with the limit, and leaves nothing",
          "[ipc][shm][py:TestResourceTracker.test_too_long_name_resource]") {
    test::Resources before = test::Resources::now();
    std::string name(246, 'x');
    CHECK_THROWS_WITH(SharedMemory(create_only, name, 1),
                      Catch::Contains("1 to 245 bytes") && Catch::Contains("xxx"));
    CHECK_THROWS_AS(ShareableList(std::span<const ShareableItem>(), name), std::invalid_argument);
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("what is reported as left behind is what its creator did not clean up",
          "[ipc][shm][py:TestResourceTracker.test_resource_tracker_exit_code]") {
    auto reported = [](bool clean) {
        Name name;
        test::Child creator([&] {
            SharedMemory memory(create_only, 100);
            tell(name, memory.name());
            if (clean) memory.unlink();
            raise(SIGKILL);
        });
        creator.wait();
        std::vector<std::string> left = remove_stale_names();
        CHECK(!exists(name->data()));
        return std::count(left.begin(), left.end(), name->data()) == 1;
    };
    CHECK(!reported(true));
    // Another test's process may remove it first, and report it there; but not each time.
    CHECK(test::eventually([&] { return reported(false); }));
}

}  // namespace stale_names_test
