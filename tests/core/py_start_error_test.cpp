// Children that cannot be started, and preexec_fn: the contracts of CPython's test_subprocess.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <thread>

#include "py_support.hpp"
#include "sys/sys.hpp"

namespace py_start_error_test {

using namespace py;

namespace {

const fs::path kNowhere = "/_this/pa.th/does/not/exist";

sp::Options all_pipes() { return {.std_in = sp::PIPE, .std_out = sp::PIPE, .std_err = sp::PIPE}; }

void throw_something() { throw std::runtime_error("what if two swallows carried a coconut?"); }

// Starts children that must fail, while another thread opens and closes pipes, and holds some of
// them for a while. False: one of them was closed by someone else, who closes a descriptor twice.
bool fails_without_closing_others(const sp::Options& options, const sp::Args& args) {
    std::atomic<bool> running{false}, stop{false};
    bool all_ours = true;
    std::thread opener([&] {
        std::deque<int> held;
        auto close_oldest = [&] {
            all_ours = close(held.front()) == 0 && all_ours;
            held.pop_front();
        };
        while (!stop) {
            int ends[2];
            if (pipe2(ends, O_CLOEXEC) == 0) held.insert(held.end(), ends, ends + 2);
            while (held.size() > 40) close_oldest();
            running = true;
        }
        while (!held.empty()) close_oldest();
    });
    eventually([&] { return running.load(); });
    int failed = 0;
    constexpr int kStarts = 100;
    for (int i = 0; i < kStarts; ++i)
        failed += start_errno([&] { sp::Popen child(args, options); }) != 0;
    stop = true;
    opener.join();
    return failed == kStarts && all_ours;
}

// In the child: overwrites what it shares with the parent in order to report a failure (a page of
// anonymous shared memory) with garbage, and ends without a word.
void report_garbage() {
    std::FILE* maps = std::fopen("/proc/self/maps", "re");
    char line[512];
    while (maps && std::fgets(line, sizeof line, maps)) {
        unsigned long first = 0, last = 0;
        char access[5] = {};
        if (std::sscanf(line, "%lx-%lx %4s", &first, &last, access) != 3) continue;
        if (std::strcmp(access, "rw-s") != 0 || !std::strstr(line, "/dev/zero")) continue;
        const unsigned char garbage[] = {0xff, 0x00, 0xde, 0x2d, 0xff, 0x00, 0xde, 0x2d};
        std::memcpy(reinterpret_cast<void*>(first), garbage, sizeof garbage);
    }
    _exit(255);
}

}  // namespace

TEST_CASE("starts that fail leak nothing, however many they are",
          "[subprocess][py:ProcessTestCase.test_leaking_fds_on_error]") {
    auto before = test::Resources::now();
    int failures = 0;
    for (int i = 0; i < 1024; ++i)
        failures += finds_no_program(
            [] { sp::Popen child(kMissing, {.std_out = sp::PIPE, .std_err = sp::PIPE}); });
    CHECK(failures == 1024);
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("with few descriptors left, children start again and again",
          "[subprocess][py:ProcessTestCase.test_no_leaking]") {
    FdLimit limit(256);
    std::vector<Fd> taken;
    for (int fd; (fd = open("/dev/null", O_WRONLY | O_CLOEXEC)) >= 0;) taken.emplace_back(fd);
    CHECK(errno == EMFILE);
    taken.resize(taken.size() - 10);
    std::string all;
    for (int i = 0; i < 15; ++i) all += sp::Popen({"cat"}, all_pipes()).communicate("lime").std_out;
    taken.clear();
    std::string expected;
    for (int i = 0; i < 15; ++i) expected += "lime";
    CHECK(all == expected);
}

TEST_CASE("a program that does not exist is told of in silence, with pipes too",
          "[subprocess][py:ProcessTestCase.test_nonexisting_with_pipes]") {
    sp::Popen parent({kParent, "missing_with_pipes"},
                     {.std_err = sp::PIPE, .universal_newlines = true});
    CHECK(parent.communicate().std_err.empty());
    CHECK(parent.returncode() == 0);
}

TEST_CASE("a start that fails closes each of its descriptors once, and no one else's",
          "[subprocess][py:ProcessTestCase.test_double_close_on_error]") {
    CHECK(fails_without_closing_others(all_pipes(), kMissing));
}

TEST_CASE("a preexec_fn that fails closes each descriptor once, and no one else's",
          "[subprocess]"
          "[py:POSIXProcessTestCase.test_preexec_errpipe_does_not_double_close_pipes]") {
    sp::Options options = all_pipes();
    options.preexec_fn = throw_something;
    CHECK(fails_without_closing_others(options, {"true"}));
}

TEST_CASE("a start that fails lets go of the files that it was given",
          "[subprocess][py:ProcessTestCase.test_handles_closed_on_exception]") {
    auto [reader, writer] = sidestep::sys::make_pipe();
    Fd input = file_with("");
    CHECK(finds_no_program([&, out = writer.get()] {
        sp::Popen child({"*"}, {.std_in = input.get(), .std_out = out, .std_err = out});
    }));
    CHECK(is_open(input.get()));
    CHECK(close(writer.release()) == 0);
    char byte = 0;
    CHECK(read(reader.get(), &byte, 1) == 0);  // end of file: nobody else holds the other end
}

TEST_CASE("a start that fails half way leaves no descriptor behind, wherever it fails",
          "[subprocess][py:ProcessTestCase.test_failed_child_execute_fd_leak]") {
    auto before = test::Resources::now();
    sp::Options options = all_pipes();
    options.preexec_fn = throw_something;
    CHECK(start_errno([&] { sp::Popen child({"true"}, options); }) != 0);
    CHECK(test::Resources::now().fds == before.fds);
    // Out of descriptors at each step: at the first pipe, the second..., the pidfd.
    options.preexec_fn = {};
    int failed = 0;
    bool started = false, leaked = false;
    for (std::size_t spare = 0; spare < 12 && !started; ++spare) {
        {
            auto highest = static_cast<std::size_t>(before.fds.rbegin()->first);
            std::size_t holes = highest + 1 - before.fds.size();
            std::vector<Fd> filled;
            for (std::size_t i = 0; i < holes; ++i)
                filled.emplace_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
            FdLimit limit(highest + 1 + spare);
            if (auto error = start_errno([&] { sp::Popen({"true"}, options).communicate(); }))
                failed += error == EMFILE;
            else
                started = true;
        }
        leaked = leaked || test::Resources::now().fds != before.fds;
    }
    CHECK(failed >= 3);
    CHECK(started);
    CHECK_FALSE(leaked);
}

TEST_CASE("the error of a missing program names it",
          "[subprocess][py:ProcessTestCase.test_file_not_found_includes_filename]") {
    auto error = thrown<sp::StartError>([] {
        sp::call({"/opt/nonexistent_binary", "with", "some", "args"});
    });
    REQUIRE(error);
    CHECK(error->code() == std::errc::no_such_file_or_directory);
    CHECK(error->path() == "/opt/nonexistent_binary");
    CHECK(contains(error->what(), "/opt/nonexistent_binary"));
}

TEST_CASE("the error of a missing cwd names the folder, not the program",
          "[subprocess][py:ProcessTestCase.test_file_not_found_with_bad_cwd]"
          "[py:POSIXProcessTestCase.test_exception_cwd]") {
    for (const char* program : {"exit", "true"}) {
        auto error = thrown<sp::StartError>([&] {
            sp::Popen child({program, "0"}, {.cwd = kNowhere});
        });
        REQUIRE(error);
        CHECK(error->code().value() == ENOENT);
        CHECK(error->step() == sp::StartStep::chdir);
        CHECK(error->path() == kNowhere);
        CHECK(contains(error->what(), std::strerror(ENOENT)));
    }
}

TEST_CASE("the error of a bad executable or args[0] names it",
          "[subprocess][py:POSIXProcessTestCase.test_exception_bad_executable]"
          "[py:POSIXProcessTestCase.test_exception_bad_args_0]") {
    auto check = [](const std::optional<sp::StartError>& error) {
        REQUIRE(error);
        CHECK(error->code().value() == ENOENT);
        CHECK(error->step() == sp::StartStep::exec);
        CHECK(error->path() == kNowhere);
        CHECK(contains(error->what(), std::strerror(ENOENT)));
    };
    check(thrown<sp::StartError>([] {
        sp::Popen child({"true", "-c", ""}, {.executable = kNowhere});
    }));
    check(thrown<sp::StartError>([] { sp::Popen child({kNowhere, "-c", ""}); }));
}

TEST_CASE("the errno of a step in the child comes back to the parent",
          "[subprocess][py:POSIXProcessTestCase.test_exception_errpipe_normal]") {
    auto from_hook = thrown<sp::StartError>([] {
        sp::Popen child({"non_existent_command"}, {.preexec_fn = [] {
                            throw std::system_error(EISDIR, std::generic_category());
                        }});
    });
    REQUIRE(from_hook);
    CHECK(from_hook->code() == std::errc::is_a_directory);
    CHECK(from_hook->step() == sp::StartStep::preexec_fn);
    TemporaryFolder folder;
    CHECK(start_errno([&] { sp::Popen child({folder.path()}); }) == EACCES);
}

// White box: the record of a failure travels through memory that the child can write to.
TEST_CASE("a failure record full of garbage is an error, not a crash or a success",
          "[subprocess][py:POSIXProcessTestCase.test_exception_errpipe_bad_data]") {
    auto before = test::Resources::now();
    auto error = thrown<sp::StartError>(
        [] { sp::Popen child({"non_existent_command"}, {.preexec_fn = report_garbage}); });
    REQUIRE(error);
    CHECK(error->code().value() == 0x2dde00ff);
    CHECK(contains(error->what(), "unknown step"));
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("preexec_fn runs in the child before the program does",
          "[subprocess][py:POSIXProcessTestCase.test_preexec]") {
    // Not setenv(): the child's environment is settled before; what exec keeps is not.
    auto [reader, writer] = sidestep::sys::make_pipe();
    int out = writer.get();
    sp::Popen child({"sh", "-c", "printf ', then the program'"}, {.std_out = out, .preexec_fn = [] {
                                                                      [[maybe_unused]] auto n =
                                                                          write(1, "apple", 5);
                                                                      dup2(1, 2);
                                                                  }});
    CHECK(child.wait() == 0);
    writer.reset();
    char buffer[64] = {};
    CHECK(read(reader.get(), buffer, sizeof buffer) > 0);
    CHECK(buffer == std::string("apple, then the program"));
}

TEST_CASE("an exception in preexec_fn is an error of the start, and no program runs",
          "[subprocess][py:POSIXProcessTestCase.test_preexec_exception]") {
    Fd output = file_with("");
    auto error = thrown<sp::StartError>([&] {
        sp::Popen child({"echo", "started"},
                        {.std_out = output.get(), .preexec_fn = throw_something});
    });
    REQUIRE(error);
    CHECK(error->step() == sp::StartStep::preexec_fn);
    CHECK(contains(error->what(), "preexec_fn"));
    CHECK(contents(output.get()).empty());
}

TEST_CASE("close_fds closes what preexec_fn has opened, too",
          "[subprocess][py:POSIXProcessTestCase.test_close_fds_after_preexec]") {
    Fd target(dup(1));
    int fd = target.get();
    std::set<int> fds = fds_in_child({.preexec_fn = [fd] { dup2(1, fd); }, .close_fds = true});
    CHECK(fds == std::set<int>{0, 1, 2});
}

TEST_CASE("a fork that the limit on processes forbids is EAGAIN",
          "[subprocess][py:POSIXProcessTestCase.test_preexec_fork_failure]") {
    sp::CompletedProcess done = sp::run({kParent, "fork_limit"}, {.capture_output = true});
    if (done.returncode == kNotPossible) {
        WARN("the limit on processes does not bind here: no fork failed");
        return;
    }
    CHECK(done.std_out == "spawn " + std::to_string(EAGAIN) + "\n");
    CHECK(done.returncode == 0);
}

}  // namespace py_start_error_test
