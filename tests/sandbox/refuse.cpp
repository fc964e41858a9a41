// Starts a program with chosen system calls refused: `sandbox_refuse clone3=ENOSYS setsig=EPERM --
// PROGRAM ARGUMENTS...`. Besides calls, it knows the uses of old calls that are newer.
#include "refuse.hpp"

#include <fcntl.h>
#include <linux/sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <string>

namespace {

const std::map<std::string, test::Refusal> kKnown = {
    {"clone3", {SYS_clone3, 0}},
    {"clone_pidfd", {SYS_clone, 0, 0, CLONE_PIDFD, CLONE_PIDFD}},
    {"clone_parent", {SYS_clone, 0, 0, CLONE_PARENT, CLONE_PARENT}},
    {"pidfd_open", {SYS_pidfd_open, 0}},
    {"pidfd_send_signal", {SYS_pidfd_send_signal, 0}},
    {"close_range", {SYS_close_range, 0}},
    {"futex_waitv", {449, 0}},
    {"memfd_create", {SYS_memfd_create, 0}},
    {"membarrier", {SYS_membarrier, 0}},
    {"prctl", {SYS_prctl, 0}},
    {"seals", {SYS_fcntl, 0, 1, F_ADD_SEALS}},
    {"setsig", {SYS_fcntl, 0, 1, F_SETSIG}},
    {"setown", {SYS_fcntl, 0, 1, F_SETOWN}},
    {"setpipe_sz", {SYS_fcntl, 0, 1, F_SETPIPE_SZ}},
    {"wipeonfork", {SYS_madvise, 0, 2, MADV_WIPEONFORK}},
    {"populate", {SYS_madvise, 0, 2, 23}},
    {"madvise", {SYS_madvise, 0}},
    {"affinity", {SYS_sched_setaffinity, 0}},
    {"unshare", {SYS_unshare, 0}},
};
const std::map<std::string, int> kErrors = {
    {"ENOSYS", ENOSYS}, {"EPERM", EPERM}, {"EINVAL", EINVAL}, {"EACCES", EACCES}};

std::optional<test::Refusal> parse(const std::string& text) {
    std::size_t equals = text.find('=');
    if (equals == std::string::npos) return {};
    auto call = kKnown.find(text.substr(0, equals));
    auto error = kErrors.find(text.substr(equals + 1));
    if (call == kKnown.end() || error == kErrors.end()) return {};
    test::Refusal refusal = call->second;
    refusal.error = error->second;
    return refusal;
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<test::Refusal> refusals;
    int at = 1;
    for (; at < argc && std::strcmp(argv[at], "--") != 0; ++at) {
        auto refusal = parse(argv[at]);
        if (!refusal) {
            std::fprintf(stderr, "sandbox_refuse: \"%s\" is no CALL=ERROR that it knows\n",
                         argv[at]);
            return 125;
        }
        refusals.push_back(*refusal);
    }
    if (at + 1 >= argc) return 125;
    if (int error = test::refuse(refusals); error != 0) {
        std::fprintf(stderr, "sandbox_refuse: seccomp: %s\n", std::strerror(error));
        return 125;
    }
    execvp(argv[at + 1], argv + at + 1);
    std::perror(argv[at + 1]);
    return 125;
}
