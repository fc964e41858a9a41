// InterruptGuard: what Ctrl-C does while a pool works; or SIGTERM, by which Docker, Kubernetes and
// systemd end a service.
//
//     sidestep::Pool pool;
//     sidestep::InterruptGuard guard(pool, {SIGINT, SIGTERM});
//     try {
//         save(pool.map(simulate, inputs));
//     } catch (const sidestep::CancelledError&) {  // one of them came
//     }
//     return guard.interrupts() ? 128 + guard.last_signal() : 0;
//
// The pool takes steps, one at each of these signals that this process gets:
//   1. it takes no more tasks, and finishes those that run; those that wait, and the rest of maps,
//      get CancelledError (that of a map says how many of its items were done; their results are
//      gone with it, but for who loops over imap()'s outcomes()), and nothing is retried;
//   2. terminate(): what runs is ended, too, and gets CancelledError. (Threads of a ThreadPool
//      cannot be ended: their tasks are asked to stop.)
//   3. the signal does what it did before there was a guard: as a rule it ends the process, and so
//      its workers.
// Signals that come before the first of them was handled are one, as ever with signals.
// So get(), map() and join() come back. submit() throws CancelledError from the first step on.
//
// Without a guard the library leaves these signals alone, and by default they end the process. A
// guard that is not told otherwise is for SIGINT alone. Workers do not get the terminal's Ctrl-C:
// each leads a process group of its own. (Who signals all processes of a service, as systemd does
// with KillMode=control-group, ends the workers, too: say KillMode=mixed.)
//
// Ownership: while there are guards for a signal, it has a handler, in place of what was there
//            before; the last guard to go puts that back, unless somebody has put in another one
//            meanwhile: where that calls the guards' handler, or puts it in place again (system(3)
//            does), it passes signals on to what was there before. A guard may outlive its pool,
//            and does not move.
// Threads:   any number of guards, each for a pool, made and destroyed in any thread. The steps are
//            taken in a thread that takes no signals, so the handler itself does next to nothing;
//            system calls are restarted (SA_RESTART).
// Fork:      a forked child has no guards: there the signals do what they did before them.
// Errors:    std::invalid_argument for no signal at all, and for one that asks no program to end
//            (SIGSEGV, SIGCHLD), or cannot be handled (SIGKILL); std::logic_error in a forked copy
//            of the pool's process; std::system_error if the thread cannot be started.
#pragma once

#include <csignal>
#include <functional>
#include <memory>
#include <vector>

namespace sidestep::inline v0 {

class Pool;
class ThreadPool;

namespace detail {
struct InterruptSteps;
}

class InterruptGuard {
  public:
    explicit InterruptGuard(Pool& pool, const std::vector<int>& signals = {SIGINT});
    explicit InterruptGuard(ThreadPool& pool, const std::vector<int>& signals = {SIGINT});
    ~InterruptGuard();
    InterruptGuard(const InterruptGuard&) = delete;
    InterruptGuard& operator=(const InterruptGuard&) = delete;

    // How many of its signals came since the guard was made: how many steps were taken, or are
    // about to be; and the last one. 0: none came.
    unsigned interrupts() const;
    int last_signal() const;

  private:
    void watch(const std::vector<int>& signals, std::function<void(unsigned step)> take_step);

    std::shared_ptr<detail::InterruptSteps> steps_;
};

}  // namespace sidestep
