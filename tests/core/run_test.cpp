#include <sidestep/subprocess.hpp>

#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>

#include <catch2/catch.hpp>

#include "subprocess_support.hpp"
#include "support.hpp"
#include "sys/sys.hpp"

namespace run_test {

namespace sp = sidestep::subprocess;
using namespace std::chrono_literals;
using namespace std::string_literals;
using Catch::Matchers::Contains;

TEST_CASE("run returns what the child said and how it ended", "[core][subprocess]") {
    sp::CompletedProcess done =
        sp::run({"sh", "-c", "echo out; echo err >&2; exit 3"}, {.capture_output = true});
    CHECK(done.returncode == 3);
    CHECK(done.status.code() == 3);
    CHECK(done.std_out == "out\n");
    CHECK(done.std_err == "err\n");
    CHECK(done.args == sp::Args{"sh", "-c", "echo out; echo err >&2; exit 3"});
    CHECK(done.usage.max_resident_bytes > 0);
    CHECK_THROWS_AS(done.check_returncode(), sp::CalledProcessError);
    CHECK(sp::run({"cat"}, {.input = "hello", .capture_output = true}).std_out == "hello");
    CHECK(sp::run("echo $0 $1", {.capture_output = true, .shell = true}).std_out == "/bin/sh\n");
    CHECK(sp::run({"echo $0 $1", "a", "b"}, {.capture_output = true, .shell = true}).std_out ==
          "a b\n");
    CHECK(sp::run(std::filesystem::path("/bin/true")).returncode == 0);
}

TEST_CASE("check, check_call and check_output throw what the child did", "[core][subprocess]") {
    try {
        sp::run({"sh", "-c", "echo out; kill -ABRT $$"},
                {.capture_output = true, .check = true, .limits = {{sp::Resource::core_file, 0}}});
        FAIL("no exception");
    } catch (const sp::CalledProcessError& e) {
        CHECK(e.returncode() == -SIGABRT);
        CHECK(e.output() == "out\n");
        CHECK_THAT(e.what(), Contains("died with signal 6 (SIGABRT)"));
    }
    CHECK_NOTHROW(sp::check_call({"true"}));
    CHECK_THROWS_WITH(sp::check_call({"false"}), Contains("returned non-zero exit status 1"));
    CHECK(sp::check_output({"sort"}, {.input = "b\na\n"}) == "a\nb\n");
    CHECK(sp::check_output("echo out; echo err >&2", {.std_err = sp::STDOUT, .shell = true}) ==
          "out\nerr\n");
    CHECK_THROWS_AS(sp::check_output({"false"}), sp::CalledProcessError);
    CHECK(sp::call({"sh", "-c", "exit 4"}) == 4);
    CHECK_THAT(sp::CalledProcessError(-77, {"x"}).what(), Contains("unknown signal 77"));
}

TEST_CASE("getoutput runs a shell and strips one newline", "[core][subprocess]") {
    CHECK(sp::getoutput("echo xyzzy; echo; echo err >&2") == "xyzzy\n\nerr");
    sp::StatusOutput result = sp::getstatusoutput("echo bad; exit 9");
    CHECK(result.status == 9);
    CHECK(result.output == "bad");
}

TEST_CASE("options that contradict each other are refused before anything starts",
          "[core][subprocess]") {
    auto refused = [](const sp::Options& options) {
        CHECK_THROWS_AS(sp::run({"true"}, options), std::invalid_argument);
    };
    refused({.input = "x", .std_in = sp::PIPE});
    refused({.capture_output = true, .std_out = sp::PIPE});
    refused({.capture_output = true, .std_err = sp::STDOUT});
    refused({.on_stdout = [](std::string_view) {}, .std_out = sp::DEVNULL});
    refused({.on_stderr = [](std::string_view) {}, .std_err = sp::STDOUT});
    refused({.bufsize = -7});
    refused({.bufsize = 1});
    refused({.std_out = -5});
    refused({.umask = 07777});
    refused({.pass_fds = {-1}});
    refused({.pass_fds = {{5, 9}, {6, 9}}});
    refused({.std_out = sp::DEVNULL, .pass_fds = {{5, 1}}});
    refused({.blocked_signals = {{0}}});
    refused({.limits = {{sp::Resource::stack, 2, 1}}});
    refused({.cpus = {-1}});
    CHECK_THROWS_AS(sp::check_output({"true"}, {.std_out = sp::PIPE}), std::invalid_argument);
    CHECK_THROWS_AS(sp::call({"true"}, {.input = "x"}), std::invalid_argument);
    CHECK_THROWS_AS(sp::Popen({"true"}, {.timeout = 1s}), std::invalid_argument);
    CHECK_THROWS_AS(sp::Popen({"true"}, {.capture_output = true}), std::invalid_argument);
    CHECK_THROWS_AS(sp::run(std::filesystem::path("true"), {.shell = true}), std::invalid_argument);
    static_assert(!std::is_constructible_v<sp::InputRedirect, sp::StdoutTag>);
    static_assert(!std::is_constructible_v<sp::OutputRedirect, sp::StdoutTag>);
}

TEST_CASE("a timeout of run leaves no grandchild, and brings what was said", "[core][subprocess]") {
    // One grandchild whose parent is gone and one below the child, both holding the pipe.
    std::string script = "(sleep 1000 & echo $!); sleep 1000 & echo $!; wait";
    int first = 0, second = 0;
    // Time enough to start both: more, where that was not enough.
    for (auto timeout = 300ms; second == 0 && timeout < test::kPatience; timeout *= 4) {
        try {
            sp::run(script, {.capture_output = true, .timeout = timeout, .shell = true});
            FAIL("no exception");
        } catch (const sp::TimeoutExpired& e) {
            CHECK(e.timeout() == timeout);
            if (std::sscanf(e.output().c_str(), "%d %d\n", &first, &second) != 2) second = 0;
        }
    }
    REQUIRE(second > 0);
    CHECK(test::eventually([&] { return !test::is_running(first) && !test::is_running(second); }));
}

TEST_CASE("a deadline holds even when a grandchild keeps the pipe open", "[core][subprocess]") {
    int grandchild = 0;
    sp::Options options = {.capture_output = true, .kill_tree = false};
    for (auto timeout = 200ms; grandchild == 0 && timeout < test::kPatience; timeout *= 4) {
        options.timeout = timeout;
        try {
            sp::run({"sh", "-c", "sleep 100 & echo $!"}, options);
            FAIL("no exception");
        } catch (const sp::TimeoutExpired& e) {
            grandchild = std::atoi(e.output().c_str());
        }
    }
    REQUIRE(grandchild > 0);
    CHECK(test::is_running(grandchild));  // kill_tree = false
    kill(grandchild, SIGKILL);
    options.timeout.reset();
    options.drain_timeout = 5ms;
    grandchild = std::atoi(sp::run({"sh", "-c", "sleep 1000 & echo $!"}, options).std_out.c_str());
    REQUIRE(grandchild > 0);
    CHECK(test::is_running(grandchild));
    kill(grandchild, SIGKILL);
}

TEST_CASE("with a timeout the child leads a group, unless told otherwise", "[core][subprocess]") {
    auto group_of = [](sp::Options options) {
        options.capture_output = true;
        options.std_in = sp::DEVNULL;
        return std::stoi(
            sp::run({"sh", "-c", "ps -o pgid= -p $$ || cut -d' ' -f5 /proc/$$/stat"}, options)
                .std_out);
    };
    CHECK(group_of({.timeout = 60s}) != getpgrp());
    CHECK(group_of({}) == getpgrp());
    CHECK(group_of({.timeout = 60s, .kill_tree = false}) == getpgrp());
    CHECK(group_of({.timeout = 60s, .process_group = getpgrp()}) == getpgrp());
}

TEST_CASE("callbacks get the lines while the child runs", "[core][subprocess]") {
    std::vector<std::string> lines, errors;
    auto to = [](std::vector<std::string>& list) {
        return [&list](std::string_view line) { list.emplace_back(line); };
    };
    sp::CompletedProcess done =
        sp::run("printf 'a\\nb'; echo err >&2",
                {.on_stdout = to(lines), .on_stderr = to(errors), .shell = true});
    CHECK(lines == std::vector<std::string>{"a", "b"});
    CHECK(errors == std::vector<std::string>{"err"});
    CHECK(done.std_out.empty());
    lines.clear();
    done = sp::run("printf 'a\\r\\nb\\r'",
                   {.capture_output = true, .on_stdout = to(lines), .shell = true, .text = true});
    CHECK(lines == std::vector<std::string>{"a", "b"});
    CHECK(done.std_out == "a\nb\n");
    // While it runs: the child waits for an answer to its line.
    auto [gate_read, gate_write] = sidestep::sys::make_pipe();
    int answer = gate_write.get();
    done = sp::run("echo ask; read line <&9; exit 6",
                   {.on_stdout = [&](std::string_view) { (void)!write(answer, "yes\n", 4); },
                    .shell = true,
                    .pass_fds = {{gate_read.get(), 9}}});
    CHECK(done.returncode == 6);
}

TEST_CASE("a callback that throws kills the child and comes out of run", "[core][subprocess]") {
    auto boom = [](std::string_view) { throw std::runtime_error("boom"); };
    CHECK_THROWS_WITH(
        sp::run("echo x; sleep 1000", {.on_stdout = boom, .shell = true, .kill_tree = true}),
        "boom");
}

TEST_CASE("a pipeline reports every member", "[core][subprocess]") {
    sp::CompletedPipeline sorted = sp::pipeline({{"cat"}, {"sort"}, {"head", "-1"}},
                                                {.input = "b\na\n", .capture_output = true});
    CHECK(sorted.std_out == "a\n");
    CHECK(sorted.returncode() == 0);
    CHECK(sorted.members.size() == 3);
    sp::CompletedPipeline failing = sp::pipeline(
        {{"sh", "-c", "echo one >&2; exit 3"}, {"sh", "-c", "cat; echo two >&2"}, {"cat"}},
        {.capture_output = true});
    CHECK(failing.members[0].returncode == 3);
    CHECK(failing.members[0].std_err == "one\n");
    CHECK(failing.members[1].std_err == "two\n");
    CHECK(failing.members[2].returncode == 0);
    CHECK(failing.returncode() == 3);
    CHECK_THROWS_AS(failing.check_returncode(), sp::CalledProcessError);
    // The first one dies of SIGPIPE when the last one has seen enough.
    sp::CompletedPipeline cut = sp::pipeline({{"yes"}, {"head", "-1"}}, {.capture_output = true});
    CHECK(cut.std_out == "y\n");
    CHECK(cut.members[0].returncode == -SIGPIPE);
    CHECK_THROWS_AS(sp::pipeline({{"sleep", "1000"}, {"/no/such"}}), sp::StartError);
    CHECK_THROWS_AS(sp::pipeline({{"sleep", "1000"}, {"cat"}}, {.timeout = 50ms}),
                    sp::TimeoutExpired);
    CHECK_THROWS_AS(sp::pipeline({}), std::invalid_argument);
}

TEST_CASE("a command describes itself as one would type it", "[core][subprocess]") {
    CHECK(sp::Args{"ls", "-1", "it's", ""}.describe() == "ls -1 'it'\"'\"'s' ''");
    CHECK(sp::Args("ls -1").describe() == "ls -1");
    std::vector<std::filesystem::path> paths = {"/bin/echo", "x"};
    CHECK(sp::Args(paths).describe() == "/bin/echo x");
    CHECK(sp::check_output({"sh", "-c", "printf %s " + sp::shell_quote("a'b \"$c\"")}) ==
          "a'b \"$c\"");
}

TEST_CASE("an environment replaces or extends the parent's", "[core][subprocess]") {
    auto names = [](const sp::Environment& environment) {
        return sp::check_output({"/usr/bin/env"}, {.env = environment});
    };
    CHECK(names({}) == "");
    CHECK(names({{"B", "2"}, {"A", "="}, {"B", "3"}}) == "A==\nB=3\n");
    setenv("SIDESTEP_TEST", "parent", 1);
    sp::Environment extended = sp::Environment::extend({{"NEW", "1"}});
    CHECK_THAT(names(extended), Contains("SIDESTEP_TEST=parent\n") && Contains("NEW=1\n"));
    extended.set("SIDESTEP_TEST", "child");
    CHECK_THAT(names(extended), Contains("SIDESTEP_TEST=child\n") && !Contains("parent"));
    extended.remove("SIDESTEP_TEST");
    CHECK_THAT(names(extended), !Contains("SIDESTEP_TEST"));
    unsetenv("SIDESTEP_TEST");
}

TEST_CASE("a result that was made by hand tells its return code", "[core][subprocess]") {
    try {
        sp::CompletedProcess{.args = "x", .returncode = 3}.check_returncode();
        FAIL("no exception");
    } catch (const sp::CalledProcessError& e) {
        CHECK(e.returncode() == 3);
        CHECK_THAT(e.what(), Contains("returned non-zero exit status 3"));
    }
    sp::CompletedProcess killed{.args = "x", .returncode = -SIGTERM};
    CHECK_THROWS_WITH(killed.check_returncode(), Contains("SIGTERM"));
    sp::CompletedProcess lost{
        .args = "x", .returncode = 255, .status = sidestep::ExitStatus::lost_status()};
    CHECK_THROWS_WITH(lost.check_returncode(), Contains("taken by someone else"));
    CHECK_NOTHROW(sp::CompletedProcess{.args = "x"}.check_returncode());
}

TEST_CASE("getoutput takes options, except those that contradict it", "[core][subprocess]") {
    const char* latin1 = "printf 'caf\\351\\n'";
    CHECK(sp::getoutput(latin1, {.encoding = "ISO-8859-1"}) == "caf\u00e9");
    CHECK(sp::getoutput(latin1, {.errors = sp::CodecErrors::replace}) == "caf\ufffd");
    CHECK_THROWS_AS(sp::getoutput(latin1, {.encoding = "UTF-8"}), sp::DecodeError);
    CHECK(sp::getstatusoutput("pwd; exit 2", {.cwd = "/usr"}).output == "/usr");
    std::string seen;
    auto look = [&](std::string_view line) { seen = line; };
    CHECK(sp::getoutput("echo a", {.on_stdout = look}) == "a");
    CHECK(seen == "a");
    auto refused = [](const sp::Options& options) {
        CHECK_THROWS_AS(sp::getstatusoutput("true", options), std::invalid_argument);
    };
    refused({.capture_output = true});
    refused({.check = true});
    refused({.on_stderr = look});
    refused({.std_out = sp::DEVNULL});
    refused({.std_err = sp::PIPE});
    refused({.text = false});
}

TEST_CASE("check_output returns what a callback gets, too", "[core][subprocess]") {
    std::string seen;
    auto look = [&](std::string_view line) { seen += line; };
    CHECK(sp::check_output({"printf", "a\\nb\\n"}, {.on_stdout = look}) == "a\nb\n");
    CHECK(seen == "ab");
}

TEST_CASE("a command that was moved from describes itself as nothing", "[core][subprocess]") {
    sp::Args command("ls -1");
    sp::Args moved = std::move(command);
    CHECK(moved.describe() == "ls -1");
    CHECK(command.describe() == "");
}

TEST_CASE("as_user gives a child its user's ids and groups, and none of its parent's",
          "[core][subprocess]") {
    auto refusal = [](const sp::Options& options) {
        try {
            sp::check_call({"true"}, options);
        } catch (const std::invalid_argument& error) {
            return std::string(error.what());
        }
        return std::string("started");
    };
    CHECK_THAT(refusal({.as_user = "no such user"}), Contains("no user \"no such user\""));
    CHECK_THAT(refusal({.as_user = ""}), Contains("no user"));
    CHECK_THAT(refusal({.as_user = "a\0b"s}), Contains("NUL"));
    CHECK_THAT(refusal({.user = 1, .as_user = "nobody"}), Contains("as_user sets user, group"));
    CHECK_THAT(refusal({.group = 1, .as_user = "nobody"}), Contains("as_user sets user, group"));
    CHECK_THAT(refusal({.extra_groups = std::vector<sp::Identity>{}, .as_user = "nobody"}),
               Contains("as_user sets user, group"));
    const passwd* nobody = getpwnam("nobody");
    if (geteuid() != 0 || nobody == nullptr) {
        WARN("only root can start a child as another user: nothing was tested");
        return;
    }
    std::string group = std::to_string(nobody->pw_gid);
    std::string expected = std::to_string(nobody->pw_uid) + "\n" + group + "\n" + group + "\n";
    // From a parent that is in another group, too.
    int result = test::in_fork([&] {
        gid_t other = 4711;
        if (setgroups(1, &other) != 0) return 1;
        const char* script = "id -u; id -g; id -G";
        bool same = sp::check_output(script, {.shell = true, .as_user = "nobody"}) == expected;
        // What `user` alone leaves, as its comment says.
        std::string alone = sp::check_output("id -G", {.shell = true, .user = nobody->pw_uid});
        return !same ? 2 : alone.find("4711") == alone.npos ? 3 : 0;
    });
    CHECK(result == 0);
}

}  // namespace run_test
