// A child program that tells what it sees: `child COMMAND [ARGUMENTS]`.
//
//   exit N             exits with N; also `-c N`, so that it can stand in for a shell
//   argv ...           prints its argv, one word a line
//   env                prints its environment, one variable a line
//   cwd                prints its working directory (no newline) and exits with 47
//   fds [N...]         prints which descriptors are open (of N..., if given), as "0,1,2"
//   ids                prints uid, gid, groups, pid, sid, pgid, umask as NAME=VALUE lines
//   signals            prints which signals are ignored and which are blocked
//
// Built without sanitizers and without the library: nothing but the command is in its way.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

namespace {

std::set<int> open_fds() {
    std::set<int> found;
    if (DIR* folder = opendir("/proc/self/fd")) {
        while (dirent* entry = readdir(folder)) {
            int fd = std::atoi(entry->d_name);
            if (entry->d_name[0] != '.' && fd != dirfd(folder)) found.insert(fd);
        }
        closedir(folder);
        return found;
    }
    for (int fd = 0; fd < 4096; ++fd)
        if (fcntl(fd, F_GETFD) >= 0) found.insert(fd);
    return found;
}

int print_fds(int count, char** numbers) {
    std::set<int> found;
    for (int i = 0; i < count; ++i)
        if (int fd = std::atoi(numbers[i]); fcntl(fd, F_GETFD) >= 0) found.insert(fd);
    if (count == 0) found = open_fds();
    std::string line;
    for (int fd : found) line += (line.empty() ? "" : ",") + std::to_string(fd);
    std::printf("%s\n", line.c_str());
    return 0;
}

int print_ids() {
    std::printf("uid=%u\neuid=%u\ngid=%u\negid=%u\n", getuid(), geteuid(), getgid(), getegid());
    std::vector<gid_t> groups(65536);
    int count = getgroups(static_cast<int>(groups.size()), groups.data());
    std::string line;
    for (int i = 0; i < count; ++i)
        line += (i ? "," : "") + std::to_string(groups[static_cast<std::size_t>(i)]);
    std::printf("groups=%s\n", line.c_str());
    mode_t mask = umask(0);
    std::printf("pid=%d\nsid=%d\npgid=%d\numask=%03o\n", getpid(), getsid(0), getpgid(0), mask);
    return 0;
}

int print_signals() {
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, nullptr, &blocked);
    for (int signal = 1; signal < NSIG; ++signal) {
        struct sigaction action = {};
        if (sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN)
            std::printf("ignored=%d\n", signal);
        if (sigismember(&blocked, signal) == 1) std::printf("blocked=%d\n", signal);
    }
    return 0;
}

int print_cwd() {
    if (char* folder = getcwd(nullptr, 0)) {
        std::fputs(folder, stdout);
        std::free(folder);
    }
    return 47;
}

}  // namespace

int main(int argc, char** argv) {
    std::string command = argc > 1 ? argv[1] : "";
    if (command == "exit" || command == "-c") return argc > 2 ? std::atoi(argv[2]) : 0;
    if (command == "cwd") return print_cwd();
    if (command == "fds") return print_fds(argc - 2, argv + 2);
    if (command == "ids") return print_ids();
    if (command == "signals") return print_signals();
    if (command == "argv") {
        for (int i = 0; i < argc; ++i) std::printf("%s\n", argv[i]);
        return 0;
    }
    if (command == "env") {
        for (char** variable = environ; *variable; ++variable) std::printf("%s\n", *variable);
        return 0;
    }
    std::fprintf(stderr, "child: unknown command '%s'; see the head of child.cpp\n",
                 command.c_str());
    return 64;
}
