#include <sidestep/init.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <utility>

#include <sidestep/exit_hooks.hpp>

#include "spawn/fork_child.hpp"
#include "start/boot.hpp"
#include "start/boot_failure.hpp"
#include "start/init_hook.hpp"
#include "start/init_place.hpp"
#include "start/lifeline.hpp"
#include "start/privileges.hpp"
#include "sys/error.hpp"
#include "sys/printed.hpp"
#include "sys/process_handle.hpp"
#include "sys/sys.hpp"
#include "sys/sys_socket.hpp"

namespace sidestep::inline v0 {
namespace {

std::atomic<bool> init_called{false};
std::atomic<bool> booted{false};
constinit const BootEntry* first_entry = nullptr;
constinit InitHook init_hook = nullptr;

// Descriptors 0 to 2 are open from here on, and none of ours is among them: the application may
// have closed its own, and then the next one that is opened would be taken for stdin or stdout.
// stdin is /dev/null, as that of a program that was spawned.
void occupy_standard_descriptors(Fd& control) {
    if (control.get() <= STDERR_FILENO) control = control.duplicate();
    int fd;
    do fd = ::open("/dev/null", O_RDWR);
    while (fd >= 0 && fd < STDERR_FILENO);
    if (fd <= STDERR_FILENO) return;
    if (::dup2(fd, STDIN_FILENO) < 0) throw_errno(errno, "dup2(/dev/null, stdin)");
    ::close(fd);
}

// A process that ends with several threads gives its children away before the last of them has
// closed its sockets: it may take a moment more.
bool ends_now(int pid) {
    int error = 0;
    sys::ProcessHandle<Fd> process = sys::find(pid, error);
    if (error == ESRCH) return true;
    return process && process.wait_for_end(sys::Clock::now() + std::chrono::seconds(1));
}

bool is_hung_up(int socket) {
    pollfd entry = {.fd = socket, .events = 0, .revents = 0};
    return poll(&entry, 1, 0) > 0 && (entry.revents & POLLHUP) != 0;
}

// Throws if somebody else than the parent made the socket.
void check_peer(const Fd& control) {
    sys::PeerCredentials peer = sys::peer_credentials(control.get());
    if (peer.uid != geteuid())
        throw std::runtime_error(
            fmt::format("its control socket belongs to user {}, and it runs as user {}: only a "
                        "parent of the same user is obeyed",
                        peer.uid, geteuid()));
    int parent = getppid();
    if (peer.pid == parent) return;
    // A parent that has ended is not the parent any more, and has left the socket: what it said
    // counts.
    if (peer.pid != 0 && ends_now(peer.pid) && is_hung_up(control.get())) return;
    throw std::runtime_error(
        fmt::format("its control socket belongs to process {}, and its parent is {}: only the "
                    "parent is obeyed ({} is set by Sidestep for its own workers: unset it)",
                    peer.pid, parent, kBootVariable));
}

void boot_or_throw(Fd control) {
    // A forked child starts with a copy of its parent's.
    static int armed_lifeline = -1;
    if (armed_lifeline >= 0) ::close(std::exchange(armed_lifeline, -1));
    occupy_standard_descriptors(control);
    begin_boot(control.get());
    check_peer(control);
    BootMessage message;
    auto bytes = std::as_writable_bytes(std::span(&message, 1));
    sys::Message arrived = sys::receive_message(control.get(), bytes);
    if (arrived.closed) _exit(1);  // the parent is gone
    if (arrived.size != sizeof message || message.magic != BootMessage::kMagic ||
        arrived.fds.size() != message.has_lifeline)
        throw std::runtime_error("the start message is not one of this version of Sidestep");
    if (message.has_lifeline) {
        armed_lifeline = arrived.fds[0].release();
        arm_lifeline(armed_lifeline, message.parent_pid);
    }
    const void* entry = resolve(message.entry, Contents::code, 1);
    if (!entry)
        throw std::runtime_error("what its parent wants it to run is not in it: " +
                                 why_unresolved(message.entry));
    if (!BootEntry::exists(entry))
        throw std::runtime_error("the start message names a place where no child begins");
    reinterpret_cast<BootMain>(const_cast<void*>(entry))(std::move(control));
}

// The descriptor that the variable names, or -1: a number, and nothing else, of a socket of the
// kind that we pass on. (Whatever else it is must not be read from.)
int control_socket(const char* text) {
    int fd = -1;
    const char* end = text + std::strlen(text);
    auto [rest, error] = std::from_chars(text, end, fd);
    if (error != std::errc() || rest != end || fd < 0) return -1;
    int type = 0;
    socklen_t size = sizeof type;
    bool ours = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
    return ours ? fd : -1;
}

// The constructor of a static object called init(): those of other files may not exist yet, and
// what the child would do without them would be wrong in silence.
[[noreturn]] void refuse_before_main() {
    std::fprintf(stderr,
                 "sidestep: a worker (pid %d) cannot start: init() was called before main() began, "
                 "by the constructor of a global object: call it first in main() (see init.hpp)\n",
                 getpid());
    std::_Exit(1);
}

// Once, although init() may be called again.
void call_hook() {
    if (InitHook hook = std::exchange(init_hook, nullptr)) hook();
}

}  // namespace

void set_init_hook(InitHook hook) noexcept { init_hook = hook; }

BootEntry::BootEntry(BootMain main) noexcept : main_(main), next_(first_entry) {
    first_entry = this;
}

bool BootEntry::exists(const void* main) noexcept {
    for (const BootEntry* entry = first_entry; entry; entry = entry->next_)
        if (reinterpret_cast<const void*>(entry->main_) == main) return true;
    return false;
}

void init() {
    if (!init_called.exchange(true)) {
        note_handlers_at_init();
        note_init_place(__builtin_return_address(0));
    }
    const char* text = std::getenv(kBootVariable);
    if (!text) return call_hook();
    if (has_file_privileges()) {  // who executed this program has less: no parent of a worker
        unsetenv(kBootVariable);
        return call_hook();
    }
    if (init_place().before_main) refuse_before_main();
    int fd = control_socket(text);
    if (fd < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        std::fprintf(stderr,
                     "sidestep: %s=%s names no socket of a worker; the variable is set by Sidestep "
                     "for its own workers: unset it\n",
                     kBootVariable, text);
        std::_Exit(1);
    }
    unsetenv(kBootVariable);  // a program that this worker starts is no worker
    boot(Fd(fd));
}

bool initialized() { return init_called; }

bool is_booted_child() noexcept { return booted; }

void boot(Fd control) noexcept {
    booted = true;
    try {
        boot_or_throw(std::move(control));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sidestep: a worker (pid %d) cannot start: %s\n", getpid(),
                     error.what());
        report_boot_failure(error.what());
    }
    leave_process(1);
}

void leave_process(int exit_code) noexcept {
    run_exit_hooks();
    sys::write_printed_at_exit();
    std::_Exit(exit_code);
}

}  // namespace sidestep
