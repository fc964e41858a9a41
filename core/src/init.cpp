#include <sidestep/init.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>

#include <sidestep/exit_hooks.hpp>

#include "boot.hpp"
#include "error.hpp"
#include "sys.hpp"

namespace sidestep {
namespace {

std::atomic<bool> init_called{false};
std::atomic<bool> booted{false};

// From here on the kernel kills this process when the last write end of the lifeline closes, that
// is when the parent dies, whatever either was doing (F_SETSIG, fcntl(2)). The read end stays open
// as long as the process lives.
void arm_lifeline(int fd, int parent_pid) {
    if (fcntl(fd, F_SETOWN, getpid()) < 0) throw_errno(errno, "fcntl(F_SETOWN, lifeline)");
    if (fcntl(fd, F_SETSIG, SIGKILL) < 0) throw_errno(errno, "fcntl(F_SETSIG, lifeline)");
    int flags = fcntl(fd, F_GETFL);
    if (fcntl(fd, F_SETFL, flags | O_ASYNC | O_NONBLOCK) < 0)
        throw_errno(errno, "fcntl(O_ASYNC, lifeline)");
    // The parent may have died before the lifeline was armed.
    pollfd entry = {.fd = fd, .events = 0, .revents = 0};
    if (poll(&entry, 1, 0) > 0 || getppid() != parent_pid) _exit(1);
}

// Descriptors 0 to 2 are open from here on, and none of ours is among them: the application may
// have closed its own, and then the next one that is opened would be taken for stdin or stdout.
void occupy_standard_descriptors(Fd& control) {
    if (control.get() <= STDERR_FILENO) control = control.duplicate();
    int fd;
    do fd = ::open("/dev/null", O_RDWR);
    while (fd >= 0 && fd < STDERR_FILENO);
    if (fd > STDERR_FILENO) ::close(fd);
}

void boot_or_throw(Fd control) {
    // A forked child starts with a copy of its parent's.
    static int armed_lifeline = -1;
    if (armed_lifeline >= 0) ::close(std::exchange(armed_lifeline, -1));
    occupy_standard_descriptors(control);
    BootMessage message;
    auto bytes = std::as_writable_bytes(std::span(&message, 1));
    sys::Message received = sys::receive_message(control.get(), bytes);
    if (received.closed) _exit(1);  // the parent is gone
    if (received.size != sizeof message || message.magic != BootMessage::kMagic ||
        received.fds.size() != message.has_lifeline)
        throw std::runtime_error("the start message is not one of this version of Sidestep");
    if (message.has_lifeline) {
        armed_lifeline = received.fds[0].release();
        arm_lifeline(armed_lifeline, message.parent_pid);
    }
    const void* entry = resolve(message.entry, Contents::code, 1);
    if (!entry)
        throw std::runtime_error(
            "what its parent wants it to run is not in it: " + why_unresolved(message.entry));
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

}  // namespace

void init() {
    init_called = true;
    const char* text = std::getenv(kBootVariable);
    if (!text) return;
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
    }
    leave_process(1);
}

void leave_process(int exit_code) noexcept {
    run_exit_hooks();
    try {
        std::cout.flush();
        std::cerr.flush();
        std::clog.flush();
    } catch (...) {  // a stream that throws has nobody left to tell
    }
    std::fflush(nullptr);
    std::_Exit(exit_code);
}

}  // namespace sidestep
