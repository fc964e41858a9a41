#include "start/boot.hpp"

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include <catch2/catch.hpp>
#include <sidestep/init.hpp>
#include <sidestep/subprocess.hpp>

#include "launch_support.hpp"
#include "spawn/spawn.hpp"
#include "support.hpp"

namespace boot_test {

using namespace sidestep;

namespace {

const char* const kProgram = SIDESTEP_TEST_CHILDREN "/init_child";

subprocess::CompletedProcess run_with_variable(const std::string& value) {
    return subprocess::run({kProgram},
                           {.capture_output = true,
                            .timeout = test::kPatience,
                            .std_in = subprocess::DEVNULL,
                            .env = subprocess::Environment::extend({{kBootVariable, value}})});
}

// A child that waits for its first message; its stderr goes to a pipe.
struct Waiting {
    explicit Waiting(const char* program = kProgram) {
        sys::SocketPair sockets = sys::make_socketpair();
        sys::Pipe pipe = sys::make_pipe();
        subprocess::Options options;
        options.executable = program;
        options.std_err = pipe.write_end.get();
        options.env = subprocess::Environment::extend({{kBootVariable, "9"}});
        options.pass_fds = {{sockets.second.get(), 9}};
        child = spawn::start({program}, options);
        control = std::move(sockets.first);
        errors = std::move(pipe.read_end);
    }
    void send(const void* bytes, std::size_t size, const Fd* fd = nullptr) {
        int raw = fd ? fd->get() : -1;
        sys::send_message(control.get(), {static_cast<const std::byte*>(bytes), size},
                          {&raw, fd ? std::size_t(1) : 0});
    }
    // How it ended, and what it said.
    std::pair<ExitStatus, std::string> end() {
        ExitStatus status = sys::wait_pidfd(child.pidfd.get(), true);
        char text[1024] = {};
        (void)!read(errors.get(), text, sizeof text - 1);
        return {status, text};
    }
    spawn::Child child;
    Fd control, errors;
};

BootMessage good_message() {
    BootMessage message;
    message.entry = locate(reinterpret_cast<const void*>(&test::report_main));
    message.parent_pid = getpid();
    message.has_lifeline = 1;
    return message;
}

}  // namespace

TEST_CASE("without the variable a program goes on after init()", "[core][boot]") {
    CHECK(initialized());
    auto done = subprocess::run({kProgram}, {.capture_output = true});
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "main\n");
}

TEST_CASE("a variable that names no socket of ours ends the program with a message",
          "[core][boot]") {
    for (const char* value : {"", "garbage", "-1", "99999", "12abc", " 3", "4294967299", "0x3",
                              "99999999999999999999", "0", "1", "2"}) {
        auto done = run_with_variable(value);
        CAPTURE(value);
        CHECK(done.returncode == 1);
        CHECK(done.std_out.empty());
        CHECK_THAT(done.std_err,
                   Catch::Contains(std::string("SIDESTEP_BOOT_FD=") + value + " names no socket") &&
                       Catch::Contains("unset it"));
    }
}

TEST_CASE("a socket of another kind is not read from", "[core][boot]") {
    int raw[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, raw) == 0);
    Fd ours(raw[0]), theirs(raw[1]);
    REQUIRE(write(ours.get(), "precious", 8) == 8);
    auto done =
        subprocess::run({kProgram}, {.capture_output = true,
                                     .env = subprocess::Environment::extend({{kBootVariable, "7"}}),
                                     .pass_fds = {{theirs.get(), 7}}});
    CHECK(done.returncode == 1);
    CHECK_THAT(done.std_err, Catch::Contains("names no socket"));
    char text[16] = {};
    CHECK(read(theirs.get(), text, sizeof text) == 8);
}

TEST_CASE("a child whose parent goes away before the first message leaves silently",
          "[core][boot]") {
    Waiting waiting;
    waiting.control.reset();
    auto [status, text] = waiting.end();
    CHECK(status.code() == 1);
    CHECK(text.empty());
}

TEST_CASE("a first message that is not ours is refused", "[core][boot]") {
    sys::Pipe lifeline = sys::make_pipe();
    BootMessage good = good_message(), bad_magic = good;
    bad_magic.magic ^= 1;
    struct {
        const void* bytes;
        std::size_t size;
        const Fd* fd;
    } cases[] = {{"x", 1, &lifeline.read_end},
                 {&good, sizeof good - 1, &lifeline.read_end},
                 {&bad_magic, sizeof good, &lifeline.read_end},
                 {&good, sizeof good, nullptr}};
    for (auto& c : cases) {
        Waiting waiting;
        waiting.send(c.bytes, c.size, c.fd);
        auto [status, text] = waiting.end();
        CHECK(status.code() == 1);
        CHECK_THAT(text, Catch::Contains("cannot start") &&
                             Catch::Contains("not one of this version of Sidestep"));
    }
    std::vector<std::byte> long_message(sizeof good + 1);
    Waiting waiting;
    waiting.send(long_message.data(), long_message.size(), &lifeline.read_end);
    CHECK(waiting.end().first.code() == 1);
}

TEST_CASE("a child of another build does not jump where it is told to", "[core][boot]") {
    sys::Pipe lifeline = sys::make_pipe();
    // init_child is another program than this test: the module of the entry is not loaded there.
    Waiting other_build;
    BootMessage message = good_message();
    other_build.send(&message, sizeof message, &lifeline.read_end);
    auto [status, text] = other_build.end();
    CHECK(status.code() == 1);
    CHECK_THAT(text, Catch::Contains("is not in it: the library it belongs to") &&
                         Catch::Contains("was a file replaced since it started?") &&
                         Catch::Contains("run the same build everywhere"));
    // The right program, and an offset that is no code.
    Waiting same_build("/proc/self/exe");
    message.entry = locate(kProgram);
    same_build.send(&message, sizeof message, &lifeline.read_end);
    CHECK(same_build.end().first.code() == 1);
}

TEST_CASE("a first message that names a place where no child begins is refused", "[core][boot]") {
    sys::Pipe lifeline = sys::make_pipe();
    for (auto* place : {reinterpret_cast<const void*>(&test::stranger_main),
                        reinterpret_cast<const void*>(&test::wait_for)}) {
        Waiting waiting("/proc/self/exe");
        BootMessage message = good_message();
        message.entry = locate(place);
        waiting.send(&message, sizeof message, &lifeline.read_end);
        auto [status, text] = waiting.end();
        CHECK(status.code() == 1);
        CHECK_THAT(text, Catch::Contains("names a place where no child begins"));
    }
}

TEST_CASE("a child obeys its parent alone, not who made a socket for it", "[core][boot]") {
    // The shell is the parent, and waits for it.
    sys::SocketPair control = sys::make_socketpair();
    BootMessage message;
    message.parent_pid = getpid();
    sys::send_message(control.first.get(), std::as_bytes(std::span(&message, 1)), {});
    auto done = subprocess::run({"sh", "-c", std::string(kProgram) + "; exit $?"},
                                {.capture_output = true,
                                 .timeout = test::kPatience,
                                 .env = subprocess::Environment::extend({{kBootVariable, "9"}}),
                                 .pass_fds = {{control.second.get(), 9}}});
    CHECK(done.returncode == 1);
    CHECK(done.std_out.empty());
    CHECK_THAT(done.std_err, Catch::Contains("its control socket belongs to process " +
                                             std::to_string(getpid())) &&
                                 Catch::Contains("only the parent is obeyed"));
    char rest[sizeof message];
    CHECK(recv(control.second.get(), rest, sizeof rest, MSG_DONTWAIT) == sizeof rest);
}

TEST_CASE("a child obeys no socket that a process left to somebody", "[core][boot]") {
    sys::SocketPair post = sys::make_socketpair();
    pid_t maker = fork();
    if (maker == 0) {
        sys::SocketPair made = sys::make_socketpair();
        int fds[2] = {made.first.get(), made.second.get()};
        std::byte byte{};
        sys::send_message(post.second.get(), {&byte, 1}, fds);
        _exit(0);
    }
    Fd pidfd = sys::pidfd_open(maker);
    CHECK(sys::wait_pidfd(pidfd.get(), true).success());
    std::byte byte;
    sys::Message message = sys::receive_message(post.first.get(), {&byte, 1});
    REQUIRE(message.fds.size() == 2);
    auto done =
        subprocess::run({kProgram}, {.capture_output = true,
                                     .timeout = test::kPatience,
                                     .env = subprocess::Environment::extend({{kBootVariable, "9"}}),
                                     .pass_fds = {{message.fds[1].get(), 9}}});
    CHECK(done.returncode == 1);
    CHECK_THAT(done.std_err, Catch::Contains("only the parent is obeyed"));
}

TEST_CASE("a child obeys no socket of another user", "[core][boot]") {
    if (geteuid() != 0) {
        WARN("only root can be another user: nothing was tested");
        return;
    }
    REQUIRE(seteuid(65533) == 0);
    sys::SocketPair control = sys::make_socketpair();  // the kernel notes who made it
    REQUIRE(seteuid(0) == 0);
    auto done =
        subprocess::run({kProgram}, {.capture_output = true,
                                     .timeout = test::kPatience,
                                     .env = subprocess::Environment::extend({{kBootVariable, "9"}}),
                                     .pass_fds = {{control.second.get(), 9}}});
    CHECK(done.returncode == 1);
    CHECK_THAT(done.std_err, Catch::Contains("belongs to user 65533, and it runs as user 0"));
}

TEST_CASE("a child whose parent died before its lifeline was armed leaves", "[core][boot]") {
    BootMessage message = good_message();
    {
        sys::Pipe lifeline = sys::make_pipe();
        lifeline.write_end.reset();  // as if
        Waiting waiting("/proc/self/exe");
        waiting.send(&message, sizeof message, &lifeline.read_end);
        // Killed by the lifeline, or by itself, whichever comes first.
        CHECK_FALSE(waiting.end().first.success());
    }
    sys::Pipe lifeline = sys::make_pipe();
    message.parent_pid = getppid();  // not its parent
    Waiting waiting("/proc/self/exe");
    waiting.send(&message, sizeof message, &lifeline.read_end);
    CHECK(waiting.end().first.code() == 1);
}

TEST_CASE("a child takes over with the right message", "[core][boot]") {
    sys::Pipe lifeline = sys::make_pipe();
    BootMessage message = good_message();
    Waiting waiting("/proc/self/exe");
    waiting.send(&message, sizeof message, &lifeline.read_end);
    test::ChildReport report;
    sys::receive_message(waiting.control.get(), std::as_writable_bytes(std::span(&report, 1)));
    CHECK(report.pid == waiting.child.pid);
    CHECK_FALSE(report.boot_variable);
    lifeline.write_end.reset();
    CHECK(waiting.end().first.signal() == SIGKILL);
}

TEST_CASE("closed standard descriptors are not mistaken for the control socket", "[core][boot]") {
    pid_t pid = fork();
    if (pid == 0) {
        for (int fd : {0, 1, 2}) close(fd);
        int failures = 0;
        for (StartMethod method :
             {StartMethod::spawn, StartMethod::fork, StartMethod::forkserver}) {
            auto from = test::launcher(method);
            Launched child = from->launch(&test::report_main);
            test::ChildReport report = test::receive_report(child);
            failures += report.pid != child.pid || report.null_control;
            test::send_number(child, 4);
            failures += test::wait_for(child).code() != 4;
        }
        _exit(failures);
    }
    Fd pidfd = sys::pidfd_open(pid);
    CHECK(sys::wait_pidfd(pidfd.get(), true).code() == 0);
}

}  // namespace boot_test
