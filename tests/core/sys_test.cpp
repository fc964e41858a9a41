#include "sys/process_handle.hpp"

#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <iterator>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "support.hpp"

namespace sys_test {

namespace sys = sidestep::sys;
using namespace std::chrono_literals;

namespace {

pid_t start_child(int exit_code, int signal = 0) {
    pid_t pid = fork();
    if (pid == 0) {
        if (signal) kill(getpid(), signal);
        _exit(exit_code);
    }
    return pid;
}

}  // namespace

TEST_CASE("a file that cannot be read to its end is not read", "[sys]") {
    CHECK(sys::read_file("/proc/self/status").value_or("").find("Pid:") != std::string::npos);
    // Nothing is mapped at its first byte: EIO.
    CHECK_FALSE(sys::read_file("/proc/self/mem"));
    CHECK(errno == EIO);
}

TEST_CASE("a process's descriptor is no standard stream", "[sys]") {
    int pid = ::fork();
    if (pid == 0) {
        ::close(STDIN_FILENO);
        sidestep::Fd pidfd;
        ::_exit(sys::find_process(::getpid(), pidfd) == 0 && pidfd.get() > STDERR_FILENO ? 0 : 1);
    }
    int status = -1;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    CHECK(status == 0);
}

TEST_CASE("waiting on a pidfd yields the exit code or the signal", "[core][sys]") {
    sidestep::Fd exits = sys::pidfd_open(start_child(7));
    CHECK(sys::wait_pidfd(exits.get(), true).code() == 7);
    sidestep::Fd dies = sys::pidfd_open(start_child(0, SIGKILL));
    CHECK(sys::wait_pidfd(dies.get(), true, true).signal() == SIGKILL);  // left as a zombie
    CHECK(sys::wait_pidfd(dies.get(), true).signal() == SIGKILL);
}

TEST_CASE("a status that someone else took is lost, never success", "[core][sys]") {
    pid_t pid = start_child(0);
    sidestep::Fd pidfd = sys::pidfd_open(pid);
    waitpid(pid, nullptr, 0);
    CHECK(sys::wait_pidfd(pidfd.get(), true).lost());
    CHECK_FALSE(sys::pidfd_send_signal(pidfd.get(), SIGTERM));
}

TEST_CASE("a process's handle waits for it, looks at it and signals it", "[core][sys]") {
    sys::ProcessHandle<sidestep::Fd> child{start_child(0, SIGSTOP), {}};
    CHECK_FALSE(child);
    child.pidfd = sys::pidfd_open(child.pid);
    REQUIRE(test::eventually([&] { return child.is_stopped(); }));
    CHECK_FALSE(child.has_ended());
    CHECK_FALSE(child.wait_for_end(sys::Clock::now()));
    CHECK(child.peek().running());
    CHECK(child.reap().running());
    CHECK(child.signal(SIGKILL));
    CHECK(child.wait_for_end({}));
    CHECK(child.has_ended());
    CHECK(child.peek().signal() == SIGKILL);  // leaves it
    struct rusage usage = {};
    CHECK(child.reap(&usage).signal() == SIGKILL);
    CHECK(usage.ru_maxrss > 0);
    CHECK(child.reap().lost());
    CHECK_FALSE(child.signal(SIGTERM));
    CHECK(child.try_signal(SIGTERM) == ESRCH);
}

TEST_CASE("a group is signalled as long as its leader is unreaped", "[core][sys]") {
    sys::ProcessHandle<sidestep::Fd> leader{fork(), {}};
    if (leader.pid == 0) {
        setpgid(0, 0);
        pause();
        _exit(0);
    }
    setpgid(leader.pid, leader.pid);  // whoever is faster
    leader.pidfd = sys::pidfd_open(leader.pid);
    int member = fork();
    if (member == 0) {
        setpgid(0, leader.pid);
        pause();
        _exit(0);
    }
    setpgid(member, leader.pid);
    leader.signal(SIGKILL);
    CHECK(leader.wait_for_end({}));
    leader.signal_group(SIGTERM);  // the leader is a zombie: the number is still its own
    int status = 0;
    CHECK(waitpid(member, &status, 0) == member);
    CHECK(WTERMSIG(status) == SIGTERM);
    CHECK(leader.wait().signal() == SIGKILL);
    leader.signal_group(SIGTERM);  // whose number it is now is not known
}

TEST_CASE("a process is found by its number, or it is said that there is none", "[core][sys]") {
    int error = -1;
    CHECK(sys::find(getpid(), error));
    CHECK(error == 0);
    int gone = start_child(0);
    waitpid(gone, nullptr, 0);
    CHECK_FALSE(sys::find(gone, error));
    CHECK(error == ESRCH);
}

TEST_CASE("descriptors travel inside messages", "[core][sys]") {
    auto [a, b] = sys::make_socketpair();
    auto [reader, writer] = sys::make_pipe();
    std::byte text[3] = {std::byte{'a'}, std::byte{'b'}, std::byte{'c'}};
    int fd = writer.get();
    sys::send_message(a.get(), text, {&fd, 1});
    std::byte buffer[16];
    sys::Message message = sys::receive_message(b.get(), buffer);
    REQUIRE(message.size == 3);
    REQUIRE(message.fds.size() == 1);
    CHECK(write(message.fds[0].get(), "x", 1) == 1);
    char got = 0;
    CHECK(read(reader.get(), &got, 1) == 1);
    CHECK(got == 'x');
    a.reset();
    CHECK(sys::receive_message(b.get(), buffer).closed);
}

TEST_CASE("a message that does not fit is an error, and leaks no descriptor", "[core][sys]") {
    auto [a, b] = sys::make_socketpair();
    std::byte text[8] = {};
    int fd = a.get();
    sys::send_message(a.get(), text, {&fd, 1});
    std::byte buffer[4];
    CHECK_THROWS_AS(sys::receive_message(b.get(), buffer), std::system_error);
}

TEST_CASE("a memfd cannot be shrunk under its users", "[core][sys]") {
    sidestep::Fd fd = sys::memfd("sidestep-test", 8192);
    CHECK(ftruncate(fd.get(), 0) == -1);
    sidestep::Mapping writable = sys::map_shared(fd.get(), 8192, sys::Access::read_write);
    sidestep::Fd reader = sys::reopen_read_only(fd);
    CHECK_THROWS_AS(sys::map_shared(reader.get(), 8192, sys::Access::read_write),
                    std::system_error);
    sidestep::Mapping view = sys::map_shared(reader.get(), 8192, sys::Access::read_only);
    std::memset(writable.data(), 5, 8192);
    CHECK(view.data()[8191] == std::byte{5});
    sys::discard(fd.get(), 0, 4096);
    CHECK(view.data()[0] == std::byte{0});
    CHECK(sys::populate(writable.bytes()));
}

TEST_CASE("a futex wait ends on a wake, on a changed word and on its deadline", "[core][sys]") {
    std::atomic<std::uint32_t> word{0}, other{0};
    CHECK(sys::futex_wait(word, 1, {}) == sys::Wake::changed);
    CHECK(sys::futex_wait(word, 0, sys::Clock::now() + 1ms) == sys::Wake::timeout);
    CHECK(sys::futex_wait2(word, 0, other, 1, {}) == sys::Wake::changed);
    CHECK(sys::futex_wait2(word, 0, other, 0, sys::Clock::now() + 1ms) == sys::Wake::timeout);
    std::thread waker([&] {
        other.store(1);
        sys::futex_wake(other, 1);
    });
    while (other.load() == 0) sys::futex_wait2(word, 0, other, 0, sys::Clock::now() + 1s);
    waker.join();
    CHECK(other.load() == 1);
}

TEST_CASE("the number of usable CPUs is at least one", "[core][sys]") {
    CHECK(sys::usable_cpus() >= 1);
    CHECK(sys::thread_count() >= 1);
}

TEST_CASE("a thread stays on the nth CPU for a while, and may use all of them again",
          "[core][sys]") {
    cpu_set_t before, after;
    REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
    auto count = static_cast<std::size_t>(CPU_COUNT(&before));
    for (std::size_t n = 0; n <= count; ++n) {
        sys::OnCpu here(n);
        CHECK(sched_getcpu() == sys::nth_cpu(0));  // of the one that is left
    }
    CHECK(sys::nth_cpu(count) == sys::nth_cpu(0));
    CHECK(sys::nth_cpu(count - 1) >= sys::nth_cpu(0));
    REQUIRE(sched_getaffinity(0, sizeof after, &after) == 0);
    CHECK(CPU_EQUAL(&before, &after));
}

namespace {

// A kernel whose masks have 4096 bits, and one on which nobody may ask. What they were asked:
std::vector<std::size_t> asked_for;
constexpr int kLarge[] = {0, 63, 64, 1023, 1024, 2500, 4095};

int ask_large(std::size_t bytes, cpu_set_t* mask) {
    asked_for.push_back(bytes);
    if (bytes < 4096 / 8) return errno = EINVAL, -1;
    for (int cpu : kLarge) CPU_SET_S(cpu, bytes, mask);
    return 0;
}
int ask_closed(std::size_t, cpu_set_t*) { return errno = ENOSYS, -1; }
int ask_endless(std::size_t bytes, cpu_set_t*) {
    asked_for.push_back(bytes);
    return errno = EINVAL, -1;
}

}  // namespace

TEST_CASE("a machine with more CPUs than a cpu_set_t has is known as a whole", "[core][sys][cpu]") {
    asked_for.clear();
    auto set = sys::CpuSet::of_this_thread(ask_large);
    REQUIRE(set);
    CHECK(asked_for == std::vector<std::size_t>{128, 256, 512});
    CHECK(set->count() == std::size(kLarge));
    CHECK(set->numbers() == std::vector<int>(std::begin(kLarge), std::end(kLarge)));
    for (std::size_t n = 0; n < std::size(kLarge); ++n) CHECK(set->nth(n) == kLarge[n]);
    CHECK(set->contains(2500));
    CHECK_FALSE(set->contains(2501));
    CHECK_FALSE(set->contains(4096));
    CHECK_FALSE(set->contains(-1));
}

TEST_CASE("CPUs of which the kernel does not tell are no set of CPUs", "[core][sys][cpu]") {
    CHECK_FALSE(sys::CpuSet::of_this_thread(ask_closed));
    asked_for.clear();
    CHECK_FALSE(sys::CpuSet::of_this_thread(ask_endless));
    CHECK(asked_for.back() == sys::CpuSet::kMost / 8);  // then it gives up
}

TEST_CASE("a set of CPUs grows as far as it has to, and the kernel takes it", "[core][sys][cpu]") {
    auto all = sys::CpuSet::of_this_thread();
    REQUIRE(all);
    cpu_set_t before;
    REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
    CHECK(all->count() == static_cast<std::size_t>(CPU_COUNT(&before)));
    sys::CpuSet one;
    CHECK_FALSE(one.apply());  // none
    one.add(all->nth(0));
    one.add(5000);  // which is not there: the kernel leaves it out
    CHECK(one.count() == 2);
    REQUIRE(one.apply());
    CHECK(sys::CpuSet::of_this_thread()->numbers() == std::vector<int>{all->nth(0)});
    REQUIRE(all->apply());
    CHECK(sys::CpuSet::of_this_thread()->numbers() == all->numbers());
}

}  // namespace sys_test
