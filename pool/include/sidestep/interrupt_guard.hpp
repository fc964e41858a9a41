// InterruptGuard: what Ctrl-C does while a pool works.
//
//     sidestep::Pool pool;
//     sidestep::InterruptGuard guard(pool);
//     try {
//         save(pool.map(simulate, inputs));
//     } catch (const sidestep::CancelledError&) {  // Ctrl-C came
//     }
//     return guard.interrupts() ? 130 : 0;
//
// The pool takes steps, one at each SIGINT that this process gets:
//   1. it takes no more tasks, and finishes those that run; those that wait, and the rest of maps,
//      get CancelledError, and nothing is retried;
//   2. terminate(): what runs is ended, too, and gets CancelledError. (Threads of a ThreadPool
//      cannot be ended: their tasks are asked to stop.)
//   3. SIGINT does what it did before there was a guard: as a rule it ends the process, and so
//      its workers.
// Signals that come before the first of them was handled are one, as ever with signals.
// So get(), map() and join() come back. submit() throws CancelledError from the first step on.
//
// Without a guard the library leaves SIGINT alone, and by default it ends the process. Workers do
// not get the terminal's Ctrl-C: each leads a process group of its own.
//
// Ownership: while there are guards, SIGINT has a handler, in place of what was there before; the
//            last guard to go puts that back, unless somebody has put in another one meanwhile. A
//            guard may outlive its pool, and does not move.
// Threads:   any number of guards, each for a pool, made and destroyed in any thread. The steps are
//            taken in a thread that takes no signals, so the handler itself does next to nothing;
//            system calls are restarted (SA_RESTART).
// Fork:      a forked child has no guards: there SIGINT does what it did before them.
// Errors:    std::logic_error in a forked copy of the pool's process; std::system_error if the
//            thread cannot be started.
#pragma once

#include <functional>
#include <memory>

namespace sidestep::inline v0 {

class Pool;
class ThreadPool;

namespace detail {
struct InterruptSteps;
}

class InterruptGuard {
  public:
    explicit InterruptGuard(Pool& pool);
    explicit InterruptGuard(ThreadPool& pool);
    ~InterruptGuard();
    InterruptGuard(const InterruptGuard&) = delete;
    InterruptGuard& operator=(const InterruptGuard&) = delete;

    // How many SIGINT came since the guard was made: how many steps were taken, or are about to be.
    unsigned interrupts() const;

  private:
    void watch(std::function<void(unsigned step)> take_step);

    std::shared_ptr<detail::InterruptSteps> steps_;
};

}  // namespace sidestep
