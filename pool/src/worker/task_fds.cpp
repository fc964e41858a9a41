#include "worker/task_fds.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "sys/error.hpp"
#include "sys/sys.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0 {
namespace {

using Kind = TaskFdsMessage::Kind;
constexpr std::uint64_t kLasting = detail::TaskDescriptors::kLasting;
constexpr std::uint64_t kLast = ~std::uint64_t(0);

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

// The kernel has kept a descriptor back, and does not say why.
int why_cut(int control) {
    const Fd another(::fcntl(control, F_DUPFD_CLOEXEC, 0));
    return another ? EMSGSIZE : errno;
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

bool FdsInFlight::has_room(std::size_t fds, std::uint64_t begin, std::uint64_t end) const {
    std::size_t all = 0;
    for (const Sent& each : sent_)
        if (each.is_in(begin, end)) all += each.fds;
    return all == 0 || all + fds <= kMost;
}

void FdsInFlight::add(std::size_t fds, std::uint64_t begin, std::uint64_t end) {
    for (Sent& each : sent_)
        if (!each.is_in(begin, end)) each = {};
    auto free =
        std::find_if(sent_.begin(), sent_.end(), [](const Sent& each) { return each.fds == 0; });
    SIDESTEP_ASSERT(free != sent_.end());
    *free = {end, fds};
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

std::string TaskFds::why_missing(std::string unseen) const {
    switch (trouble_) {
        case 0:
            return unseen;
        case EMFILE:
            return "this worker has no descriptors left (raise RLIMIT_NOFILE, ulimit -n, or look "
                   "for what leaks them)";
        case ENFILE:
            return "the system has no descriptors left (fs.file-max)";
        case EMSGSIZE:
            return "the kernel kept it back, though this worker may have more descriptors: it had "
                   "none left at that moment (RLIMIT_NOFILE, ulimit -n), or a security module "
                   "forbids it";
        case ENOMEM:
        case ENOBUFS:
            return "the kernel has no memory to receive it";
        case EBADF:
        case ENOTSOCK:
        case ENOTCONN:
            return "this worker's control socket is closed: a task has closed descriptors that are "
                   "not its own (close, closefrom, close_range)";
        case ECONNRESET:
            return "this worker's control socket has no other end any more: its pool has let go of "
                   "it, or a task has shut it down";
        default:
            return std::generic_category().message(trouble_);
    }
}

// Takes one message. False: there is none.
bool TaskFds::receive() {
    TaskFdsMessage head;
    sys::Message message;
    try {
        message = sys::receive_message(control_.get(), std::as_writable_bytes(std::span(&head, 1)));
    } catch (const std::system_error& error) {
        const int code = error.code().value();
        if (code == EAGAIN) return false;
        // Who needs what should have come will say it.
        trouble_ = code == EMFILE ? why_cut(control_.get()) : code;
        return code == EMFILE;
    }
    if (message.closed) trouble_ = ECONNRESET;
    if (message.closed || message.size != sizeof head || head.magic != TaskFdsMessage::kMagic)
        return false;
    if (head.kind == Kind::let_go) {
        lasting_.erase(head.number);
    } else if (head.kind == Kind::lasting) {
        if (!message.fds.empty()) lasting_[head.number] = {std::move(message.fds[0]), nullptr};
    } else {
        if (head.first == 0) waiting_.erase(head.number);  // taken back, or sent once more
        if (!message.fds.empty()) keep(head.number, std::move(message.fds));
    }
    return true;
}

// If there are too many, those that came first are of a task that was taken back: of tasks in the
// ring there are far fewer.
void TaskFds::keep(std::uint64_t serial, std::vector<Fd> fds) {
    Waiting& its = waiting_[serial];
    if (its.fds.empty()) its.arrival = serial == kFinalizerFds ? kLast : ++arrivals_;
    for (Fd& fd : fds) its.fds.push_back(std::move(fd));
    while (waiting_.size() > kMostKept)
        waiting_.erase(std::min_element(
            waiting_.begin(), waiting_.end(),
            [](const auto& a, const auto& b) { return a.second.arrival < b.second.arrival; }));
}

void TaskFds::await(std::uint64_t serial, std::uint64_t count, std::uint64_t lasting) {
    while (waiting_[serial].fds.size() < count || lasting_.size() < lasting) {
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
    std::size_t have = found == waiting_.end() ? 0 : found->second.fds.size();
    if (have != count)
        throw SerializationError(fmt::format(
            "{} of the {} descriptors in a task's arguments did not reach its worker: {}",
            count - std::min<std::uint64_t>(have, count), count,
            why_missing("the application closed them before they were sent, or a task has read "
                        "from this worker's control socket")));
    current_ = std::move(found->second.fds);
    waiting_.erase(found);
}

int TaskFds::get(std::uint64_t number) {
    if (number >= current_.size() || !current_[number])
        throw SerializationError(
            "a descriptor in a task's arguments was taken twice, or is not there");
    return current_[number].release();
}

std::shared_ptr<void> TaskFds::get_lasting(std::uint64_t number, Make make) {
    if ((number & kLasting) == 0) return make(get(number));  // of a nested task
    std::uint64_t identity = number & ~kLasting;
    auto found = lasting_.find(identity);
    while (found == lasting_.end() && receive()) found = lasting_.find(identity);
    bool before = std::exchange(lacked_, true);  // unless all goes well
    if (found == lasting_.end())
        throw SerializationError(
            "a shared object in a task's arguments did not reach this worker: " +
            why_missing("a task has read from this worker's control socket"));
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
