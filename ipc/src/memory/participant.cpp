#include "memory/participant.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "sys/fork_page.hpp"
#include "sys/own_proc.hpp"
#include "sys/process_handle.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr std::uint64_t kStartMask = (std::uint64_t(1) << 31) - 1;
constexpr std::uint64_t kDomainMask = (1 << 10) - 1;

std::atomic<std::uint64_t> threads{0};

// Field 22 of /proc/<pid>/stat. No allocation: this runs inside locks.
std::optional<std::uint64_t> start_time(int pid) noexcept {
    if (!proc_is_ours()) return {};  // it is that of another process with this number
    char path[40], text[1024];
    std::snprintf(path, sizeof path, "/proc/%d", pid);
    // Not by the whole path: that of one's own stat the user-mode emulator of QEMU answers itself,
    // with another start time than the kernel tells everybody else.
    Fd folder(::open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
    Fd file(folder ? ::openat(folder.get(), "stat", O_RDONLY | O_CLOEXEC) : -1);
    if (!file) return {};
    ssize_t size = ::read(file.get(), text, sizeof text - 1);
    if (size <= 0) return {};
    text[size] = '\0';
    const char* at = std::strrchr(text, ')');  // the name before it may hold anything
    for (int field = 2; at && field < 22; ++field) at = std::strchr(at + 1, ' ');
    if (!at) return {};
    return std::strtoull(at + 1, nullptr, 10) & kStartMask;
}

std::uint64_t domain() noexcept {
    std::uint64_t hash = 0;
    // Not /proc/self: the main thread may have ended. (Another namespace's /proc tells ours too.)
    for (const char* path : {"/proc/thread-self/ns/pid", "/proc/thread-self/ns/time"}) {
        struct stat status = {};
        if (::stat(path, &status) == 0) hash = (hash + status.st_ino) * 0x9e3779b97f4a7c15u;
    }
    return hash >> 54;
}

constexpr OwnerId compose(int pid, std::uint64_t start, std::uint64_t domain_hash) {
    return static_cast<OwnerId>(pid) | (start & 0x1ff) << 22 | (start >> 9) << 32 |
           (domain_hash & kDomainMask) << 54;
}
constexpr std::uint64_t start_of(OwnerId owner) {
    return ((owner >> 22) & 0x1ff) | ((owner >> 32) & 0x3fffff) << 9;
}
// What stands in the place of a start time where there is none (P4).
constexpr std::uint64_t unknown_start(int pid) {
    return (static_cast<std::uint64_t>(pid) * 0x9e3779b97f4a7c15u >> 33 | 1) & kStartMask;
}
constexpr bool has_start(OwnerId owner) { return start_of(owner) != unknown_start(pid_of(owner)); }
static_assert(start_of(compose(7, 0x7654321f, 0x3ff)) == 0x7654321f);
static_assert(!has_start(compose(7, unknown_start(7), 1)) && has_start(compose(16, 0, 1)));
static_assert((compose(0x3fffff, kStartMask, kDomainMask) & kUserBit) == 0);

// Kept for good, known or not: once a word has it, it must not change, or its holder would not be
// its holder. So who has no descriptor left for /proc in this moment has no start time for life.
// That is the case of P2 where whoever has the pid now lives: nobody is robbed, and only what is
// left by the dead may wait for as long as another process has that number. (No system call tells
// the time without a descriptor; who has a handle of shared memory had one a moment ago.)
OwnerId find_identity() noexcept {
    int saved = errno;
    int pid = ::getpid();
    OwnerId owner = compose(pid, start_time(pid).value_or(unknown_start(pid)), domain());
    fork_page().owner.store(owner, std::memory_order_relaxed);
    errno = saved;
    return owner;
}

}  // namespace

OwnerId this_process() noexcept {
    // Relaxed: the word is the whole message.
    OwnerId owner = fork_page().owner.load(std::memory_order_relaxed);
    return owner != 0 ? owner : find_identity();
}

bool is_alive(OwnerId owner) noexcept {
    owner &= ~kUserBit;
    OwnerId self = this_process();
    if (owner == self) return true;
    if (owner >> 54 != self >> 54) return true;  // P2: another namespace
    // Our own number with another word: of one who had it before us, or written over. So is 0.
    if ((has_start(self) && pid_of(owner) == pid_of(self)) || pid_of(owner) == 0) return false;
    int saved = errno, pid = pid_of(owner);
    int error = 0;
    sys::ProcessHandle<Fd> process = sys::find(pid, error);
    bool alive = error != ESRCH;
    if (alive) {
        // The start time is read after the pidfd was opened: if it is the owner's, so is the pidfd.
        auto start = start_time(pid);
        if (start && has_start(owner) && *start != start_of(owner))
            alive = false;
        else if (process)
            alive = !process.has_ended();
    }
    errno = saved;
    return alive;
}

void Homes::enter_slowly(OwnerId self) noexcept {
    std::uint32_t seen = 0;
    if (word_.compare_exchange_strong(seen, tag(self), std::memory_order_relaxed)) return;
    // What is neither was written over: then nobody from elsewhere is believed.
    if (is_tag(seen) && seen != tag(self)) word_.store(kSeveral, std::memory_order_relaxed);
}

bool Homes::is_alive(OwnerId owner) const noexcept {
    if (owner >> 54 == this_process() >> 54) return sidestep::is_alive(owner);
    return word_.load(std::memory_order_relaxed) == kSeveral;
}

std::uint64_t this_thread() noexcept {
    thread_local struct {
        OwnerId process = 0;
        std::uint64_t token = 0;
    } known;
    OwnerId process = this_process();
    if (known.process != process) {
        known.process = process;
        known.token = (process + ++threads * 0x9e3779b97f4a7c15u) | 1;
    }
    return known.token;
}

}  // namespace sidestep
