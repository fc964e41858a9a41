#include "task_fds.hpp"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

using Kind = TaskFdsMessage::Kind;
constexpr std::uint64_t kLasting = detail::TaskDescriptors::kLasting;

bool send(int control, const TaskFdsMessage& message, std::span<const int> fds) {
    try {
        sys::send_message(control, std::as_bytes(std::span(&message, 1)), fds);
        return true;
    } catch (const std::system_error& error) {
        int code = error.code().value();
        // ETOOMANYREFS: as many descriptors are on their way as this user may have.
        if (code == EAGAIN || code == ETOOMANYREFS || code == ENOMEM || code == ENOBUFS ||
            code == EPIPE || code == ECONNRESET)
            return false;
        throw;
    }
}

}  // namespace

bool send_task_fds(int control, std::uint64_t serial, std::span<const int> fds) {
    for (std::size_t first = 0; first < fds.size(); first += TaskFdsMessage::kMostInOne) {
        TaskFdsMessage message{.kind = Kind::of_task, .number = serial, .first = first};
        auto part = fds.subspan(first, std::min(fds.size() - first, TaskFdsMessage::kMostInOne));
        if (!send(control, message, part)) return false;
    }
    return true;
}

void take_back_task_fds(int control, std::uint64_t serial, std::span<const int> fds) noexcept {
    if (fds.empty()) return;
    try {
        (void)send(control, {.kind = Kind::of_task, .number = serial}, {});
    } catch (const std::exception&) {  // the worker ends: so do they
    }
}

bool GivenFds::give(int control, std::span<const Lasting> wanted) {
    for (const Lasting& each : wanted) {
        if (given_.contains(each.identity)) continue;
        if (given_.size() >= look_at_) {
            take_back(control);
            look_at_ = given_.size() + kNewOnes;
        }
        auto given = given_.emplace(each.identity, each.owner).first;
        try {
            if (send(control, {.kind = Kind::lasting, .number = each.identity}, {&each.fd, 1}))
                continue;
        } catch (...) {
            given_.erase(given);
            throw;
        }
        given_.erase(given);
        return false;
    }
    return true;
}

void GivenFds::take_back(int control) {
    for (auto each = given_.begin(); each != given_.end();) {
        bool gone = each->second.expired();
        if (gone && !send(control, {.kind = Kind::let_go, .number = each->first}, {})) return;
        each = gone ? given_.erase(each) : std::next(each);
    }
}

void GivenFds::forget(std::span<const Lasting> fds) {
    for (const Lasting& each : fds) given_.erase(each.identity);
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
        // EMSGSIZE: no descriptors are left. Else nothing is there, or a task has closed the
        // socket. Who needs what should have come will say it.
        return error.code().value() == EMSGSIZE;
    }
    if (message.closed || message.size != sizeof head || head.magic != TaskFdsMessage::kMagic)
        return false;
    if (head.kind == Kind::let_go) {
        lasting_.erase(head.number);
    } else if (head.kind == Kind::lasting) {
        if (!message.fds.empty()) lasting_[head.number] = {std::move(message.fds[0]), nullptr};
    } else {
        if (head.first == 0) waiting_.erase(head.number);  // taken back, or sent once more
        if (message.fds.empty()) return true;
        std::vector<Fd>& fds = waiting_[head.number];
        for (Fd& fd : message.fds) fds.push_back(std::move(fd));
        while (waiting_.size() > kMostKept) waiting_.erase(waiting_.begin());
    }
    return true;
}

void TaskFds::await(std::uint64_t serial, std::uint64_t count, std::uint64_t lasting) {
    while (waiting_[serial].size() < count || lasting_.size() < lasting) {
        pollfd entry = {control_.get(), POLLIN, 0};
        int n = ::poll(&entry, 1, -1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 || !receive()) return;  // open() or get_lasting() will say it
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
            "handles were in flight for this worker's descriptor limit, or they were closed");
    current_ = std::move(found->second);
    waiting_.erase(found);
}

int TaskFds::get(std::uint64_t number) {
    if (number >= current_.size() || !current_[number])
        throw SerializationError(
            "a descriptor in a task's arguments was taken twice, or is not there");
    return current_[number].release();
}

std::shared_ptr<void> TaskFds::get_lasting(std::uint64_t number, Make make) {
    std::uint64_t identity = number & ~kLasting;
    auto found = lasting_.find(identity);
    while (found == lasting_.end() && receive()) found = lasting_.find(identity);
    bool before = std::exchange(lacked_, true);  // unless all goes well
    if (found == lasting_.end())
        throw SerializationError(
            "a shared object in a task's arguments did not reach this worker: it has no "
            "descriptors left (raise RLIMIT_NOFILE, ulimit -n, or look for what leaks them)");
    if (!found->second.object) {
        Fd fd = std::move(found->second.fd);
        lasting_.erase(found);
        std::shared_ptr<void> object = make(fd.release());
        found = lasting_.try_emplace(identity).first;
        found->second.object = std::move(object);
    }
    lacked_ = before;
    return found->second.object;
}

void TaskFds::tidy() {
    while (receive()) {
    }
}

}  // namespace sidestep
