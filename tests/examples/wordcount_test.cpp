#include <catch2/catch.hpp>

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "example.hpp"

namespace wordcount_test {

using Catch::Matchers::Contains;
using test::run_example;
using test::TemporaryFolder;
namespace fs = std::filesystem;
namespace sp = sidestep::subprocess;

namespace {

// The first `count` lines that say "NUMBER WORD".
std::vector<std::string> most_frequent(const std::string& output, std::size_t count) {
    std::vector<std::string> lines;
    std::istringstream in(output);
    for (std::string line; lines.size() < count && std::getline(in, line);)
        lines.push_back(line.substr(line.find_first_not_of(' ')));
    return lines;
}

}  // namespace

TEST_CASE("wordcount agrees with grep, sort and uniq", "[examples][wordcount]") {
    auto ours = run_example("wordcount", {"--workers", "2", "/usr/include/linux"});
    REQUIRE(ours.returncode == 0);
    auto reference = sp::run(
        "find /usr/include/linux -name '*.h' -type f -exec grep -aohE '[A-Za-z0-9_]+' {} + | "
        "grep -E '^[A-Za-z_]' | sort | uniq -c | sort -k1,1nr -k2,2 | head -20",
        {.capture_output = true, .shell = true, .env = sp::Environment::extend({{"LC_ALL", "C"}})});
    CHECK(most_frequent(ours.std_out, 20) == most_frequent(reference.std_out, 20));
    CHECK_THAT(ours.std_out, Contains("workers: 2,"));
}

TEST_CASE("wordcount reports a file that cannot be read, counts it and goes on",
          "[examples][wordcount]") {
    TemporaryFolder folder;
    std::ofstream(folder.path / "good.h") << "int one; int two;";
    fs::create_symlink("/no/such/file", folder.path / "dangling.h");
    auto done = run_example("wordcount", {folder.path.string()});
    CHECK(done.returncode == 1);
    CHECK_THAT(done.std_err, Contains("dangling.h: No such file or directory"));
    CHECK_THAT(done.std_out, Contains("1 files (1 not readable)"));
    CHECK_THAT(done.std_out, Contains("2 int"));
}

TEST_CASE("wordcount behaves as people expect of a command", "[examples][wordcount]") {
    auto help = run_example("wordcount", {"--help"});
    CHECK(help.returncode == 0);
    CHECK_THAT(help.std_out, Contains("usage: wordcount"));
    auto missing = run_example("wordcount", {"/no/such/folder"});
    CHECK(missing.returncode == 2);
    CHECK_THAT(missing.std_err, Contains("/no/such/folder: No such file or directory"));
    for (const char* bad : {"0", "-1", "many", "2x", "1025"})
        CHECK(run_example("wordcount", {"--workers", bad}).returncode == 2);
    CHECK(run_example("wordcount", {"--workers"}).returncode == 2);
    CHECK(run_example("wordcount", {"--frobnicate"}).returncode == 2);
}

TEST_CASE("wordcount of an empty folder is no error", "[examples][wordcount]") {
    TemporaryFolder folder;
    auto done = run_example("wordcount", {folder.path.string()});
    CHECK(done.returncode == 0);
    CHECK_THAT(done.std_out, Contains("0 files"));
}

}  // namespace wordcount_test
