// A sandbox for the calling thread and all that it starts: chosen system calls are answered with an
// error, as a seccomp profile of a container does. There is no way back: for a child of its own.
#pragma once

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace test {

struct Refusal {
    long call;
    int error;
    int argument = -1;        // look at this argument too (its low 32 bits): from 0
    std::uint32_t value = 0;  // refused are those where (argument & mask) == value
    std::uint32_t mask = ~0u;
};

namespace detail {

inline sock_filter load(std::size_t offset) {
    return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset));
}

inline void add_refusal(std::vector<sock_filter>& program, const Refusal& refusal) {
    bool looks = refusal.argument >= 0;
    auto skip = static_cast<std::uint8_t>(looks ? 4 : 1);
    program.push_back(load(offsetof(seccomp_data, nr)));
    program.push_back(
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(refusal.call), 0, skip));
    if (looks) {
        auto argument = static_cast<std::size_t>(refusal.argument);
        program.push_back(load(offsetof(seccomp_data, args) + argument * sizeof(std::uint64_t)));
        program.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, refusal.mask));
        program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, refusal.value, 0, 1));
    }
    program.push_back(
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(refusal.error)));
}

}  // namespace detail

// 0 or errno.
inline int refuse(std::span<const Refusal> refusals) {
    std::vector<sock_filter> program;
    for (const Refusal& refusal : refusals) detail::add_refusal(program, refusal);
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    sock_fprog filter = {static_cast<unsigned short>(program.size()), program.data()};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return errno;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) < 0 ? errno : 0;
}

}  // namespace test
