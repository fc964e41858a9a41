// CPython's TestStartMethod: contexts, the default, and all combinations.
#include <set>

#include <sidestep/connection.hpp>
#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>

#include "process_program.hpp"
#include "process_support.hpp"

namespace py_start_method_test {

namespace {

using namespace sidestep;

const StartMethod kAll[] = {StartMethod::spawn, StartMethod::fork, StartMethod::forkserver};

// The default in a child is the method that it was started by.
void check_context(const Context& context) {
    auto [receiver, sender] = Pipe({.duplex = false});
    Process p = context.process(
        [](Connection to) { to.send(static_cast<int>(get_start_method())); }, std::move(sender));
    p.start();
    CHECK(receiver.recv<int>() == static_cast<int>(context.start_method()));
    p.join();
    CHECK(p.exitcode() == 0);
}

}  // namespace

TEST_CASE("a context makes processes by its method, and a name that is none is refused",
          "[process][py:TestStartMethod.test_context]") {
    test::StopForkServer stop_at_the_end;
    for (StartMethod method : kAll) {
        Context context = get_context(to_string(method));
        CHECK(context.start_method() == method);
        CHECK(get_context(method).start_method() == method);
        check_context(context);
        Process named = context.process({.name = "named"}, [] {});
        CHECK(named.name() == "named");
    }
    CHECK_THROWS_AS(get_context("thread"), std::invalid_argument);
    CHECK_THROWS_AS(get_context(""), std::invalid_argument);
}

TEST_CASE("the default start method is what was set, in children too, and is set once",
          "[process][py:TestStartMethod.test_set_get]") {
    test::StopForkServer stop_at_the_end;
    StartMethod former = get_start_method();  // settles it
    for (StartMethod method : kAll) {
        CHECK_THROWS_AS(set_start_method(method), std::logic_error);
        CHECK(get_start_method() == former);
    }
    for (StartMethod method : kAll) {
        test::DefaultMethod as_default(method);
        CHECK(get_start_method() == method);
        CHECK(get_context().start_method() == method);
        check_context(get_context());
        auto [receiver, sender] = Pipe({.duplex = false});
        Process p([](Connection to) { to.send(parent_process()->pid()); }, std::move(sender));
        p.start();
        CHECK(receiver.recv<int>() == current_process().pid);
        p.join();
    }
    CHECK(get_start_method() == former);
}

TEST_CASE("there are three start methods, the default first",
          "[process][py:TestStartMethod.test_get_all]") {
    auto all = get_all_start_methods();
    CHECK(all.front() == StartMethod::spawn);
    CHECK(std::set(all.begin(), all.end()) == std::set(std::begin(kAll), std::end(kAll)));
    for (StartMethod method : all) CHECK(start_method_named(to_string(method)) == method);
}

TEST_CASE("a queue made before, in whatever context, works in children of every method",
          "[process][py:TestStartMethod.test_mixed_startmethod]") {
    test::StopForkServer stop_at_the_end;
    Queue<int> queue;  // Python refuses the locks of a fork context in the others
    std::vector<Process> together;
    for (StartMethod method : kAll) {
        together.push_back(get_context(method).process([](Queue<int> to) { to.put(1); }, queue));
        together.back().start();
    }
    for (Process& p : together) {
        p.join();
        CHECK(p.exitcode() == 0);
    }
    CHECK(queue.size() == 3);
}

namespace {

void put_one(Queue<int> to) { to.put(1); }
void put_two_and_nest(Queue<int> to) {
    to.put(2);
    Process below(put_one, to);
    below.start();
    below.join();
}

}  // namespace

TEST_CASE("a child can hand its own arguments to a child of its own",
          "[process][py:TestStartMethod.test_nested_startmethod]") {
    FOR_EACH_START_METHOD();
    Queue<int> queue;
    Process p({.start_method = method}, put_two_and_nest, queue);
    p.start();
    p.join();
    CHECK(queue.try_get() == 2);
    CHECK(queue.try_get() == 1);
    CHECK_FALSE(queue.try_get());
}

TEST_CASE("children of the fork server have what its preload function made",
          "[process][py:TestStartMethod.test_preload_resources]") {
    auto done = test::run_process_program({"preload"});
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "ok\n");
    CHECK(done.std_err.empty());
}

}  // namespace py_start_method_test
