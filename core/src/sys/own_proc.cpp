#include "sys/own_proc.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
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
// 4.1, or a list of groups that is longer than the buffer).
SeenProc has_one_number() noexcept {
    Fd file(::open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC));
    if (!file) return {true, !is_shortage(errno)};
    char text[4096];
    ssize_t size = ::read(file.get(), text, sizeof text - 1);
    if (size <= 0) return {true, size == 0 || !is_shortage(errno)};
    text[size] = '\0';
    constexpr char kLine[] = "\nNSpid:";
    const char* at = std::strstr(text, kLine);
    if (!at) return {true};
    at += sizeof kLine - 1;
    while (*at == ' ' || *at == '\t') ++at;
    while (*at >= '0' && *at <= '9') ++at;
    return {*at == '\n' || *at == '\0'};
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
