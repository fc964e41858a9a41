#include "queue/queue_producers.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <sys/stat.h>

#include <cerrno>
#include <mutex>
#include <set>

#include "sys/error.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr const char* kName = "Queue's producer";

// All of this process, for its forked children. Never destroyed: static handles may outlive it.
struct Holds {
    std::mutex mutex;
    std::set<ProducerHold*> all;

    static Holds& instance() {
        static Holds* const made = [] {
            static Holds* fresh = new Holds;
            pthread_atfork([] { fresh->mutex.lock(); }, [] { fresh->mutex.unlock(); },
                           [] {
                               for (ProducerHold* hold : fresh->all) hold->leave_to_parent();
                               fresh->mutex.unlock();
                           });
            return fresh;
        }();
        return *made;
    }
};

struct flock whole_lock(short type) {
    struct flock lock = {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_len = 1;
    return lock;
}

}  // namespace

ProducerHold::ProducerHold(std::shared_ptr<QueueCore::Local> queue, Fd fd)
    : queue_(std::move(queue)), fd_(std::move(fd)) {
    Holds& holds = Holds::instance();
    std::lock_guard lock(holds.mutex);
    holds.all.insert(this);
}

ProducerHold::~ProducerHold() {
    {
        Holds& holds = Holds::instance();
        std::lock_guard lock(holds.mutex);
        holds.all.erase(this);
    }
    if (!fd_) return;
    fd_.reset();
    try {
        QueueCore::end_without_producers(*queue_);
    } catch (const std::exception&) {  // damaged: whoever uses the queue next is told
    }
}

// True also where the kernel does not tell: what is unknown is no end.
bool QueueCore::has_producers(const Local& own) noexcept {
    struct flock probe = whole_lock(F_WRLCK);
    return ::fcntl(own.segment_fd().get(), F_OFD_GETLK, &probe) < 0 || probe.l_type != F_UNLCK;
}

// The last to leave does this, or, if it was killed, whoever finds the queue empty.
void QueueCore::end_without_producers(Local& own) {
    State& all = own.state;
    if (has_producers(own)) return;
    {
        if (!take(all.ring.put_lock, sys::Clock::now())) return;  // whoever comes next finds it
        Unlocker unlock(all.ring.put_lock);
        std::uint32_t flags = all.flags.load();
        if ((flags & State::kShut) || !(flags & State::kProduced) || has_producers(own)) return;
        signal(own);  // before the flag: see try_put
        all.set(State::kShut);
    }
    all.items.notify_all();
    all.space.notify_all();
}

std::shared_ptr<ProducerHold> QueueCore::produce() const {
    Local& own = local();
    check_open(own);
    // An open file description of its own: only /proc makes one of a file without a name.
    std::string path = fmt::format("/proc/self/fd/{}", own.segment_fd().get());
    Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd) {
        const int error = errno;
        throw_errno(error, fmt::format("open({}, for a queue's producer{})", path,
                                       error == ENOENT ? ", which needs /proc" : ""));
    }
    struct flock lock = whole_lock(F_RDLCK);
    if (::fcntl(fd.get(), F_OFD_SETLK, &lock) < 0)
        throw_errno(errno, "fcntl(F_OFD_SETLK, a queue's producer)");
    {
        OwnerGuard guard(own.state.ring.put_lock);
        if (own.state.has(State::kShut))
            throw PutAfterShutDown(
                "the queue has ended, or was shut down: it takes no producer any more. Make the "
                "producer before those that are there leave");
        own.state.set(State::kProduced);
    }
    return std::make_shared<ProducerHold>(local_, std::move(fd));
}

void QueueCore::check_producer(const std::shared_ptr<ProducerHold>& hold) {
    if (!hold)
        throw QueueClosed("this producer is closed: close() was called, or it was moved from");
    if (hold->fd() < 0)
        throw QueueClosed(
            "this producer is its parent's: a forked child gets one of its own as an argument, in "
            "a message, or from the queue's producer()");
}

void QueueCore::save_producer(OutputArchive& archive,
                              const std::shared_ptr<ProducerHold>& hold) const {
    check_producer(hold);
    save(archive);
    save_fd(archive, hold->fd(), kName);
}

std::shared_ptr<ProducerHold> QueueCore::load_producer(InputArchive& archive, Kind kind) {
    load(archive, kind);
    Fd fd(load_fd(archive, kName));
    struct stat ours = {}, arrived = {};
    if (::fstat(local_->segment_fd().get(), &ours) < 0 || ::fstat(fd.get(), &arrived) < 0 ||
        ours.st_dev != arrived.st_dev || ours.st_ino != arrived.st_ino)
        throw SerializationError(
            "cannot receive a queue's producer: its descriptor is not one of that queue's");
    return std::make_shared<ProducerHold>(local_, std::move(fd));
}

}  // namespace sidestep::detail
