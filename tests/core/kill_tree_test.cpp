// Killing and stopping whole trees: who is in them, and what is done where there is no room to
// look for them.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>
#include <sidestep/subprocess.hpp>

#include "sandbox.hpp"
#include "subprocess_support.hpp"
#include "support.hpp"
#include "sys/sys.hpp"

namespace kill_tree_test {

namespace sp = sidestep::subprocess;
using namespace std::chrono_literals;
using test::in_fork;

namespace {

// A child that starts others, as its script says, tells `count` pids and waits.
struct Family {
    Family(const std::string& script, std::size_t count, sp::Options options = {})
        : child({"bash", "-c", script + "\nwait"}, with_pipe(std::move(options))) {
        while (pids.size() < count) pids.push_back(std::stoi(child.std_out().read_line().value()));
    }
    ~Family() {
        for (int pid : pids)
            if (test::is_running(pid)) kill(pid, SIGKILL);  // a test that failed
    }
    Family(const Family&) = delete;
    Family& operator=(const Family&) = delete;

    static sp::Options with_pipe(sp::Options options) {
        options.std_out = sp::PIPE;
        if (options.on_destroy == sp::OnDestroy::wait) options.on_destroy = sp::OnDestroy::kill;
        return options;
    }
    bool nobody_left() const {
        return test::eventually([&] { return std::ranges::none_of(pids, test::is_running); });
    }

    std::vector<int> pids;
    sp::Popen child;
};

const std::string kInside = "sleep 1000 & echo $!; ";
const std::string kOutside = "setsid sh -c 'echo $$; exec sleep 1000' & ";
const std::string kStubborn = "(trap '' TERM; echo $BASHPID; exec sleep 1000) & ";

// In a fork: all descriptors are taken, but for `free` of them.
void take_descriptors(int free) {
    rlimit few = {128, 128};
    setrlimit(RLIMIT_NOFILE, &few);
    int last = -1;
    for (int fd; (fd = fcntl(1, F_DUPFD, 0)) >= 0;) last = fd;
    for (; free > 0; --last)
        if (close(last) == 0) --free;
}

int error_of(const std::function<void()>& action) {
    try {
        action();
        return 0;
    } catch (const std::system_error& e) {
        return e.code().value();
    }
}

bool is_stopped(int pid) {
    auto stat = sidestep::sys::read_file(("/proc/" + std::to_string(pid) + "/stat").c_str());
    return stat && stat->find(") T ") != std::string::npos;
}

}  // namespace

TEST_CASE("a process whose main thread has ended is killed with the tree",
          "[core][subprocess][kill_tree]") {
    auto program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "headless_child";
    auto [alive_read, alive_write] = sidestep::sys::make_pipe();  // a zombie tells nothing else
    Family family("setsid " + program.string() + " &", 1,
                  {.pass_fds = {{alive_write.get(), 9}}, .kill_tree = true});
    alive_write.reset();
    family.child.kill_tree();
    pollfd alive = {alive_read.get(), POLLIN, 0};
    bool ended = poll(&alive, 1, std::chrono::milliseconds(test::kPatience).count()) == 1;
    CHECK(ended);
    if (!ended) kill(family.pids[0], SIGKILL);
}

TEST_CASE("kill_tree without a free descriptor kills the child and its group, and says so",
          "[core][subprocess][kill_tree]") {
    CHECK(in_fork([] {
              Family family(kInside + kOutside, 2, {.kill_tree = true});
              take_descriptors(0);
              if (error_of([&] { family.child.kill_tree(); }) != EMFILE) return 1;
              if (family.child.wait() != -SIGKILL) return 2;
              kill(family.pids[1], SIGKILL);
              for (int fd = 64; fd < 128; ++fd) close(fd);  // is_running() needs some
              return family.nobody_left() ? 0 : 3;
          }) == 0);
}

TEST_CASE("what a search has stopped is killed when it cannot go on",
          "[core][subprocess][kill_tree]") {
    CHECK(in_fork([] {
              Family family(kOutside + kOutside + kOutside, 3, {.kill_tree = true});
              take_descriptors(2);  // enough to find the first of them
              if (error_of([&] { family.child.kill_tree(); }) != EMFILE) return 1;
              if (family.child.wait() != -SIGKILL) return 2;
              for (int fd = 64; fd < 128; ++fd) close(fd);
              auto left = [&] { return std::ranges::count_if(family.pids, test::is_running); };
              if (!test::eventually([&] { return left() < 3; })) return 3;
              if (std::ranges::any_of(family.pids, is_stopped)) return 4;
              for (int pid : family.pids) kill(pid, SIGKILL);
              return family.nobody_left() ? 0 : 5;
          }) == 0);
}

TEST_CASE("a group may be larger than the limit on descriptors", "[core][subprocess][kill_tree]") {
    CHECK(in_fork([] {
              Family family("for i in {1..20}; do " + kInside + "done; " + kOutside, 21,
                            {.kill_tree = true});
              take_descriptors(4);
              if (error_of([&] { family.child.kill_tree(); }) != 0) return 1;
              if (family.child.wait() != -SIGKILL) return 2;
              return family.nobody_left() ? 0 : 3;
          }) == 0);
}

TEST_CASE("the destructor reaps a child whose tree could not be searched",
          "[core][subprocess][kill_tree]") {
    CHECK(in_fork([] {
              int pid = 0;
              {
                  sp::Popen child({"sleep", "1000"},
                                  {.kill_tree = true, .on_destroy = sp::OnDestroy::kill});
                  pid = child.pid();
                  take_descriptors(0);
              }
              return kill(pid, 0) == -1 && errno == ESRCH ? 0 : 1;
          }) == 0);
}

TEST_CASE("a stop ladder is climbed until the whole group has ended",
          "[core][subprocess][kill_tree]") {
    const sp::StopLadder ladder = {{SIGTERM, 10ms}, {SIGKILL}};
    SECTION("stop()") {
        Family family(kStubborn, 1, {.kill_tree = true});
        CHECK(family.child.stop(ladder).signaled());
        CHECK(family.nobody_left());
    }
    SECTION("the destructor") {
        auto family = std::make_unique<Family>(
            kStubborn, 1,
            sp::Options{
                .kill_tree = true, .on_destroy = sp::OnDestroy::stop, .stop_ladder = ladder});
        auto pids = family->pids;
        { sp::Popen ends = std::move(family->child); }
        CHECK(test::eventually([&] { return !test::is_running(pids[0]); }));
    }
    SECTION("the child has ended by itself") {
        Family family(kStubborn + "exit 3", 1, {.kill_tree = true});
        CHECK(family.child.stop({{0, 60s}, {SIGTERM, 10ms}, {SIGKILL}}).code() == 3);
        CHECK(family.nobody_left());
    }
    SECTION("without a SIGKILL nothing is killed") {
        Family family(kStubborn, 1, {.kill_tree = true});
        family.child.stop({{SIGTERM, 10ms}});
        CHECK(family.child.wait() == -SIGTERM);
        CHECK(test::is_running(family.pids[0]));
    }
    SECTION("the child alone is meant") {
        Family family(kStubborn, 1, {.process_group = 0, .kill_tree = false});
        CHECK(family.child.stop(ladder).signaled());
        CHECK(test::is_running(family.pids[0]));
    }
}

TEST_CASE("a group has the time that its ladder gives, also when the child ends at once",
          "[core][subprocess][kill_tree]") {
    auto [gate_read, gate_write] = sidestep::sys::make_pipe();
    // It ends when it is told to, long after the child.
    Family family(
        "(trap 'read line <&9; echo cleaned up; exit' TERM; echo $BASHPID; "
        "while :; do sleep 1000 & wait $!; done) &",
        1, {.pass_fds = {{gate_read.get(), 9}}, .kill_tree = true});
    std::thread opener([&, fd = gate_write.get()] {
        sidestep::sys::wait_for_exit(family.child.pidfd(), {});
        (void)!write(fd, "go\n", 3);
    });
    CHECK(family.child.stop({{SIGTERM, 60s}, {SIGKILL}}).signal() == SIGTERM);
    opener.join();
    CHECK(family.child.std_out().read() == "cleaned up\n");
}

TEST_CASE("OnDestroy::kill reaches the descendants of a child that has ended unseen",
          "[core][subprocess][kill_tree]") {
    Family family(kInside + "exit 0", 1, {.kill_tree = true});
    REQUIRE(test::eventually([&] { return !test::is_running(family.child.pid()); }));
    { sp::Popen ends = std::move(family.child); }
    CHECK(family.nobody_left());
}

TEST_CASE("whoever has the number of a tree's member in another pid namespace is left alone",
          "[core][subprocess][kill_tree]") {
    // Out here a process and its child; in there the child that is killed, and an innocent one, get
    // the same numbers.
    Family outer("sleep 1000 & echo $!; ", 1);
    int child = outer.child.pid(), grandchild = outer.pids[0];
    int code = test::in_foreign_proc([&] {
        auto take_number = [](int number) {
            std::ofstream("/proc/sys/kernel/ns_last_pid") << number - 1 << std::flush;
        };
        take_number(child);
        sp::Options options{.kill_tree = true};
        options.process_group = 0;
        sp::Popen tree({"/bin/sleep", "1000"}, options);
        take_number(grandchild);
        pid_t innocent = fork();
        if (innocent == 0)
            for (;;) pause();
        if (tree.pid() != child || innocent != grandchild) return 97;
        tree.kill_tree();
        int status = 0;
        bool lives = waitpid(innocent, &status, WNOHANG) == 0;
        bool stopped = waitpid(innocent, &status, WNOHANG | WUNTRACED) != 0;
        kill(innocent, SIGKILL);
        if (tree.wait() != -SIGKILL) return 1;
        return lives && !stopped ? 0 : 2;
    });
    CHECK(code == 0);
    outer.child.kill_tree();
}

TEST_CASE("a group's end is not taken for granted where nobody can tell",
          "[core][subprocess][kill_tree]") {
    CHECK(test::without_proc([] {
              sp::Options options{.std_out = sp::PIPE, .kill_tree = true};
              options.process_group = 0;
              // What the child leaves behind does not heed SIGTERM.
              sp::Popen child({"bash", "-c", kStubborn + "exec sleep 1000"}, options);
              int left = std::stoi(child.std_out().read_line().value());
              child.stop({{SIGTERM, 50ms}, {SIGKILL}});
              return test::eventually([&] { return kill(left, 0) < 0; }) ? 0 : 1;
          }) == 0);
}

TEST_CASE("a group that cannot be signalled as one is killed one by one",
          "[core][subprocess][kill_tree]") {
    CHECK(test::where_refused({{SYS_kill, EPERM}}, [] {
              const std::string one = "sleep 60 & echo $!; ";  // no test can end it here
              Family family(one + one, 2, {.kill_tree = true});
              family.child.kill_tree();
              return family.child.wait() == -SIGKILL && family.nobody_left() ? 0 : 1;
          }) == 0);
}

TEST_CASE("a child that may not be signalled is not waited for when its time is over",
          "[core][subprocess][kill_tree]") {
    const bool whole_tree = GENERATE(true, false);
    CHECK(test::where_refused({{SYS_pidfd_send_signal, EPERM}, {SYS_kill, EPERM}}, [&] {
              const sidestep::sys::Pipe held = sidestep::sys::make_pipe();  // cat ends with us
              sp::Options options{.std_in = held.read_end.get()};
              options.timeout = 50ms;
              options.kill_tree = whole_tree;
              try {
                  (void)sp::run({"cat"}, options);
                  return 1;
              } catch (const sp::TimeoutExpired&) {
              }
              try {
                  (void)sp::pipeline({{"cat"}, {"cat"}}, options);
                  return 2;
              } catch (const sp::TimeoutExpired&) {
              }
              sp::Popen child({"cat"},
                              {.std_in = held.read_end.get(), .on_destroy = sp::OnDestroy::kill});
              try {
                  whole_tree ? child.kill_tree() : child.kill();
                  return 3;
              } catch (const std::system_error& error) {
                  const std::string why = error.what();
                  return why.find("another user's ids") != why.npos ? 0 : 4;
              }
          }) == 0);
}

}  // namespace kill_tree_test
