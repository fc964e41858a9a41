// Child processes: of one's own code, and other programs.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <stdexcept>
#include <thread>

#include <sidestep/connection.hpp>
#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/subprocess.hpp>
#include <sidestep/sync.hpp>

#include "subjects.hpp"

using namespace std::chrono_literals;
namespace sp = sidestep::subprocess;

namespace subjects {
namespace {

void answer(sidestep::Connection connection, sidestep::Queue<int> queue, sidestep::Lock lock) {
    int n = connection.recv<int>();
    {
        std::scoped_lock hold(lock);
        queue.put(2 * n);
    }
    connection.send(std::string("done"));
}
void refuse() {
    std::fclose(stderr);  // its traceback is not this program's
    throw std::domain_error("thrown");
}
void stay() { std::this_thread::sleep_for(20s); }  // style-ok: ended by a signal

void pass_handles(sidestep::StartMethod method) {
    sidestep::Queue<int> queue(8);
    sidestep::Lock lock;
    auto [mine, theirs] = sidestep::Pipe();
    sidestep::Process child(sidestep::ProcessOptions{.daemon = true, .start_method = method},
                            answer, std::move(theirs), queue, lock);
    child.start();
    mine.send(21);
    auto got = queue.get_for(patience());
    expect_came(got.has_value(), "what the child put");
    expect(got == 42, "what the child put");
    expect(mine.recv<std::string>() == "done", "what the child said");
    child.join();
    expect_came(child.exitcode() == 0, "the child's exit code 0");
}

void hear_an_exception(sidestep::StartMethod method) {
    sidestep::Process child(sidestep::ProcessOptions{.daemon = true, .start_method = method},
                            refuse);
    child.start();
    child.join();
    expect_came(child.exitcode() == 1, "the exit code of a child that threw");
    expect_throw<std::domain_error>([&] { child.rethrow(); }, "what the child threw");
}

void end_a_child(sidestep::StartMethod method) {
    sidestep::Process child(sidestep::ProcessOptions{.daemon = true, .start_method = method}, stay);
    child.start();
    expect_came(child.is_alive() && !child.join_for(1ms), "a child that stays");
    child.terminate();
    child.join();
    expect_came(child.exitcode() == -SIGTERM, "the exit code of a child that was ended");
}

void run_programs() {
    auto hello = sp::run({"echo", "hi"}, {.capture_output = true});
    expect(hello.returncode == 0 && hello.std_out == "hi\n", "echo");
    std::string text(200000, 'i');
    expect(sp::run({"cat"}, {.input = text, .capture_output = true}).std_out == text, "cat");
    auto there =
        sp::run({"sh", "-c", "echo $X; pwd"},
                {.capture_output = true, .cwd = "/", .env = sp::Environment::extend({{"X", "y"}})});
    expect(there.std_out == "y\n/\n", "environment and folder");
}

void talk() {
    sp::Popen cat({"cat"}, {.std_in = sp::PIPE, .std_out = sp::PIPE, .std_err = sp::PIPE});
    std::string text(100000, 'p');
    auto said = cat.communicate(text);
    expect(said.std_out == text && said.std_err.empty() && cat.returncode() == 0, "communicate");
}

void read_lines() {
    sp::Popen child({"sh", "-c", "echo a; echo b"}, {.std_out = sp::PIPE});
    int lines = 0;
    for (const auto& line : child.std_out().lines()) lines += line.empty() ? 0 : 1;
    expect(lines == 2 && child.wait() == 0, "lines");
}

void connect_programs() {
    auto result = sp::pipeline({{"echo", "x"}, {"cat"}, {"wc", "-c"}}, {.capture_output = true});
    expect(result.std_out == "2\n" && result.returncode() == 0, "pipeline");
}

void run_out_of_time() {
    try {
        sp::run({"sh", "-c", "echo early; sleep 30 & sleep 20"},
                {.capture_output = true, .timeout = 300ms, .kill_tree = true});
        throw Wrong("no timeout");
    } catch (const sp::TimeoutExpired& e) {
        // Nothing: on a busy machine the child has not come so far.
        expect(e.output() == "early\n" || e.output().empty(),
               "what was printed before the timeout");
    }
}

void fail_to_run() {
    expect_throw<sp::CalledProcessError>([] { sp::run({"false"}, {.check = true}); }, "false");
    expect_throw<sp::StartError>([] { sp::run({"/nonexistent"}); }, "no program");
}

void end_programs() {
    sp::Popen killed({"sleep", "30"}, {.die_with_parent = true});
    killed.kill();
    expect(killed.wait() == -SIGKILL, "kill");
    sp::Popen stopped({"sleep", "30"});
    stopped.stop({{SIGTERM, 5s}, {SIGKILL, {}}});
    expect(stopped.returncode() == -SIGTERM, "stop");
}

}  // namespace

void use_process() {
    for (auto method : {sidestep::StartMethod::fork, sidestep::StartMethod::spawn,
                        sidestep::StartMethod::forkserver}) {
        std::string name(to_string(method));
        step_twice(name + " handles", [&] { pass_handles(method); });
        step_twice(name + " exception", [&] { hear_an_exception(method); });
        step_twice(name + " terminate", [&] { end_a_child(method); });
    }
}

void use_subprocess() {
    step_twice("run", run_programs);
    step_twice("communicate", talk);
    step_twice("lines", read_lines);
    step_twice("pipeline", connect_programs);
    step_twice("timeout", run_out_of_time);
    step_twice("failures", fail_to_run);
    step_twice("ends", end_programs);
}

}  // namespace subjects
