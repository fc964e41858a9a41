// Ids, session, signals, umask of a child, how it is started and how its end is told: the
// contracts of CPython's test_subprocess.
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <csignal>
#include <limits>
#include <sstream>

#include "py_support.hpp"

namespace py_identity_test {

using namespace py;

namespace {

constexpr unsigned kNobody = 65534;

Values ids_with(sp::Options options) {
    return parse_values(sp::check_output({kChild, "ids"}, options));
}

std::set<std::string> words_of(const std::string& comma_separated) {
    std::set<std::string> words;
    std::istringstream in(comma_separated);
    for (std::string word; std::getline(in, word, ',');) words.insert(word);
    return words;
}

// A group's name that this machine has, and its number.
std::pair<std::string, unsigned> known_group() {
    for (const char* name : {"nogroup", "staff", "nobody", "root"})
        if (const group* entry = getgrnam(name)) return {name, entry->gr_gid};
    return {};
}

// Numbers that no user and no group can have: negative, and too large in two ways.
template <class Start>
bool refuses_bad_numbers(Start&& start) {
    const long long bad[] = {-1, std::numeric_limits<unsigned>::max(), 1LL << 32,
                             std::numeric_limits<long long>::max()};
    for (long long number : bad)
        if (!thrown<std::invalid_argument>([&] { start(sp::Identity(number)); })) return false;
    // 2^64 - 1 is not a way to say -1.
    sp::Identity largest(std::numeric_limits<unsigned long long>::max());
    return thrown<std::invalid_argument>([&] { start(largest); }).has_value();
}

void call_as_user(const sp::Identity& user) { sp::check_call({"true"}, {.user = user}); }
void call_as_group(const sp::Identity& group) { sp::check_call({"true"}, {.group = group}); }
void call_in_groups(const sp::Identity& group) {
    sp::check_call({"true"}, {.extra_groups = std::vector{group}});
}

// With the privilege, the child has the ids; without it, the start fails at `step` with EPERM.
// `check` gets what the child sees.
template <class Check>
void start_with_ids(const sp::Options& options, sp::StartStep step, bool allowed, Check&& check) {
    if (allowed) return check(ids_with(options));
    auto error = thrown<sp::StartError>([&] { ids_with(options); });
    REQUIRE(error);
    CHECK(error->code().value() == EPERM);
    CHECK(error->step() == step);
}

std::string ended_by(int returncode) {
    return sp::CalledProcessError(returncode, "fake cmd").what();
}

}  // namespace

TEST_CASE("restore_signals gives SIGPIPE and SIGXFSZ back to a child whose parent ignores them",
          "[subprocess][py:POSIXProcessTestCase.test_restore_signals]") {
    IgnoredSignal pipe(SIGPIPE), size(SIGXFSZ), usual(SIGUSR2);
    auto signals_with = [](bool restore) {
        return "\n" + sp::check_output({kChild, "signals"}, {.restore_signals = restore});
    };
    const std::string pipe_line = "\nignored=" + std::to_string(SIGPIPE) + "\n";
    const std::string size_line = "\nignored=" + std::to_string(SIGXFSZ) + "\n";
    const std::string usual_line = "\nignored=" + std::to_string(SIGUSR2) + "\n";
    std::string kept = signals_with(false), restored = signals_with(true);
    CHECK(contains_all(kept, {pipe_line, size_line, usual_line}));
    CHECK_FALSE(contains(restored, pipe_line));
    CHECK_FALSE(contains(restored, size_line));
    CHECK(contains(restored, usual_line));  // others stay ignored
}

TEST_CASE("start_new_session makes the child the leader of one",
          "[subprocess][py:POSIXProcessTestCase.test_start_new_session]") {
    Values ids = ids_with({.start_new_session = true});
    CHECK(ids["sid"] == ids["pid"]);
    CHECK(ids["sid"] != std::to_string(getsid(0)));
    CHECK(ids_with({})["sid"] == std::to_string(getsid(0)));
}

TEST_CASE("process_group 0 makes the child the leader of one",
          "[subprocess][py:POSIXProcessTestCase.test_process_group_0]") {
    Values ids = ids_with({.process_group = 0});
    CHECK(ids["pgid"] == ids["pid"]);
    CHECK(ids["pgid"] != std::to_string(getpgid(0)));
    CHECK(ids_with({})["pgid"] == std::to_string(getpgid(0)));
}

TEST_CASE("user is a number or a name, and becomes the child's real and effective id",
          "[subprocess][py:POSIXProcessTestCase.test_user]") {
    std::vector<std::pair<sp::Identity, unsigned>> users = {{kNobody, kNobody},
                                                            {geteuid(), geteuid()}};
    if (const passwd* nobody = getpwnam("nobody")) users.push_back({"nobody", nobody->pw_uid});
    for (const auto& [user, uid] : users) {
        for (bool close_fds : {false, true}) {
            sp::Options options = {.close_fds = close_fds, .user = user};
            bool allowed = is_root() || uid == geteuid();
            start_with_ids(options, sp::StartStep::setuid, allowed, [uid = uid](Values ids) {
                CHECK(ids["uid"] == std::to_string(uid));
                CHECK(ids["euid"] == std::to_string(uid));
            });
        }
    }
    CHECK(refuses_bad_numbers(call_as_user));
}

TEST_CASE("a user that cannot be had is an error before the program runs",
          "[subprocess][py:POSIXProcessTestCase.test_user_error]") {
    auto message = message_of<std::invalid_argument>([] { call_as_user("no such user"); });
    CHECK(contains(message, "no such user"));
    sp::CompletedProcess done =
        sp::run({kParent, "start_as", "user", "65533"}, {.capture_output = true});
    if (done.returncode == kNotPossible) WARN("cannot become an ordinary user here");
    if (done.returncode != kNotPossible)
        CHECK(done.std_out == "setuid " + std::to_string(EPERM) + "\n");
}

TEST_CASE("group is a number or a name, and becomes the child's real and effective id",
          "[subprocess][py:POSIXProcessTestCase.test_group]") {
    auto [name, number] = known_group();
    std::vector<std::pair<sp::Identity, unsigned>> groups = {
        {kNobody, kNobody}, {name, number}, {getegid(), getegid()}};
    for (const auto& [group, gid] : groups) {
        for (bool close_fds : {false, true}) {
            sp::Options options = {.close_fds = close_fds, .group = group};
            bool allowed = is_root() || gid == getegid();
            start_with_ids(options, sp::StartStep::setgid, allowed, [gid = gid](Values ids) {
                CHECK(ids["gid"] == std::to_string(gid));
                CHECK(ids["egid"] == std::to_string(gid));
            });
        }
    }
    CHECK(refuses_bad_numbers(call_as_group));
}

TEST_CASE("a group that cannot be had is an error before the program runs",
          "[subprocess][py:POSIXProcessTestCase.test_group_error]") {
    auto message = message_of<std::invalid_argument>([] { call_as_group("no such group"); });
    CHECK(contains(message, "no such group"));
    sp::CompletedProcess done =
        sp::run({kParent, "start_as", "group", "65533"}, {.capture_output = true});
    if (done.returncode == kNotPossible) WARN("cannot become an ordinary user here");
    if (done.returncode != kNotPossible)
        CHECK(done.std_out == "setgid " + std::to_string(EPERM) + "\n");
}

TEST_CASE("extra_groups are numbers and names, and become the child's groups",
          "[subprocess][py:POSIXProcessTestCase.test_extra_groups]") {
    auto [name, number] = known_group();
    sp::Options options = {.extra_groups = std::vector<sp::Identity>{4711, name}};
    start_with_ids(options, sp::StartStep::setgroups, is_root(), [number = number](Values ids) {
        CHECK(words_of(ids["groups"]) == std::set<std::string>{"4711", std::to_string(number)});
    });
}

TEST_CASE("no extra_groups at all is not the same as an empty list: that drops all",
          "[subprocess][py:POSIXProcessTestCase.test_extra_groups_empty_list]") {
    sp::Options options = {.extra_groups = std::vector<sp::Identity>{}};
    start_with_ids(options, sp::StartStep::setgroups, is_root(),
                   [](Values ids) { CHECK(ids["groups"].empty()); });
    // We may be in no group ourselves; a parent that is in one shows the difference.
    auto from_member = [](const char* command) {
        sp::CompletedProcess done = sp::run({kParent, command, kChild}, {.capture_output = true});
        if (done.returncode == kNotPossible) return std::string("not possible");
        return parse_values(done.std_out)["groups"];
    };
    if (!is_root()) {
        WARN("an ordinary user cannot be in other groups than its own for a test");
        return;
    }
    CHECK(from_member("keep_groups") == "4711");
    CHECK(from_member("drop_groups").empty());
}

TEST_CASE("extra_groups that no group can have are refused",
          "[subprocess][py:POSIXProcessTestCase.test_extra_groups_invalid_gid_t_values]") {
    CHECK(refuses_bad_numbers(call_in_groups));
}

TEST_CASE("umask is the child's own", "[subprocess][py:POSIXProcessTestCase.test_umask]") {
    TemporaryFolder folder;
    fs::path file = folder.path() / "beans";
    sp::check_call({"touch", file}, {.umask = 053});
    struct stat info = {};
    REQUIRE(stat(file.c_str(), &info) == 0);
    CHECK((info.st_mode & 0666) == 0624);
    mode_t ours = umask(0);
    umask(ours);
    CHECK(std::stoul(ids_with({})["umask"], nullptr, 8) == ours);  // the parent's is untouched
}

TEST_CASE("a child that aborts has the returncode -SIGABRT",
          "[subprocess][py:POSIXProcessTestCase.test_run_abort]") {
    sp::Popen child({"sh", "-c", "kill -ABRT $$"},
                    {.limits = {{.resource = sp::Resource::core_file, .soft = 0}}});
    CHECK(child.wait() == -SIGABRT);
    CHECK(child.exit_status().signal() == SIGABRT);
}

TEST_CASE("the message of a failed command tells signal and exit status apart",
          "[subprocess][py:POSIXProcessTestCase.test_CalledProcessError_str_signal]"
          "[py:POSIXProcessTestCase.test_CalledProcessError_str_unknown_signal]"
          "[py:POSIXProcessTestCase.test_CalledProcessError_str_non_zero]") {
    CHECK(contains_all(ended_by(-SIGABRT),
                       {"signal", "SIGABRT", std::to_string(SIGABRT), "fake cmd"}));
    CHECK(contains(ended_by(-9876543), "unknown signal 9876543"));
    CHECK(contains(ended_by(2), "non-zero exit status 2"));
}

TEST_CASE("a child shares the parent's memory until it runs, unless it must not",
          "[subprocess][py:POSIXProcessTestCase.test_vfork_used_when_expected]") {
#if defined(__SANITIZE_THREAD__)
    const char* const fast = "copy\n";  // ThreadSanitizer cannot follow shared memory
#else
    const char* const fast = "shared\n";
#endif
    auto traced = [](const char* mode) {
        return sp::run({kParent, "trace", mode}, {.capture_output = true});
    };
    sp::CompletedProcess plain = traced("plain");
    if (plain.returncode == kNotPossible) {
        WARN("ptrace is not allowed here: how children are started was not seen");
        return;
    }
    CHECK(plain.std_out == fast);
    for (const char* mode : {"start_new_session", "cwd"}) CHECK(traced(mode).std_out == fast);
    std::vector<const char*> forks = {"preexec_fn", "user", "group"};
    if (is_root()) forks.push_back("extra_groups");
    for (const char* mode : forks) {
        CAPTURE(mode);
        CHECK(traced(mode).std_out == "copy\n");
    }
}

}  // namespace py_identity_test
