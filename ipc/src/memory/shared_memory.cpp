#include <sidestep/shared_memory.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <stdexcept>
#include <system_error>
#include <thread>

#include <sidestep/archive.hpp>
#include <sidestep/detail/object_ref.hpp>

#include "memory/participant.hpp"
#include "memory/shared_names.hpp"
#include "sys/error.hpp"
#include "sys/fd.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

std::string random_name() {
    std::uint32_t number = 0;
    sys::fill_random(std::as_writable_bytes(std::span(&number, 1)));
    return fmt::format("psm_{:08x}", number);
}

// A file of zeros with its pages, and without a name yet.
Fd make_file(const BlockName& name, std::size_t size) {
    sys::check_file_limit(size, "SharedMemory");
    Fd fd(::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!fd) throw_errno(errno, "open(/dev/shm, O_TMPFILE)");
    if (::ftruncate(fd.get(), static_cast<off_t>(size)) < 0)
        throw_errno(errno, fmt::format("ftruncate({}, {} bytes)", name.path, size));
    if (int error = sys::allocate_pages(fd.get(), size); error == ENOSPC)
        throw_errno(error, fmt::format("{} bytes for the SharedMemory \"{}\" (see df /dev/shm; a "
                                       "container may need a larger --shm-size)",
                                       size, name.name));
    else if (error != 0)
        throw_errno(error,
                    fmt::format("fallocate(SharedMemory \"{}\", {} bytes)", name.name, size));
    (void)::flock(fd.get(), LOCK_SH | LOCK_NB);  // N2; nobody else can have the file open
    return fd;
}

}  // namespace

std::vector<std::string> remove_stale_names() { return sweep_names(Look::all); }

struct SharedMemory::Block {
    BlockName name;
    Fd fd;
    Mapping mapping;
    ino_t inode = 0;
    OwnerId owner = 0;  // who removes the name at the end; 0: nobody
    std::string text;   // of its link

    Block() = default;
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    ~Block() {
        if (owner != 0 && owner == this_process()) withdraw_name(name, inode, text);
    }

    static std::shared_ptr<Block> map(BlockName name, Fd fd) {
        auto block = std::make_shared<Block>();
        block->name = std::move(name);
        struct stat status = {};
        if (::fstat(fd.get(), &status) < 0) throw_errno(errno, "fstat(SharedMemory)");
        if (status.st_size <= 0)
            throw std::invalid_argument(
                fmt::format("the SharedMemory \"{}\" has no bytes: its creator is not ready",
                            block->name.name));
        // Of a file that came by a descriptor from elsewhere, the number means nothing here.
        struct stat folder = {};
        bool has_folder = ::stat("/dev/shm", &folder) == 0;
        if (!has_folder && errno != ENOENT) throw_errno(errno, "stat(/dev/shm)");
        bool is_here = has_folder && folder.st_dev == status.st_dev;
        block->inode = is_here ? status.st_ino : 0;
        block->mapping = sys::map_shared(fd.get(), static_cast<std::size_t>(status.st_size),
                                         sys::Access::read_write);
        block->fd = std::move(fd);
        return block;
    }
    static std::shared_ptr<Block> make(const BlockName& name, std::size_t size) {
        return map(name, make_file(name, size));
    }
    // Gives it its name. False: the name is taken.
    bool enter(const SharedMemoryOptions& options) {
        if (options.keep_name) return publish_name(fd, name, {});
        text = mark_text(inode);
        owner = this_process();  // before: if publishing fails in its middle, the name goes
        if (publish_name(fd, name, text)) return true;
        owner = 0;
        return false;
    }
    static std::shared_ptr<Block> create(const BlockName& name, std::size_t size,
                                         const SharedMemoryOptions& options) {
        std::shared_ptr<Block> block = make(name, size);
        return block->enter(options) ? block : nullptr;
    }
    static std::shared_ptr<Block> open(const BlockName& name, const SharedMemoryOptions& options) {
        Fd fd = open_block(name, options.any_owner);
        return fd ? map(name, std::move(fd)) : nullptr;
    }
};

namespace {

void check_size(std::size_t size) {
    if (size == 0 || size > std::size_t(INT64_MAX))
        throw std::invalid_argument(
            fmt::format("a SharedMemory of {} bytes: give 1 to {}", size, INT64_MAX));
}

}  // namespace

SharedMemory::SharedMemory(CreateOnly, std::size_t size, SharedMemoryOptions options) {
    check_size(size);
    (void)sweep_names(Look::part);
    while (!block_) block_ = Block::create(BlockName(random_name()), size, options);
}

SharedMemory::SharedMemory(CreateOnly, std::string name, std::size_t size,
                           SharedMemoryOptions options) {
    BlockName named(std::move(name));
    check_size(size);
    (void)sweep_names(Look::part);
    block_ = Block::create(named, size, options);
    if (!block_)
        throw_errno(EEXIST,
                    fmt::format("SharedMemory(create_only, \"{}\"){}", named.name, who_has(named)));
}

SharedMemory::SharedMemory(OpenOnly, std::string name, SharedMemoryOptions options) {
    BlockName named(std::move(name));
    (void)sweep_names(Look::part);
    clear_leftover(named);
    block_ = Block::open(named, options);
    if (!block_) throw_errno(ENOENT, fmt::format("SharedMemory(open_only, \"{}\")", named.name));
}

SharedMemory::SharedMemory(OpenOrCreate, std::string name, std::size_t size,
                           SharedMemoryOptions options) {
    BlockName named(std::move(name));
    check_size(size);
    (void)sweep_names(Look::part);
    clear_leftover(named);
    std::shared_ptr<Block> made;
    std::chrono::microseconds pause(50);
    auto give_up = sys::Clock::now() + std::chrono::seconds(2);
    while (!(block_ = Block::open(named, options))) {
        if (!made) made = Block::make(named, size);
        if (made->enter(options)) {
            block_ = std::move(made);
            return;
        }
        // N1: its link is there, its name is not: its creator is about to make or to remove it, was
        // stopped at that, or is another user.
        std::string who = who_has(named);
        if (!who.empty() || sys::Clock::now() >= give_up)
            throw_errno(EEXIST, fmt::format("SharedMemory(open_or_create, \"{}\"){}", named.name,
                                            !who.empty() ? who
                                                         : ": its creator neither finishes nor "
                                                           "removes it (was it stopped?)"));
        std::this_thread::sleep_for(pause);
        pause = std::min<std::chrono::microseconds>(2 * pause, std::chrono::milliseconds(20));
    }
}

SharedMemory::Block& SharedMemory::block() const {
    if (!block_) detail::throw_no_object("SharedMemory");
    return *block_;
}

const std::string& SharedMemory::name() const { return block().name.name; }
std::size_t SharedMemory::size() const { return bytes().size(); }

std::span<std::byte> SharedMemory::bytes() const {
    Block& own = block();
    if (!own.mapping)
        throw std::logic_error(
            fmt::format("the SharedMemory \"{}\" is closed here", own.name.name));
    return own.mapping.bytes();
}

void SharedMemory::close() {
    block().mapping.reset();  // the descriptor stays: it tells whose the name is
}

void SharedMemory::unlink() {
    Block& own = block();
    remove_name(own.name, own.inode);
    own.owner = 0;
}

void SharedMemory::save(OutputArchive& archive) const {
    (void)bytes();  // not a closed one
    Block& own = block();
    bool with_fd = archive.fds() != nullptr;
    archive(own.name.name, with_fd);
    if (with_fd) detail::save_fd(archive, own.fd.get(), "SharedMemory");
}

void SharedMemory::load(InputArchive& archive) {
    std::string name;
    bool with_fd = false;
    archive(name, with_fd);
    BlockName named(std::move(name));
    if (!with_fd) {
        *this = SharedMemory(open_only, std::move(named.name));
        return;
    }
    Fd fd(detail::load_fd(archive, "SharedMemory"));
    struct stat status = {};
    if (::fstat(fd.get(), &status) < 0 || !S_ISREG(status.st_mode))
        throw SerializationError("cannot receive a SharedMemory: its descriptor is no file");
    // As by name (N5), but for a task's arguments: who gives this process its work may have opened
    // it with .any_owner. (What is root's, root alone can truncate, and root can anyway.)
    if (!archive.functions_allowed() && status.st_uid != ::geteuid() && status.st_uid != 0)
        throw SerializationError(fmt::format(
            "cannot receive the SharedMemory \"{}\": its file belongs to user {}, who can read and "
            "change what is written into it, and truncate it (SIGBUS). If that user is trusted, "
            "open it by its name with .any_owner = true",
            named.name, status.st_uid));
    block_ = Block::map(std::move(named), std::move(fd));
}

std::string to_string(const SharedMemory& memory) {
    return fmt::format("SharedMemory({}, {} bytes)", memory.name(), memory.size());
}

}  // namespace sidestep
