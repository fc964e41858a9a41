#include "sys/sys.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "sys/error.hpp"
#include "sys/retry.hpp"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

namespace sidestep::inline v0::sys {
namespace {

struct timespec to_timespec(std::chrono::nanoseconds d) {
    auto seconds = std::chrono::duration_cast<std::chrono::seconds>(d);
    return {.tv_sec = static_cast<time_t>(seconds.count()),
            .tv_nsec = static_cast<long>((d - seconds).count())};
}

std::chrono::nanoseconds remaining(Clock::time_point deadline) {
    auto now = Clock::now();  // what is long past may be farther from now than can be said
    return deadline > now ? deadline - now : std::chrono::nanoseconds(0);
}

Wake futex_result(long result, int error) {
    if (result >= 0) return Wake::woken;
    return error == ETIMEDOUT ? Wake::timeout : error == EAGAIN ? Wake::changed : Wake::woken;
}

}  // namespace

std::string refusal_hint(int error) {
    return is_refusal(error) ? " (it is not in this kernel, or refused by the sandbox or container "
                               "that this process runs in)"
                             : "";
}

void throw_call(int error, std::string_view what) {
    throw_errno(error, fmt::format("{}{}", what, refusal_hint(error)));
}

int poll_timeout(const Deadline& deadline) {
    if (!deadline) return -1;
    auto ms = std::chrono::ceil<std::chrono::milliseconds>(remaining(*deadline)).count();
    return static_cast<int>(std::min<long long>(ms, INT_MAX));
}

Pipe make_pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) < 0) throw_errno(errno, "pipe2");
    return {above_stdio(Fd(fds[0])), above_stdio(Fd(fds[1]))};
}

int duplicate_fd(int fd, int least) noexcept {
    int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, least);
    if (copy < 0 && errno == EINVAL) errno = EMFILE;
    return copy;
}

Fd above_stdio(Fd fd) noexcept {
    if (fd.get() < 0 || fd.get() > 2) return fd;
    int copy = duplicate_fd(fd.get());
    return copy < 0 ? std::move(fd) : Fd(copy);
}

Fd open_dev_null() {
    int fd = retry([] { return ::open("/dev/null", O_RDWR | O_CLOEXEC); });
    if (fd < 0) throw_errno(errno, "open(/dev/null)");
    return above_stdio(Fd(fd));
}

bool is_open(int fd) noexcept { return ::fcntl(fd, F_GETFD) >= 0; }

bool is_ready(int fd, short events) noexcept {
    pollfd entry = {.fd = fd, .events = events, .revents = 0};
    return retry([&] { return ::poll(&entry, 1, 0); }) > 0 && (entry.revents & events) != 0;
}

SocketPair make_socketpair() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
        throw_errno(errno, "socketpair");
    return {above_stdio(Fd(fds[0])), above_stdio(Fd(fds[1]))};
}

Fd make_eventfd() {
    int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) throw_errno(errno, "eventfd");
    return above_stdio(Fd(fd));
}

void set_nonblocking(int fd, bool on) {
    int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0) throw_errno(errno, "fcntl(F_GETFL)");
    int wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    if (wanted != flags && ::fcntl(fd, F_SETFL, wanted) < 0) throw_errno(errno, "fcntl(F_SETFL)");
}

namespace {
constexpr std::size_t kMaxFds = 64;
using ControlBuffer = std::byte[CMSG_SPACE(kMaxFds * sizeof(int))];
}  // namespace

void send_message(int socket, std::span<const std::byte> bytes, std::span<const int> fds) {
    if (fds.size() > kMaxFds)
        throw_errno(E2BIG,
                    fmt::format("{} descriptors in one message ({} at most)", fds.size(), kMaxFds));
    alignas(cmsghdr) ControlBuffer control = {};
    iovec part = {const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (!fds.empty()) {
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(fds.size_bytes());
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fds.size_bytes());
        std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
    }
    ssize_t sent = retry([&] { return ::sendmsg(socket, &header, MSG_NOSIGNAL); });
    if (sent < 0) throw_errno(errno, "sendmsg");
}

std::size_t own_fds(msghdr& header, std::span<Fd> place) noexcept {
    std::size_t count = 0;
    for (cmsghdr* c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        std::size_t more = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < more; ++i) {
            int number;
            std::memcpy(&number, CMSG_DATA(c) + i * sizeof(int), sizeof number);
            Fd fd = above_stdio(Fd(number));
            if (count < place.size()) place[count++] = std::move(fd);
        }
    }
    return count;
}

Message receive_message(int socket, std::span<std::byte> buffer) {
    alignas(cmsghdr) ControlBuffer control;
    iovec part = {buffer.data(), buffer.size()};
    msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    ssize_t size = retry([&] { return ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC); });
    if (size < 0 && errno != ECONNRESET) throw_errno(errno, "recvmsg");
    Message message;
    message.closed = size <= 0;
    message.size = size > 0 ? static_cast<std::size_t>(size) : 0;
    if (size < 0) return message;
    Fd received[kMaxFds];  // all are owned before anything can fail
    std::size_t count = own_fds(header, received);
    message.fds.assign(std::make_move_iterator(received),
                       std::make_move_iterator(received + count));
    // There was room for as many as may be sent: what is missing this process could not have.
    if ((header.msg_flags & MSG_CTRUNC) && count < kMaxFds)
        throw_errno(EMFILE, "recvmsg: there was no descriptor left for one that came");
    if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        throw_errno(EMSGSIZE, "recvmsg: the message or its descriptors were cut off");
    return message;
}

Fd growing_memfd(const char* name) {
    int raw = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (raw < 0) throw_call(errno, fmt::format("memfd_create({})", name));
    return above_stdio(Fd(raw));
}

void resize_file(int fd, std::size_t size) {
    check_file_limit(size, "a memfd");
    if (::ftruncate(fd, static_cast<off_t>(size)) < 0)
        throw_errno(errno, fmt::format("ftruncate({} bytes)", size));
}

int allocate_pages(int fd, std::size_t size) noexcept {
    constexpr std::size_t kSmallest = 64 << 10;
    std::size_t done = 0, piece = size;
    while (done < size) {
        std::size_t next = std::min(piece, size - done);
        if (::fallocate(fd, 0, static_cast<off_t>(done), static_cast<off_t>(next)) == 0)
            done += next;
        else if (errno == EINTR)
            piece = std::max(piece / 2, kSmallest);
        else
            return errno;
    }
    return 0;
}

void seal(int fd) {
    constexpr int kSize = F_SEAL_SHRINK | F_SEAL_GROW;
    // Writing cannot be sealed while someone has it mapped for writing.
    if (::fcntl(fd, F_ADD_SEALS, kSize | F_SEAL_WRITE) < 0 && ::fcntl(fd, F_ADD_SEALS, kSize) < 0)
        throw_call(errno, "fcntl(F_ADD_SEALS)");
}

void stop_growth(int fd) noexcept { (void)::fcntl(fd, F_ADD_SEALS, F_SEAL_GROW); }

std::size_t sealed_size(int fd) {
    int seals = ::fcntl(fd, F_GET_SEALS);
    struct stat file = {};
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0)
        throw_errno(EINVAL, "the descriptor is not a sealed memfd");
    if (::fstat(fd, &file) < 0) throw_errno(errno, "fstat(memfd)");
    return static_cast<std::size_t>(file.st_size);
}

void check_file_limit(std::size_t size, const char* name) {
    struct rlimit limit = {};
    if (::getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) return;
    if (size > limit.rlim_cur)
        throw_errno(EFBIG, fmt::format("{}: {} bytes of shared memory count as a file, and ulimit "
                                       "-f (RLIMIT_FSIZE) allows {}",
                                       name, size, limit.rlim_cur));
}

Fd memfd(const char* name, std::size_t size) {
    check_file_limit(size, name);
    Fd fd = growing_memfd(name);
    if (::ftruncate(fd.get(), static_cast<off_t>(size)) < 0)
        throw_errno(errno, fmt::format("ftruncate({}, {} bytes)", name, size));
    if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
        throw_call(errno, fmt::format("fcntl(F_ADD_SEALS, {})", name));
    return fd;
}

Fd reopen_read_only(const Fd& fd) {
    std::string path = fmt::format("/proc/self/fd/{}", fd.get());
    int raw = retry([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); });
    if (raw >= 0) return above_stdio(Fd(raw));
    if (errno == ENOENT) return fd.duplicate();
    throw_errno(errno, fmt::format("open({}, read only)", path));
}

Mapping map_shared(int fd, std::size_t size, Access access, bool populate) {
    int protection = access == Access::read_write ? PROT_READ | PROT_WRITE : PROT_READ;
    int flags = MAP_SHARED | MAP_NORESERVE | (populate ? MAP_POPULATE : 0);
    void* address = ::mmap(nullptr, size, protection, flags, fd, 0);
    if (address == MAP_FAILED) throw_errno(errno, fmt::format("mmap({} bytes)", size));
    return Mapping(address, size);
}

std::size_t page_size() {
    static const auto size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    return size;
}

void forbid_new_writers(int fd) noexcept { (void)::fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE); }

bool are_writers_forbidden(int seals) noexcept {
    return (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0;
}

bool protect(std::span<std::byte> range, Access access) noexcept {
    int protection = access == Access::read_write ? PROT_READ | PROT_WRITE : PROT_READ;
    return ::mprotect(range.data(), range.size(), protection) == 0;
}

bool populate(std::span<std::byte> range) {
    // madvise wants the start of a page, or it does nothing (EINVAL).
    auto begin = reinterpret_cast<std::uintptr_t>(range.data());
    std::size_t before = begin % page_size();
    if (::madvise(range.data() - before, range.size() + before, MADV_POPULATE_WRITE) == 0)
        return true;
    return errno == EINVAL || is_refusal(errno);  // before 5.14: pages come on first touch
}

void discard(int fd, std::size_t offset, std::size_t size) {
    // A failure costs memory, not correctness: tmpfs always supports it.
    (void)::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                      static_cast<off_t>(size));
}

void use_large_pages(std::span<std::byte> range) noexcept {
    std::size_t page = page_size();
    auto begin = (reinterpret_cast<std::uintptr_t>(range.data()) + page - 1) / page * page;
    auto end = reinterpret_cast<std::uintptr_t>(range.data() + range.size());
    if (begin < end) (void)::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

void no_dump(std::span<std::byte> range) noexcept {
    (void)::madvise(range.data(), range.size(), MADV_DONTDUMP);
}

void dont_fork(std::span<std::byte> range) noexcept {
    (void)::madvise(range.data(), range.size(), MADV_DONTFORK);
}

Wake futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                const Deadline& deadline) noexcept {
    struct timespec timeout = {};
    if (deadline) timeout = to_timespec(remaining(*deadline));
    long result =
        syscall(SYS_futex, &word, FUTEX_WAIT, expected, deadline ? &timeout : nullptr, nullptr, 0);
    return futex_result(result, errno);
}

Wake futex_wait2(const std::atomic<std::uint32_t>& a, std::uint32_t expected_a,
                 const std::atomic<std::uint32_t>& b, std::uint32_t expected_b,
                 const Deadline& deadline) noexcept {
    // struct futex_waitv of linux/futex.h (5.16), spelled out for older headers.
    struct Waiter {
        std::uint64_t value;
        std::uint64_t address;
        std::uint32_t flags;
        std::uint32_t reserved;
    };
    constexpr std::uint32_t kSize32 = 2;  // FUTEX_32: a shared futex of 32 bits
    Waiter waiters[2] = {{expected_a, reinterpret_cast<std::uintptr_t>(&a), kSize32, 0},
                         {expected_b, reinterpret_cast<std::uintptr_t>(&b), kSize32, 0}};
    struct timespec until = {};
    if (deadline) until = to_timespec(deadline->time_since_epoch());  // absolute
    long result =
        syscall(SYS_futex_waitv, waiters, 2, 0, deadline ? &until : nullptr, CLOCK_MONOTONIC);
    // EINVAL: an emulator; what is asked for is right.
    if (result >= 0 || (!is_refusal(errno) && errno != EINVAL)) return futex_result(result, errno);
    if (b.load(std::memory_order_relaxed) != expected_b) return Wake::changed;
    auto cap = Clock::now() + std::chrono::milliseconds(50);
    if (deadline && *deadline < cap) return futex_wait(a, expected_a, deadline);
    Wake wake = futex_wait(a, expected_a, cap);
    return wake == Wake::timeout ? Wake::woken : wake;
}

int futex_wake(const std::atomic<std::uint32_t>& word, int count) noexcept {
    long woken = syscall(SYS_futex, &word, FUTEX_WAKE, count, nullptr, nullptr, 0);
    return woken > 0 ? static_cast<int>(woken) : 0;
}

std::optional<std::string> read_file(const char* path) {
    int raw = retry([&] { return ::open(path, O_RDONLY | O_CLOEXEC); });
    if (raw < 0) return {};
    Fd fd(raw);
    std::string text;
    char chunk[4096];
    constexpr std::size_t kLimit = 16 << 20;
    while (text.size() < kLimit) {
        ssize_t n = retry([&] { return ::read(fd.get(), chunk, sizeof chunk); });
        if (n < 0) {  // what came before it is not the file
            int error = errno;
            fd.reset();
            errno = error;
            return {};
        }
        if (n == 0) break;
        text.append(chunk, static_cast<std::size_t>(n));
    }
    return text;
}

void fill_random(std::span<std::byte> bytes) {
    while (!bytes.empty()) {
        ssize_t n = retry([&] { return ::getrandom(bytes.data(), bytes.size(), 0); });
        if (n < 0) throw_call(errno, "getrandom");
        bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
}

}  // namespace sidestep::sys
