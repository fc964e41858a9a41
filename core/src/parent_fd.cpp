#include "parent_fd.hpp"

#include <unistd.h>

#include <algorithm>
#include <vector>

#include "per_process.hpp"

namespace sidestep {
namespace {

struct List {
    std::mutex mutex;
    std::vector<int> fds;  // guarded by mutex
};
PerProcess<List> lists;
// The list of the process that froze it last: in a child of a fork under freeze(), the parent's.
List* frozen = nullptr;

}  // namespace

ParentFd::ParentFd(Fd fd) : owner_(::getpid()) {
    if (!fd) return;
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

std::unique_lock<std::mutex> ParentFd::freeze() {
    List& list = lists.get();
    std::unique_lock lock(list.mutex);
    frozen = &list;
    return lock;
}

void ParentFd::close_all() noexcept {
    if (!frozen) return;
    for (int fd : frozen->fds) ::close(fd);
    frozen->fds.clear();
}

}  // namespace sidestep
