// CPython's _TestProcess: the tests that carry over as they are, under each start method.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <set>

#include <sidestep/connection.hpp>
#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/sync.hpp>

#include "process_support.hpp"

namespace py_process_test {

namespace {

using namespace sidestep;
using namespace std::chrono_literals;

// An item of a queue, or a failed test instead of a hang.
template <class Q>
auto take(Q& queue) {
    auto item = queue.get_for(test::kPatience);
    if (!item) FAIL("the child sent nothing");
    return *item;
}

template <class T>
T receive(Connection& connection) {
    if (!connection.poll(test::kPatience)) FAIL("the child sent nothing");
    return connection.recv<T>();
}

void nothing() {}
void wait_for_signal() {
    for (;;) ::pause();
}

}  // namespace

TEST_CASE("the current process is alive, no daemon, has an authkey and its pid",
          "[process][py:_TestProcess.test_current]") {
    CurrentProcess current = current_process();
    CHECK_FALSE(current.daemon);
    CHECK(current.authkey.size() == 32);
    CHECK(current.pid == ::getpid());
    CHECK(current.name == "MainProcess");
    CHECK_FALSE(parent_process());
}

TEST_CASE("daemon is what the options say, and else what the creator is",
          "[process][py:_TestProcess.test_daemon_argument]") {
    Process inherited(nothing);
    CHECK(inherited.daemon() == current_process().daemon);
    CHECK(Process({.daemon = true}, nothing).daemon());
    CHECK_FALSE(Process({.daemon = false}, nothing).daemon());

    FOR_EACH_START_METHOD();
    auto [here, there] = Pipe();
    Process daemon(
        {.daemon = true, .start_method = method},
        [](Connection to) {
            to.send(Process(nothing).daemon());
            to.send(Process({.daemon = false}, nothing).daemon());
        },
        std::move(there));
    daemon.start();
    CHECK(receive<bool>(here));
    CHECK_FALSE(receive<bool>(here));
    daemon.join();
}

namespace {

void send_parent(Connection to) {
    auto parent = parent_process();
    to.send(parent ? parent->pid() : 0);
    to.send(parent ? parent->name() : std::string());
}

}  // namespace

TEST_CASE("a child knows its parent's pid and name",
          "[process][py:_TestProcess.test_parent_process_attributes]") {
    CHECK_FALSE(parent_process());
    FOR_EACH_START_METHOD();
    auto [here, there] = Pipe();
    Process child({.start_method = method}, send_parent, std::move(there));
    child.start();
    child.join();
    CHECK(receive<int>(here) == ::getpid());
    CHECK(receive<std::string>(here) == current_process().name);
}

namespace {

void watch_parent(Connection to) {
    auto parent = parent_process();
    to.send(std::string(parent->is_alive() ? "alive" : "not alive"));
    bool gone = parent->join_for(test::kPatience);
    to.send(std::string(gone && !parent->is_alive() ? "not alive" : "alive"));
}

void make_watcher(Connection to) {
    Process grandchild(watch_parent, std::move(to));
    grandchild.start();
    wait_for_signal();
}

}  // namespace

TEST_CASE("a grandchild sees its parent die", "[process][py:_TestProcess.test_parent_process]") {
    FOR_EACH_START_METHOD();
    auto [here, there] = Pipe();
    Process child({.start_method = method}, make_watcher, std::move(there));
    child.start();
    CHECK(receive<std::string>(here) == "alive");
    child.terminate();
    child.join();
    CHECK(receive<std::string>(here) == "not alive");
    CHECK_THROWS_AS(receive<std::string>(here), EndOfStream);  // it is gone, too
}

namespace {

void tell_all(Queue<std::string> to, int one, const std::map<std::string, double>& options) {
    auto current = current_process();
    to.put(std::to_string(one));
    to.put(std::to_string(options.at("hello")));
    to.put(current.name);
    to.put(current.authkey);
    to.put(std::to_string(current.pid));
    to.put(current.daemon ? "daemon" : "none");
}

}  // namespace

TEST_CASE("a process gets its arguments, name, authkey and daemon flag, and is a child of this one",
          "[process][py:_TestProcess.test_process]") {
    FOR_EACH_START_METHOD();
    Queue<std::string> queue(1);
    std::map<std::string, double> options{{"hello", 23}, {"bye", 2.54}};
    Process p({.name = "SomeProcess", .daemon = true, .start_method = method}, tell_all, queue, 1,
              options);
    CHECK(p.authkey() == current_process().authkey);
    CHECK_FALSE(p.is_alive());
    CHECK(p.daemon());
    CHECK_FALSE(test::contains(active_children(), p));
    CHECK_FALSE(p.exitcode());
    p.start();
    CHECK_FALSE(p.exitcode());
    CHECK(p.is_alive());
    CHECK(test::contains(active_children(), p));
    CHECK(take(queue) == "1");
    CHECK(take(queue) == std::to_string(23.0));
    CHECK(take(queue) == p.name());
    CHECK(take(queue) == current_process().authkey);
    CHECK(take(queue) == std::to_string(p.pid()));
    CHECK(take(queue) == "daemon");
    p.join();
    CHECK(p.exitcode() == 0);
    CHECK_FALSE(p.is_alive());
    CHECK_FALSE(test::contains(active_children(), p));
}

namespace {

void check_killing(StartMethod method, void (Process::*how)() const, int signal) {
    Process p({.daemon = true, .start_method = method}, wait_for_signal);
    p.start();
    CHECK(p.is_alive());
    CHECK(test::contains(active_children(), p));
    CHECK_FALSE(p.exitcode());
    CHECK_FALSE(p.join_for(0s));
    CHECK(p.is_alive());
    CHECK_FALSE(p.join_for(-1s));
    CHECK(p.is_alive());
    (p.*how)();
    REQUIRE(p.join_for(test::kPatience));
    p.join();
    CHECK_FALSE(p.is_alive());
    CHECK_FALSE(test::contains(active_children(), p));
    CHECK(p.exitcode() == -signal);
    (p.*how)();  // nothing happens
    CHECK(p.exitcode() == -signal);
}

}  // namespace

TEST_CASE("terminate() ends a process by SIGTERM, and joins with timeouts return at once",
          "[process][py:_TestProcess.test_terminate]") {
    FOR_EACH_START_METHOD();
    check_killing(method, &Process::terminate, SIGTERM);
}

TEST_CASE("kill() ends a process by SIGKILL", "[process][py:_TestProcess.test_kill]") {
    FOR_EACH_START_METHOD();
    check_killing(method, &Process::kill, SIGKILL);
}

TEST_CASE("interrupt() ends a process by SIGINT", "[process]") {
    ::signal(SIGINT, SIG_DFL);  // a shell may have started us with SIGINT ignored
    FOR_EACH_START_METHOD();
    check_killing(method, &Process::interrupt, SIGINT);
}

TEST_CASE("there is at least one CPU, and no more are usable than there are",
          "[process][py:_TestProcess.test_cpu_count]") {
    CHECK(cpu_count() >= 1);
    CHECK(process_cpu_count() >= 1);
    CHECK(process_cpu_count() <= cpu_count());
}

TEST_CASE("active children are those that run", "[process][py:_TestProcess.test_active_children]") {
    FOR_EACH_START_METHOD();
    Event end;
    Process p(
        {.start_method = method}, [](const Event& e) { e.wait(); }, end);
    CHECK_FALSE(test::contains(active_children(), p));
    p.start();
    CHECK(test::contains(active_children(), p));
    end.set();
    p.join();
    CHECK_FALSE(test::contains(active_children(), p));
}

namespace {

void recurse(Queue<std::vector<int>> to, const std::vector<int>& id) {
    to.put(id);
    if (id.size() >= 2) return;
    for (int i = 0; i < 2; ++i) {
        auto below = id;
        below.push_back(i);
        Process child(recurse, to, below);
        child.start();
        child.join();
    }
}

}  // namespace

TEST_CASE("processes have children that have children, in order",
          "[process][py:_TestProcess.test_recursion]") {
    FOR_EACH_START_METHOD();
    test::DefaultMethod as_default(method);
    Queue<std::vector<int>> queue;
    recurse(queue, {});
    std::vector<std::vector<int>> found;
    while (auto id = queue.try_get()) found.push_back(*id);
    CHECK(found == std::vector<std::vector<int>>{{}, {0}, {0, 0}, {0, 1}, {1}, {1, 0}, {1, 1}});
}

TEST_CASE("the sentinel becomes ready with the end of the process, and not before the start",
          "[process][py:_TestProcess.test_sentinel]") {
    FOR_EACH_START_METHOD();
    Event end;
    Process p(
        {.start_method = method}, [](const Event& e) { e.wait(); }, end);
    CHECK_THROWS_AS(p.sentinel(), std::logic_error);
    p.start();
    int sentinel = p.sentinel();
    CHECK(wait({sentinel}, 0s).empty());
    end.set();
    CHECK(wait({sentinel}, test::kPatience).size() == 1);
    p.join();
    CHECK(wait({p.sentinel()}, 0s).size() == 1);
}

TEST_CASE("a running process cannot be closed, and a closed one cannot be used",
          "[process][py:_TestProcess.test_close]") {
    FOR_EACH_START_METHOD();
    Queue<int> queue;
    Process p(
        {.daemon = true, .start_method = method}, [](Queue<int> from) { (void)from.get(); }, queue);
    p.start();
    CHECK(p.is_alive());
    CHECK_THROWS_AS(p.close(), std::logic_error);
    queue.put(1);
    p.join();
    CHECK_FALSE(p.is_alive());
    CHECK(p.exitcode() == 0);
    p.close();
    CHECK_THROWS_AS(p.is_alive(), std::logic_error);
    CHECK_THROWS_AS(p.join(), std::logic_error);
    CHECK_THROWS_AS(p.terminate(), std::logic_error);
    CHECK_THROWS_AS(p.exitcode(), std::logic_error);
    CHECK_THROWS_AS(p.start(), std::logic_error);
    p.close();
}

TEST_CASE("many processes run at once, end by themselves and by signals",
          "[process][py:_TestProcess.test_many_processes]") {
    FOR_EACH_START_METHOD();
    const int count = method == StartMethod::spawn ? 10 : 100;
    std::vector<Process> all;
    for (int i = 0; i < count; ++i)
        all.emplace_back(ProcessOptions{.start_method = method}, nothing);
    for (auto& p : all) p.start();
    for (auto& p : all) p.join();
    for (auto& p : all) CHECK(p.exitcode() == 0);

    all.clear();
    for (int i = 0; i < count; ++i)
        all.emplace_back(ProcessOptions{.start_method = method}, wait_for_signal);
    for (auto& p : all) p.start();
    for (auto& p : all) p.terminate();
    for (auto& p : all) p.join();
    for (auto& p : all) CHECK(p.exitcode() == -SIGTERM);
}

namespace {

int count_fds() {
    auto all = std::filesystem::directory_iterator("/proc/self/fd");
    return static_cast<int>(std::distance(begin(all), end(all)));
}

}  // namespace

TEST_CASE("the number of descriptors in children does not grow with the number of children",
          "[process][py:_TestProcess.test_child_fd_inflation]") {
    FOR_EACH_START_METHOD();  // fork as well: what belongs to the brothers is closed
    const bool daemon = GENERATE(false, true);
    Event end;
    Queue<int> counts;
    std::vector<Process> all;
    for (int i = 0; i < 5; ++i)
        all.emplace_back(
            ProcessOptions{.daemon = daemon, .start_method = method},
            [](const Event& e, Queue<int> to) {
                to.put(count_fds());
                e.wait();
            },
            end, counts);
    for (auto& p : all) p.start();
    std::set<int> found;
    for (int i = 0; i < 5; ++i) found.insert(take(counts));
    end.set();
    for (auto& p : all) p.join();
    CHECK(found.size() == 1);
}

}  // namespace py_process_test
