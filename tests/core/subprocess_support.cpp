#include "subprocess_support.hpp"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace sp = sidestep::subprocess;

namespace test {

std::string read_all(int fd) {
    std::string text;
    char bytes[4096];
    for (ssize_t n; (n = read(fd, bytes, sizeof bytes)) > 0;)
        text.append(bytes, static_cast<std::size_t>(n));
    return text;
}

std::set<int> fds_of_child(sp::Options options) {
    options.std_out = sp::PIPE;
    // A single program: a shell could have descriptors of its own.
    sp::Popen ls({"ls", "-l", "/proc/self/fd"}, options);
    std::istringstream lines(ls.communicate().std_out);
    std::set<int> fds;
    for (std::string line; std::getline(lines, line);) {
        std::size_t arrow = line.find(" -> ");
        // Its own look at the folder is none of ours.
        if (arrow == std::string::npos || line.find("/fd", arrow) != std::string::npos) continue;
        fds.insert(std::atoi(line.c_str() + line.rfind(' ', arrow - 1) + 1));
    }
    return fds;
}

Signals signals_of_child(sp::Options options) {
    options.std_out = sp::PIPE;
    sp::Popen cat({"cat", "/proc/self/status"}, options);
    std::istringstream lines(cat.communicate().std_out);
    Signals signals;
    for (std::string line; std::getline(lines, line);) {
        auto set = [&](const char* name, std::bitset<65>& to) {
            if (!line.starts_with(name)) return;
            unsigned long long mask = std::strtoull(line.c_str() + 7, nullptr, 16);
            to = std::bitset<65>(mask) << 1;
        };
        set("SigBlk:", signals.blocked);
        set("SigIgn:", signals.ignored);
        set("SigCgt:", signals.caught);
    }
    return signals;
}

int in_fork(const std::function<int()>& body) {
    pid_t pid = fork();
    if (pid == 0) {
        int result = 99;
        try {
            result = body();
        } catch (const std::exception& e) {
            std::fprintf(stderr, "in_fork: %s\n", e.what());
        }
        _exit(result);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TemporaryFile::TemporaryFile(const std::string& text, int mode)
    : path_((std::filesystem::temp_directory_path() / "sidestep-XXXXXX").string()) {
    int fd = mkstemp(path_.data());
    if (fd < 0 || write(fd, text.data(), text.size()) != ssize_t(text.size()))
        throw std::runtime_error("cannot write " + path_);
    fchmod(fd, static_cast<mode_t>(mode));
    close(fd);
}

TemporaryFile::~TemporaryFile() { unlink(path_.c_str()); }

bool is_running(int pid) {
    std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
    std::string text((std::istreambuf_iterator<char>(stat)), {});
    std::size_t name_end = text.rfind(')');
    return name_end != std::string::npos && text[name_end + 2] != 'Z' && text[name_end + 2] != 'X';
}

}  // namespace test
