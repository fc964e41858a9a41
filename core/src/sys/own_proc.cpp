#include "sys/own_proc.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "sys/error.hpp"
#include "sys/fd.hpp"
#include "sys/fork_page.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr std::uint64_t kOurs = 1, kNotOurs = 2;

struct SeenProc {
    bool is_ours;
    bool is_sure = true;  // else it could not be asked now
};

// The numbers that this process has, from the namespace of /proc inwards, are listed there: more
// than one, and it is the /proc of an outer namespace. Ours where the kernel does not say (before
// 4.1). It stands behind the list of groups, which may have any length.
SeenProc has_one_number() noexcept {
    Fd file(::open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC));
    if (!file) return {true, !is_shortage(errno)};
    constexpr char kLine[] = "\nNSpid:";
    constexpr std::size_t kLongest = 512;  // of that line, and more
    char text[4096];
    for (std::size_t kept = 0;;) {
        const ssize_t more = ::read(file.get(), text + kept, sizeof text - 1 - kept);
        if (more < 0) return {true, !is_shortage(errno)};
        const std::size_t size = kept + static_cast<std::size_t>(more);
        text[size] = '\0';
        const char* at = std::strstr(text, kLine);
        if (at && (more == 0 || std::strchr(at + 1, '\n'))) {
            at += sizeof kLine - 1;
            while (*at == ' ' || *at == '\t') ++at;
            while (*at >= '0' && *at <= '9') ++at;
            return {*at == '\n' || *at == '\0'};
        }
        if (more == 0) return {true};
        kept = std::min(size, kLongest);
        std::memmove(text, text + size - kept, kept);
    }
}

SeenProc look() noexcept {
    char number[32] = {};
    if (::readlink("/proc/self", number, sizeof number - 1) <= 0)
        return {false, !is_shortage(errno)};
    if (std::atoi(number) != ::getpid()) return {false};
    return has_one_number();
}

}  // namespace

bool proc_is_ours() noexcept {
    std::atomic<std::uint64_t>& known = fork_page().proc;
    std::uint64_t found = known.load(std::memory_order_relaxed);
    if (found == 0) {
        int saved = errno;
        SeenProc seen = look();
        found = seen.is_ours ? kOurs : kNotOurs;
        if (seen.is_sure) known.store(found, std::memory_order_relaxed);
        errno = saved;
    }
    return found == kOurs;
}

}  // namespace sidestep
