#include "sys/parent_fd.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "sys/fork_page.hpp"
#include "sys/per_process.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

struct List {
    std::mutex mutex;
    std::vector<int> fds;  // guarded by mutex
};
PerProcess<List> lists;
// The list of the process that forks, locked. Null: it has none, so no descriptors either.
List* frozen = nullptr;

// The handlers run inside of fork(2), under the C library's lock: they allocate nothing. So the
// list is made when forks begin to be watched, and a child takes over the copy that it has.
void before_fork() noexcept {
    frozen = lists.find();
    if (frozen) frozen->mutex.lock();
}
void in_parent() noexcept {
    if (frozen) frozen->mutex.unlock();
}
void in_child() noexcept {
    if (!frozen) return;
    for (int fd : frozen->fds) ::close(fd);
    frozen->fds.clear();
    lists.take_over_copy();
    frozen->mutex.unlock();
}

bool watch_forks() {
    static const bool watching = [] {
        // First, so that a child's page is empty when its list becomes its own: handlers of a child
        // run in the order in which they were made known.
        (void)fork_page();
        (void)lists.get();
        return ::pthread_atfork(&before_fork, &in_parent, &in_child) == 0;
    }();
    return watching;
}
// When the program is loaded, so that no fork() comes while a thread is in there.
[[maybe_unused]] const bool watching = watch_forks();

void add(int fd) {
    (void)watch_forks();  // this may be a static object's
    List& list = lists.get();
    std::lock_guard lock(list.mutex);
    list.fds.push_back(fd);
}

// With the list's mutex held.
void forget(List& list, int fd) noexcept {
    auto found = std::find(list.fds.begin(), list.fds.end(), fd);
    if (found == list.fds.end()) return;
    *found = list.fds.back();
    list.fds.pop_back();
}

}  // namespace

ParentFd::ParentFd(Fd fd) {
    if (!fd) return;
    add(fd.get());
    fd_ = fd.release();
}

// Locked until ours is on the list, so that nobody forks between: two children that are started
// side by side would have each other's, and outlive their parent.
template <class Make>
ParentEnds ParentFd::make_ends(Make make) {
    (void)watch_forks();
    List& list = lists.get();
    std::lock_guard lock(list.mutex);
    list.fds.push_back(-1);  // its place: what throws does so before there is a descriptor
    ParentEnds ends;
    try {
        auto [ours, theirs] = make();
        ends.ours.fd_ = list.fds.back() = ours.release();
        ends.theirs = std::move(theirs);
    } catch (...) {
        list.fds.pop_back();
        throw;
    }
    return ends;
}

ParentEnds make_control_pair() {
    return ParentFd::make_ends([] {
        sys::SocketPair pair = sys::make_socketpair();
        return std::pair(std::move(pair.first), std::move(pair.second));
    });
}

ParentEnds make_lifeline() {
    return ParentFd::make_ends([] {
        sys::Pipe pipe = sys::make_pipe();
        return std::pair(std::move(pipe.write_end), std::move(pipe.read_end));
    });
}

ParentFd& ParentFd::operator=(ParentFd&& other) noexcept {
    if (this == &other) return *this;
    reset();
    fd_ = std::exchange(other.fd_, -1);
    owner_ = other.owner_;
    return *this;
}

void ParentFd::reset() noexcept {
    int fd = std::exchange(fd_, -1);
    if (fd < 0 || !owner_.same_process()) return;
    List& list = *lists.find();  // it was made with the first descriptor
    std::lock_guard lock(list.mutex);
    forget(list, fd);
    ::close(fd);  // with the list locked: a fork sees both or neither
}

ParentFdMark::ParentFdMark(int fd) : fd_(fd) { add(fd); }
ParentFdMark::~ParentFdMark() {
    if (!owner_.same_process()) return;
    List& list = *lists.find();  // it was made with the first descriptor
    std::lock_guard lock(list.mutex);
    forget(list, fd_);
}

}  // namespace sidestep
