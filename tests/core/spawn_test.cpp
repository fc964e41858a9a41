// The contract of a start, on every primitive: clone3, clone, fork.
#include "spawn/spawn.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include <catch2/catch.hpp>
#include <sidestep/subprocess.hpp>

#include "subprocess_support.hpp"
#include "support.hpp"
#include "sys/sys.hpp"

namespace spawn_test {

namespace sp = sidestep::subprocess;
namespace spawn = sidestep::spawn;
using namespace std::chrono_literals;
using test::UseInternals;

namespace {

std::string shell_output(const std::string& script, sp::Options options = {}) {
    options.std_out = sp::PIPE;
    sp::Popen child({"/bin/sh", "-c", script}, options);
    std::string text = child.communicate().std_out;
    if (child.wait() != 0) text += "<failed>";
    return text;
}

#define FOR_EACH_PRIMITIVE                                                                   \
    auto primitive =                                                                         \
        GENERATE(spawn::Primitive::clone3, spawn::Primitive::clone, spawn::Primitive::fork); \
    CAPTURE(int(primitive));                                                                 \
    UseInternals forced({.primitive = primitive})

}  // namespace

TEST_CASE("a child runs, and its exit code comes back", "[core][subprocess][spawn]") {
    FOR_EACH_PRIMITIVE;
    CHECK(sp::Popen({"/bin/true"}).wait() == 0);
    CHECK(sp::Popen({"sh", "-c", "exit 7"}).wait() == 7);
    CHECK(sp::Popen({"sh", "-c", "kill -9 $$"}).wait() == -9);
}

TEST_CASE("a failing step comes back with its name, errno and path", "[core][subprocess][spawn]") {
    FOR_EACH_PRIMITIVE;
    auto failure = [](const sp::Args& args, const sp::Options& options) {
        try {
            sp::Popen child(args, options);
        } catch (const sp::StartError& e) {
            return std::tuple(e.step(), e.code().value(), e.path());
        }
        return std::tuple(sp::StartStep::pipe, 0, std::string("started"));
    };
    using Step = sp::StartStep;
    CHECK(failure({"/no/such"}, {}) == std::tuple(Step::exec, ENOENT, "/no/such"));
    CHECK(failure({"no-such-program"}, {}) == std::tuple(Step::exec, ENOENT, "no-such-program"));
    CHECK(failure({"/"}, {}) == std::tuple(Step::exec, EACCES, "/"));
    CHECK(failure({"true"}, {.cwd = "/no/such"}) == std::tuple(Step::chdir, ENOENT, "/no/such"));
    CHECK(failure({"true"}, {.cwd = "/etc/passwd"}) ==
          std::tuple(Step::chdir, ENOTDIR, "/etc/passwd"));
    CHECK(failure({"true"}, {.std_in = 4999}) == std::tuple(Step::redirect, EBADF, ""));
    CHECK(failure({"true"}, {.process_group = 999999999}) == std::tuple(Step::setpgid, EPERM, ""));
    CHECK(failure({"true"}, {.cpus = {4095}}) == std::tuple(Step::affinity, EINVAL, ""));
}

TEST_CASE("the child sees its streams, folder, mask and group", "[core][subprocess][spawn]") {
    FOR_EACH_PRIMITIVE;
    CHECK(shell_output("pwd", {.cwd = "/usr"}) == "/usr\n");
    CHECK(shell_output("umask", {.umask = 0027}) == "0027\n");
    CHECK(shell_output("echo $A-$B", {.env = sp::Environment{{"A", "1"}}}) == "1-\n");
    CHECK(shell_output("echo out; echo err >&2", {.std_err = sp::STDOUT}) == "out\nerr\n");
    CHECK(shell_output("cat; echo end", {.std_in = sp::DEVNULL}) == "end\n");
    CHECK(shell_output("ulimit -n", {.limits = {{sp::Resource::open_files, 77}}}) == "77\n");
    int own = std::stoi(shell_output("nice"));
    CHECK(std::stoi(shell_output("nice", {.nice = 3})) == std::min(19, own + 3));

    sp::Popen leader({"cat"}, {.std_in = sp::PIPE, .process_group = 0});
    CHECK(getpgid(leader.pid()) == leader.pid());
    sp::Popen session({"cat"}, {.std_in = sp::PIPE, .start_new_session = true});
    CHECK(getsid(session.pid()) == session.pid());
}

TEST_CASE("descriptors arrive under the number that was asked for", "[core][subprocess][spawn]") {
    FOR_EACH_PRIMITIVE;
    auto [reader, writer] = sidestep::sys::make_pipe();
    int fd = writer.get();
    sp::Popen({"sh", "-c", "echo hi >&9"}, {.pass_fds = {{fd, 9}}}).wait();
    // A swap: each of the two becomes the other's number.
    auto [reader2, writer2] = sidestep::sys::make_pipe();
    int fd2 = writer2.get();
    std::string script = "echo one >&" + std::to_string(fd) + "; echo two >&" + std::to_string(fd2);
    sp::Popen({"bash", "-c", script}, {.pass_fds = {{fd2, fd}, {fd, fd2}}}).wait();
    writer.reset();
    writer2.reset();
    CHECK(test::read_all(reader.get()) == "hi\ntwo\n");
    CHECK(test::read_all(reader2.get()) == "one\n");
}

TEST_CASE("only the named descriptors reach the child", "[core][subprocess][spawn]") {
    FOR_EACH_PRIMITIVE;
    auto method = GENERATE(spawn::CloseMethod::close_range, spawn::CloseMethod::proc_self_fd,
                           spawn::CloseMethod::poll);
    CAPTURE(int(method));
    UseInternals closing({.primitive = primitive, .close_method = method});
    sidestep::Fd inheritable(dup(2));  // not close-on-exec
    sidestep::Fd high(fcntl(2, F_DUPFD, 700));
    sidestep::Fd passed = sidestep::sys::open_dev_null();
    std::set<int> expected = {0, 1, 2, passed.get()};
    CHECK(test::fds_of_child({.pass_fds = {passed.get()}}) == expected);
    expected = {0, 1, 2, inheritable.get(), high.get()};
    std::set<int> seen = test::fds_of_child({.close_fds = false});
    CHECK(std::includes(seen.begin(), seen.end(), expected.begin(), expected.end()));
}

TEST_CASE("handlers and the signal mask do not leak into the child", "[core][subprocess][spawn]") {
    FOR_EACH_PRIMITIVE;
    struct sigaction handler = {}, former = {};
    handler.sa_handler = [](int) {};
    sigaction(SIGUSR1, &handler, &former);
    test::Signals seen = test::signals_of_child({.blocked_signals = {{SIGUSR2}}});
    sigaction(SIGUSR1, &former, nullptr);
    CHECK_FALSE(seen.caught.test(SIGUSR1));
    CHECK(seen.blocked.test(SIGUSR2));
    CHECK(seen.blocked.count() == 1);
    CHECK_FALSE(seen.ignored.test(SIGPIPE));
    // Without a wish: the mask of the calling thread, which is unchanged after the start.
    sigset_t block, mask, after;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &block, &mask);
    seen = test::signals_of_child({});
    pthread_sigmask(SIG_SETMASK, &mask, &after);
    CHECK(seen.blocked.test(SIGUSR1));
    CHECK(sigismember(&after, SIGUSR1) == 1);
    CHECK(sigismember(&after, SIGUSR2) == 0);
}

TEST_CASE("SIGPIPE is restored unless it shall stay ignored", "[core][subprocess][spawn]") {
    FOR_EACH_PRIMITIVE;
    auto former = signal(SIGPIPE, SIG_IGN);
    test::Signals restored = test::signals_of_child({});
    test::Signals kept = test::signals_of_child({.restore_signals = false});
    signal(SIGPIPE, former);
    CHECK_FALSE(restored.ignored.test(SIGPIPE));
    CHECK(kept.ignored.test(SIGPIPE));
}

TEST_CASE("die_with_parent: the child dies when the other end is closed",
          "[core][subprocess][spawn]") {
    FOR_EACH_PRIMITIVE;
    spawn::Child child = spawn::start({"sleep", "1000"}, {.die_with_parent = true});
    child.lifeline.reset();
    CHECK(sidestep::sys::wait_pidfd(child.pidfd.get(), true).signal() == SIGKILL);
}

TEST_CASE("die_with_parent: a fork(2) of this process does not hold the child",
          "[core][subprocess][spawn]") {
    spawn::Child child = spawn::start({"sleep", "1000"}, {.die_with_parent = true});
    sidestep::sys::Pipe hold = sidestep::sys::make_pipe();
    pid_t copy = fork();
    if (copy == 0) {
        hold.write_end.reset();
        char byte;
        while (read(hold.read_end.get(), &byte, 1) < 0) continue;
        _exit(0);
    }
    child.lifeline.reset();
    bool ended = sidestep::sys::wait_for_exit(child.pidfd.get(),
                                              sidestep::sys::Clock::now() + test::kPatience);
    CHECK(ended);
    if (!ended) sidestep::sys::pidfd_send_signal(child.pidfd.get(), SIGKILL);
    sidestep::sys::wait_pidfd(child.pidfd.get(), true);
    hold.write_end.reset();
    waitpid(copy, nullptr, 0);
}

TEST_CASE("pid and pidfd can be owned without a Popen", "[core][subprocess][spawn]") {
    FOR_EACH_PRIMITIVE;
    spawn::Child child = spawn::start({"sh", "-c", "exit 3"}, {.std_in = sp::DEVNULL});
    CHECK(child.pid > 0);
    CHECK(sidestep::sys::wait_pidfd(child.pidfd.get(), true).code() == 3);
    CHECK_THROWS_AS(spawn::start({"true"}, {.std_in = sp::PIPE}), std::invalid_argument);
}

TEST_CASE("many threads start children at once without leaking descriptors",
          "[core][subprocess][spawn]") {
    FOR_EACH_PRIMITIVE;
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&, primitive] {
            UseInternals mine({.primitive = primitive});
            for (int i = 0; i < 10; ++i) {
                // Were its pipe inherited by a sibling, cat would not see the end.
                sp::Popen cat({"cat"}, {.std_in = sp::PIPE, .std_out = sp::PIPE});
                if (cat.communicate("x").std_out != "x") ++wrong;
                if (cat.wait() != 0) ++wrong;
            }
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
}

}  // namespace spawn_test
