// Bad input, hostile surroundings, and kernels that refuse: a clear error where it is one, and
// nothing left behind (the leak listener looks after each test).
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include <catch2/catch.hpp>
#include <sidestep/subprocess.hpp>

#include "subprocess_support.hpp"
#include "support.hpp"
#include "sys/sys.hpp"

namespace subprocess_fault_test {

namespace sp = sidestep::subprocess;
namespace spawn = sidestep::spawn;
using namespace std::chrono_literals;
using namespace std::string_literals;
using Catch::Matchers::Contains;
using test::in_fork;

namespace {

// The error of a start: "" if there was none.
std::string start_error(const sp::Args& args, const sp::Options& options = {}) {
    try {
        sp::Popen(args, options).wait();
        return "";
    } catch (const std::exception& e) {
        return e.what();
    }
}

int start_errno(const sp::Args& args, const sp::Options& options = {}) {
    try {
        sp::Popen(args, options).wait();
        return 0;
    } catch (const sp::StartError& e) {
        return e.code().value();
    }
}

}  // namespace

TEST_CASE("NUL, '=' and emptiness are refused where a program could not see them",
          "[core][subprocess][fault]") {
    const std::string nul = "a\0b"s;
    CHECK_THROWS_AS(sp::Popen({"echo", nul}), std::invalid_argument);
    CHECK_THROWS_AS(sp::Popen({nul}), std::invalid_argument);
    CHECK_THROWS_AS(sp::Popen({"true"}, {.executable = nul}), std::invalid_argument);
    CHECK_THROWS_AS(sp::Popen({"true"}, {.cwd = nul}), std::invalid_argument);
    CHECK_THROWS_AS(sp::Popen({"true"}, {.user = nul}), std::invalid_argument);
    auto env = [](std::string name, std::string value) {
        return start_error({"true"}, {.env = sp::Environment{{name, value}}});
    };
    CHECK_THAT(env(nul, "x"), Contains("NUL"));
    CHECK_THAT(env("x", nul), Contains("NUL"));
    CHECK_THAT(env("A=B", "x"), Contains("A=B"));
    CHECK_THAT(env("", "x"), Contains("empty"));
    CHECK_THROWS_AS(sp::Popen(std::vector<std::string>{}), std::invalid_argument);
    CHECK_THROWS_AS(sp::Popen(sp::Args(std::initializer_list<sp::Argument>{})),
                    std::invalid_argument);
    CHECK_THROWS_AS(sp::Popen({""}), sp::StartError);
}

TEST_CASE("users and groups must exist and fit", "[core][subprocess][fault]") {
    CHECK_THAT(start_error({"true"}, {.user = "no-such-user"}), Contains("\"no-such-user\""));
    CHECK_THAT(start_error({"true"}, {.group = "no-such-group"}), Contains("\"no-such-group\""));
    CHECK_THAT(start_error({"true"}, {.user = -1}), Contains("out of range"));
    CHECK_THAT(start_error({"true"}, {.group = 1LL << 32}), Contains("out of range"));
    CHECK_THAT(start_error({"true"}, {.extra_groups = {{-1}}}), Contains("out of range"));
    CHECK(in_fork([] {
              // Without the privilege.
              if (geteuid() == 0 && (setgroups(0, nullptr) != 0 || setuid(65534) != 0)) return 1;
              try {
                  sp::Popen({"true"}, {.user = 0});
              } catch (const sp::StartError& e) {
                  return e.step() == sp::StartStep::setuid && e.code().value() == EPERM ? 0 : 2;
              }
              return 3;
          }) == 0);
}

TEST_CASE("ids are changed when there is the privilege", "[core][subprocess]") {
    if (geteuid() != 0) return;
    auto out = [](sp::Options options, const char* what) {
        options.capture_output = true;
        return sp::run({"id", what}, options).std_out;
    };
    CHECK(out({.user = 65534}, "-u") == "65534\n");
    CHECK(out({.user = "root"}, "-u") == "0\n");
    CHECK(out({.group = 65534}, "-g") == "65534\n");
    CHECK(out({.extra_groups = {{7, 8}}}, "-G") == "0 7 8\n");
    CHECK(out({.extra_groups = std::vector<sp::Identity>{}}, "-G") == "0\n");
}

TEST_CASE("files that are no programs say why", "[core][subprocess][fault]") {
    test::TemporaryFile not_executable("#!/bin/sh\n", 0644), no_interpreter("#!/no/such\n", 0755),
        no_format("echo hi\n", 0755);
    CHECK(start_errno({not_executable.path()}) == EACCES);
    CHECK_THAT(start_error({not_executable.path()}), Contains("chmod +x"));
    CHECK(start_errno({no_interpreter.path()}) == ENOENT);
    CHECK_THAT(start_error({no_interpreter.path()}), Contains("interpreter"));
    CHECK(start_errno({no_format.path()}) == ENOEXEC);
    CHECK_THAT(start_error({no_format.path()}), Contains("#!"));
    CHECK_THAT(start_error({"no-such-program"}), Contains("PATH"));
    CHECK_THAT(start_error({"true"}, {.cwd = "/no/such"}), Contains("chdir(\"/no/such\")"));
    CHECK_THAT(start_error({"true"}, {.std_in = 4999}), Contains("descriptor 4999 is not open"));
    CHECK_THAT(start_error({"true"}, {.pass_fds = {4998}}), Contains("descriptor 4998"));
    CHECK(start_errno({"true", std::string(3 << 20, 'x')}) == E2BIG);
}

TEST_CASE("the PATH of the child's environment is searched; EACCES wins over ENOENT",
          "[core][subprocess]") {
    test::TemporaryFile file("", 0644);
    std::filesystem::path path = file.path();
    auto search = [&](const std::string& folders) {
        return start_errno({path.filename().string()}, {.env = sp::Environment{{"PATH", folders}}});
    };
    CHECK(search("/no/such:" + path.parent_path().string() + ":/usr/bin") == EACCES);
    CHECK(search("/no/such:/etc/passwd") == ENOENT);
    CHECK(sp::call({"true"}, {.env = sp::Environment{{"PATH", "/usr/bin:/bin"}}}) == 0);
    CHECK(sp::call({"true"}, {.env = sp::Environment{}}) == 0);  // a default PATH
}

TEST_CASE("a preexec_fn runs in the child; what it throws is the error of the start",
          "[core][subprocess]") {
    auto exits = [] { _exit(42); };
    CHECK(sp::call({"true"}, {.preexec_fn = exits}) == 42);
    CHECK(sp::check_output({"pwd"}, {.preexec_fn = [] { (void)!chdir("/usr"); }}) == "/usr\n");
    auto refuses = [] { throw std::system_error(EDOM, std::generic_category()); };
    CHECK(start_errno({"true"}, {.preexec_fn = refuses}) == EDOM);
    CHECK_THAT(start_error({"true"}, {.preexec_fn = [] { throw 1; }}), Contains("preexec_fn"));
}

TEST_CASE("a limit on processes is a clear error", "[core][subprocess][fault]") {
    CHECK(in_fork([] {
              rlimit one = {1, 1};
              if (setrlimit(RLIMIT_NPROC, &one) != 0) return 1;
              if (geteuid() == 0 && setuid(65533) != 0) return 2;
              // This process is the one that its user may have, or one too many already.
              try {
                  sp::Popen({"true"});
              } catch (const sp::StartError& e) {
                  bool right = e.step() == sp::StartStep::spawn && e.code().value() == EAGAIN;
                  return right && std::string(e.what()).find("ulimit -u") != std::string::npos ? 0
                                                                                               : 3;
              }
              return 4;
          }) == 0);
}

TEST_CASE("whatever the number of descriptors left, a start works or fails cleanly",
          "[core][subprocess][fault]") {
    test::Resources before = test::Resources::now();
    int next = fcntl(2, F_DUPFD_CLOEXEC, 3);
    close(next);
    rlimit former;
    getrlimit(RLIMIT_NOFILE, &former);
    int failed = 0, worked = 0;
    for (int room = 0; room < 12; ++room) {
        rlimit low = {static_cast<rlim_t>(next + room), former.rlim_max};
        setrlimit(RLIMIT_NOFILE, &low);
        std::string error = start_error({"true"}, {.std_in = sp::PIPE,
                                                   .std_out = sp::PIPE,
                                                   .std_err = sp::DEVNULL,
                                                   .die_with_parent = true,
                                                   .on_destroy = sp::OnDestroy::kill});
        setrlimit(RLIMIT_NOFILE, &former);
        CAPTURE(room, error);
        CHECK((error.empty() || error.find("Too many open files") != std::string::npos));
        ++(error.empty() ? worked : failed);
        CHECK(test::nothing_left_since(before));
    }
    CHECK(failed > 0);
    CHECK(worked > 0);
}

TEST_CASE("the parent's standard streams may be closed, each of them",
          "[core][subprocess][fault]") {
    auto primitive = GENERATE(spawn::Primitive::clone3, spawn::Primitive::fork);
    for (int closed = 1; closed < 8; ++closed) {
        CAPTURE(closed, int(primitive));
        CHECK(in_fork([&] {
                  test::UseInternals forced({.primitive = primitive});
                  for (int fd = 0; fd < 3; ++fd)
                      if (closed & (1 << fd)) close(fd);
                  sp::CompletedProcess done = sp::run({"sh", "-c", "cat; echo err >&2"},
                                                      {.input = "in", .capture_output = true});
                  if (done.std_out != "in" || done.std_err != "err\n") return 1;
                  if (sp::call({"sh", "-c", "exit 5"}, {.std_in = sp::DEVNULL}) != 5) return 2;
                  // What was closed is closed in the child, and still is in the parent.
                  for (int fd = 0; fd < 3; ++fd)
                      if (closed & (1 << fd) && fcntl(fd, F_GETFD) >= 0) return 3;
                  return 0;
              }) == 0);
    }
}

TEST_CASE("a child whose pidfd has no place above the standard streams is not left behind",
          "[core][subprocess][fault]") {
    CHECK(in_fork([] {
              close(0);  // the one number that is free below the limit
              rlimit few = {3, 3};
              if (setrlimit(RLIMIT_NOFILE, &few) != 0) return 1;
              if (start_errno({"sleep", "1000"}) != EMFILE) return 2;
              return waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD ? 0 : 3;
          }) == 0);
}

TEST_CASE("a standard stream can become any other, in any order", "[core][subprocess]") {
    auto primitive = GENERATE(spawn::Primitive::clone3, spawn::Primitive::fork);
    int order[] = {0, 1, 2};
    do {
        CAPTURE(order[0], order[1], order[2]);
        CHECK(in_fork([&] {
                  test::UseInternals forced({.primitive = primitive});
                  sidestep::sys::Pipe answer = sidestep::sys::make_pipe();
                  // The child reports which of these files its streams are.
                  const char* files[] = {"/dev/zero", "/dev/full", "/dev/random"};
                  for (int i = 0; i < 3; ++i) close(i);
                  for (int i = 0; i < 3; ++i)
                      if (open(files[i], O_RDWR) != i) return 1;
                  sp::Popen child({"sh", "-c",
                                   "for i in 0 1 2; do a=\"$a$(readlink /proc/$$/fd/$i) \"; done; "
                                   "echo \"$a\" >&9"},
                                  {.std_in = order[0],
                                   .std_out = order[1],
                                   .std_err = order[2],
                                   .pass_fds = {{answer.write_end.get(), 9}}});
                  answer.write_end.reset();
                  std::string expected;
                  for (int source : order) expected += files[source] + " "s;
                  return test::read_all(answer.read_end.get()) == expected + "\n" ? 0 : 2;
              }) == 0);
    } while (std::next_permutation(order, order + 3));
}

TEST_CASE("a limit of as many descriptors as the kernel allows costs nothing",
          "[core][subprocess][fault]") {
    auto method = GENERATE(spawn::CloseMethod::close_range, spawn::CloseMethod::proc_self_fd,
                           spawn::CloseMethod::poll);
    CHECK(in_fork([&] {
              test::UseInternals forced({.close_method = method});
              rlimit limit;
              getrlimit(RLIMIT_NOFILE, &limit);
              if (auto most = sidestep::sys::read_file("/proc/sys/fs/nr_open")) {
                  rlimit huge = {std::stoul(*most), std::stoul(*most)};
                  if (setrlimit(RLIMIT_NOFILE, &huge) != 0) {  // only root may
                      limit.rlim_cur = limit.rlim_max;
                      setrlimit(RLIMIT_NOFILE, &limit);
                  }
              }
              getrlimit(RLIMIT_NOFILE, &limit);
              int high = fcntl(2, F_DUPFD, static_cast<int>(limit.rlim_cur) - 1);
              if (high < 0) return 1;
              return test::fds_of_child({}) == std::set<int>{0, 1, 2} ? 0 : 2;
          }) == 0);
}

TEST_CASE("no /proc is needed", "[core][subprocess][fault]") {
    int result = in_fork([] {
        if (unshare(CLONE_NEWNS) != 0) return 77;
        if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return 77;
        if (umount2("/proc", MNT_DETACH) != 0) return 77;
        for (auto method : {spawn::CloseMethod::close_range, spawn::CloseMethod::proc_self_fd}) {
            test::UseInternals forced({.close_method = method});
            auto [reader, writer] = sidestep::sys::make_pipe();
            fcntl(writer.get(), F_SETFD, 0);  // inheritable: the close step must catch it
            sp::Popen child({"sleep", "1000"}, {.kill_tree = true});
            writer.reset();
            if (!test::read_all(reader.get()).empty()) return 1;  // hangs if the child has it
            child.kill_tree();
            if (child.wait() != -SIGKILL) return 2;
        }
        if (sp::run({"echo", "x"}, {.capture_output = true, .timeout = 60s}).std_out != "x\n")
            return 3;
        return 0;
    });
    CHECK((result == 0 || result == 77));
}

TEST_CASE("SIGCHLD ignored: the status is lost, never success", "[core][subprocess][fault]") {
    CHECK(in_fork([] {
              signal(SIGCHLD, SIG_IGN);
              sp::Popen child({"sh", "-c", "exit 3"});
              if (child.wait() != sidestep::ExitStatus::kLostCode) return 1;
              if (!child.exit_status().lost()) return 2;
              child.kill();
              sp::CompletedProcess done = sp::run({"echo", "x"}, {.capture_output = true});
              if (done.std_out != "x\n" || !done.status.lost()) return 3;
              try {
                  sp::check_call({"true"});
                  return 4;
              } catch (const sp::CalledProcessError&) {
                  return 0;
              }
          }) == 0);
}

TEST_CASE("a status that someone else took is lost", "[core][subprocess][fault]") {
    sp::Popen child({"true"});
    REQUIRE(waitpid(child.pid(), nullptr, 0) == child.pid());
    CHECK_NOTHROW(child.send_signal(SIGTERM));
    CHECK_NOTHROW(child.kill_tree());
    CHECK(child.wait() == sidestep::ExitStatus::kLostCode);
    CHECK(child.exit_status().lost());
    CHECK(child.resource_usage().max_resident_bytes == 0);
}

TEST_CASE("a storm of signals disturbs nothing", "[core][subprocess][fault]") {
    struct sigaction handler = {}, former = {};
    static std::atomic<int> hits;
    hits = 0;
    handler.sa_handler = [](int) { ++hits; };  // no SA_RESTART
    sigaction(SIGALRM, &handler, &former);
    itimerval storm = {{0, 500}, {0, 500}}, calm = {};
    setitimer(ITIMER_REAL, &storm, nullptr);
    std::string much(4 << 20, 'x');
    bool whole = sp::run({"cat"}, {.input = much, .capture_output = true}).std_out == much;
    sp::Popen sleeper({"sleep", "0.05"});
    int code = sleeper.wait();
    sp::Popen cat({"cat"}, {.std_in = sp::PIPE, .std_out = sp::PIPE});
    std::thread feeder([&] {
        cat.std_in().write(much);
        cat.std_in().close();
    });
    bool read_whole = cat.std_out().read() == much;
    feeder.join();
    setitimer(ITIMER_REAL, &calm, nullptr);
    sigaction(SIGALRM, &former, nullptr);
    CHECK(whole);
    CHECK(read_whole);
    CHECK(code == 0);
    CHECK(hits > 0);
}

TEST_CASE("a child that is stopped has not ended", "[core][subprocess][fault]") {
    sp::Popen child({"sleep", "1000"}, {.on_destroy = sp::OnDestroy::kill});
    child.send_signal(SIGSTOP);
    CHECK_THROWS_AS(child.wait(20ms), sp::TimeoutExpired);
    CHECK_FALSE(child.poll());
    child.send_signal(SIGCONT);
    child.terminate();
    CHECK(child.wait() == -SIGTERM);
}

TEST_CASE("a fork of this process neither waits for nor kills its children",
          "[core][subprocess][fault]") {
    auto child = std::make_unique<sp::Popen>(
        sp::Args{"cat"}, sp::Options{.std_in = sp::PIPE, .on_destroy = sp::OnDestroy::kill});
    CHECK(in_fork([&] {
              child.reset();
              return 0;
          }) == 0);
    CHECK_FALSE(child->poll());
    child->std_in().close();
    CHECK(child->wait() == 0);
}

#ifndef TEST_SANITIZED  // they have heaps of their own
TEST_CASE("a large capture makes do with the address space that there is",
          "[core][subprocess][fault]") {
    constexpr std::size_t kOutput = 40 << 20;
    CHECK(in_fork([&] {
              std::size_t pages = 0;
              std::ifstream("/proc/self/statm") >> pages;
              // Enough for the output twice over, not for the room that is asked for first.
              rlim_t limit = pages * 4096 + 8 * kOutput;
              rlimit space = {limit, limit};
              if (setrlimit(RLIMIT_AS, &space) != 0) return 1;
              return sp::check_output({"head", "-c", "40M", "/dev/zero"}) == std::string(kOutput, 0)
                         ? 0
                         : 2;
          }) == 0);
}
#endif

// --- kernels that refuse ---------------------------------------------------------------------

namespace {

// System calls that answer with `error` from now on: all of clone3; clone with the flags in
// `clone_mask`.
bool refuse_clones(int error, bool clone3, unsigned clone_mask) {
    auto answer = SECCOMP_RET_ERRNO | (static_cast<unsigned>(error) & SECCOMP_RET_DATA);
    constexpr auto kNumber = static_cast<unsigned>(offsetof(seccomp_data, nr));
    constexpr auto kFlags = static_cast<unsigned>(offsetof(seccomp_data, args));
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kNumber),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, clone3 ? answer : SECCOMP_RET_ALLOW),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kFlags),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, clone_mask, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, answer),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog filter = {sizeof program / sizeof program[0], program};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

bool children_work() {
    for (int i = 0; i < 2; ++i) {
        if (sp::call({"sh", "-c", "exit 5"}) != 5) return false;
        if (sp::run({"cat"}, {.input = "x", .capture_output = true}).std_out != "x") return false;
        if (start_errno({"/no/such"}) != ENOENT) return false;
    }
    return true;
}

}  // namespace

TEST_CASE("where clone3 is refused, clone starts the child, and then fork",
          "[core][subprocess][fault]") {
    int error = GENERATE(ENOSYS, EPERM, EINVAL);
    CHECK(in_fork([&] {
              if (!refuse_clones(error, true, 0)) return 1;
              return children_work() ? 0 : 2;
          }) == 0);
    CHECK(in_fork([&] {
              if (!refuse_clones(error, true, CLONE_VM)) return 1;
              return children_work() ? 0 : 2;
          }) == 0);
    CHECK(in_fork([&] {  // nothing at all: an error that says so
              if (!refuse_clones(error, true, ~0u)) return 1;
              return start_errno({"true"}) == error ? 0 : 2;
          }) == 0);
}

TEST_CASE("spawn probe", "[.spawn-probe]") {
    sp::Options options;
    const char* kind = std::getenv("SIDESTEP_PROBE");
    if (kind == "preexec"s) options.preexec_fn = [] {};
    if (kind == "user"s) options.user = geteuid();
    if (kind == "group"s) options.group = getegid();
    if (kind == "extra_groups"s) options.extra_groups = {{0}};
    CHECK(sp::call({"/bin/true"}, options) == 0);
}

TEST_CASE("the fast path is really taken, and left only for preexec_fn and changes of ids",
          "[core][subprocess][py:POSIXProcessTestCase.test_vfork_used_when_expected]") {
    auto probe = std::filesystem::read_symlink("/proc/self/exe").string();
    auto calls = [&](const char* kind) {
        return sp::run(
                   {"strace", "-f", "-e", "trace=clone,clone3,fork,vfork", probe, "spawn probe"},
                   {.std_out = sp::DEVNULL,
                    .std_err = sp::PIPE,
                    // LeakSanitizer does not work under strace, and clones by itself.
                    .env = sp::Environment::extend(
                        {{"SIDESTEP_PROBE", kind}, {"ASAN_OPTIONS", "detect_leaks=0"}})})
            .std_err;
    };
    std::string plain;
    try {
        plain = calls("plain");
    } catch (const sp::StartError&) {
        WARN("strace is not installed: not looked at");
        return;
    }
    const char* kFast = "clone3({flags=CLONE_VM|CLONE_PIDFD|CLONE_VFORK|CLONE_CLEAR_SIGHAND";
    CHECK_THAT(plain, Contains(kFast));
    CHECK_THAT(plain, !Contains(" clone("));
    for (const char* kind : {"preexec", "user", "group", "extra_groups"}) {
        CAPTURE(kind);
        if (geteuid() != 0 && kind == "extra_groups"s) continue;
        CHECK_THAT(calls(kind), !Contains("CLONE_VM"));
    }
}

}  // namespace subprocess_fault_test
