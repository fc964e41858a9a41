#include "task_fds.hpp"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "sys.hpp"

namespace sidestep {

bool send_task_fds(int control, std::uint64_t serial, std::span<const int> fds) {
    for (std::size_t first = 0; first < fds.size(); first += TaskFdsMessage::kMostInOne) {
        TaskFdsMessage message;
        message.serial = serial;
        message.first = first;
        auto part = fds.subspan(first, std::min(fds.size() - first, TaskFdsMessage::kMostInOne));
        try {
            sys::send_message(control, std::as_bytes(std::span(&message, 1)), part);
        } catch (const std::system_error& error) {
            int code = error.code().value();
            if (code == EAGAIN || code == EPIPE || code == ECONNRESET) return false;
            throw;
        }
    }
    return true;
}

TaskFds::TaskFds(Fd control) : control_(std::move(control)) {
    sys::set_nonblocking(control_.get(), true);
}

// Takes one message. False: there is none.
bool TaskFds::receive() {
    TaskFdsMessage head;
    sys::Message message;
    try {
        message = sys::receive_message(control_.get(), std::as_writable_bytes(std::span(&head, 1)));
    } catch (const std::system_error& error) {
        if (error.code().value() == EAGAIN) return false;
        throw;
    }
    if (message.closed || message.size != sizeof head || head.magic != TaskFdsMessage::kMagic)
        return false;
    std::vector<Fd>& fds = waiting_[head.serial];
    if (head.first == 0) fds.clear();  // sent once more
    for (Fd& fd : message.fds) fds.push_back(std::move(fd));
    while (waiting_.size() > kMostKept) waiting_.erase(waiting_.begin());
    return true;
}

void TaskFds::await(std::uint64_t serial, std::uint64_t count) {
    while (waiting_[serial].size() < count) {
        pollfd entry = {control_.get(), POLLIN, 0};
        int n = ::poll(&entry, 1, -1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 || !receive()) return;  // open() will say it
    }
}

void TaskFds::open(std::uint64_t serial, std::uint64_t count) {
    while (receive()) {
    }
    auto found = waiting_.find(serial);
    std::size_t have = found == waiting_.end() ? 0 : found->second.size();
    if (have != count)
        throw SerializationError(
            "a task's descriptors did not arrive with it: too many tasks with "
            "handles were in flight for this worker's descriptor limit");
    current_ = std::move(found->second);
    waiting_.erase(found);
}

int TaskFds::get(std::uint64_t number) {
    if (number >= current_.size() || !current_[number])
        throw SerializationError(
            "a descriptor in a task's arguments was taken twice, or is not there");
    return current_[number].release();
}

void TaskFds::close() { current_.clear(); }

}  // namespace sidestep
