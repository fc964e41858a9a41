#include <sidestep/shared_memory.hpp>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <thread>

#include <sidestep/object_ref.hpp>

#include "error.hpp"
#include "fd.hpp"
#include "participant.hpp"
#include "sys.hpp"

namespace sidestep {
namespace {

constexpr const char* kFolder = "/dev/shm/";
constexpr const char* kMark = ".sidestep.";
constexpr std::size_t kLongestName = 245;

// N1 The link ".sidestep.<name>", "<creator>-<inode>", is there before the name and goes after it.
// N2 Who uses a block through a SharedMemory holds a shared flock on it.
// N3 A name is stale if its link's creator is dead, its inode is the link's, and the exclusive
//    flock is to be had.
// N4 Names and links are removed by the holder of the folder's flock: who read a link removes that
//    one, not its successor's. Killed in between: the link is still there, and tells the next one.
std::string path_of(const std::string& name) { return kFolder + name; }
std::string mark_of(const std::string& name) { return std::string(kFolder) + kMark + name; }

void check_name(const std::string& name) {
    if (name.empty() || name.size() > kLongestName || name == "." || name == ".." ||
        name.find('/') != std::string::npos || name.find('\0') != std::string::npos)
        throw std::invalid_argument(fmt::format(
            "a SharedMemory cannot have the name \"{}\": give 1 to {} bytes without NUL "
            "and '/'",
            name.c_str(), kLongestName));
}

std::string random_name() {
    std::uint32_t number = 0;
    if (::getrandom(&number, sizeof number, 0) != sizeof number) throw_errno(errno, "getrandom");
    return fmt::format("psm_{:08x}", number);
}

// N4. A process that is stopped while it holds it, or a stranger, holds nobody up for long.
class FolderLock {
  public:
    FolderLock() : folder_(::open(kFolder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
        auto give_up = sys::Clock::now() + std::chrono::milliseconds(100);
        while (!(held_ = ::flock(folder_.get(), LOCK_EX | LOCK_NB) == 0) && errno == EWOULDBLOCK &&
               sys::Clock::now() < give_up)
            ::sched_yield();
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

// Removes the name, if it is stale, and what is left of its link. True: there was a name. N4: for
// the holder of the folder's lock.
bool remove_if_stale(const std::string& name) {
    char target[64] = {};
    std::string mark = mark_of(name), path = path_of(name);
    if (::readlink(mark.c_str(), target, sizeof target - 1) <= 0) return false;
    unsigned long long owner = 0, inode = 0;
    if (std::sscanf(target, "%llx-%llx", &owner, &inode) != 2 || is_alive(owner)) return false;
    Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    struct stat status = {};
    bool removed = false;
    if (fd && ::fstat(fd.get(), &status) == 0 && status.st_ino == inode) {
        if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return false;
        removed = ::unlink(path.c_str()) == 0;
        (void)::flock(fd.get(), LOCK_UN);  // as above
    }
    (void)::unlink(mark.c_str());
    return removed;
}

// A file of zeros with its pages, and without a name yet.
Fd make_file(const std::string& name, std::size_t size) {
    sys::check_file_limit(size, "SharedMemory");
    Fd fd(::open(kFolder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!fd) throw_errno(errno, "open(/dev/shm, O_TMPFILE)");
    if (::ftruncate(fd.get(), static_cast<off_t>(size)) < 0)
        throw_errno(errno, fmt::format("ftruncate({}, {} bytes)", path_of(name), size));
    int error = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(size));
    if (error != 0)
        throw_errno(error, fmt::format("{} bytes for the SharedMemory \"{}\" (see df /dev/shm; a "
                                       "container may need a larger --shm-size)",
                                       size, name));
    (void)::flock(fd.get(), LOCK_SH);  // N2
    return fd;
}

std::string mark_text(const Fd& fd) {
    struct stat status = {};
    if (::fstat(fd.get(), &status) < 0) throw_errno(errno, "fstat(SharedMemory)");
    return fmt::format("{:x}-{:x}", this_process(), status.st_ino);
}

// False: the name is taken.
bool publish(const Fd& fd, const std::string& name, bool owned) {
    std::string mark = mark_of(name), path = path_of(name), target = mark_text(fd);
    if (owned && ::symlink(target.c_str(), mark.c_str()) < 0) {
        if (errno == EEXIST) return false;
        throw_errno(errno, fmt::format("symlink({})", mark));
    }
    std::string self = fmt::format("/proc/self/fd/{}", fd.get());
    if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) == 0)
        return true;
    int error = errno;
    if (owned) (void)::unlink(mark.c_str());
    if (error == EEXIST) return false;
    throw_errno(error, fmt::format("linkat({})", path));
}

}  // namespace

std::vector<std::string> remove_stale_names() {
    std::vector<std::string> removed;
    std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(kFolder), &::closedir);
    if (!folder) return removed;
    FolderLock lock;
    if (!lock.held()) return removed;
    std::size_t prefix = std::strlen(kMark);
    while (dirent* entry = ::readdir(folder.get())) {
        if (std::strncmp(entry->d_name, kMark, prefix) != 0) continue;
        std::string name = entry->d_name + prefix;
        if (remove_if_stale(name)) removed.push_back(std::move(name));
    }
    return removed;
}

struct SharedMemory::Block {
    std::string name;
    Fd fd;
    Mapping mapping;
    OwnerId owner = 0;  // who removes the name at the end; 0: nobody
    std::string text;   // of its link

    Block() = default;
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    ~Block() {
        if (owner == 0 || owner != this_process()) return;
        FolderLock lock;
        // Not another's that has the name by now: the link tells.
        char target[64] = {};
        std::string mark = mark_of(name);
        if (::readlink(mark.c_str(), target, sizeof target - 1) <= 0) return;
        if (target != text) return;
        (void)::unlink(path_of(name).c_str());
        (void)::unlink(mark.c_str());
    }

    static std::shared_ptr<Block> map(std::string name, Fd fd) {
        auto block = std::make_shared<Block>();
        block->name = std::move(name);
        struct stat status = {};
        if (::fstat(fd.get(), &status) < 0) throw_errno(errno, "fstat(SharedMemory)");
        if (status.st_size <= 0)
            throw std::invalid_argument(fmt::format(
                "the SharedMemory \"{}\" has no bytes: its creator is not ready", block->name));
        block->mapping = sys::map_shared(fd.get(), static_cast<std::size_t>(status.st_size),
                                         sys::Access::read_write);
        block->fd = std::move(fd);
        return block;
    }
    static std::shared_ptr<Block> make(const std::string& name, std::size_t size) {
        return map(name, make_file(name, size));
    }
    // Gives it its name. False: the name is taken.
    bool enter(SharedMemoryOptions options) {
        if (!publish(fd, name, !options.keep_name)) return false;
        if (options.keep_name) return true;
        text = mark_text(fd);
        owner = this_process();
        return true;
    }
    static std::shared_ptr<Block> create(const std::string& name, std::size_t size,
                                         SharedMemoryOptions options) {
        std::shared_ptr<Block> block = make(name, size);
        return block->enter(options) ? block : nullptr;
    }
    static std::shared_ptr<Block> open(const std::string& name) {
        int raw = ::open(path_of(name).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (raw < 0 && errno == ENOENT) return nullptr;
        if (raw < 0) throw_errno(errno, fmt::format("open(SharedMemory \"{}\")", name));
        Fd fd(raw);
        while (::flock(fd.get(), LOCK_SH) < 0 && errno == EINTR) {  // N2; cleaners are brief
        }
        struct stat status = {};
        if (::fstat(fd.get(), &status) == 0 && status.st_nlink == 0)
            return nullptr;  // a cleaner was faster: the name is gone
        return map(name, std::move(fd));
    }
};

namespace {

void check_size(std::size_t size) {
    if (size == 0 || size > std::size_t(INT64_MAX))
        throw std::invalid_argument(
            fmt::format("a SharedMemory of {} bytes: give at least 1", size));
}

}  // namespace

SharedMemory::SharedMemory(CreateOnly, std::size_t size, SharedMemoryOptions options) {
    check_size(size);
    (void)remove_stale_names();
    while (!block_) block_ = Block::create(random_name(), size, options);
}

SharedMemory::SharedMemory(CreateOnly, std::string name, std::size_t size,
                           SharedMemoryOptions options) {
    check_name(name);
    check_size(size);
    (void)remove_stale_names();
    block_ = Block::create(name, size, options);
    if (!block_) throw_errno(EEXIST, fmt::format("SharedMemory(create_only, \"{}\")", name));
}

SharedMemory::SharedMemory(OpenOnly, std::string name) {
    check_name(name);
    (void)remove_stale_names();
    block_ = Block::open(name);
    if (!block_) throw_errno(ENOENT, fmt::format("SharedMemory(open_only, \"{}\")", name));
}

SharedMemory::SharedMemory(OpenOrCreate, std::string name, std::size_t size,
                           SharedMemoryOptions options) {
    check_name(name);
    check_size(size);
    (void)remove_stale_names();
    std::shared_ptr<Block> made;
    std::chrono::microseconds pause(50);
    auto give_up = sys::Clock::now() + std::chrono::seconds(2);
    while (!(block_ = Block::open(name))) {
        if (!made) made = Block::make(name, size);
        if (made->enter(options)) {
            block_ = std::move(made);
            return;
        }
        // N1: its link is there, its name is not: its creator is about to make or to remove it, was
        // stopped at that, or is dead.
        if (sys::Clock::now() >= give_up)
            throw_errno(EEXIST, fmt::format("SharedMemory(open_or_create, \"{}\"): its creator "
                                            "neither finishes nor removes it (was it stopped?)",
                                            name));
        if (FolderLock lock; lock.held()) (void)remove_if_stale(name);
        std::this_thread::sleep_for(pause);
        pause = std::min<std::chrono::microseconds>(2 * pause, std::chrono::milliseconds(20));
    }
}

SharedMemory::Block& SharedMemory::block() const {
    if (!block_) detail::throw_no_object("SharedMemory");
    return *block_;
}

const std::string& SharedMemory::name() const { return block().name; }
std::size_t SharedMemory::size() const { return bytes().size(); }

std::span<std::byte> SharedMemory::bytes() const {
    Block& own = block();
    if (!own.mapping)
        throw std::logic_error(fmt::format("the SharedMemory \"{}\" is closed here", own.name));
    return own.mapping.bytes();
}

void SharedMemory::close() {
    block().mapping.reset();  // the descriptor stays: it tells whose the name is
}

void SharedMemory::unlink() {
    Block& own = block();
    FolderLock lock;
    if (::unlink(path_of(own.name).c_str()) < 0)
        throw_errno(errno, fmt::format("unlink(SharedMemory \"{}\")", own.name));
    (void)::unlink(mark_of(own.name).c_str());
    own.owner = 0;
}

void SharedMemory::save(OutputArchive& archive) const {
    (void)bytes();  // not a closed one
    Block& own = block();
    bool with_fd = archive.fds() != nullptr;
    archive(own.name, with_fd);
    if (with_fd) detail::save_fd(archive, own.fd.get(), "SharedMemory");
}

void SharedMemory::load(InputArchive& archive) {
    std::string name;
    bool with_fd = false;
    archive(name, with_fd);
    check_name(name);
    if (!with_fd) {
        *this = SharedMemory(open_only, std::move(name));
        return;
    }
    Fd fd(detail::load_fd(archive, "SharedMemory"));
    block_ = Block::map(std::move(name), std::move(fd));
}

std::string to_string(const SharedMemory& memory) {
    return fmt::format("SharedMemory({}, {} bytes)", memory.name(), memory.size());
}

}  // namespace sidestep
