#include "memory/mapped_segment.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <sys/stat.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include <sidestep/archive.hpp>

#include "memory/participant.hpp"
#include "sys/error.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {

// Never destroyed: handles of static objects may outlive everything.
struct MappedSegment::Registry {
    std::mutex mutex;  // guards all of it
    std::map<Key, std::weak_ptr<MappedSegment>> known;
    std::map<void*, std::weak_ptr<void>> beside;
    // Where the next cell comes from.
    std::weak_ptr<MappedSegment> cells;
    std::size_t next_cell = 0;
    OwnerId cells_of = 0;
};

MappedSegment::Registry& MappedSegment::registry() {
    static Registry* const made = [] {
        static Registry* fresh = new Registry;
        // A child of fork() must not inherit the mutex locked by a thread that it does not have.
        pthread_atfork([] { fresh->mutex.lock(); }, [] { fresh->mutex.unlock(); },
                       [] { fresh->mutex.unlock(); });
        return fresh;
    }();
    return *made;
}

MappedSegment::Key MappedSegment::key_of(int fd) {
    struct stat status = {};
    if (fstat(fd, &status) < 0) throw_errno(errno, "fstat(segment)");
    return {status.st_dev, status.st_ino};
}

std::shared_ptr<MappedSegment> MappedSegment::enter(Segment segment) {
    Registry& all = registry();  // first: a segment's destructor must not be what makes it
    Key key = key_of(segment.fd().get());
    std::shared_ptr<MappedSegment> made(new MappedSegment(std::move(segment), key));
    std::lock_guard lock(all.mutex);
    all.known[key] = made;
    return made;
}

std::shared_ptr<MappedSegment> MappedSegment::create(const char* name, std::size_t size) {
    return enter(Segment::create(name, size));
}

std::shared_ptr<MappedSegment> MappedSegment::reserve(const char* name, std::size_t wanted,
                                                      std::size_t least) {
    return enter(Segment::reserve(name, wanted, least));
}

std::shared_ptr<MappedSegment> MappedSegment::adopt(Fd fd) {
    Key key = key_of(fd.get());
    int seals = ::fcntl(fd.get(), F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK))
        throw SerializationError(
            "cannot receive a handle: its descriptor is not a sealed segment of shared memory");
    Registry& all = registry();
    std::unique_lock lock(all.mutex);
    std::weak_ptr<MappedSegment>& entry = all.known[key];
    if (auto present = entry.lock()) return present;
    auto access =
        sys::are_writers_forbidden(seals) ? sys::Access::read_only : sys::Access::read_write;
    std::unique_ptr<MappedSegment> fresh;
    try {
        fresh.reset(new MappedSegment(Segment::attach(std::move(fd), access), key));
        fresh->writable_ = access == sys::Access::read_write;
        std::shared_ptr<MappedSegment> made(std::move(fresh));
        entry = made;
        return made;
    } catch (...) {
        all.known.erase(key);
        lock.unlock();  // the destructor takes it, too
        throw;
    }
}

MappedSegment::~MappedSegment() {
    Registry& all = registry();
    std::lock_guard lock(all.mutex);
    auto entry = all.known.find(key_);
    if (entry != all.known.end() && entry->second.expired()) all.known.erase(entry);
}

MappedSegment::Attachment MappedSegment::attachment() const {
    std::lock_guard lock(registry().mutex);
    return attachment_;
}
void MappedSegment::attach(Attachment made) {
    std::lock_guard lock(registry().mutex);
    attachment_ = std::move(made);
}

MappedSegment::Attachment MappedSegment::attachment(const std::function<Attachment()>& make) {
    struct Turn {
        ~Turn() {
            maker.store(0);
            sys::futex_wake(sys::low_half(maker), INT_MAX);
        }
        std::atomic<OwnerId>& maker;
    };
    const OwnerId self = this_process();
    for (;;) {
        if (Attachment there = attachment()) return there;
        // Not this process: nobody, or one that this was forked from, whose thread is not here.
        if (OwnerId maker = maker_.load(); maker == self)
            (void)sys::futex_wait(sys::low_half(maker_), static_cast<std::uint32_t>(self), {});
        else if (maker_.compare_exchange_strong(maker, self))
            break;
    }
    const Turn turn{maker_};
    if (Attachment there = attachment()) return there;  // the one before was through
    Attachment made = make();
    attach(made);
    return made;
}

std::shared_ptr<void> MappedSegment::beside(void* object, void* (*make)(), void (*drop)(void*)) {
    struct Drop {
        void* object;
        void (*drop)(void*);
        void operator()(void* kept) const noexcept {
            {
                Registry& all = registry();
                std::lock_guard lock(all.mutex);
                auto entry = all.beside.find(object);
                if (entry != all.beside.end() && entry->second.expired()) all.beside.erase(entry);
            }
            drop(kept);
        }
    };
    // Made before the lock is taken: what throws, or is not needed, is dropped without it.
    std::shared_ptr<void> made(make(), Drop{object, drop});
    std::shared_ptr<void> present;
    Registry& all = registry();
    std::lock_guard lock(all.mutex);
    std::weak_ptr<void>& entry = all.beside[object];
    if ((present = entry.lock())) return present;
    entry = made;
    return made;
}

std::byte* allocate_cell(std::size_t size, std::shared_ptr<MappedSegment>& segment) {
    constexpr std::size_t kSegment = 1 << 20;
    size = (size + kCell - 1) / kCell * kCell;
    SIDESTEP_ASSERT(size <= kSegment / 4);
    auto& all = MappedSegment::registry();
    {
        std::lock_guard lock(all.mutex);
        segment = all.cells_of == this_process() ? all.cells.lock() : nullptr;
        if (segment && size <= segment->size() - all.next_cell) {
            std::byte* at = segment->data() + all.next_cell;
            all.next_cell += size;
            return at;
        }
    }
    segment = MappedSegment::create("sidestep-objects", kSegment);
    std::lock_guard lock(all.mutex);
    all.cells = segment;
    all.cells_of = this_process();
    all.next_cell = size;
    return segment->data();
}

namespace detail {

void throw_damaged(const char* name) {
    throw DamagedError(fmt::format(
        "the memory of a {} is damaged: a process that shares it wrote over it. The {} is lost: "
        "make a new one, and look for the wild write (AddressSanitizer, valgrind)",
        name, name));
}

void throw_no_object(const char* name) {
    throw std::logic_error(fmt::format(
        "this {} handle refers to nothing: it was moved from; copy handles instead", name));
}

namespace {

FdSink& sink_of(OutputArchive& archive, const char* name) {
    if (!archive.fds())
        throw SerializationError(
            fmt::format("a {} cannot be written here: it travels as a file descriptor, and this "
                        "channel carries bytes only. Pass it as an argument of a Process or of a "
                        "task, or send it over a Pipe or a Unix-socket Connection",
                        name));
    return *archive.fds();
}

FdSource& source_of(InputArchive& archive, const char* name) {
    if (!archive.fds())
        throw SerializationError(
            fmt::format("a {} cannot be read here: no descriptors came with the bytes", name));
    return *archive.fds();
}

std::uint64_t read_number(InputArchive& archive) {
    std::uint64_t number = 0;
    archive(number);
    return number;
}

}  // namespace

void save_fd(OutputArchive& archive, int fd, const char* name) {
    archive(sink_of(archive, name).put(fd));
}

int load_fd(InputArchive& archive, const char* name) {
    FdSource& source = source_of(archive, name);
    return source.get(read_number(archive));
}

void save_lasting(OutputArchive& archive, int fd, std::uint64_t identity,
                  const std::shared_ptr<const void>& owner, const char* name) {
    archive(sink_of(archive, name).put_lasting(fd, identity, owner));
}

std::shared_ptr<void> load_lasting(InputArchive& archive, FdSource::Make make, const char* name) {
    FdSource& source = source_of(archive, name);
    return source.get_lasting(read_number(archive), make);
}

void ObjectRef::save(OutputArchive& archive, const char* name) const {
    if (!segment_) throw_no_object(name);
    save_lasting(archive, segment_->segment().fd().get(), segment_->identity(), segment_, name);
    archive(static_cast<std::uint64_t>(static_cast<std::byte*>(object_) - segment_->data()));
}

std::size_t ObjectRef::load(InputArchive& archive, std::uint64_t kind, const char* name,
                            std::size_t least, Use use) {
    auto segment = std::static_pointer_cast<MappedSegment>(load_lasting(
        archive, [](int fd) -> std::shared_ptr<void> { return MappedSegment::adopt(Fd(fd)); },
        name));
    std::uint64_t offset = 0;
    archive(offset);
    std::size_t room = segment->size();
    bool good = (use == Use::read || segment->is_writable()) && offset % kCell == 0 &&
                room >= sizeof(ObjectHeader) && offset <= room - sizeof(ObjectHeader);
    ObjectHeader header;  // a copy: what is checked is what is used
    if (good) {
        std::memcpy(&header, segment->data() + offset, sizeof header);
        good = header.kind == kind && header.size >= least && header.size <= room - offset;
    }
    if (!good)
        throw SerializationError(fmt::format(
            "cannot receive a {}: what arrived is something else (the types of the two sides do "
            "not agree, or a process that shares it wrote over it)",
            name));
    object_ = segment->data() + offset;
    segment_ = std::move(segment);
    return static_cast<std::size_t>(header.size);
}

}  // namespace detail
}  // namespace sidestep
