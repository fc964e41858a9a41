// Signals to children, and to a parent that waits: the contracts of CPython's test_subprocess.
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>
#include <thread>

#include "py_support.hpp"
#include "sys/sys.hpp"

namespace py_signal_test {

using namespace py;

namespace {

using Send = std::function<void(sp::Popen&)>;

sp::Options all_pipes() { return {.std_in = sp::PIPE, .std_out = sp::PIPE, .std_err = sp::PIPE}; }

// What comes of a child that is up and running and gets a signal: its code and its std_err.
std::pair<int, std::string> after_signal(const char* script, const Send& send) {
    sp::Popen child({"sh", "-c", script}, all_pipes());
    child.std_out().read(1);  // it has set itself up
    send(child);
    std::string err = child.communicate().std_err;
    return {child.wait(), err};
}
const char* const kStay = "echo x; exec sleep 1000";

// Nothing happens to a child that has ended and has not been reaped.
int send_to_dead(const Send& send) {
    sp::Popen child({"sh", "-c", "echo x; exit 42"}, all_pipes());
    child.std_out().read(1);
    eventually([&] { return is_zombie(child.pid()); });
    send(child);
    child.communicate();
    return *child.returncode();
}

// Ends when it gets SIGINT, but only after it has cleaned up, which takes until the gate opens.
const char* const kCleansUp =
    "trap 'read go <&3; echo cleaned up; exit 42' INT; echo $$; while :; do read x <&4; done";

// Interrupts the terminal's way: the child and the parent's waiting thread get SIGINT; then lets
// the child finish. Returns what the child has written after that.
class Interruption {
  public:
    Interruption() : waiter_(this_thread_id()), waiting_thread_(pthread_self()) {}
    ~Interruption() { join(); }

    // The child's options.
    sp::Options options() const {
        return {.std_out = output_.write_end.get(),
                .pass_fds = {{gate_.fd(), 3}, {never_.fd(), 4}}};
    }
    // To be called before the wait that is to be interrupted.
    void interrupt_soon() {
        thread_ = std::thread([this] {
            std::string pid;
            for (char c; read(output_.read_end.get(), &c, 1) == 1 && c != '\n';) pid += c;
            // A shell that is between two commands would only note the signal.
            eventually([&] { return is_asleep(waiter_) && process_sleeps(std::stoi(pid)); });
            kill(std::stoi(pid), SIGINT);
            pthread_kill(waiting_thread_, SIGINT);
            eventually([&] { return signal_.count() > 0 && is_asleep(waiter_); });
            alive_ = !is_dead(std::stoi(pid));
            gate_.open();
        });
    }
    bool child_was_alive_after_it() {
        join();
        return alive_;
    }
    int signals() const { return signal_.count(); }
    std::string rest() {
        output_.write_end.reset();
        std::string text;
        for (char c; read(output_.read_end.get(), &c, 1) == 1;) text += c;
        return text;
    }

  private:
    void join() {
        if (thread_.joinable()) thread_.join();
    }
    CountedSignal signal_{SIGINT};
    Gate gate_, never_;
    sidestep::sys::Pipe output_ = sidestep::sys::make_pipe();
    int waiter_;
    pthread_t waiting_thread_;
    bool alive_ = false;
    std::thread thread_;
};

}  // namespace

TEST_CASE("send_signal reaches the child, whose handler may end it in its own way",
          "[subprocess][py:POSIXProcessTestCase.test_send_signal]") {
    const char* script =
        "trap 'echo interrupted >&2; exit 5' INT; echo x; while :; do read line; done";
    auto [code, err] = after_signal(script, [](sp::Popen& child) {
        child.send_signal(SIGINT);
        // A shell that was about to read looks at its traps after that; another one may be gone.
        try {
            child.std_in().write("wake up\n");
        } catch (const std::system_error& error) {
            CHECK(error.code().value() == EPIPE);
        }
    });
    CHECK(code == 5);
    CHECK(err == "interrupted\n");
}

TEST_CASE("kill ends the child with SIGKILL, terminate with SIGTERM",
          "[subprocess][py:POSIXProcessTestCase.test_kill]"
          "[py:POSIXProcessTestCase.test_terminate]") {
    using Result = std::pair<int, std::string>;
    CHECK((after_signal(kStay, &sp::Popen::kill) == Result(-SIGKILL, "")));
    CHECK((after_signal(kStay, &sp::Popen::terminate) == Result(-SIGTERM, "")));
}

TEST_CASE("a signal to a child that has ended does nothing",
          "[subprocess][py:POSIXProcessTestCase.test_send_signal_dead]"
          "[py:POSIXProcessTestCase.test_kill_dead]"
          "[py:POSIXProcessTestCase.test_terminate_dead]") {
    CHECK(send_to_dead([](sp::Popen& child) { child.send_signal(SIGINT); }) == 42);
    CHECK(send_to_dead(&sp::Popen::kill) == 42);
    CHECK(send_to_dead(&sp::Popen::terminate) == 42);
}

// The pid of a child that someone else has reaped may belong to a bystander by now. Where we may,
// we make the kernel give it away again.
TEST_CASE("a signal never reaches the new owner of the child's pid",
          "[subprocess][py:POSIXProcessTestCase.test_send_signal_race]") {
    bool reused = false;
    for (int attempt = 0; attempt < 50 && !reused; ++attempt) {
        sp::Popen child({"true"});
        waitpid(child.pid(), nullptr, 0);  // behind its back
        CHECK_FALSE(child.returncode());
        std::ofstream("/proc/sys/kernel/ns_last_pid") << child.pid() - 1 << std::flush;
        sp::Popen bystander({"cat"}, {.std_in = sp::PIPE});
        reused = bystander.pid() == child.pid();
        CHECK_NOTHROW(child.send_signal(SIGKILL));
        CHECK(child.poll().has_value());
        CHECK(child.exit_status().lost());
        bystander.std_in().close();
        CHECK(bystander.wait() == 0);  // and not -SIGKILL
        if (!is_root()) break;
    }
    if (!reused) WARN("no pid could be used twice here: it was only seen that nothing throws");
}

TEST_CASE("a signal between the child's end and the sight of it is no error",
          "[subprocess][py:POSIXProcessTestCase.test_send_signal_race2]") {
    sp::Popen unseen({"sh", "-c", "exit 1"});
    CHECK(eventually([&] { return is_zombie(unseen.pid()); }));
    CHECK_FALSE(unseen.returncode());
    CHECK_NOTHROW(unseen.send_signal(SIGTERM));
    CHECK(unseen.wait() == 1);
    sp::Popen seen({"sh", "-c", "exit 1"});
    CHECK(eventually([&] { return seen.poll().has_value(); }));
    CHECK_NOTHROW(seen.send_signal(SIGTERM));
    CHECK_NOTHROW(seen.kill());
    CHECK(seen.returncode() == 1);
}

// CPython gives a child that was interrupted together with its parent time to clean up. Here a
// wait is not ended by a signal at all: the application's handler runs, and the wait goes on.
TEST_CASE("an interrupt while call waits does not kill the child",
          "[subprocess][py:MiscTests.test_call_keyboardinterrupt_no_kill]") {
    Interruption interruption;
    sp::Options options = interruption.options();
    options.timeout = 999s;
    interruption.interrupt_soon();
    CHECK(sp::call({"sh", "-c", kCleansUp}, options) == 42);
    CHECK(interruption.child_was_alive_after_it());
    CHECK(interruption.signals() == 1);
    CHECK(interruption.rest() == "cleaned up\n");
}

TEST_CASE("an interrupt while run waits does not kill the child",
          "[subprocess][py:MiscTests.test_run_keyboardinterrupt_no_kill]") {
    Interruption interruption;
    sp::Options options = interruption.options();
    options.timeout = 999s;
    options.std_err = sp::PIPE;
    interruption.interrupt_soon();
    CHECK(sp::run({"sh", "-c", kCleansUp}, options).returncode == 42);
    CHECK(interruption.child_was_alive_after_it());
    CHECK(interruption.rest() == "cleaned up\n");
}

TEST_CASE("an interrupt that leaves a Popen's scope as an exception does not kill the child",
          "[subprocess][py:MiscTests.test_context_manager_keyboardinterrupt_no_kill]") {
    struct KeyboardInterrupt {};
    Interruption interruption;
    int pid = 0;
    auto scope = [&] {
        sp::Popen child({"sh", "-c", kCleansUp}, interruption.options());
        pid = child.pid();
        interruption.interrupt_soon();
        throw KeyboardInterrupt();  // the destructor waits, and is interrupted
    };
    CHECK_THROWS_AS(scope(), KeyboardInterrupt);
    CHECK(is_reaped(pid));
    CHECK(interruption.child_was_alive_after_it());
    CHECK(interruption.rest() == "cleaned up\n");
}

}  // namespace py_signal_test
