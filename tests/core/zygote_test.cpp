#include "start/zygote.hpp"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include <catch2/catch.hpp>

#include "launch_support.hpp"
#include "support.hpp"

namespace zygote_test {

using namespace sidestep;
using test::launcher;

namespace {

const StartMethod kMethods[] = {StartMethod::fork, StartMethod::forkserver};

// A launcher and the process that forks for it.
struct Served {
    explicit Served(StartMethod method) {
        auto before = test::Resources::now().children;
        from = launcher(method);
        for (int child : test::Resources::now().children)
            if (!before.contains(child)) pid = child;
        pidfd = sys::pidfd_open(pid);
    }
    Launched launch() { return from->launch(&test::report_main); }

    std::unique_ptr<Launcher> from;
    int pid = 0;
    Fd pidfd;
};

void check_serves(Served& server) {
    Launched child = server.launch();
    CHECK(test::receive_report(child).pid == child.pid);
    test::send_number(child, 9);
    CHECK(test::wait_for(child).code() == 9);
}

std::string message_of_launch(Served& server) {
    try {
        (void)server.launch();
        return "no error";
    } catch (const std::system_error& error) {
        return error.what();
    }
}

// The last SIGCHLD of a process, for a scope: how it ended, without reaping it.
class WatchDeath {
  public:
    explicit WatchDeath(int pid) {
        watched = pid;
        code = 0;
        struct sigaction action = {};
        action.sa_flags = SA_SIGINFO | SA_RESTART;
        action.sa_sigaction = [](int, siginfo_t* info, void*) {
            if (info->si_pid == watched) code = info->si_code;
        };
        sigaction(SIGCHLD, &action, &before_);
    }
    ~WatchDeath() { sigaction(SIGCHLD, &before_, nullptr); }
    static inline std::atomic<int> watched{0}, code{0};

  private:
    struct sigaction before_ = {};
};

}  // namespace

namespace {

// What is said to a zygote (zygote.cpp), by hand.
struct Request {
    std::uint64_t number = 1, ignored = 0;
    std::int32_t group = 0, unused = 0;
};
struct Reply {
    std::uint64_t number = 0;
    std::int32_t pid = 0, error = 0;
};

// Asks it for a child with this control socket; its pid.
int ask_for_child(const Launched& zygote, const Fd& child_control) {
    Request request;
    int fd = child_control.get();
    sys::send_message(zygote.control.get(), std::as_bytes(std::span(&request, 1)), {&fd, 1});
    Reply reply;
    sys::receive_message(zygote.control.get(), std::as_writable_bytes(std::span(&reply, 1)));
    return reply.number == request.number && reply.error == 0 ? reply.pid : -1;
}

std::unique_ptr<Launcher> zygotes_launcher(StartMethod method) {
    return method == StartMethod::fork ? make_forker() : make_spawner();
}

}  // namespace

TEST_CASE("a fork server's child obeys its parent alone, and begins where children do",
          "[core][zygote][boot]") {
    for (StartMethod method : kMethods) {
        CAPTURE(static_cast<int>(method));
        for (bool forged : {false, true}) {
            CAPTURE(forged);
            Launched zygote = zygotes_launcher(method)->launch(&zygote_main);
            // A socket that another process made, which is alive.
            sys::SocketPair control = sys::make_socketpair(), post = sys::make_socketpair();
            pid_t maker = forged ? fork() : 0;
            if (forged && maker == 0) {
                sys::SocketPair made = sys::make_socketpair();
                int fds[2] = {made.first.get(), made.second.get()};
                std::byte byte{};
                sys::send_message(post.second.get(), {&byte, 1}, fds);
                for (;;) pause();
            }
            if (forged) {
                std::byte byte;
                sys::Message message = sys::receive_message(post.first.get(), {&byte, 1});
                REQUIRE(message.fds.size() == 2);
                control = {std::move(message.fds[0]), std::move(message.fds[1])};
            }
            int pid = ask_for_child(zygote, control.second);
            REQUIRE(pid > 0);
            BootMessage message;
            auto* place = forged ? &test::report_main : &test::stranger_main;
            message.entry = locate(reinterpret_cast<const void*>(place));
            message.parent_pid = getpid();
            sys::send_message(control.first.get(), std::as_bytes(std::span(&message, 1)), {});
            int status = 0;
            CHECK(waitpid(pid, &status, 0) == pid);
            CHECK(WIFEXITED(status));
            CHECK(WEXITSTATUS(status) == 1);
            discard(std::move(zygote));
            if (forged) {
                kill(maker, SIGKILL);
                CHECK(waitpid(maker, nullptr, 0) == maker);
            }
        }
    }
}

TEST_CASE("the fork server ignores the keyboard's interrupt, its children do not",
          "[core][zygote]") {
    for (StartMethod method : kMethods) {
        CAPTURE(static_cast<int>(method));
        Served server(method);
        check_serves(server);  // it is past its first steps
        for (int i = 0; i < 3; ++i) CHECK(sys::pidfd_send_signal(server.pidfd.get(), SIGINT));
        check_serves(server);
        Launched child = server.launch();
        test::receive_report(child);
        sys::pidfd_send_signal(child.pidfd.get(), SIGINT);
        CHECK(test::wait_for(child).signal() == SIGINT);
    }
}

TEST_CASE("a killed fork server is started again; a forked template is named in an error",
          "[core][zygote]") {
    for (StartMethod method : kMethods) {
        CAPTURE(static_cast<int>(method));
        Served server(method);
        check_serves(server);
        Launched survivor = server.launch();
        test::receive_report(survivor);
        sys::pidfd_send_signal(server.pidfd.get(), SIGKILL);
        REQUIRE(sys::wait_for_exit(server.pidfd.get(), sys::Clock::now() + test::kPatience));
        for (int i = 0; i < 2; ++i) {
            if (method == StartMethod::forkserver)
                check_serves(server);
            else
                CHECK(message_of_launch(server) == "the fork server (process " +
                                                       std::to_string(server.pid) +
                                                       ") died of signal 9 (SIGKILL)");
        }
        test::send_number(survivor, 6);  // its children are the application's own
        CHECK(test::wait_for(survivor).code() == 6);
    }
}

TEST_CASE("a fork server that is killed during a launch() is started again, or named, too",
          "[core][zygote]") {
    for (StartMethod method : kMethods) {
        CAPTURE(static_cast<int>(method));
        Served server(method);
        check_serves(server);
        sys::pidfd_send_signal(server.pidfd.get(), SIGSTOP);
        std::thread killer([&] { sys::pidfd_send_signal(server.pidfd.get(), SIGKILL); });
        if (method == StartMethod::forkserver)
            check_serves(server);
        else
            CHECK_THAT(message_of_launch(server),
                       Catch::Contains("the fork server") && Catch::Contains("died"));
        killer.join();
    }
}

TEST_CASE("a stopped fork server only delays", "[core][zygote]") {
    Served server(StartMethod::fork);
    sys::pidfd_send_signal(server.pidfd.get(), SIGSTOP);
    std::thread waker([&] { sys::pidfd_send_signal(server.pidfd.get(), SIGCONT); });
    check_serves(server);
    waker.join();
}

TEST_CASE("a fork server leaves by itself, whoever holds copies of its socket", "[core][zygote]") {
    for (StartMethod method : kMethods) {
        CAPTURE(static_cast<int>(method));
        auto how_it_ends = [&] {
            Served first(method);
            check_serves(first);
            // Its process has copies of all that this one has open.
            Served second(StartMethod::fork);
            check_serves(second);
            WatchDeath death(first.pid);
            first.from.reset();
            check_serves(second);
            return death.code.load();
        };
        // And not CLD_KILLED after a second of waiting, in which a busy machine may not let it run.
        int how = 0;
        for (int i = 0; i < 5 && how != CLD_EXITED; ++i) how = how_it_ends();
        CHECK(how == CLD_EXITED);
    }
}

TEST_CASE("a fork server's children outlive it, and end with the application's lifeline",
          "[core][zygote]") {
    for (StartMethod method : kMethods) {
        Launched child;
        {
            Served server(method);
            child = server.launch();
            CHECK(test::receive_report(child).pid == child.pid);
        }
        CHECK(sys::wait_pidfd(child.pidfd.get(), false).running());
        child.lifeline.reset();
        CHECK(test::wait_for(child).signal() == SIGKILL);
    }
}

TEST_CASE("a child that is killed at once is a death like any other, not an error of launch()",
          "[core][zygote]") {
    for (StartMethod method : kMethods) {
        Served server(method);
        for (int i = 0; i < 50; ++i) {
            Launched child = server.launch();
            sys::pidfd_send_signal(child.pidfd.get(), SIGKILL);
            CHECK(test::wait_for(child).signal() == SIGKILL);
        }
    }
}

}  // namespace zygote_test
