// What only a whole program can show: how it ends, and that it is killed; and descriptors as
// arguments.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <map>

#include <sidestep/connection.hpp>
#include <sidestep/process.hpp>
#include <sidestep/subprocess.hpp>
#include <sidestep/sync.hpp>

#include "process_program.hpp"
#include "process_support.hpp"

namespace process_program_test {

namespace {

using namespace sidestep;

// Running, not even as a zombie that nobody has reaped yet.
bool is_running(int pid) {
    std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
    std::string text(std::istreambuf_iterator<char>(stat), {});
    return !text.empty() && text.find(") Z") == std::string::npos;
}

}  // namespace

TEST_CASE("at the end of main hooks run, daemonic children are ended, others waited for",
          "[process][exit]") {
    auto done = test::run_process_program({"end-of-main"});
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "first hook\nthe child is done\nlast hook\n");
    CHECK(done.std_err.empty());
}

TEST_CASE("when a parent is killed its daemonic children die with it, and others live on",
          "[process][exit][fault]") {
    auto method = GENERATE("spawn", "fork", "forkserver");
    subprocess::Popen program({SIDESTEP_TEST_PROGRAM, "children", method},
                              {.std_out = subprocess::PIPE});
    std::map<std::string, int> pids;
    while (pids.size() < 2) {
        auto line = program.std_out().read_line();
        REQUIRE(line);
        pids[line->substr(0, line->find(' '))] = std::stoi(line->substr(line->find(' ') + 1));
    }
    program.kill();
    program.wait();
    CHECK(test::eventually([&] { return !is_running(pids["daemon"]); }));
    CHECK(is_running(pids["plain"]));
    ::kill(pids["plain"], SIGKILL);
    CHECK(test::eventually([&] { return !is_running(pids["plain"]); }));
}

// --- descriptors -----------------------------------------------------------------------------

namespace {

// The descriptors are pipes' write ends: writes each one's number into it.
void write_numbers(std::vector<DupFd> ends) {
    for (std::size_t i = 0; i < ends.size(); ++i) {
        auto number = static_cast<std::uint32_t>(i);
        if (::write(ends[i].fd(), &number, sizeof number) != sizeof number) exit_process(1);
    }
}

}  // namespace

TEST_CASE("any number of descriptors travels as arguments, each arrives as itself",
          "[process][fds]") {
    FOR_EACH_START_METHOD();
    std::size_t count = GENERATE(1u, 63u, 64u, 65u, 129u, 300u);
    std::vector<DupFd> readers, writers;
    for (std::size_t i = 0; i < count; ++i) {
        int ends[2];
        REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
        readers.emplace_back(ends[0]);
        writers.emplace_back(ends[1]);
    }
    Process p({.start_method = method}, write_numbers, std::move(writers));
    p.start();
    p.join();
    CHECK(p.exitcode() == 0);
    bool right = true;
    for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t number = 0, none = 0;
        right = right && ::read(readers[i].fd(), &number, sizeof number) == sizeof number &&
                number == i;
        // The parent has let go of its ends, and the child is gone.
        right = right && ::read(readers[i].fd(), &none, sizeof none) == 0;
    }
    CHECK(right);
}

TEST_CASE("one handle given several times is one object over there", "[process][fds]") {
    FOR_EACH_START_METHOD();
    Event event;
    std::vector<Event> many(200, event);
    Process p(
        {.start_method = method},
        [](const std::vector<Event>& events, Event last) {
            for (const Event& e : events)
                if (!(e == last)) exit_process(1);
            last.set();
        },
        many, event);
    p.start();
    p.join();
    CHECK(p.exitcode() == 0);
    CHECK(event.is_set());
}

TEST_CASE("a moved connection's end closes here with start(), so the child's end is the end",
          "[process][fds]") {
    FOR_EACH_START_METHOD();
    auto [here, there] = Pipe();
    Process p(
        {.start_method = method},
        [](Connection conn) {
            conn.close();  // also in a forked child there is no other copy
            for (;;) ::pause();
        },
        std::move(there));
    p.start();
    REQUIRE(here.poll(test::kPatience));
    CHECK_THROWS_AS(here.recv<int>(), EndOfStream);
    p.kill();
    p.join();
}

}  // namespace process_program_test
