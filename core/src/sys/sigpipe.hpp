// Writing to a pipe whose reader may be gone, without a SIGPIPE for the application.
//
// Threads: per thread: only the calling thread's mask changes. A SIGPIPE that was pending before,
//          or that someone sends from outside, stays.
#pragma once

#include <cerrno>
#include <csignal>
#include <ctime>

namespace sidestep::inline v0 {

class SigpipeGuard {
  public:
    SigpipeGuard() noexcept {
        sigset_t pending;
        sigpending(&pending);
        was_pending_ = sigismember(&pending, SIGPIPE) == 1;
        sigemptyset(&only_);
        sigaddset(&only_, SIGPIPE);
        pthread_sigmask(SIG_BLOCK, &only_, &former_);
    }
    ~SigpipeGuard() {
        if (raised_ && !was_pending_) {
            struct timespec none = {};
            while (sigtimedwait(&only_, nullptr, &none) < 0 && errno == EINTR) {
            }
        }
        pthread_sigmask(SIG_SETMASK, &former_, nullptr);
    }
    SigpipeGuard(const SigpipeGuard&) = delete;
    SigpipeGuard& operator=(const SigpipeGuard&) = delete;

    // To be told of an EPIPE: the signal that came with it is taken away at the end.
    void raised() noexcept { raised_ = true; }

  private:
    sigset_t only_;
    sigset_t former_;
    bool was_pending_ = false;
    bool raised_ = false;
};

}  // namespace sidestep
