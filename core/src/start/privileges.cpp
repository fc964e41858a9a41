#include "start/privileges.hpp"

#include <fmt/format.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace sidestep::inline v0 {
namespace {

// The kernel ignores what the file says: on this file system, or for this process and what it
// executes.
bool files_count_for_nothing(const char* path) {
    struct statvfs system = {};
    return (::statvfs(path, &system) == 0 && (system.f_flag & ST_NOSUID) != 0) ||
           ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
}

}  // namespace

bool has_file_privileges() noexcept { return ::getauxval(AT_SECURE) != 0; }

std::string why_file_gives_privileges(const std::string& program) {
    const char* path = program.c_str();
    if (::geteuid() != ::getuid() || ::getegid() != ::getgid())
        return fmt::format(
            "this process has one user or group and acts as another (uid {}, effective {}; gid {}, "
            "effective {})",
            ::getuid(), ::geteuid(), ::getgid(), ::getegid());
    struct stat file = {};
    if (::stat(path, &file) < 0) return {};  // to start it will say what is wrong
    constexpr mode_t kSetGid = S_ISGID | S_IXGRP;
    bool user = (file.st_mode & S_ISUID) != 0 && file.st_uid != ::getuid();
    bool group = (file.st_mode & kSetGid) == kSetGid && file.st_gid != ::getgid();
    // To the superuser a file has none to give.
    bool capabilities = ::getuid() != 0 && ::getxattr(path, "security.capability", nullptr, 0) > 0;
    if (!(user || group || capabilities) || files_count_for_nothing(path)) return {};
    return fmt::format("the file {} is {}", program,
                       user    ? "set-uid"
                       : group ? "set-gid"
                               : "one with capabilities");
}

}  // namespace sidestep
