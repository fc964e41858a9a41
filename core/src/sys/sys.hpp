// Raw system calls and their kernel fallbacks: one function each, EINTR handled here and nowhere
// else, errors thrown as std::system_error unless the return value says otherwise.
//
// Threads: all thread-safe.
#pragma once

#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sidestep/detail/deadline.hpp>
#include <sidestep/exit_status.hpp>

#include "sys/cpu_set.hpp"
#include "sys/fd.hpp"

struct msghdr;  // <sys/socket.h>

struct rusage;

namespace sidestep::inline v0::sys {

using Clock = std::chrono::steady_clock;
using detail::Deadline;

// Milliseconds until `deadline` for poll(2) and epoll_wait(2): rounded up, -1 for never.
int poll_timeout(const Deadline& deadline);

// --- calls that may not be there ---------------------------------------------------------------

// What a kernel without a call answers, and what a sandbox that refuses it does: for a newer call
// they are the same answer, "not here". (EINVAL may be one more: the call is there, its flag is
// not.)
constexpr bool is_refusal(int error) noexcept {
    return error == ENOSYS || error == EPERM || error == EACCES || error == EOPNOTSUPP;
}
// Who it may be that refuses, for the text of an error; empty if it is no refusal.
std::string refusal_hint(int error);
// throw_errno() for a call that a sandbox may refuse, and for which there is nothing else.
[[noreturn]] void throw_call(int error, std::string_view what);

// --- processes -------------------------------------------------------------------------------

// A descriptor that becomes readable when the process ends (pidfd_open(2), Linux 5.3).
Fd pidfd_open(int pid);
// Sends a signal without a race on the pid. False: the process is gone already. Where the call is
// refused, a child of this process gets the signal by its number, which nobody else has while it is
// unreaped.
bool pidfd_send_signal(int pidfd, int signal);
// The same where nothing may be thrown: 0, ESRCH if the process is gone, EPERM if it runs as a user
// whom this process may not signal (any more).
int try_signal(int pidfd, int signal) noexcept;
// Takes the status of a child: running() if it has not ended and `block` is false, lost() if
// someone else took it. With `leave`, the zombie stays (WNOWAIT), and its pid stays reserved.
// `usage` gets what the child used.
ExitStatus wait_pidfd(int pidfd, bool block, bool leave = false, struct rusage* usage = nullptr);
// True: the process, a child of this one, is stopped by a signal, or by who traces it.
bool is_stopped(int pidfd) noexcept;
// Sleeps. True: the process has ended (and may still be unreaped). It need not be a child.
bool wait_for_exit(int pidfd, const Deadline& deadline);
// Looks for a process of this pid namespace. 0 and a pidfd: it exists (perhaps as a zombie). ESRCH:
// there is none; the number may be a thread's by now. Anything else: the kernel does not tell.
int find_process(int pid, Fd& pidfd) noexcept;
// True: the pidfd says that the process has ended, all its threads included.
bool has_ended(int pidfd) noexcept;
// Threads of this process (/proc/self/task) that are not on their way out. Without /proc the kernel
// tells whether there is one alone; else nothing is known.
std::optional<std::size_t> thread_count();
// CPUs that this process may use: its affinity mask, cut by its control groups' quotas; at least 1.
std::size_t usable_cpus();
// The same, with the hardware threads of one core counted once: how many cores those CPUs are. A
// CPU of which the system does not say (no /sys) counts as a core. `root`: see cpu_quota.hpp.
std::size_t usable_cores(const std::string& root = {});
// The nth of the CPUs in the affinity mask, round and round; -1 where the mask cannot be had.
int nth_cpu(std::size_t n);
// For the time of this object, the calling thread and what it starts stay on nth_cpu(n). Where that
// is not allowed, the scheduler chooses.
class OnCpu {
  public:
    explicit OnCpu(std::size_t n) noexcept;
    ~OnCpu();
    OnCpu(const OnCpu&) = delete;
    OnCpu& operator=(const OnCpu&) = delete;

  private:
    std::optional<CpuSet> before_;
    bool moved_ = false;
};

// --- descriptors -----------------------------------------------------------------------------

struct Pipe {
    Fd read_end;
    Fd write_end;
};
// Both ends are numbered 3 or more, even if the process has closed its standard streams.
Pipe make_pipe();
// Its duplicate, numbered `least` or more, closed by exec; -1, and errno: EMFILE also where the
// limit is below that number, of which the kernel says EINVAL.
int duplicate_fd(int fd, int least = 3) noexcept;
// The same file under a number of 3 or more: a library must not sit on a standard stream. Keeps
// the low number if there is no other (the limit on descriptors).
Fd above_stdio(Fd fd) noexcept;
Fd open_dev_null();
bool is_open(int fd) noexcept;
// Whether one of the poll(2) events is there now.
bool is_ready(int fd, short events) noexcept;
struct SocketPair {
    Fd first;
    Fd second;
};
// A connected pair of SOCK_SEQPACKET sockets: message boundaries are kept, EOF on peer's death.
SocketPair make_socketpair();
Fd make_eventfd();
void set_nonblocking(int fd, bool on);
// As write(2) and read(2) on a pipe, but EAGAIN instead of waiting. O_NONBLOCK would do that to
// all that share the pipe, other processes too: it is not set, or (before Linux 6.5, and where a
// sandbox refuses the call) for that moment only.
ssize_t write_now(int fd, const void* data, std::size_t size) noexcept;
ssize_t read_now(int fd, void* data, std::size_t size) noexcept;

// One message with descriptors (SCM_RIGHTS). MSG_NOSIGNAL. Throws on a full or broken socket.
void send_message(int socket, std::span<const std::byte> bytes, std::span<const int> fds);
struct Message {
    std::size_t size = 0;  // bytes received; 0 with closed == true: the peer is gone
    std::vector<Fd> fds;   // O_CLOEXEC
    bool closed = false;
};
// Owns the descriptors that recvmsg(2) has received, before anything can fail; returns how many.
// Those for which there is no place are closed.
std::size_t own_fds(msghdr& header, std::span<Fd> place) noexcept;
// Receives one message. Throws if it was larger than `buffer`, or carried more than 64 fds.
Message receive_message(int socket, std::span<std::byte> buffer);

// --- memory ----------------------------------------------------------------------------------

// Throws EFBIG, and says why, if the process may not make a file of this size (RLIMIT_FSIZE):
// ftruncate(2) would raise SIGXFSZ, which kills. Shared memory counts as a file.
void check_file_limit(std::size_t size, const char* name);
// An anonymous file that vanishes with its last user. Sparse: pages come on first touch. Sealed
// against shrinking and growing, so that nobody can turn an access into SIGBUS.
Fd memfd(const char* name, std::size_t size);
// The same, unsealed and empty: resize_file() it, seal() it when it is complete.
Fd growing_memfd(const char* name);
void resize_file(int fd, std::size_t size);
// Gets the pages of a file's first `size` bytes from the system; returns 0 or the error. A signal
// makes the kernel begin anew (before Linux 6.12): so in smaller pieces after each.
int allocate_pages(int fd, std::size_t size) noexcept;
// From here on nobody changes the file's size nor, if the kernel lets us, its contents.
void seal(int fd);
// From now on nobody can write behind its end: that fails with EPERM. Without effect on what is no
// unsealed memfd.
void stop_growth(int fd) noexcept;
// The size of a memfd that cannot shrink any more. Throws EINVAL for any other file.
std::size_t sealed_size(int fd);
// The same file, open for reading only: its receiver cannot map it writable by accident. (Not
// F_SEAL_FUTURE_WRITE: that forbids punching holes too, so pages could never be given back.)
// Without /proc, a plain duplicate.
Fd reopen_read_only(const Fd& fd);
// From here on nobody maps the memfd for writing any more, nor writes to it: what is mapped stays.
// Where the kernel refuses, nothing happens.
void forbid_new_writers(int fd) noexcept;
// Of what fcntl(F_GET_SEALS) says.
bool are_writers_forbidden(int seals) noexcept;
enum class Access { read_only, read_write };
Mapping map_shared(int fd, std::size_t size, Access access, bool populate = false);
// 4, 16 or 64 KiB, as the kernel was built.
std::size_t page_size();
// False: the system has no memory to split the mapping with. `range` begins at a page.
bool protect(std::span<std::byte> range, Access access) noexcept;
// Brings pages in, so that a lack of memory is an error here (false) and not a signal later.
bool populate(std::span<std::byte> range);
// Gives the pages of a shared range back to the system; the range reads as zeros after.
void discard(int fd, std::size_t offset, std::size_t size);
// Asks for pages of 2 MiB as the range is touched: seven times cheaper to get than small ones.
void use_large_pages(std::span<std::byte> range) noexcept;
void no_dump(std::span<std::byte> range) noexcept;
void dont_fork(std::span<std::byte> range) noexcept;

// --- futex (shared between processes: keyed by inode and offset) -----------------------------

enum class Wake { woken, changed, timeout };
// Sleeps while *word == expected. Spurious wake-ups are possible: re-check.
Wake futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                const Deadline& deadline) noexcept;
// Sleeps while both words have the expected values (futex_waitv, Linux 5.16; without it, on the
// first word alone and for 50 ms at most).
Wake futex_wait2(const std::atomic<std::uint32_t>& a, std::uint32_t expected_a,
                 const std::atomic<std::uint32_t>& b, std::uint32_t expected_b,
                 const Deadline& deadline) noexcept;
// The half of a 64-bit word that a futex can be: the one with the low bits.
inline const std::atomic<std::uint32_t>& low_half(const std::atomic<std::uint64_t>& word) noexcept {
    static_assert(std::endian::native == std::endian::little);
    const void* address = &word;  // for the kernel: never read through
    return *static_cast<const std::atomic<std::uint32_t>*>(address);
}
// Returns how many sleepers were woken.
int futex_wake(const std::atomic<std::uint32_t>& word, int count) noexcept;

// --- files -----------------------------------------------------------------------------------

// The whole of a small file (/proc, /sys); nothing if it cannot be opened.
std::optional<std::string> read_file(const char* path);
// Bytes that nobody can guess (getrandom(2)).
void fill_random(std::span<std::byte> bytes);

}  // namespace sidestep::sys
