#include "zygote.hpp"

#include <fmt/format.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>
#include <system_error>

#include "error.hpp"
#include "fork_child.hpp"
#include "sys.hpp"

#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS 40
#endif

namespace sidestep {
namespace {

using namespace std::chrono_literals;
constexpr auto kAnswerTime = 30s;  // a fork takes microseconds; a stopped zygote must not stop us

// Blocked, and not ignored: a SIGINT for a child that was just forked waits in the child, and none
// that is pending here is inherited (fork(2)).
void block_interrupts(int how) {
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigprocmask(how, &interrupt, nullptr);
}

struct ForkRequest {
    std::int32_t group = 0;  // the process group to join; 0: one of its own
};
struct ForkReply {
    std::int32_t pid = 0;
    std::int32_t error = 0;
};

// fork() whose child is a child of our parent. glibc keeps the thread's id in the thread's control
// block, where it once told the kernel to clear it: PR_GET_TID_ADDRESS names the place, and the
// kernel writes the new id there as it does for glibc's own fork().
long fork_sibling(int* pidfd) {
    unsigned long tid_address = 0;
    clone_args arguments = {};
    arguments.flags = CLONE_PARENT | CLONE_PIDFD;
    arguments.pidfd = reinterpret_cast<std::uintptr_t>(pidfd);
    if (prctl(PR_GET_TID_ADDRESS, &tid_address) == 0 && tid_address != 0) {
        arguments.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
        arguments.child_tid = tid_address;
    }
    return syscall(SYS_clone3, &arguments, sizeof arguments);
}

// One request: the message carries the child's control socket. True: go on.
bool serve_request(const Fd& control) {
    ForkRequest wanted;
    sys::Message request =
        sys::receive_message(control.get(), std::as_writable_bytes(std::span(&wanted, 1)));
    if (request.closed || request.size != sizeof wanted || request.fds.size() != 1) return false;
    int raw_pidfd = -1;
    long pid = fork_sibling(&raw_pidfd);
    if (pid == 0) {
        const_cast<Fd&>(control).reset();
        enter_group(wanted.group);
        block_interrupts(SIG_UNBLOCK);
        boot(std::move(request.fds[0]));
    }
    ForkReply reply{static_cast<std::int32_t>(pid), pid < 0 ? errno : 0};
    Fd pidfd(raw_pidfd);
    std::span<const int> fds(&raw_pidfd, pid < 0 ? 0 : 1);
    sys::send_message(control.get(), std::as_bytes(std::span(&reply, 1)), fds);
    return true;
}

// An errno says nothing here that the text does not.
class ServerDied final : public std::system_error {
  public:
    explicit ServerDied(std::string text)
        : system_error(ECHILD, std::generic_category()), text_(std::move(text)) {}
    const char* what() const noexcept override { return text_.c_str(); }

  private:
    std::string text_;
};

// Its socket is closed: it is dead, or about to be.
[[noreturn]] void throw_dead(const Launched& zygote) {
    (void)sys::wait_for_exit(zygote.pidfd.get(), sys::Clock::now() + 10s);
    ExitStatus status = sys::wait_pidfd(zygote.pidfd.get(), false, true);
    std::string how = status.signaled() ? status.describe() : "died";
    if (status.exited()) how += ": it " + status.describe();
    throw ServerDied(fmt::format("the fork server (process {}) {}", zygote.pid, how));
}

// Waits for the zygote's answer, or for its death.
ForkReply receive_reply(const Launched& zygote, Fd& pidfd) {
    pollfd entries[2] = {{zygote.control.get(), POLLIN, 0}, {zygote.pidfd.get(), POLLIN, 0}};
    sys::Deadline deadline = sys::Clock::now() + kAnswerTime;
    int n;
    do n = poll(entries, 2, sys::poll_timeout(deadline));
    while (n < 0 && errno == EINTR);
    if (n < 0) throw_errno(errno, "poll(fork server)");
    if (n == 0) {
        sys::pidfd_send_signal(zygote.pidfd.get(), SIGKILL);  // or it would answer the next request
        throw_errno(ETIMEDOUT, "the fork server does not answer (was it stopped?)");
    }
    ForkReply reply;
    sys::Message message;
    try {
        if (entries[0].revents)
            message = sys::receive_message(zygote.control.get(),
                                           std::as_writable_bytes(std::span(&reply, 1)));
    } catch (const std::system_error& error) {
        discard_child(reply.pid);
        if (error.code().value() != EMSGSIZE) throw;
        // The bytes always fit: it was the descriptor that did not.
        throw_errno(EMFILE,
                    "no descriptor is free for the fork server's new child; raise the limit "
                    "(ulimit -n, RLIMIT_NOFILE)");
    } catch (...) {
        discard_child(reply.pid);
        throw;
    }
    if (message.size != sizeof reply) throw_dead(zygote);
    if (reply.error) throw_errno(reply.error, "clone3 in the fork server");
    if (message.fds.size() != 1) {
        discard_child(reply.pid);
        throw_errno(EPROTO, "the fork server sent no pidfd");
    }
    pidfd = std::move(message.fds[0]);
    return reply;
}

}  // namespace

void zygote_main(Fd control) {
    block_interrupts(SIG_BLOCK);
    prctl(PR_SET_NAME, "sidestep-fork");
    // Each child does this, and what is called for the first time is looked up in all libraries,
    // which costs some twenty page faults: so it is done here, once. (There is nothing to be
    // flushed.)
    std::cout.flush();
    std::cerr.flush();
    (void)sys::Clock::now();
    while (serve_request(control)) {
    }
    std::_Exit(0);  // what it copied from its parent is the parent's to flush and to destroy
}

std::unique_ptr<Zygote> Zygote::fork_here() {
    return std::make_unique<Zygote>(make_forker()->launch(&zygote_main, {}));
}

Zygote::~Zygote() {
    // End of file: it leaves. Shut down, not only closed: a process that was forked since may hold
    // a copy of the descriptor.
    ::shutdown(self_.control.get(), SHUT_RDWR);
    self_.control.reset();
    if (!sys::wait_for_exit(self_.pidfd.get(), sys::Clock::now() + 1s))
        sys::pidfd_send_signal(self_.pidfd.get(), SIGKILL);
    (void)sys::wait_pidfd(self_.pidfd.get(), true);
}

bool Zygote::is_running() const {
    return !sys::wait_for_exit(self_.pidfd.get(), sys::Clock::now());
}

Launched Zygote::launch(BootMain entry, const LaunchOptions& options) {
    try {
        return request_child(entry, options);
    } catch (const std::system_error&) {
        if (!start_again_ || is_running()) throw;
    }
    Launched another = start_again_();
    (void)sys::wait_pidfd(self_.pidfd.get(), true);
    self_ = std::move(another);
    return request_child(entry, options);
}

Launched Zygote::request_child(BootMain entry, const LaunchOptions& options) {
    sys::SocketPair control = sys::make_socketpair();
    sys::Pipe lifeline;
    if (options.dies_with_us) lifeline = sys::make_pipe();
    ForkRequest request{options.own_group ? 0 : getpgrp()};
    int fd = control.second.get();
    try {
        sys::send_message(self_.control.get(), std::as_bytes(std::span(&request, 1)), {&fd, 1});
    } catch (const std::system_error& error) {
        int code = error.code().value();
        if (code == EPIPE || code == ECONNRESET || code == ENOTCONN) throw_dead(self_);
        throw;
    }
    Launched child;
    Fd pidfd;
    child.pid = receive_reply(self_, pidfd).pid;
    child.pidfd = std::move(pidfd);
    // The child does the same: when this returns, it is in its group, whoever is faster.
    (void)setpgid(child.pid, options.own_group ? child.pid : request.group);
    child.control = std::move(control.first);
    child.lifeline = std::move(lifeline.write_end);
    send_boot_message(child, entry, lifeline.read_end);
    return child;
}

}  // namespace sidestep
