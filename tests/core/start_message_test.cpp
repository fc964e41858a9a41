// What a start that fails says: the thing, the cause, the remedy. And descriptors that are not
// open, which must not become pipes of ours.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <sidestep/subprocess.hpp>

#include "subprocess_support.hpp"
#include "support.hpp"
#include "sys/sys.hpp"

namespace start_message_test {

namespace sp = sidestep::subprocess;
namespace fs = std::filesystem;
using namespace std::string_literals;
using Catch::Matchers::Contains;
using sp::StartStep;

namespace {

struct Failed {
    std::string message = "(it was started)";
    StartStep step = StartStep::pipe;
    int error = 0;
};

Failed start(const sp::Args& args, const sp::Options& options) {
    try {
        sp::Popen child(args, options);
        child.kill();
    } catch (const sp::StartError& e) {
        return {e.what(), e.step(), e.code().value()};
    }
    return {};
}

// Runs `body` with this soft limit on open files.
template <class Body>
auto with_open_files(rlim_t limit, Body body) {
    rlimit former;
    getrlimit(RLIMIT_NOFILE, &former);
    rlimit low = {limit, former.rlim_max};
    setrlimit(RLIMIT_NOFILE, &low);
    auto result = body();
    setrlimit(RLIMIT_NOFILE, &former);
    return result;
}

int next_fd() {
    int next = fcntl(2, F_DUPFD_CLOEXEC, 3);
    close(next);
    return next;
}

void check_redirect(const Failed& failed, const std::string& says) {
    CHECK(failed.step == StartStep::redirect);
    CHECK(failed.error == EBADF);
    CHECK_THAT(failed.message, Contains(says));
}

}  // namespace

TEST_CASE("a descriptor that is not open never becomes a pipe of ours",
          "[core][subprocess][start]") {
    // The numbers that the pipes would get.
    for (int fd = next_fd(), last = fd + 6; fd < last; ++fd) {
        if (sidestep::sys::is_open(fd)) continue;
        CAPTURE(fd);
        std::string says = "descriptor " + std::to_string(fd) + " is not open";
        check_redirect(start({"cat"}, {.std_in = sp::PIPE, .pass_fds = {fd}}), says);
        check_redirect(start({"cat"}, {.std_in = sp::PIPE, .pass_fds = {{fd, 9}}}), says);
        check_redirect(start({"cat"}, {.std_in = fd, .std_out = sp::PIPE}), says);
        check_redirect(start({"cat"}, {.std_in = sp::PIPE, .std_out = fd}), says);
        check_redirect(start({"cat"}, {.std_in = sp::PIPE, .std_err = fd}), says);
        check_redirect(start({"cat"}, {.std_in = fd, .die_with_parent = true}), says);
    }
}

TEST_CASE("a number beyond the limit on open files is named, with the limit",
          "[core][subprocess][start]") {
    int fd = next_fd() + 20;
    auto beyond = [](int child_fd, bool lifeline = false) {
        return start({"true"}, {.pass_fds = {{1, child_fd}}, .die_with_parent = lifeline});
    };
    auto limit = static_cast<rlim_t>(fd);
    Failed failed = with_open_files(limit, [&] { return beyond(fd); });
    check_redirect(failed, std::to_string(fd) + " in the child");
    check_redirect(failed, "limit on open files, " + std::to_string(fd) + ": RLIMIT_NOFILE");
    CHECK(with_open_files(limit, [&] { return beyond(fd - 1); }).error == 0);
    check_redirect(beyond(1 << 30), "1073741824");
    check_redirect(beyond(std::numeric_limits<int>::max()), "2147483647");
    check_redirect(beyond(std::numeric_limits<int>::max(), true), "ulimit -n");
}

TEST_CASE("die_with_parent without a descriptor left is a StartError",
          "[core][subprocess][start]") {
    int failures = 0;
    for (int room = 0; room < 4; ++room) {
        auto limit = static_cast<rlim_t>(next_fd() + room);
        Failed failed =
            with_open_files(limit, [] { return start({"true"}, {.die_with_parent = true}); });
        CAPTURE(room, failed.message);
        if (failed.error == 0) continue;
        ++failures;
        CHECK(failed.error == EMFILE);
        bool of_lifeline = failed.step == StartStep::pipe;
        CHECK((of_lifeline || failed.step == StartStep::spawn));  // the pidfd
        if (of_lifeline)
            CHECK_THAT(failed.message, Contains("die_with_parent") && Contains("ulimit -n"));
    }
    CHECK(failures >= 2);
}

TEST_CASE("a script without its interpreter is not said to be missing",
          "[core][subprocess][start]") {
    test::TemporaryFile script("#!/no/such/interpreter\n", 0755);
    fs::path path = script.path();
    auto is_there = Contains("\"" + path.native() + "\" is there, but the interpreter");
    CHECK_THAT(start({path}, {}).message, is_there);
    sp::Args by_name = {path.filename()};
    sp::Environment searched = {{"PATH", "/no/such:" + path.parent_path().native()}};
    CHECK_THAT(start(by_name, {.env = searched}).message, is_there);
    CHECK_THAT(start({"./" + path.filename().native()}, {.cwd = path.parent_path()}).message,
               Contains("is there, but the interpreter"));
    CHECK_THAT(start(by_name, {.env = sp::Environment{{"PATH", "/no/such"}}}).message,
               Contains("no folder of the child's PATH"));
    CHECK_THAT(start({""}, {.cwd = "/usr"}).message, !Contains("interpreter"));
}

TEST_CASE("a command line in place of a program's name is told how to run it",
          "[core][subprocess][start]") {
    for (const char* line : {"ls -l", "/bin/ls -l", "./no such program"}) {
        const Failed failed = start({line}, {});
        CHECK(failed.error == ENOENT);
        CHECK_THAT(failed.message, Contains("this is one word, the program's name") &&
                                       Contains(".shell = true") && Contains("{\"ls\", \"-l\"}"));
    }
    CHECK_THAT(start({"no-such-program", "-l"}, {}).message,
               Contains("no folder of the child's PATH") && !Contains(".shell"));
}

TEST_CASE("a name of a user or a group that is empty is called empty",
          "[core][subprocess][start]") {
    CHECK_THROWS_WITH(sp::Popen({"true"}, {.user = ""}), Contains("name of the user is empty"));
    CHECK_THROWS_WITH(sp::Popen({"true"}, {.group = ""s}), Contains("name of the group is empty"));
    CHECK_THROWS_WITH(sp::Popen({"true"}, {.user = -1}), Contains("-1 is out of range"));
}

TEST_CASE("a limit, a CPU and a nice value that are refused are named",
          "[core][subprocess][start]") {
    CHECK_THAT(start({"true"}, {.cpus = {4094, 4095}}).message, Contains("cpus 4094, 4095"));
    // In a copy without privileges.
    CHECK(test::in_fork([] {
              if (geteuid() == 0 && setuid(65533) != 0) return 1;
              rlimit core = {0, 10}, priority = {0, 0};
              if (setrlimit(RLIMIT_CORE, &core) != 0) return 2;
              if (setrlimit(RLIMIT_NICE, &priority) != 0) return 3;
              Failed limits = start({"true"}, {.limits = {{sp::Resource::stack, 4096 * 1024, {}},
                                                          {sp::Resource::core_file, 5, 11}}});
              if (limits.step != StartStep::setrlimit || limits.error != EPERM) return 4;
              if (limits.message.find("(core_file 11 is above the parent's hard limit, 10; ") ==
                  std::string::npos)
                  return 5;
              if (limits.message.find("stack") != std::string::npos) return 6;
              Failed nice = start({"true"}, {.nice = -5});
              if (nice.step != StartStep::nice) return 7;
              int refused = std::max(::getpriority(PRIO_PROCESS, 0) - 5, -20);
              auto named = nice.message.find(fmt::format("nice ({}: ", refused));
              return named != std::string::npos ? 0 : 8;
          }) == 0);
}

}  // namespace start_message_test
