// What this process, and the workers of pools that are made meanwhile, write to stdout.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

namespace test {

// While it lives, a descriptor of this process is another file.
class Redirected {
  public:
    Redirected(int fd, int file) : fd_(fd), before_(dup(fd)) {
        std::fflush(nullptr);
        dup2(file, fd_);
    }
    ~Redirected() {
        std::fflush(nullptr);
        dup2(before_, fd_);
        close(before_);
    }
    Redirected(const Redirected&) = delete;
    Redirected& operator=(const Redirected&) = delete;

  private:
    const int fd_, before_;
};

// Its descriptor (1, or another one) is a file.
class StdoutFile {
  public:
    explicit StdoutFile(int fd = STDOUT_FILENO)
        : file_(memfd_create("test-stdout", MFD_CLOEXEC)), redirected_(fd, file_) {
        fcntl(file_, F_SETFL, O_APPEND);
    }
    ~StdoutFile() { close(file_); }
    StdoutFile(const StdoutFile&) = delete;
    StdoutFile& operator=(const StdoutFile&) = delete;
    std::string text() const {
        std::string text(std::size_t(1) << 20, ' ');
        ssize_t n = pread(file_, text.data(), text.size(), 0);
        text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
        return text;
    }

  private:
    const int file_;
    const Redirected redirected_;
};

inline std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
}

}  // namespace test
