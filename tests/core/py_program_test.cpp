// Which program, where, with which words and environment: CPython's test_subprocess.
#include <catch2/catch.hpp>

#include "py_support.hpp"

namespace py_program_test {

using namespace py;

namespace {

const fs::path kChildFolder = fs::canonical(fs::path(kChild)).parent_path();
// The child program, relative to its folder.
const std::string kRelativeChild = "./" + fs::path(kChild).filename().native();

struct Seen {
    int returncode = 0;
    std::string output = {};
    friend bool operator==(const Seen&, const Seen&) = default;
};

// `child cwd` prints its folder and exits with 47.
Seen run_cwd(const sp::Args& args, sp::Options options) {
    options.std_out = sp::PIPE;
    sp::CompletedProcess done = sp::run(args, options);
    return {done.returncode, done.std_out};
}
Seen seen_in(const fs::path& folder) { return {47, folder.native()}; }

int call_with(const sp::Args& args, sp::Environment environment) {
    return sp::call(args, {.env = std::move(environment)});
}

}  // namespace

TEST_CASE("executable is what runs; args[0] is only its name",
          "[subprocess][py:ProcessTestCase.test_executable]"
          "[py:ProcessTestCase.test_pathlike_executable]") {
    CHECK(sp::call({"doesnotexist", "exit", "47"}, {.executable = kChild}) == 47);
    CHECK(sp::call({"doesnotexist", "exit", "47"}, {.executable = fs::path(kChild)}) == 47);
    CHECK(sp::check_output({"doesnotexist", "argv"}, {.executable = kChild}) ==
          "doesnotexist\nargv\n");
}

TEST_CASE("an executable that does not exist fails, however good args[0] is",
          "[subprocess][py:ProcessTestCase.test_executable_takes_precedence]") {
    const sp::Args good = {kChild, "exit", "47"};
    CHECK(sp::call(good) == 47);
    CHECK(finds_no_program([&] { sp::call(good, {.executable = "no-such-program"}); }));
}

TEST_CASE("with shell, executable replaces the shell",
          "[subprocess][py:ProcessTestCase.test_executable_replaces_shell]"
          "[py:ProcessTestCase.test_pathlike_executable_replaces_shell]") {
    CHECK(sp::call("47", {.executable = kChild, .shell = true}) == 47);
    CHECK(sp::call("47", {.executable = fs::path(kChild), .shell = true}) == 47);
}

TEST_CASE("a child starts in cwd",
          "[subprocess][py:ProcessTestCase.test_cwd]"
          "[py:ProcessTestCase.test_cwd_with_pathlike]") {
    TemporaryFolder folder;
    CHECK(run_cwd({kChild, "cwd"}, {.cwd = folder.path()}) == seen_in(folder.path()));
    CHECK(run_cwd({kChild, "cwd"}, {.cwd = folder.path().c_str()}) == seen_in(folder.path()));
    fs::path here = fs::current_path();  // the parent has not moved
    CHECK(run_cwd({kChild, "cwd"}, {}) == seen_in(here));
}

TEST_CASE("a relative args[0] is looked for in cwd",
          "[subprocess][py:ProcessTestCase.test_cwd_with_relative_arg]") {
    TemporaryFolder wrong;
    WorkingDirectory here(wrong.path());
    const sp::Args relative = {kRelativeChild, "cwd"};
    CHECK(start_errno([&] { sp::Popen child(relative); }) == ENOENT);
    CHECK(start_errno([&] { sp::Popen child(relative, {.cwd = wrong.path()}); }) == ENOENT);
    CHECK(run_cwd(relative, {.cwd = kChildFolder}) == seen_in(kChildFolder));
}

TEST_CASE("a relative executable is looked for in cwd, and wins over args[0]",
          "[subprocess][py:ProcessTestCase.test_cwd_with_relative_executable]") {
    TemporaryFolder wrong;
    WorkingDirectory here(wrong.path());
    const sp::Args words = {"somethingyoudonthave", "cwd"};
    sp::Options options = {.executable = kRelativeChild};
    CHECK(start_errno([&] { sp::Popen child(words, options); }) == ENOENT);
    options.cwd = wrong.path();
    CHECK(start_errno([&] { sp::Popen child(words, options); }) == ENOENT);
    options.cwd = kChildFolder;
    CHECK(run_cwd(words, options) == seen_in(kChildFolder));
}

TEST_CASE("an absolute args[0] is found whatever cwd is",
          "[subprocess][py:ProcessTestCase.test_cwd_with_absolute_arg]") {
    TemporaryFolder wrong;
    CHECK(start_errno([&] {
              sp::Popen child({kRelativeChild, "cwd"}, {.cwd = wrong.path()});
          }) == ENOENT);
    const std::string absolute = fs::canonical(fs::path(kChild));
    CHECK(run_cwd({absolute, "cwd"}, {.cwd = wrong.path()}) == seen_in(wrong.path()));
}

TEST_CASE("executable works with cwd and without",
          "[subprocess][py:ProcessTestCase.test_executable_with_cwd]"
          "[py:ProcessTestCase.test_executable_without_cwd]") {
    const sp::Args words = {"somethingyoudonthave", "cwd"};
    CHECK(run_cwd(words, {.executable = kChild, .cwd = kChildFolder}) == seen_in(kChildFolder));
    CHECK(run_cwd(words, {.executable = kChild}) == seen_in(fs::current_path()));
}

TEST_CASE("a child gets the environment that it is given",
          "[subprocess][py:ProcessTestCase.test_env]") {
    auto environment = sp::Environment::extend({{"FRUIT", "orange"}});
    sp::Popen child({"sh", "-c", "printf $FRUIT"}, {.std_out = sp::PIPE, .env = environment});
    CHECK(child.communicate().std_out == "orange");
}

TEST_CASE("an empty environment is empty", "[subprocess][py:ProcessTestCase.test_empty_env]") {
    CHECK(sp::check_output({kChild, "env"}, {.env = sp::Environment()}).empty());
}

TEST_CASE("an environment of one variable has just that one",
          "[subprocess][py:ProcessTestCase.test_one_environment_variable]") {
    sp::Environment environment = {{"fruit", "orange"}};
    CHECK(sp::check_output({kChild, "env"}, {.env = environment}) == "fruit=orange\n");
}

TEST_CASE("NUL in a word of the command is refused before anything starts",
          "[subprocess][py:ProcessTestCase.test_invalid_cmd]") {
    using namespace std::string_literals;
    CHECK_THROWS_AS(sp::Popen({"true\0"s, "-c"}), std::invalid_argument);
    CHECK_THROWS_AS(sp::Popen({"true", "pass#\0"s}), std::invalid_argument);
}

TEST_CASE("NUL in a variable, and '=' in its name, are refused",
          "[subprocess][py:ProcessTestCase.test_invalid_env]") {
    using namespace std::string_literals;
    auto start_with = [](std::string name, std::string value) {
        auto environment = sp::Environment::extend({{std::move(name), std::move(value)}});
        sp::Popen child({"true"}, {.env = environment});
    };
    CHECK_THROWS_AS(start_with("FRUIT\0VEGETABLE"s, "cabbage"), std::invalid_argument);
    CHECK_THROWS_AS(start_with("FRUIT", "orange\0VEGETABLE=cabbage"s), std::invalid_argument);
    CHECK_THROWS_AS(start_with("FRUIT=ORANGE", "lemon"), std::invalid_argument);
    auto fine = sp::Environment::extend({{"FRUIT", "orange=lemon"}});
    CHECK(sp::check_output({"printenv", "FRUIT"}, {.env = fine}) == "orange=lemon\n");
}

TEST_CASE("a string alone is the name of a program, for Popen and for call",
          "[subprocess][py:POSIXProcessTestCase.test_args_string]"
          "[py:POSIXProcessTestCase.test_call_string]") {
    TemporaryFolder folder;
    std::string program = folder.script("exit 47", "exit 47\n");  // a blank does not split it
    sp::Popen child(program);
    CHECK(child.wait() == 47);
    CHECK(sp::call(program) == 47);
}

TEST_CASE("with shell, a string or the first word is the shell's command line",
          "[subprocess][py:POSIXProcessTestCase.test_shell_string]"
          "[py:POSIXProcessTestCase.test_shell_sequence]") {
    auto output = [](const sp::Args& args) {
        auto environment = sp::Environment::extend({{"FRUIT", "apple"}});
        sp::Popen child(args, {.std_out = sp::PIPE, .shell = true, .env = environment});
        return child.std_out().read();
    };
    CHECK(output("echo $FRUIT") == "apple\n");
    CHECK(output({"echo $FRUIT"}) == "apple\n");
    CHECK(output({"echo $0 $1", "zero", "one"}) == "zero one\n");  // more words: $0, $1
}

TEST_CASE("a shell of one's own sees its path as $0",
          "[subprocess][py:POSIXProcessTestCase.test_specific_shell]") {
    int tried = 0;
    for (const char* shell : {"/bin/bash", "/usr/bin/bash", "/bin/dash", "/bin/ksh", "/bin/sh"}) {
        if (!fs::exists(shell)) continue;
        ++tried;
        CHECK(sp::check_output("echo $0", {.executable = shell, .shell = true}) ==
              shell + std::string("\n"));
    }
    CHECK(tried > 0);
}

TEST_CASE("bytes that are no UTF-8 pass through the environment as they are",
          "[subprocess][py:POSIXProcessTestCase.test_undecodable_env]") {
    for (auto [name, value] : {std::pair{"test", "abc\xff"}, std::pair{"test\xff", "42"}}) {
        auto environment = sp::Environment::extend({{name, value}, {"LC_ALL", "C"}});
        std::string output = sp::check_output({kChild, "env"}, {.env = environment});
        CHECK(contains("\n" + output, "\n" + std::string(name) + "=" + value + "\n"));
        sp::Environment alone = {{name, value}};
        CHECK(sp::check_output({kChild, "env"}, {.env = alone}) ==
              std::string(name) + "=" + value + "\n");
    }
}

TEST_CASE("a program whose name is any bytes is found by path, by PATH and by the shell",
          "[subprocess][py:POSIXProcessTestCase.test_bytes_program]") {
    TemporaryFolder folder;
    for (const char* name : {"plain", "not\xffutf-8"}) {
        const fs::path program = folder.script(name, "test \"$1\" = 'an\xff argument'\n");
        const char* argument = "an\xff argument";
        CHECK(sp::call({program, argument}) == 0);
        std::string line = sp::shell_quote(program.native()) + " " + sp::shell_quote(argument);
        CHECK(sp::call(line, {.shell = true}) == 0);
        CHECK(call_with({name, argument},
                        sp::Environment::extend({{"PATH", folder.path().native()}})) == 0);
        CHECK(call_with({name, argument}, {{"PATH", folder.path().native()}}) == 0);
    }
}

}  // namespace py_program_test
