// Programs that get privileges from their file: whoever executes them hands over environment and
// descriptors, and must not get them to do anything. Each test makes such a file in a mount
// namespace of its own, and executes it as an ordinary user.
#include <dlfcn.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <catch2/catch.hpp>
#include <sidestep/init.hpp>
#include <sidestep/subprocess.hpp>
#include <sidestep/task.hpp>

#include "launch_support.hpp"
#include "sandbox.hpp"
#include "start/boot.hpp"
#include "support.hpp"

namespace privileges_test {

using namespace sidestep;
namespace fs = std::filesystem;

namespace {

constexpr uid_t kUser = 65533;
enum class Privilege { none, set_uid, set_gid, capabilities };

// The program, in a file with this privilege, on a file system that only this process sees.
std::string make_program(Privilege privilege) {
    fs::path folder = fs::temp_directory_path(), file = folder / "program";
    if (::unshare(CLONE_NEWNS) < 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) ||
        ::mount("tmpfs", folder.c_str(), "tmpfs", 0, "mode=0755") < 0)
        return {};
    fs::copy_file(SIDESTEP_TEST_CHILDREN "/main_init", file);
    mode_t mode = 0755;
    if (privilege == Privilege::set_uid) mode |= S_ISUID;
    if (privilege == Privilege::set_gid) mode |= S_ISGID;
    if (::chmod(file.c_str(), mode) < 0) return {};
    if (privilege == Privilege::capabilities) {
        vfs_cap_data data = {};
        data.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE;
        data.data[0].permitted = 1U << CAP_NET_BIND_SERVICE;
        if (::setxattr(file.c_str(), "security.capability", &data, XATTR_CAPS_SZ_2, 0) < 0)
            return {};
    }
    return file;
}

bool become(uid_t user) {
    return ::setgroups(0, nullptr) == 0 && ::setresgid(user, user, user) == 0 &&
           ::setresuid(user, user, user) == 0;
}

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

bool is_root() {
    if (::geteuid() == 0) return true;
    WARN("only root can make such files: nothing was tested");
    return false;
}

struct Said {
    int code = 0;
    std::string out, err;
};
Said run(const std::string& program, std::vector<std::string> methods,
         subprocess::Options options = {}) {
    methods.insert(methods.begin(), program);
    subprocess::Args args = methods;
    options.capture_output = true;
    options.timeout = test::kPatience;
    auto done = subprocess::run(args, options);
    return {done.returncode, done.std_out, done.std_err};
}

int complain(const Said& said, int code) {
    std::fprintf(stderr, "%d\n%s%s", said.code, said.out.c_str(), said.err.c_str());
    return code;
}

}  // namespace

TEST_CASE("a program with privileges from its file takes no orders from who executed it",
          "[core][boot][privileges]") {
    if (!is_root()) return;
    for (Privilege privilege : {Privilege::set_uid, Privilege::set_gid, Privilege::capabilities}) {
        CAPTURE(static_cast<int>(privilege));
        CHECK(test::in_sandbox([&] {
                  std::string program = make_program(privilege);
                  if (program.empty() || !become(kUser)) return 1;
                  // As a parent would send it, and as good as it can be made.
                  sys::SocketPair control = sys::make_socketpair();
                  BootMessage message;
                  message.parent_pid = ::getpid();
                  sys::send_message(control.first.get(), std::as_bytes(std::span(&message, 1)), {});
                  Said said = run(program, {},
                                  {.env = subprocess::Environment::extend({{kBootVariable, "9"}}),
                                   .pass_fds = {{control.second.get(), 9}}});
                  if (said.code != 0 || said.out != "variable: unset\n" || !said.err.empty())
                      return complain(said, 2);
                  // Nobody has read it.
                  std::byte byte[sizeof message];
                  ssize_t size = ::recv(control.second.get(), byte, sizeof byte, MSG_DONTWAIT);
                  return size == sizeof message ? 0 : 3;
              }) == 0);
    }
}

TEST_CASE("a program with privileges from its file refuses spawn with the remedy, and forks",
          "[core][boot][privileges]") {
    if (!is_root()) return;
    for (Privilege privilege : {Privilege::set_uid, Privilege::set_gid, Privilege::capabilities}) {
        CAPTURE(static_cast<int>(privilege));
        CHECK(test::in_sandbox([&] {
                  std::string program = make_program(privilege);
                  if (program.empty() || !become(kUser)) return 1;
                  Said said = run(program, {"spawn", "fork", "forkserver"});
                  for (const char* what : {"process", "pool"}) {
                      for (const char* method : {"fork", "forkserver"})
                          if (!has(said.out, std::string(what) + " " + method + ": 2\n"))
                              return complain(said, 2);
                      if (!has(said.out, std::string(what) + " spawn: a")) return complain(said, 3);
                  }
                  bool remedy = has(said.out, "cannot be spawned: this program got privileges") &&
                                has(said.out, "use StartMethod::fork, or forkserver");
                  return remedy && said.err.empty() ? 0 : complain(said, 4);
              }) == 0);
    }
}

TEST_CASE("a file that would give privileges to the worker alone refuses spawn, too",
          "[core][boot][privileges]") {
    if (!is_root()) return;
    // The superuser gets none from it, nor does it as another user that it became since: but the
    // worker of that one would.
    CHECK(test::in_sandbox([&] {
              std::string program = make_program(Privilege::capabilities);
              if (program.empty()) return 1;
              Said said = run(program, {"spawn", "forkserver"});
              return has(said.out, "pool spawn: 2\n") && has(said.out, "process forkserver: 2\n")
                         ? 0
                         : complain(said, 2);
          }) == 0);
    CHECK(test::in_sandbox([&] {
              std::string program = make_program(Privilege::set_uid);
              if (program.empty() || !become(kUser)) return 1;
              set_executable(program);
              int refused = 0;
              try {
                  (void)test::launcher(StartMethod::spawn);
              } catch (const std::logic_error& error) {
                  refused = has(error.what(), "program is set-uid");
              }
              // And by fork all is well.
              Launched child = test::launcher(StartMethod::fork)->launch(&test::report_main);
              test::ChildReport report = test::receive_report(child);
              test::send_number(child, 4);
              bool served = report.pid == child.pid && test::wait_for(child).code() == 4;
              return refused == 1 && served ? 0 : 2;
          }) == 0);
    CHECK(test::in_sandbox([&] {  // one user, acting as another
              if (::seteuid(kUser) < 0) return 1;
              try {
                  (void)test::launcher(StartMethod::spawn);
              } catch (const std::logic_error& error) {
                  return has(error.what(), "acts as another") ? 0 : 2;
              }
              return 3;
          }) == 0);
}

TEST_CASE("an ordinary program works for an ordinary user by each start method",
          "[core][boot][privileges]") {
    if (!is_root()) return;
    CHECK(test::in_sandbox([&] {
              std::string program = make_program(Privilege::none);
              if (program.empty() || !become(kUser)) return 1;
              Said said = run(program, {"spawn", "fork", "forkserver"});
              for (const char* method : {"spawn", "fork", "forkserver"})
                  if (!has(said.out, std::string("pool ") + method + ": 2\n"))
                      return complain(said, 2);
              return 0;
          }) == 0);
}

TEST_CASE("a child is of the user that its parent is when it starts", "[core][boot][privileges]") {
    if (!is_root()) return;
    for (StartMethod method : {StartMethod::spawn, StartMethod::fork, StartMethod::forkserver}) {
        CAPTURE(static_cast<int>(method));
        CHECK(test::in_sandbox([&] {
                  auto from = test::launcher(method);
                  gid_t group = kUser + 1;
                  if (::setgroups(1, &group) < 0 || ::setresgid(kUser, kUser, kUser) < 0 ||
                      ::setresuid(kUser, kUser, kUser) < 0)
                      return 1;
                  Launched child = from->launch(&test::user_main);
                  test::UserReport user;
                  sys::receive_message(child.control.get(),
                                       std::as_writable_bytes(std::span(&user, 1)));
                  if (test::wait_for(child).code() != 0) return 2;
                  bool same = true;
                  for (uid_t id : {user.real, user.effective, user.saved, user.group})
                      same = same && id == kUser;
                  return same && user.groups == 1 && user.first_group == group ? 0 : 3;
              }) == 0);
    }
}

TEST_CASE("a function's name for a message is not looked for where the environment says",
          "[core][privileges]") {
    fs::path folder = fs::temp_directory_path() / ("sidestep-names-" + std::to_string(::getpid()));
    CHECK(test::in_sandbox([&] {
              // As set up for elfutils: what it does not find, it asks there for, and stores here.
              ::setenv("DEBUGINFOD_URLS", "file:///nowhere", 1);
              ::setenv("DEBUGINFOD_CACHE_PATH", folder.c_str(), 1);
              // Of a library that has no symbol table but what is linked against.
              const void* function = ::dlsym(RTLD_DEFAULT, "_ZSt9terminatev");
              if (!function) return 0;
              return has(detail::describe_function(function), "terminate") ? 0 : 1;
          }) == 0);
    CHECK_FALSE(fs::exists(folder));
    fs::remove_all(folder);
}

}  // namespace privileges_test
