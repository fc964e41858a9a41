// Which file a descriptor leads to: a number that was closed may be another file's.
#pragma once

#include <sys/stat.h>

#include <cerrno>

#include "sys/error.hpp"

namespace sidestep::inline v0::sys {

class FileIdentity {
  public:
    // Throws std::system_error if this is no descriptor.
    explicit FileIdentity(int fd) {
        if (::fstat(fd, &status_) < 0) throw_errno(errno, "fstat");
    }
    bool is(int fd) const noexcept {
        struct stat now = {};
        return ::fstat(fd, &now) == 0 && now.st_dev == status_.st_dev &&
               now.st_ino == status_.st_ino;
    }

  private:
    struct stat status_ = {};
};

}  // namespace sidestep::sys
