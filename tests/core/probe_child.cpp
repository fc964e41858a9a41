// A child that reports what it sees of itself: its descriptors, ids, folder, mask, group, signals.
//
// usage: probe_child REPORT_FD EXIT_CODE [WORD]...
#include <dirent.h>
#include <grp.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

void report_descriptors(FILE* out, int report) {
    DIR* folder = opendir("/proc/self/fd");
    while (dirent* entry = readdir(folder)) {
        int fd = std::atoi(entry->d_name);
        if (entry->d_name[0] == '.' || fd == dirfd(folder) || fd == report) continue;
        char target[256] = {};
        if (readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1) >= 0)
            std::fprintf(out, "fd %d %s\n", fd, target);
    }
    closedir(folder);
}

void report_signals(FILE* out) {
    FILE* status = std::fopen("/proc/self/status", "re");
    char line[256];
    while (status && std::fgets(line, sizeof line, status))
        if (std::strncmp(line, "SigBlk", 6) == 0 || std::strncmp(line, "SigIgn", 6) == 0 ||
            std::strncmp(line, "SigCgt", 6) == 0)
            std::fputs(line, out);
    if (status) std::fclose(status);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) return 98;
    int report = std::atoi(argv[1]);
    FILE* out = fdopen(report, "w");
    if (!out) return 97;
    report_descriptors(out, report);
    report_signals(out);
    char folder[4096];
    std::fprintf(out, "cwd %s\n", getcwd(folder, sizeof folder));
    std::fprintf(out, "umask %o\n", umask(0));
    std::fprintf(out, "uid %u %u\ngid %u %u\n", getuid(), geteuid(), getgid(), getegid());
    gid_t groups[64];
    int count = getgroups(64, groups);
    std::fprintf(out, "groups");
    for (int i = 0; i < count; ++i) std::fprintf(out, " %u", groups[i]);
    std::fprintf(out, "\nleader %d %d\n", getpgrp() == getpid(), getsid(0) == getpid());
    std::fprintf(out, "nice %d\n", getpriority(PRIO_PROCESS, 0));
    rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    std::fprintf(out, "files %lu %lu\n", files.rlim_cur, files.rlim_max);
    const char* marker = std::getenv("SIDESTEP_MARKER");
    std::fprintf(out, "marker %s\n", marker ? marker : "-");
    std::fprintf(out, "parent %s\n", std::getenv("SIDESTEP_PARENT") ? "yes" : "no");
    for (int i = 3; i < argc; ++i) std::fprintf(out, "word %s\n", argv[i]);
    std::fclose(out);
    return std::atoi(argv[2]);
}
