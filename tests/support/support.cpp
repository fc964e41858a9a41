#include "support.hpp"

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <thread>

namespace test {
namespace {

namespace fs = std::filesystem;

std::set<std::string> names_in(const fs::path& folder, const std::string& prefix) {
    std::set<std::string> names;
    std::error_code error;
    for (auto it = fs::directory_iterator(folder, error); !error && it != fs::directory_iterator();
         it.increment(error)) {
        std::string name = it->path().filename().string();
        if (name.starts_with(prefix)) names.insert(name);
    }
    return names;
}

template <class Set>
void report_new(std::string& out, const char* what, const Set& before, const Set& after) {
    for (const auto& item : after)
        if (!before.contains(item)) out += fmt::format("  {} {}\n", what, item);
}

}  // namespace

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds deadline) {
    auto give_up = std::chrono::steady_clock::now() + deadline;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > give_up) return condition();
        std::this_thread::sleep_for(1ms);  // style-ok: the one place where tests poll
    }
    return true;
}

PrivateTemporary::PrivateTemporary()
    : path_((fs::temp_directory_path() / "sidestep-tests-XXXXXX").string()) {
    if (!mkdtemp(path_.data())) throw std::system_error(errno, std::generic_category(), path_);
    setenv("TMPDIR", path_.c_str(), 1);
}

bool PrivateTemporary::remove() {
    std::error_code error;
    // Again, where a process that is about to end has put something there meanwhile.
    bool gone = eventually([&] { return fs::remove_all(path_, error), !fs::exists(path_); });
    if (!gone) fmt::print("LEAK: {} cannot be removed: {}\n", path_, error.message());
    return gone;
}

Resources Resources::now() {
    Resources found;
    if (DIR* folder = opendir("/proc/self/fd")) {
        while (dirent* entry = readdir(folder)) {
            int fd = std::atoi(entry->d_name);
            if (entry->d_name[0] == '.' || fd == dirfd(folder)) continue;
            char target[256] = {};
            if (readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1) >= 0)
                found.fds[fd] = target;
        }
        closedir(folder);
    }
    std::error_code error;
    for (const auto& task : fs::directory_iterator("/proc/self/task", error)) {
        std::ifstream children(task.path() / "children");
        for (int pid; children >> pid;) found.children.insert(pid);
    }
    found.shared_names = names_in("/dev/shm", "");
    found.temporary = names_in(fs::temp_directory_path(), "sidestep");
    return found;
}

std::string Resources::leaked_since(const Resources& before) const {
    std::string out;
    for (const auto& [fd, target] : fds)
        if (!before.fds.contains(fd)) out += fmt::format("  fd {} -> {}\n", fd, target);
    report_new(out, "child process", before.children, children);
    report_new(out, "/dev/shm entry", before.shared_names, shared_names);
    report_new(out, "temporary file", before.temporary, temporary);
    return out;
}

std::span<std::byte> mapping(const char* name) {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        unsigned long begin = 0, end = 0;
        if (line.find(name) == line.npos || std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) != 2)
            continue;
        return {reinterpret_cast<std::byte*>(begin), end - begin};
    }
    std::abort();
}

}  // namespace test
