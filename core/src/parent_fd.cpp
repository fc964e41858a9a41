#include "parent_fd.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "per_process.hpp"

namespace sidestep {
namespace {

struct List {
    std::mutex mutex;
    std::vector<int> fds;  // guarded by mutex
};
PerProcess<List> lists;
// The list of the process that forks, locked: in the child it is the parent's.
List* frozen = nullptr;

void before_fork() {
    List& list = lists.get();
    list.mutex.lock();
    frozen = &list;
}
void in_parent() { frozen->mutex.unlock(); }
void in_child() {
    for (int fd : frozen->fds) ::close(fd);
    frozen->fds.clear();
    frozen->mutex.unlock();
}

bool watch_forks() {
    static const bool watching = ::pthread_atfork(&before_fork, &in_parent, &in_child) == 0;
    return watching;
}
// When the program is loaded, so that no fork() comes while a thread is in there.
[[maybe_unused]] const bool watching = watch_forks();

}  // namespace

ParentFd::ParentFd(Fd fd) : owner_(::getpid()) {
    if (!fd) return;
    (void)watch_forks();  // this may be a static object's
    List& list = lists.get();
    std::lock_guard lock(list.mutex);
    list.fds.push_back(fd.get());
    fd_ = fd.release();
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
    if (fd < 0 || owner_ != ::getpid()) return;
    List& list = lists.get();
    std::lock_guard lock(list.mutex);
    auto found = std::find(list.fds.begin(), list.fds.end(), fd);
    if (found != list.fds.end()) {
        *found = list.fds.back();
        list.fds.pop_back();
    }
    ::close(fd);  // with the list locked: a fork sees both or neither
}

}  // namespace sidestep
