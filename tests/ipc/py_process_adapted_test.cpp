// CPython's tests of processes that carry over with another mechanism: _TestProcess,
// _TestSubclassingProcess, TestStdinBadfiledescriptor, TestNoForkBomb, TestCloseFds,
// TestNamedResource.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include <sidestep/connection.hpp>
#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/subprocess.hpp>
#include <sidestep/sync.hpp>

#include "process_program.hpp"
#include "process_support.hpp"

namespace py_process_adapted_test {

namespace {

using namespace sidestep;
using namespace std::chrono_literals;
using Catch::Matchers::Contains;

void nothing() {}

// Restores a standard stream's descriptor.
class SaveFd {
  public:
    explicit SaveFd(int fd) : fd_(fd), copy_(::fcntl(fd, F_DUPFD_CLOEXEC, 100)) {}
    ~SaveFd() {
        ::dup2(copy_, fd_);
        ::close(copy_);
    }
    SaveFd(const SaveFd&) = delete;
    SaveFd& operator=(const SaveFd&) = delete;

  private:
    int fd_;
    int copy_;
};

}  // namespace

TEST_CASE("spawn starts the executable that was set, under whatever type of path",
          "[process][py:_TestProcess.test_set_executable]") {
    std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
    for (const auto& path : {self, std::filesystem::path(self.string()), std::filesystem::path()}) {
        set_executable(path);
        CHECK(get_executable() == path);
        Process p({.start_method = StartMethod::spawn}, nothing);
        p.start();
        p.join();
        CHECK(p.exitcode() == 0);
    }
}

namespace {

void send_arguments(Queue<std::string> to, int number, const std::string& text,
                    std::vector<int> list, std::tuple<int> tuple) {
    to.put(std::to_string(number) + text + std::to_string(list.at(0)) +
           std::to_string(std::get<0>(tuple)));
}

}  // namespace

TEST_CASE("arguments arrive whether they were given as values, references or literals",
          "[process][py:_TestProcess.test_args_argument]") {
    FOR_EACH_START_METHOD();
    Queue<std::string> queue;
    const int number = 1;
    std::string text = "str";
    std::vector<int> list{2};
    Process by_reference({.start_method = method}, send_arguments, queue, number, text, list,
                         std::tuple(3));
    Process by_value({.start_method = method}, &send_arguments, queue, 1, "str", std::vector{2},
                     std::make_tuple(3));
    for (Process* p : {&by_reference, &by_value}) {
        p->start();
        p->join();
        CHECK(p->exitcode() == 0);
        CHECK(queue.get_for(test::kPatience) == "1str23");
    }
}

TEST_CASE("the main thread of a child has an id of its own, which is its pid",
          "[process][py:_TestProcess.test_process_mainthread_native_id]") {
    FOR_EACH_START_METHOD();
    Queue<int> queue(1);
    Process p(
        {.start_method = method}, [](Queue<int> to) { to.put(::gettid()); }, queue);
    p.start();
    auto id = queue.get_for(test::kPatience);
    p.join();
    CHECK(id != ::gettid());
    CHECK(id == p.pid());
}

namespace {

// A jthread is what a non-daemonic thread is in Python, a detached one what a daemonic one is.
void leave_threads(Event set_late, Event go) {
    std::thread([] {
        for (;;) ::pause();
    }).detach();
    std::jthread waited_for([set_late, go]() mutable {
        go.wait();
        set_late.set();
    });
}

}  // namespace

TEST_CASE("a child ends when the threads that its function waits for have, and not later",
          "[process][py:_TestProcess.test_wait_for_threads]") {
    FOR_EACH_START_METHOD();
    Event set_late, go;
    Process p({.start_method = method}, leave_threads, set_late, go);
    p.start();
    CHECK_FALSE(p.join_for(1ms));
    go.set();
    REQUIRE(p.join_for(test::kPatience));
    CHECK(set_late.is_set());
    CHECK(p.exitcode() == 0);
}

TEST_CASE("a process whose parent has broken standard streams works",
          "[process][py:_TestProcess.test_error_on_stdio_flush_1]") {
    FOR_EACH_START_METHOD();
    const int stream = GENERATE(STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO);
    const bool closed = GENERATE(true, false);
    Event done;
    std::optional<int> code;
    {
        SaveFd saved(stream);
        int full = closed ? -1 : ::open("/dev/full", O_RDWR);
        if (closed)
            ::close(stream);
        else
            ::dup2(full, stream);
        Process p(
            {.start_method = method},
            [](Event e) {
                std::cout << "x";
                std::puts("y");
                e.set();
            },
            done);
        p.start();
        p.join();
        code = p.exitcode();
        if (full >= 0) ::close(full);
        std::fflush(stdout);
    }
    CHECK(done.is_set());
    CHECK(code == 0);
}

TEST_CASE("a process that breaks its own standard streams exits with 0",
          "[process][py:_TestProcess.test_error_on_stdio_flush_2]") {
    FOR_EACH_START_METHOD();
    Event done;
    Process p(
        {.start_method = method},
        [](Event e) {
            std::cout.exceptions(std::ios::badbit | std::ios::failbit);
            std::cout << "never seen";
            std::printf("never seen");
            ::close(STDOUT_FILENO);
            ::close(STDERR_FILENO);
            e.set();
        },
        done);
    p.start();
    p.join();
    CHECK(done.is_set());
    CHECK(p.exitcode() == 0);
}

namespace {

void check_fork_server_after(int signal, bool survives) {
    test::StopForkServer stop_at_the_end;
    auto wait_and_set = [](const Event& go, Event done) {
        go.wait();
        done.set();
    };
    ProcessOptions by_server{.start_method = StartMethod::forkserver};
    start_forkserver();
    Event go, first_done, second_done;
    Process first(by_server, wait_and_set, go, first_done);
    first.start();
    int server = forkserver_pid();
    REQUIRE(server > 0);
    ::kill(server, signal);
    if (!survives) REQUIRE(test::eventually([] { return forkserver_pid() == 0; }));
    go.set();
    Process second(by_server, wait_and_set, go, second_done);
    second.start();
    second.join();
    CHECK(second_done.is_set());
    CHECK(second.exitcode() == 0);
    CHECK((forkserver_pid() == server) == survives);
    first.join();
    CHECK(first_done.is_set());
    CHECK(first.exitcode() == 0);  // exact, though its server is dead: Python says 255
}

}  // namespace

TEST_CASE("the fork server survives SIGINT", "[process][py:_TestProcess.test_forkserver_sigint]") {
    check_fork_server_after(SIGINT, true);
}

TEST_CASE("a fork server that was killed is replaced, and its children go on",
          "[process][py:_TestProcess.test_forkserver_sigkill]") {
    check_fork_server_after(SIGKILL, false);
}

namespace {

// What a subclass with a run() of its own is in Python: a functor with state.
struct UpperCaser {
    std::string greeting;

    void operator()(Connection conn) const {
        conn.send(greeting);
        try {
            for (;;) {
                auto text = conn.recv<std::string>();
                for (char& c : text) c = static_cast<char>(std::toupper(c));
                conn.send(text);
            }
        } catch (const EndOfStream&) {
        }
    }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(greeting);
    }
};

}  // namespace

TEST_CASE("a functor with state runs in the process, and talks over a pipe",
          "[process][py:_TestSubclassingProcess.test_subclassing]") {
    FOR_EACH_START_METHOD();
    auto [here, there] = Pipe();
    // Forked, the child has a copy of our end; so the stream ends for it by a half-close.
    Process p({.daemon = true, .start_method = method}, UpperCaser{"ready"}, std::move(there));
    p.start();
    CHECK(here.recv<std::string>() == "ready");
    here.send(std::string("hello"));
    CHECK(here.recv<std::string>() == "HELLO");
    here.send(std::string("world"));
    CHECK(here.recv<std::string>() == "WORLD");
    if (method == StartMethod::fork)
        p.terminate();
    else
        here.close();
    p.join();
    CHECK(p.exitcode() == (method == StartMethod::fork ? -SIGTERM : 0));
}

namespace {

// What a child with this function writes to stderr.
template <class F>
std::string stderr_of(StartMethod method, F function, std::optional<int> expected_code) {
    auto file =
        std::filesystem::temp_directory_path() / ("sidestep-stderr-" + std::to_string(::getpid()));
    {
        stop_forkserver();  // its children have the stderr of its start
        SaveFd saved(STDERR_FILENO);
        int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
        ::dup2(fd, STDERR_FILENO);
        ::close(fd);
        Process p({.name = "Talker", .start_method = method}, function);
        p.start();
        p.join();
        CHECK(p.exitcode() == expected_code);
        stop_forkserver();
    }
    std::ifstream in(file);
    std::string text(std::istreambuf_iterator<char>(in), {});
    std::filesystem::remove(file);
    return text;
}

}  // namespace

TEST_CASE("what a child throws is on its stderr, and what it wrote there before",
          "[process][py:_TestSubclassingProcess.test_stderr_flush]") {
    FOR_EACH_START_METHOD();
    auto text = stderr_of(
        method,
        [] {
            std::clog << "before, ";  // buffered
            std::fputs("both\n", stderr);
            throw std::domain_error("1/0");
        },
        1);
    CHECK_THAT(text, Contains("both\n"));
    CHECK_THAT(text, Contains("before, "));
    CHECK_THAT(text, Contains("Process Talker (pid "));
    CHECK_THAT(text, Contains("std::domain_error: 1/0\n"));
}

TEST_CASE("exit codes are those of exit(), modulo 256, and text goes to stderr",
          "[process][py:_TestSubclassingProcess.test_sys_exit]") {
    FOR_EACH_START_METHOD();
    const int code = GENERATE(0, 1, 5, 255, 256 + 7);
    Process by_exit(
        {.start_method = method}, [](int c) { std::exit(c); }, code);
    Process by_ours(
        {.start_method = method}, [](int c) { exit_process(c); }, code);
    for (Process* p : {&by_exit, &by_ours}) {
        p->start();
        p->join();
        CHECK(p->exitcode() == code % 256);
        CHECK_NOTHROW(p->rethrow());
    }
    auto text = stderr_of(
        method,
        [] {
            std::cerr << "ignore this\n";
            exit_process(1);
        },
        1);
    CHECK(text == "ignore this\n");
}

TEST_CASE("a queue works in a child of a child, whose stdin is /dev/null",
          "[process][py:TestStdinBadfiledescriptor.test_queue_in_process]") {
    FOR_EACH_START_METHOD();
    Process p({.start_method = method}, [] {
        Queue<int> queue;
        Process below(
            {.daemon = true}, [](Queue<int> from) { exit_process(from.get()); }, queue);
        below.start();
        queue.put(std::cin.get() == EOF ? 7 : 8);
        below.join();
        exit_process(*below.exitcode());
    });
    p.start();
    p.join();
    CHECK(p.exitcode() == 7);
}

TEST_CASE("a program that starts a process before init() is told so, and starts none",
          "[process][py:TestNoForkBomb.test_noforkbomb]") {
    auto method = GENERATE("spawn", "forkserver");
    auto done = test::run_process_program({"bomb", method});
    CHECK(done.returncode == -SIGABRT);
    CHECK(done.std_out.empty());
    CHECK_THAT(done.std_err, Contains("init() was not called"));

    auto forked = test::run_process_program({"bomb", "fork"});  // needs none
    CHECK(forked.returncode == 0);
    CHECK(forked.std_out == "123\n");
}

TEST_CASE("a descriptor of the parent is not in a child, unless it was forked",
          "[process][py:TestCloseFds.test_closefd]") {
    FOR_EACH_START_METHOD();
    auto [here, there] = Pipe();
    int stray = ::fcntl(STDOUT_FILENO, F_DUPFD, 200);  // not even O_CLOEXEC
    Process p(
        {.start_method = method}, [](Connection to, int fd) { to.send(::fcntl(fd, F_GETFD) >= 0); },
        std::move(there), stray);
    p.start();
    CHECK(here.recv<bool>() == (method == StartMethod::fork));
    p.join();
    ::close(stray);
}

TEST_CASE("a program with a global semaphore can spawn, and stderr stays clean",
          "[process][py:TestNamedResource.test_global_named_resource_spawn]") {
    auto done = test::run_process_program({"named-resource"});
    CHECK(done.returncode == 0);
    CHECK(done.std_out.empty());
    CHECK(done.std_err.empty());
}

}  // namespace py_process_adapted_test
