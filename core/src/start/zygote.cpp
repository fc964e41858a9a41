#include "start/zygote.hpp"

#include <fmt/format.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <string>
#include <system_error>

#include "spawn/copy_process.hpp"
#include "spawn/fork_child.hpp"
#include "start/boot_failure.hpp"
#include "sys/error.hpp"
#include "sys/printed.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

using namespace std::chrono_literals;
const BootEntry kZygoteEntry [[gnu::init_priority(200)]] (&zygote_main);
constexpr auto kLastWords = 5s;  // of the child of a zygote that died
constexpr int kTries = 20;       // a call that failed for want of memory

// Not by poll(2), which may be what has failed.
void pause_before_next_try() noexcept {
    constexpr timespec kPause = {.tv_sec = 0, .tv_nsec = 1'000'000};
    (void)::nanosleep(&kPause, nullptr);
}

// Blocked, and not ignored: a SIGINT for a child that was just forked waits in the child, and none
// that is pending here is inherited (fork(2)).
void block_interrupts(int how) {
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigprocmask(how, &interrupt, nullptr);
}

struct ForkRequest {
    std::uint64_t number = 0;  // the answer repeats it
    SignalBits ignored = 0;    // what the application ignores now
    std::int32_t group = 0;    // the process group to join; 0: one of its own
    std::int32_t unused = 0;
};
// The zygote answers, with a pidfd; and so does the child, without one: if the zygote dies before
// it has answered, the application knows its child all the same. With an error, a child is one that
// was killed: the application reaps it.
struct ForkReply {
    std::uint64_t number = 0;
    std::int32_t pid = 0;
    std::int32_t error = 0;
};

bool send_reply(const Fd& control, const ForkReply& reply, std::span<const int> fds) noexcept {
    // What was short for a moment must not end a server of which there is one.
    for (int tries = 0; tries < kTries; ++tries) {
        try {
            sys::send_message(control.get(), std::as_bytes(std::span(&reply, 1)), fds);
            return true;
        } catch (const std::system_error& error) {
            int code = error.code().value();
            if (code != ENOMEM && code != ENOBUFS && code != ETOOMANYREFS) return false;
            pause_before_next_try();
        }
    }
    return false;
}

// The application may have become another user since we were made (it gave up privileges): a child
// is who its parent is. If it cannot be, boot() refuses to obey.
void become_peers_user(const Fd& control) noexcept {
    ucred peer = {};
    socklen_t size = sizeof peer;
    if (::getsockopt(control.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return;
    if (peer.uid == ::geteuid() && peer.gid == ::getegid()) return;
    static gid_t groups[65536];  // NGROUPS_MAX
    size = sizeof groups;
    if (::getsockopt(control.get(), SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0) return;
    // In this order: the last step gives up the right to the others.
    if (::setgroups(size / sizeof(gid_t), groups) < 0 ||
        ::setresgid(peer.gid, peer.gid, peer.gid) < 0)
        return;
    (void)!::setresuid(peer.uid, peer.uid, peer.uid);
}

// In the child, whose control socket came with the request.
[[noreturn]] void begin_child(Fd& server_control, const ForkRequest& wanted, SignalBits ignored,
                              Fd control) noexcept {
    bool told = send_reply(server_control, {wanted.number, ::getpid(), 0}, {});
    server_control.reset();
    become_peers_user(control);
    // Else it stays in the zygote's group, for end_server(), until the application moves it.
    if (told) enter_group(wanted.group);
    ignore_signals(wanted.ignored, ignored);
    block_interrupts(SIG_UNBLOCK);
    boot(std::move(control));
}

// Waits for one that can be received; the application is told of one that cannot.
sys::Message receive_request(const Fd& control, ForkRequest& wanted) {
    for (int tries = 0;; ++tries) try {
            wanted = {};
            return sys::receive_message(control.get(),
                                        std::as_writable_bytes(std::span(&wanted, 1)));
        } catch (const std::exception& failure) {
            auto* error = dynamic_cast<const std::system_error*>(&failure);
            int code = !error ? ENOMEM : error->code().value();
            if (wanted.number != 0)
                (void)send_reply(control, {wanted.number, 0, code}, {});
            else if (tries == kTries)
                throw;
            else
                pause_before_next_try();
        }
}

// One request: the message carries the child's control socket. True: go on.
bool serve_request(Fd& control, SignalBits ignored) {
    ForkRequest wanted;
    sys::Message request = receive_request(control, wanted);
    if (request.closed || request.size != sizeof wanted || request.fds.size() != 1) return false;
    Copied copied = copy_as_sibling(Rungs::all);
    if (copied.pid == 0) begin_child(control, wanted, ignored, std::move(request.fds[0]));
    ForkReply reply{wanted.number, copied.pid, 0};
    if (copied.pid < 0) reply = {wanted.number, copied.killed, copied.error};
    Fd pidfd(copied.pidfd);
    return send_reply(control, reply, std::span<const int>(&copied.pidfd, copied.pid < 0 ? 0 : 1));
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

// Its children are to be siblings of its own: an emulator (qemu-user) knows none, and says EINVAL.
[[noreturn]] void throw_no_child(int error) {
    bool refused = error == EINVAL || sys::is_refusal(error);
    sys::throw_call(error, fmt::format("the fork server cannot make a child{}",
                                       refused ? ": clone with CLONE_PARENT is refused; use "
                                                 "StartMethod::spawn"
                                               : ""));
}

// For those that must not throw: a process that cannot be waited for has not ended yet.
bool ends_within(const Launched& child, std::chrono::milliseconds time) noexcept {
    try {
        return child.wait_for_end(sys::Clock::now() + time);
    } catch (const std::exception&) {
        return false;
    }
}

}  // namespace

void throw_dead(const Launched& zygote, std::optional<std::string> reason) {
    (void)zygote.wait_for_end(sys::Clock::now() + 10s);
    ExitStatus status = zygote.peek();
    std::string how = status.signaled() ? status.describe() : "died";
    if (status.exited()) how += ": it " + status.describe();
    if (!reason) reason = take_boot_failure(zygote.control.get());
    if (reason) how += ": " + *reason;
    throw ServerDied(fmt::format("the fork server (process {}) {}", zygote.pid, how));
}

void zygote_main(Fd control) {
    end_boot();
    block_interrupts(SIG_BLOCK);
    prctl(PR_SET_NAME, "sidestep-fork");
    // What a preload function has printed would be written by each child. And what each child calls
    // for the first time is looked up in all libraries, which costs some twenty page faults: so it
    // is done here, once.
    sys::write_printed_at_exit();
    (void)sys::Clock::now();
    const SignalBits ignored = ignored_signals();
    while (serve_request(control, ignored)) {
    }
    std::_Exit(0);  // what it copied from its parent is the parent's to flush and to destroy
}

std::unique_ptr<Zygote> Zygote::fork_here() { return of(make_forker()->launch(&zygote_main, {})); }

std::unique_ptr<Zygote> Zygote::of(Launched child, std::function<Launched()> start_again) {
    try {
        return std::unique_ptr<Zygote>(new Zygote(std::move(child), std::move(start_again)));
    } catch (...) {  // before the child was moved
        discard(std::move(child));
        throw;
    }
}

Zygote::~Zygote() {
    // End of file: it leaves. Shut down, not only closed: a process that was forked since may hold
    // a copy of the descriptor. The other direction stays open, for what it said last.
    ::shutdown(self_.control.get(), SHUT_WR);
    if (!ends_within(self_, 1s)) kill_server();
    end_server();
}

bool Zygote::is_running() const { return !self_.wait_for_end(sys::Clock::now()); }

Launched Zygote::launch(BootMain entry, const LaunchOptions& options) {
    try {
        return request_child(entry, options);
    } catch (const std::system_error&) {
        if (!start_again_ || is_running()) throw;
    }
    Launched another = start_again_();
    end_server();
    self_ = std::move(another);
    server_died_ = false;
    return request_child(entry, options);
}

Launched Zygote::request_child(BootMain entry, const LaunchOptions& options) {
    ParentEnds control = make_control_pair(), lifeline;
    if (options.dies_with_us) lifeline = make_lifeline();
    ForkRequest request{++last_number_, ignored_signals(), options.own_group ? 0 : getpgrp()};
    int fd = control.theirs.get();
    try {
        sys::send_message(self_.control.get(), std::as_bytes(std::span(&request, 1)), {&fd, 1});
    } catch (const std::system_error& error) {
        int code = error.code().value();
        if (code == EPIPE || code == ECONNRESET || code == ENOTCONN) throw_dead(self_);
        throw;
    }
    sys::ProcessHandle<Fd> child =
        receive_child(request.number, sys::Clock::now() + options.answer_within);
    // The child does the same: when this returns, it is in its group, whoever is faster.
    (void)setpgid(child.pid, options.own_group ? child.pid : request.group);
    return take_over({std::move(child), std::move(control.ours), std::move(lifeline)}, entry);
}

// --- the conversation --------------------------------------------------------------------------
//
// An answer that cannot be received stays in the socket. So answers have numbers: what belongs to
// an earlier request is either the second one to it, or that to a request that failed, whose child
// is nobody's.

// The child of this request. Without a pidfd it was the child who told; then the zygote is dead.
sys::ProcessHandle<Fd> Zygote::receive_child(std::uint64_t number, sys::Deadline deadline) {
    int told = 0;
    for (;;) {
        Ready ready = await_answer(deadline);
        if (ready == Ready::server_died) {
            deadline = std::min(*deadline, sys::Clock::now() + kLastWords);
            continue;
        }
        Answer answer;
        if (ready == Ready::answer) {
            if (auto reason = take_boot_failure(self_.control.get())) throw_dead(self_, reason);
            answer = receive_answer();
        }
        if (ready == Ready::nothing || answer.closed) {
            if (told != 0) {
                settled_ = number;
                return {told, Fd()};
            }
            if (server_died_ || answer.closed) throw_dead(self_);
            kill_server();  // or it would stay
            throw_errno(ETIMEDOUT,
                        "the fork server does not answer (does it come to init()? was it "
                        "stopped?)");
        }
        if (answer.number != number) {
            settle(answer.number, answer.pid);
            continue;
        }
        if (answer.pid > 0 && !answer.pidfd && answer.error == 0) {
            told = answer.pid;
            continue;
        }
        settled_ = number;
        if (answer.pid <= 0) throw_no_child(answer.error);
        if (!answer.pidfd) {
            discard_child(answer.pid);
            throw_errno(answer.error,
                        answer.error == EMFILE
                            ? "no descriptor is free for the fork server's new child; raise the "
                              "limit (ulimit -n, RLIMIT_NOFILE)"
                            : "the pidfd of the fork server's new child");
        }
        return {answer.pid, std::move(answer.pidfd)};
    }
}

Zygote::Ready Zygote::await_answer(const sys::Deadline& deadline) {
    // Once it is dead, only what is in the socket counts, and its end.
    pollfd entries[2] = {{self_.control.get(), POLLIN, 0},
                         {server_died_ ? -1 : self_.fd(), POLLIN, 0}};
    int n;
    for (int tries = 0;; ++tries) {
        n = poll(entries, 2, sys::poll_timeout(deadline));
        if (n >= 0) break;
        if (errno != EINTR && tries == kTries) return look_for_answer(deadline);
        if (errno != EINTR) pause_before_next_try();
    }
    if (n == 0) return Ready::nothing;
    if (entries[0].revents != 0) return Ready::answer;
    server_died_ = true;
    return Ready::server_died;
}

// Without poll(2), for which there is no memory: an answer that stays there is a child that nobody
// reaps.
Zygote::Ready Zygote::look_for_answer(const sys::Deadline& deadline) {
    for (;;) {
        std::byte first;
        ssize_t size = ::recv(self_.control.get(), &first, 1, MSG_PEEK | MSG_DONTWAIT);
        if (size >= 0 || (errno != EAGAIN && errno != EINTR)) return Ready::answer;
        if (!server_died_ && !self_.peek().running()) {
            server_died_ = true;
            return Ready::server_died;
        }
        if (detail::is_over(deadline)) return Ready::nothing;
        pause_before_next_try();
    }
}

Zygote::Answer Zygote::receive_answer() {
    for (int tries = 0;; ++tries) {
        ForkReply reply;
        try {
            sys::Message message = sys::receive_message(
                self_.control.get(), std::as_writable_bytes(std::span(&reply, 1)));
            bool whole = message.size == sizeof reply;
            Answer answer{reply.number, reply.pid, reply.error, {}, message.closed || !whole};
            if (!message.fds.empty()) answer.pidfd = std::move(message.fds[0]);
            return answer;
        } catch (const std::exception& failure) {
            auto* error = dynamic_cast<const std::system_error*>(&failure);
            bool cut = error && error->code().value() == EMFILE;  // or there is no memory
            if (reply.number != 0)
                return {reply.number, reply.pid, cut ? EMFILE : ENOMEM, {}, false};
            if (tries == kTries) return receive_without_pidfd();
            pause_before_next_try();
        }
    }
}

// By a simpler call: whose child it is has to be known at least, or it stays a zombie.
Zygote::Answer Zygote::receive_without_pidfd() {
    ForkReply reply;
    ssize_t size;
    do size = ::recv(self_.control.get(), &reply, sizeof reply, MSG_DONTWAIT);
    while (size < 0 && errno == EINTR);
    if (size < 0 && errno != ECONNRESET) throw_errno(errno, "recv(fork server)");
    return {reply.number, reply.pid, ENOMEM, {}, size != sizeof reply};
}

// The answer to an earlier request: its child has no owner if it is the first one.
void Zygote::settle(std::uint64_t number, int pid) noexcept {
    if (number <= settled_) return;
    settled_ = number;
    discard_child(pid);
}

// What the conversation has left, after its end.
void Zygote::settle_rest() noexcept {
    server_died_ = true;
    try {
        while (await_answer(sys::Clock::now()) == Ready::answer) {
            Answer answer = receive_answer();
            if (answer.closed) return;
            settle(answer.number, answer.pid);
        }
    } catch (const std::exception&) {  // no way to know of any
    }
}

// It is dead, or as good as dead. Children that neither could tell of are in its group still, which
// discard() kills, and are known by that alone.
void Zygote::end_server() noexcept {
    settle_rest();
    int group = self_.pid;
    discard(std::move(self_));
    for (auto end = sys::Clock::now() + 1s; !reap_group(group) && sys::Clock::now() < end;)
        pause_before_next_try();
}

// By the kernel, with its own rights, and by a signal: it may be of another user by now.
void Zygote::kill_server() noexcept {
    self_.lifeline.reset();
    (void)self_.try_signal(SIGKILL);
}

}  // namespace sidestep
