#include "memory/shared_names.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>

#include "sys/error.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

using namespace std::chrono_literals;

constexpr const char* kFolder = "/dev/shm/";
constexpr const char* kMark = ".sidestep.";
constexpr std::size_t kLongestName = 245;
constexpr std::size_t kPart = 256;  // entries of the folder
constexpr std::size_t kMarkSize = 64;
constexpr std::chrono::milliseconds kFolderWait = 100ms, kStrangerPause = 10s, kBlockWait = 2s;

bool is_mine(const struct stat& status) { return status.st_uid == ::geteuid(); }

// N4. A process that is stopped while it holds it, or a stranger, holds nobody up for long, and not
// again and again.
class FolderLock {
  public:
    explicit FolderLock(bool wait = true) noexcept
        : folder_(::open(kFolder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
        // When it is worth waiting again (steady clock): relaxed, a hint.
        static std::atomic<sys::Clock::rep> wait_again{0};
        auto begin = sys::Clock::now();
        wait =
            wait && begin.time_since_epoch().count() >= wait_again.load(std::memory_order_relaxed);
        while (!(held_ = ::flock(folder_.get(), LOCK_EX | LOCK_NB) == 0) && wait &&
               (errno == EWOULDBLOCK || errno == EINTR)) {
            auto now = sys::Clock::now();
            if (now >= begin + kFolderWait) {
                wait_again.store((now + kStrangerPause).time_since_epoch().count(),
                                 std::memory_order_relaxed);
                break;
            }
            ::sched_yield();
        }
    }
    // By name: a child that was forked meanwhile has the descriptor, and with it the lock, too.
    ~FolderLock() {
        if (held_) (void)::flock(folder_.get(), LOCK_UN);
    }
    FolderLock(const FolderLock&) = delete;
    FolderLock& operator=(const FolderLock&) = delete;
    // Who cleans up for others needs it; who removes what is its own goes on without.
    bool held() const { return held_; }

  private:
    Fd folder_;
    bool held_ = false;
};

struct Mark {
    OwnerId creator = 0;
    ino_t inode = 0;
    bool complete = false;  // N1: its name was there
};

// A link of this user's (N5) that says what such a link says.
std::optional<Mark> read_mark(const BlockName& name) noexcept {
    struct stat status = {};
    if (::lstat(name.mark.c_str(), &status) < 0 || !S_ISLNK(status.st_mode) || !is_mine(status))
        return {};
    char target[kMarkSize] = {};
    if (::readlink(name.mark.c_str(), target, sizeof target - 1) <= 0) return {};
    unsigned long long creator = 0, inode = 0;
    int length = 0;
    if (std::sscanf(target, "%llx-%llx%n", &creator, &inode, &length) != 2 ||
        target[length] != '\0')
        return {};
    return Mark{creator, inode, status.st_mtime == 0};
}

bool mark_says(const BlockName& name, const std::string& text) noexcept {
    char target[kMarkSize] = {};
    return ::readlink(name.mark.c_str(), target, sizeof target - 1) > 0 && text == target;
}

// N6. Nothing: it cannot be told now (errno says why), and then neither name nor link is touched.
std::optional<bool> names(const BlockName& name, ino_t inode) noexcept {
    constexpr int kTries = 20;  // what cannot be told in a moment may be in the next
    struct stat status = {};
    for (int tries = 0; ::lstat(name.path.c_str(), &status) < 0; ++tries) {
        if (errno == ENOENT) return false;
        if (tries == kTries) return {};
        ::sched_yield();
    }
    return status.st_ino == inode;
}

// N3 and N5, for the holder of the folder's lock.
bool unlink_unused(const BlockName& name, ino_t inode) {
    Fd fd(::open(name.path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    struct stat status = {};
    if (!fd || ::fstat(fd.get(), &status) < 0 || !S_ISREG(status.st_mode) || !is_mine(status) ||
        status.st_ino != inode)
        return false;
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return false;
    bool removed = ::unlink(name.path.c_str()) == 0;
    (void)::flock(fd.get(), LOCK_UN);  // as above
    return removed;
}

// Removes the name if it is stale, and its link if it is left over. True: there was a name. For the
// holder of the folder's lock.
bool remove_leftover(const BlockName& name) {
    std::optional<Mark> mark = read_mark(name);
    if (!mark) return false;
    std::optional<bool> named = names(name, mark->inode);
    if (!named) return false;
    if (*named) {
        if (is_alive(mark->creator) || !unlink_unused(name, mark->inode)) return false;
        (void)::unlink(name.mark.c_str());
        return true;
    }
    // A creator that lives may be in the middle of publishing; not if the name is taken.
    bool taken = ::faccessat(AT_FDCWD, name.path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    if (taken || mark->complete || !is_alive(mark->creator)) (void)::unlink(name.mark.c_str());
    return false;
}

// False: the name is taken.
bool try_publish(const Fd& fd, const BlockName& name, const std::string& text) {
    if (!text.empty() && ::symlink(text.c_str(), name.mark.c_str()) < 0) {
        if (errno == EEXIST) return false;
        throw_errno(errno, fmt::format("symlink({})", name.mark));
    }
    std::string self = fmt::format("/proc/self/fd/{}", fd.get());
    if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, name.path.c_str(), AT_SYMLINK_FOLLOW) == 0) {
        constexpr timespec kComplete[2] = {};  // N1
        if (!text.empty())
            (void)::utimensat(AT_FDCWD, name.mark.c_str(), kComplete, AT_SYMLINK_NOFOLLOW);
        return true;
    }
    int error = errno;
    if (!text.empty() && mark_says(name, text)) (void)::unlink(name.mark.c_str());
    if (error == EEXIST) return false;
    throw_errno(error, fmt::format("linkat({})", name.path));
}

[[noreturn]] void throw_foreign(const BlockName& name, uid_t owner) {
    throw_errno(EPERM, fmt::format("the SharedMemory \"{}\" is not opened: it belongs to user {}, "
                                   "who can read and change what is written into it, and truncate "
                                   "it (SIGBUS). If that user is trusted: .any_owner = true",
                                   name.name, owner));
}

}  // namespace

BlockName::BlockName(std::string its_name) : name(std::move(its_name)) {
    if (name.empty() || name.size() > kLongestName || name == "." || name == ".." ||
        name.find('/') != std::string::npos || name.find('\0') != std::string::npos)
        throw std::invalid_argument(fmt::format(
            "a SharedMemory cannot have the name \"{}\": give 1 to {} bytes without NUL "
            "and '/'",
            name.c_str(), kLongestName));
    path = kFolder + name;
    mark = std::string(kFolder).append(kMark).append(name);
}

std::string mark_text(ino_t inode) { return fmt::format("{:x}-{:x}", this_process(), inode); }

bool publish_name(const Fd& fd, const BlockName& name, const std::string& text) {
    if (try_publish(fd, name, text)) return true;
    clear_leftover(name);
    return try_publish(fd, name, text);
}

void withdraw_name(const BlockName& name, ino_t inode, const std::string& text) noexcept {
    FolderLock lock;
    std::optional<bool> named = names(name, inode);
    if (!named) return;  // its link is there still, and tells whoever comes next
    if (*named) (void)::unlink(name.path.c_str());
    if (mark_says(name, text)) (void)::unlink(name.mark.c_str());
}

void remove_name(const BlockName& name, ino_t inode) {
    FolderLock lock;
    bool is_there = ::faccessat(AT_FDCWD, name.path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    std::optional<bool> named = names(name, inode);
    if (!named) throw_errno(errno, fmt::format("lstat({})", name.path));
    if (is_there && !*named)
        throw_errno(ENOENT, fmt::format("unlink(SharedMemory \"{}\"): the name is gone, and "
                                        "another block has it by now",
                                        name.name));
    if (::unlink(name.path.c_str()) < 0)
        throw_errno(errno, fmt::format("unlink(SharedMemory \"{}\")", name.name));
    std::optional<Mark> mark = read_mark(name);
    if (mark && mark->inode == inode) (void)::unlink(name.mark.c_str());
}

void clear_leftover(const BlockName& name) {
    if (!read_mark(name)) return;
    if (FolderLock lock; lock.held()) (void)remove_leftover(name);
}

std::string who_has(const BlockName& name) {
    struct stat status = {};
    for (const std::string* path : {&name.path, &name.mark})
        if (::lstat(path->c_str(), &status) == 0 && !is_mine(status))
            return fmt::format(" ({} belongs to user {}: choose another name)", *path,
                               status.st_uid);
    return {};
}

Fd open_block(const BlockName& name, bool any_owner) {
    Fd fd(::open(name.path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    struct stat status = {};
    if (!fd) {
        int error = errno;
        if (error == ENOENT) return {};
        bool foreign = ::lstat(name.path.c_str(), &status) == 0 && !is_mine(status);
        if (foreign && !any_owner) throw_foreign(name, status.st_uid);
        throw_errno(error, fmt::format("open(SharedMemory \"{}\")", name.name));
    }
    if (::fstat(fd.get(), &status) < 0) throw_errno(errno, "fstat(SharedMemory)");
    if (!S_ISREG(status.st_mode))
        throw_errno(EINVAL, fmt::format("{} is no block of shared memory", name.path));
    if (!any_owner && !is_mine(status)) throw_foreign(name, status.st_uid);
    if (status.st_nlink > 1)  // no name of ours: where the system lets them, others make such links
        throw_errno(EPERM,
                    fmt::format("the SharedMemory \"{}\" is not opened: {} is a hard link, and "
                                "its bytes have another name, too; remove the link",
                                name.name, name.path));
    auto give_up = sys::Clock::now() + kBlockWait;
    std::chrono::microseconds pause(20);
    while (::flock(fd.get(), LOCK_SH | LOCK_NB) < 0) {  // N2. Cleaners are brief; others may not be
        if (errno != EWOULDBLOCK && errno != EINTR)
            throw_errno(errno, fmt::format("flock(SharedMemory \"{}\")", name.name));
        if (sys::Clock::now() >= give_up)
            throw_errno(EWOULDBLOCK,
                        fmt::format("the SharedMemory \"{}\" is not opened: some process keeps "
                                    "{} locked (flock, LOCK_EX); lslocks may tell which",
                                    name.name, name.path));
        std::this_thread::sleep_for(pause);
        pause = std::min<std::chrono::microseconds>(2 * pause, 20ms);
    }
    if (::fstat(fd.get(), &status) == 0 && status.st_nlink == 0)
        return {};  // a cleaner was faster: the name is gone
    return fd;
}

std::vector<std::string> sweep_names(Look look) {
    // Where the next part begins: what telldir(3) says of this folder, which the kernel keeps for
    // it. Wherever it leads, some entries are looked at.
    static std::atomic<long> next_part{0};
    std::vector<std::string> removed;
    std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(kFolder), &::closedir);
    if (!folder) return removed;
    FolderLock lock(look == Look::all);
    if (!lock.held()) return removed;
    long begin = look == Look::part ? next_part.load(std::memory_order_relaxed) : 0;
    if (begin > 0) ::seekdir(folder.get(), begin);
    std::size_t prefix = std::strlen(kMark), left = look == Look::part ? kPart : SIZE_MAX;
    dirent* entry = nullptr;
    while (left-- > 0 && (entry = ::readdir(folder.get()))) {
        if (std::strncmp(entry->d_name, kMark, prefix) != 0 || entry->d_name[prefix] == '\0')
            continue;
        std::string text = entry->d_name + prefix;
        if (text.size() > kLongestName || text == "." || text == "..") continue;
        BlockName name(std::move(text));
        if (remove_leftover(name)) removed.push_back(std::move(name.name));
    }
    if (look == Look::part)
        next_part.store(entry ? ::telldir(folder.get()) : 0, std::memory_order_relaxed);
    return removed;
}

}  // namespace sidestep
