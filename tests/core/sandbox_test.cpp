// What is left of starting processes where a sandbox, a container or an old kernel refuses calls.
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/exit_hooks.hpp>
#include <sidestep/process.hpp>
#include <sidestep/subprocess.hpp>

#include "launch_support.hpp"
#include "sandbox.hpp"
#include "spawn/copy_process.hpp"
#include "start/boot_failure.hpp"
#include "start/lifeline.hpp"
#include "start/zygote.hpp"
#include "support.hpp"
#include "sys/fork_marker.hpp"
#include "sys/own_proc.hpp"

namespace sandbox_test {

using namespace sidestep;
using test::Refusal;
using namespace std::chrono_literals;

namespace {

const StartMethod kMethods[] = {StartMethod::spawn, StartMethod::fork, StartMethod::forkserver};

constexpr Refusal kClonePidfd = {SYS_clone, EINVAL, 0, CLONE_PIDFD, CLONE_PIDFD};
constexpr Refusal fcntl_refused(int command, int error = EPERM) {
    return {SYS_fcntl, error, 1, static_cast<std::uint32_t>(command)};
}

// 0: children start, and end as they should.
int starts_children(StartMethod method) {
    auto from = test::launcher(method);
    for (int code : {7, 8}) {
        Launched child = from->launch(&test::report_main);
        test::ChildReport report = test::receive_report(child);
        if (report.pid != child.pid || report.parent != getpid()) return 1;
        test::send_number(child, code);
        if (test::wait_for(child).code() != code) return 2;
    }
    Launched killed = from->launch(&test::hold_main);
    sys::pidfd_send_signal(killed.pidfd.get(), SIGTERM);
    return test::wait_for(killed).signal() == SIGTERM ? 0 : 3;
}

// 0: programs start; 1..3: they do not, or a failure is not reported.
int runs_programs() {
    auto done = subprocess::run({"/bin/sh", "-c", "echo hi; exit 3"}, {.capture_output = true});
    if (done.std_out != "hi\n" || done.returncode != 3) return 1;
    try {
        subprocess::run({"/nowhere/at/all"});
        return 2;
    } catch (const subprocess::StartError& error) {
        if (error.code().value() != ENOENT) return 3;
    }
    return 0;
}

}  // namespace

TEST_CASE("children start on the next rung where a clone call is refused", "[core][sandbox]") {
    for (int error : {ENOSYS, EPERM, EINVAL})
        for (StartMethod method : kMethods) {
            CAPTURE(error, to_string(method));
            CHECK(test::where_refused({{SYS_clone3, error}},
                                      [&] { return starts_children(method); }) == 0);
            CHECK(test::where_refused({{SYS_clone3, error}, kClonePidfd},
                                      [&] { return starts_children(method); }) == 0);
        }
}

TEST_CASE("programs start, and failures to start are told, on each rung", "[core][sandbox]") {
    for (int error : {ENOSYS, EPERM}) {
        CAPTURE(error);
        CHECK(test::where_refused({{SYS_clone3, error}}, runs_programs) == 0);
        CHECK(test::where_refused({{SYS_clone3, error}, kClonePidfd}, runs_programs) == 0);
    }
}

TEST_CASE("where no process can be made, the error names the call and who may refuse it",
          "[core][sandbox]") {
    CHECK(test::where_refused({{SYS_clone3, EPERM}, {SYS_clone, EPERM}}, [] {
              try {
                  subprocess::run({"/bin/true"});
                  return 1;
              } catch (const subprocess::StartError& error) {
                  bool clear = std::strstr(error.what(), "clone (") != nullptr &&
                               std::strstr(error.what(), "refused by the sandbox") != nullptr;
                  return clear ? 0 : 2;
              }
          }) == 0);
}

namespace {

// 0: the program does not start with these options, and the message says `has` and not `has_not`.
int says(const subprocess::Options& options, const char* has, const char* has_not) {
    try {
        subprocess::run({"/bin/true"}, options);
        return 1;
    } catch (const subprocess::StartError& error) {
        if (std::strstr(error.what(), has) == nullptr) return 2;
        return std::strstr(error.what(), has_not) == nullptr ? 0 : 3;
    }
}

}  // namespace

TEST_CASE("a message names the cause that the kernel gave, and no other", "[core][sandbox]") {
    const char* const sandbox = "refused by the sandbox";
    struct Row {
        Refusal refusal;
        subprocess::Options options;
        const char* has;
        const char* has_not;
    };
    const subprocess::Options nice{.nice = -5}, cpus{.cpus = {0}},
        files{.limits = {{subprocess::Resource::core_file, 0, 0}}},
        lifeline{.die_with_parent = true};
    for (const Row& row :
         {Row{{SYS_sched_setaffinity, EPERM}, cpus, sandbox, "there is none of them"},
          Row{{SYS_sched_setaffinity, ENOMEM}, cpus, "cpus 0", "there is none of them"},
          Row{{SYS_sched_setaffinity, EINVAL}, cpus, "there is none of them", sandbox},
          Row{{SYS_setpriority, EPERM}, nice, "nice", "CAP_SYS_NICE"},
          Row{{SYS_setpriority, EACCES}, nice, "CAP_SYS_NICE", sandbox},
          Row{{SYS_prlimit64, ENOMEM}, files, "setrlimit", "above"},
          Row{{SYS_prlimit64, EPERM}, files, "setrlimit", "above"},
          Row{{SYS_pipe2, ENOMEM}, lifeline, "die_with_parent", "limit"},
          Row{{SYS_pipe2, EMFILE}, lifeline, "ulimit -n", "fs."},
          Row{{SYS_pipe2, ENFILE}, lifeline, "fs.file-max", "ulimit"}}) {
        CAPTURE(row.refusal.call, row.refusal.error);
        CHECK(test::where_refused({row.refusal},
                                  [&] { return says(row.options, row.has, row.has_not); }) == 0);
    }
    auto piped = [](int error, const char* has, const char* has_not) {
        return test::where_refused({{SYS_pipe2, error}}, [&] {
            return says({.std_out = subprocess::PIPE}, has, has_not);
        });
    };
    CHECK(piped(ENOMEM, "the child's streams", "limit") == 0);
    CHECK(piped(EMFILE, "ulimit -n", "fs.") == 0);
    CHECK(piped(ENFILE, "fs.pipe-user-pages-hard", "ulimit") == 0);
    auto sized = [](int error, const char* has, const char* has_not) {
        return test::where_refused({{SYS_fcntl, error, 1, F_SETPIPE_SZ}}, [&] {
            return says({.std_out = subprocess::PIPE, .pipesize = 4096}, has, has_not);
        });
    };
    CHECK(sized(EPERM, "fs.pipe-max-size", "memory") == 0);
    CHECK(sized(ENOMEM, "pipesize = 4096", "fs.") == 0);
}

TEST_CASE("children start and get signals without pidfd_open and pidfd_send_signal",
          "[core][sandbox]") {
    for (int error : {ENOSYS, EPERM})
        for (StartMethod method : kMethods) {
            CAPTURE(error, to_string(method));
            CHECK(test::where_refused({{SYS_pidfd_open, error}, {SYS_pidfd_send_signal, error}},
                                      [&] { return starts_children(method); }) == 0);
        }
}

TEST_CASE("a child dies with its parent where F_SETSIG, or all of O_ASYNC, is refused",
          "[core][sandbox]") {
    const std::vector<Refusal> sandboxes[] = {{fcntl_refused(F_SETSIG, EINVAL)},
                                              {fcntl_refused(F_SETSIG), fcntl_refused(F_SETOWN)}};
    for (const auto& refusals : sandboxes)
        for (StartMethod method : kMethods) {
            CAPTURE(refusals.size(), to_string(method));
            auto [alive_read, alive_write] = sys::make_pipe();
            int code = test::in_sandbox([&, held = &alive_write] {
                if (test::refuse(refusals) != 0) return 98;
                ::signal(SIGIO, SIG_IGN);  // the application's own business
                Launched child = test::launcher(method)->launch(&test::hold_main);
                test::send_number(child, 0, held);
                std::byte answer{};
                (void)sys::receive_message(child.control.get(), {&answer, 1});  // it holds it
                ::kill(getpid(), SIGKILL);
                return 1;
            });
            alive_write.reset();
            CHECK(code == -SIGKILL);
            CHECK(test::reaches_end(alive_read));
        }
}

TEST_CASE("a program that dies with its parent does so without F_SETSIG too", "[core][sandbox]") {
    const std::vector<Refusal> sandboxes[] = {{fcntl_refused(F_SETSIG, EINVAL)},
                                              {fcntl_refused(F_SETSIG), fcntl_refused(F_SETOWN)}};
    for (const auto& refusals : sandboxes) {
        CAPTURE(refusals.size());
        auto [alive_read, alive_write] = sys::make_pipe();
        int code = test::in_sandbox([&, held = alive_write.get()] {
            if (test::refuse(refusals) != 0) return 98;
            subprocess::Options options{.pass_fds = {{held, 9}}, .die_with_parent = true};
            subprocess::Popen child({"/bin/sleep", "1000"}, options);
            ::kill(getpid(), SIGKILL);
            return 1;
        });
        alive_write.reset();
        CHECK(code == -SIGKILL);
        CHECK(test::reaches_end(alive_read));
    }
}

TEST_CASE("why a child could not start stands in its parent's exception", "[core][sandbox]") {
    const std::initializer_list<Refusal> all = {fcntl_refused(F_SETSIG),
                                                fcntl_refused(F_SETOWN),
                                                {SYS_prctl, EPERM, 0, 1}};  // PR_SET_PDEATHSIG
    CHECK(test::where_refused(all, [] {
              Launched child = test::launcher(StartMethod::spawn)->launch(&test::report_main);
              (void)test::wait_for(child);
              auto reason = take_boot_failure(child.control.get());
              return reason && reason->find("PR_SET_PDEATHSIG") != std::string::npos ? 0 : 1;
          }) == 0);
    for (StartMethod method : {StartMethod::fork, StartMethod::forkserver}) {
        CAPTURE(to_string(method));
        CHECK(test::where_refused(all, [&] {
                  try {
                      (void)test::launcher(method)->launch(&test::report_main);
                      return 1;
                  } catch (const std::system_error& error) {
                      return std::strstr(error.what(), "PR_SET_PDEATHSIG") ? 0 : 2;
                  }
              }) == 0);
    }
}

TEST_CASE("a fork server that can make no siblings names another way", "[core][sandbox]") {
    int error = GENERATE(EINVAL, EPERM);  // EINVAL: an emulator's answer
    CAPTURE(error);
    std::initializer_list<Refusal> no_siblings = {
        {SYS_clone3, ENOSYS}, {SYS_clone, error, 0, CLONE_PARENT, CLONE_PARENT}};
    CHECK(test::where_refused(no_siblings, [] {
              try {
                  (void)test::launcher(StartMethod::forkserver)->launch(&test::report_main);
                  return 1;
              } catch (const std::system_error& failure) {
                  return std::strstr(failure.what(), "CLONE_PARENT is refused; use StartMethod::")
                             ? 0
                             : 2;
              }
          }) == 0);
    CHECK(test::where_refused(no_siblings, [] { return starts_children(StartMethod::spawn); }) ==
          0);
}

TEST_CASE("a forked copy is told apart where MADV_WIPEONFORK is refused, or not done",
          "[core][sandbox]") {
    int answer = GENERATE(EINVAL, 0);  // 0: an emulator's yes
    CAPTURE(answer);
    Refusal refused = {SYS_madvise, answer, 2, MADV_WIPEONFORK};
    // In a program that has not asked yet: what is mapped now would stay.
    CHECK(test::where_refused({refused}, [] {
              return subprocess::run({"/proc/self/exe", "[wipe-on-fork]"}).returncode;
          }) == 0);
}

TEST_CASE("forked copies are told apart, however they were made", "[core][.][wipe-on-fork]") {
    ForkMarker marker;
    CHECK(marker.same_process());
    CHECK(test::in_sandbox([&] { return marker.same_process() ? 1 : 0; }) == 0);
    Copied copied = copy_process(0, 0, Rungs::all);
    if (copied.pid == 0) _exit(marker.same_process() ? 1 : 0);
    Fd pidfd(copied.pidfd);
    CHECK(sys::wait_pidfd(pidfd.get(), true).code() == 0);
    CHECK(marker.same_process());
}

TEST_CASE("without /proc one thread may fork, and what cannot be counted may not",
          "[core][sandbox]") {
    CHECK(test::without_proc([] {
              if (sys::thread_count() != 1) return 1;
              if (starts_children(StartMethod::fork) != 0) return 2;
              for (int i = 0; i < 1000; ++i) {  // one that was joined may be on its way out
                  std::thread([] {}).join();
                  if (sys::thread_count() != 1) return 8;
              }
              std::atomic<bool> over{false};
              std::thread other([&] {
                  while (!over) std::this_thread::yield();
              });
              bool unknown = !sys::thread_count().has_value();
              std::string refusal;
              try {
                  require_single_thread("a pool's worker", 5);
              } catch (const std::logic_error& error) {
                  refusal = error.what();
              }
              over = true;
              other.join();
              if (!unknown) return 3;
              return refusal.find("cannot be counted without /proc") != std::string::npos ? 0 : 4;
          }) == 0);
}

TEST_CASE("children start without /proc, and beside another namespace's", "[core][sandbox]") {
    for (StartMethod method : kMethods) {
        CAPTURE(to_string(method));
#ifndef TEST_SANITIZED  // when a program is started, they read its map
        CHECK(test::without_proc([&] { return starts_children(method); }) == 0);
#endif
        CHECK(test::in_foreign_proc([&] { return starts_children(method); }) == 0);
    }
}

TEST_CASE("a process knows whether /proc speaks of its own numbers", "[core][sandbox]") {
    CHECK(proc_is_ours());
    CHECK(test::in_foreign_proc([] { return proc_is_ours() ? 1 : 0; }) == 0);
    CHECK(test::without_proc([] { return proc_is_ours() ? 1 : 0; }) == 0);
    CHECK(test::in_sandbox([] { return proc_is_ours() ? 0 : 1; }) == 0);
}

namespace {
// A fork of this process that has the same number here and in the pid namespace around this one.
pid_t fork_with_one_number() {
    for (pid_t number = 20000; number < 30000; ++number) {
        const pid_t numbers[] = {number, number};
        clone_args how = {};
        how.exit_signal = SIGCHLD;
        how.set_tid = reinterpret_cast<std::uintptr_t>(numbers);
        how.set_tid_size = std::size(numbers);
        const long pid = ::syscall(SYS_clone3, &how, sizeof how);
        if (pid >= 0 || errno != EEXIST) return static_cast<pid_t>(pid);
    }
    return -1;
}
}  // namespace

TEST_CASE("a process of many groups knows that /proc speaks of another namespace",
          "[core][sandbox]") {
    const int count = GENERATE(0, 400, 1000, 5000);
    CHECK(test::in_foreign_proc([&] {
              const pid_t pid = fork_with_one_number();
              if (pid < 0) return 97;
              if (pid == 0) {
                  std::vector<gid_t> groups(static_cast<std::size_t>(count));
                  std::iota(groups.begin(), groups.end(), gid_t(10000));
                  if (::setgroups(groups.size(), groups.data()) != 0) ::_exit(96);
                  ::_exit(proc_is_ours() ? 1 : 0);
              }
              int status = 0;
              if (::waitpid(pid, &status, 0) != pid) return 95;
              return WIFEXITED(status) ? WEXITSTATUS(status) : 94;
          }) == 0);
}

TEST_CASE("the parent's number means nothing in a pid namespace that it is not in",
          "[core][sandbox]") {
    CHECK_FALSE(parent_is_gone(getppid()));
    CHECK(parent_is_gone(getpid()));
    CHECK(test::in_foreign_proc([] { return parent_is_gone(4711) ? 1 : 0; }) == 0);
}

TEST_CASE("as nice as can be is that, however nice the parent is", "[core][sandbox]") {
    CHECK(test::in_sandbox([] {
              if (::setpriority(PRIO_PROCESS, 0, 5) != 0) return 97;
              const std::string nice =
                  subprocess::check_output("nice", {.shell = true, .nice = INT_MAX});
              return nice == "19\n" ? 0 : 1;
          }) == 0);
}

TEST_CASE("a forked child that has its parent's number, 1, is not its parent", "[core][sandbox]") {
    CHECK(test::in_foreign_proc([] {
              ForkMarker marker;
              Finalizer parents([] { ::_exit(96); }, 0);
              Process child({.start_method = StartMethod::fork_threaded}, exit_process, 0);
              child.start();
              if (getpid() != 1 || !test::enter_namespace(CLONE_NEWPID)) return 97;
              int code = test::in_sandbox([&] {
                  ForkMarker own;
                  if (getpid() != 1 || !own.same_process()) return 2;
                  if (marker.same_process()) return 3;
                  parents();  // does nothing here
                  try {
                      (void)child.is_alive();
                  } catch (const std::logic_error&) {
                      return 0;
                  }
                  return 4;
              });
              child.join();
              parents.cancel();
              return code;
          }) == 0);
}

TEST_CASE("a fork server's child that can have no pidfd is ended and reaped", "[core][sandbox]") {
    CHECK(test::in_foreign_proc([] {
              // No pidfd comes with a process, and none is to be had for the server's child.
              constexpr pid_t kServer = 2, kChild = 3;
              constexpr Refusal kRefusals[] = {
                  {SYS_clone3, ENOSYS},
                  {SYS_clone, EINVAL, 0, CLONE_PIDFD, CLONE_PIDFD},
                  {SYS_pidfd_open, ENFILE, 0, static_cast<std::uint32_t>(kChild)}};
              if (getpid() != 1 || test::refuse(kRefusals) != 0) return 98;
              auto server = Zygote::fork_here();
              if (server->process().pid != kServer) return 97;
              try {
                  (void)server->launch(&test::hold_main, {});
                  return 2;
              } catch (const std::system_error& error) {
                  if (error.code().value() != ENFILE) return 3;
              }
              siginfo_t ended = {};
              if (::waitid(P_PID, kChild, &ended, WEXITED | WNOWAIT) == 0) return 4;
              Launched next = server->launch(&test::hold_main, {});
              (void)next.signal(SIGKILL);
              return next.wait().returncode() == -SIGKILL ? 0 : 5;
          }) == 0);
}

TEST_CASE("an eventual wait on two words waits where futex_waitv is refused", "[core][sandbox]") {
    for (int error : {ENOSYS, EPERM, EACCES})
        CHECK(test::where_refused({{449, error}}, [] {
                  std::atomic<std::uint32_t> a{0}, b{0};
                  // Refused, it came back at once, as if woken: a loop around it would be busy.
                  auto begin = sys::Clock::now();
                  (void)sys::futex_wait2(a, 0, b, 0, begin + 20ms);
                  return sys::Clock::now() >= begin + 20ms ? 0 : 1;
              }) == 0);
}

}  // namespace sandbox_test
