// The programs of the cookbook (docs/cookbook.md).
#include <catch2/catch.hpp>

#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "example.hpp"

namespace cookbook_test {

using Catch::Matchers::Contains;
using Catch::Matchers::Matches;
using test::run_example;
using test::TemporaryFolder;
namespace fs = std::filesystem;
namespace sp = sidestep::subprocess;

namespace {

std::string text_of(const fs::path& path) {
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
}

}  // namespace

TEST_CASE("the cookbook's files: what cannot be read is listed, and the rest counted",
          "[examples][cookbook]") {
    TemporaryFolder folder;
    std::ofstream(folder.path / "a") << "1\n2\n";
    std::ofstream(folder.path / "b") << "3\n";
    fs::create_symlink("/no/such/file", folder.path / "c");
    auto done = run_example("example_files", {folder.path.string()});
    CHECK(done.returncode == 1);
    CHECK(done.std_out == "3 lines in 2 files\n" + (folder.path / "c").string() +
                              ": cannot read it: No such file or directory\n");
    CHECK(done.std_err.empty());
}

TEST_CASE("the cookbook's sweep goes on where a kill has left it", "[examples][cookbook]") {
    TemporaryFolder folder;
    const fs::path csv = folder.path / "sweep.csv";
    auto first = run_example("example_sweep", {csv.string()});
    CHECK(first.returncode == 0);
    CHECK(first.std_out == "0 points were there, 12 are new\n");
    // Three lines, and a part of one.
    const std::string all = text_of(csv);
    std::size_t third = 0;
    for (int i = 0; i < 3; ++i) third = all.find('\n', third) + 1;
    std::ofstream(csv) << all.substr(0, third + 5);
    auto second = run_example("example_sweep", {csv.string()});
    CHECK(second.returncode == 0);
    CHECK(second.std_out == "3 points were there, 9 are new\n");
    const std::string again = text_of(csv);
    CHECK(std::count(again.begin(), again.end(), '\n') == 12);
    CHECK(run_example("example_sweep", {csv.string()}).std_out ==
          "12 points were there, 0 are new\n");
}

TEST_CASE("the cookbook's model is loaded once in each worker", "[examples][cookbook]") {
    auto done = run_example("example_model");
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "0.74\n0.75\n0.47\n");
    CHECK_THAT(done.std_err, Contains("worker 0 has loaded") && Contains("worker 1 has loaded"));
    CHECK(std::count(done.std_err.begin(), done.std_err.end(), '\n') == 2);
}

TEST_CASE("the cookbook's matrices are multiplied in place", "[examples][cookbook]") {
    auto done = run_example("example_matrix");
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "512 512\n");
    CHECK(done.std_err.empty());
}

TEST_CASE("the cookbook's reduction has the same result both ways", "[examples][cookbook]") {
    auto done = run_example("example_reduction");
    CHECK(done.returncode == 0);
    CHECK(done.std_out ==
          "100000 numbers, mean 49999.5, deviation 28867.5\n"
          "100000 numbers, mean 49999.5, deviation 28867.5\n");
    CHECK(done.std_err.empty());
}

TEST_CASE("the cookbook's library crashes and hangs, and costs two inputs of five",
          "[examples][cookbook]") {
    auto done = run_example("example_crash");
    CHECK(done.returncode == 0);
    CHECK(done.std_out ==
          "a:1: 1\nb: it crashed (signal 6)\nc:3: 3\nd:?: it took too long\ne:5: 5\n");
}

TEST_CASE("the cookbook's program shows another one's lines, and ends it in time",
          "[examples][cookbook]") {
    auto done = run_example("example_output");
    CHECK(done.returncode == 0);
    CHECK(done.std_out ==
          "> step 1\n> step 2\n> step 3\nexit status 3, errors: careful\n> waiting\n"
          "it took too long\n");
    CHECK(done.std_err.empty());
}

TEST_CASE("the cookbook's Ctrl-C and SIGTERM finish what runs, and say how far it was",
          "[examples][cookbook]") {
    auto whole = run_example("example_interrupt");
    CHECK(whole.returncode == 0);
    CHECK(whole.std_out == "it begins\ndone: 40 of 40\n");

    // A shell may have us ignore SIGINT.
    for (int signal : {SIGINT, SIGTERM}) {
        CAPTURE(signal);
        sp::Popen long_one(
            {"env", "--default-signal=INT", test::example_path("example_interrupt"), "10000000"},
            {.std_out = sp::PIPE, .on_destroy = sp::OnDestroy::kill});
        CHECK(long_one.std_out().read_line() == "it begins");
        long_one.send_signal(signal);
        CHECK_THAT(*long_one.std_out().read_line(), Matches("interrupted: [0-9]+ of 10000000"));
        CHECK(long_one.wait() == 128 + signal);
    }
}

}  // namespace cookbook_test
