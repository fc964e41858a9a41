#include "supervise/event_loop.hpp"

#include <sys/epoll.h>

#include <cerrno>
#include <utility>

#include "sys/error.hpp"

namespace sidestep::inline v0::detail {

void EventLoop::open() {
    Fd epoll(epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) throw_errno(errno, "epoll_create1");
    epoll_ = ParentFd(std::move(epoll));
}

void EventLoop::add(int fd, Callback callback, Tells tells) {
    callbacks_[fd] = std::make_shared<const Callback>(std::move(callback));
    epoll_event event = {};
    event.events = EPOLLIN;
    if (tells == Tells::of_each_event) event.events |= EPOLLET;
    event.data.fd = fd;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return;
    int error = errno;
    callbacks_.erase(fd);
    throw_errno(error, "epoll_ctl(worker)");
}

void EventLoop::remove(int fd) noexcept {
    (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    callbacks_.erase(fd);
}

// How many descriptors are ready; or minus the error.
int EventLoop::wait_for_events(int timeout_ms, int (&ready)[kMost]) {
    epoll_event events[kMost];
    int n = epoll_wait(epoll_.get(), events, kMost, timeout_ms);
    if (n < 0) return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < n; ++i) ready[i] = events[i].data.fd;
    return n;
}

}  // namespace sidestep::detail
