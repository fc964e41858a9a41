// What a process does before it ends: hooks, in order.
//
// They run when main() returns, when std::exit() is called, and when the function of a Process
// returns or throws, in this order:
//   1. hooks of priority 0 and above: the highest priority first, and of equal ones the last that
//      was registered first;
//   2. daemonic children are ended (SIGTERM, a second later SIGKILL), all others waited for;
//   3. hooks of negative priority, in the same order.
// They do not run in a process that is killed, or calls _exit(), std::quick_exit() or abort().
// Workers of a pool run those that a task registered there.
//
// Threads: thread-safe. Hooks run one at a time, in the thread that ends the process.
// Fork:    a hook belongs to the process that registered it; a forked child starts with none.
//          (std::atexit is not like that: a child by fork runs its parent's handlers if it calls
//          std::exit(), and no handlers otherwise.)
// Peer death: nothing of this runs after kill -9; the kernel ends daemonic children then.
// Errors:  what a hook throws is written to stderr; the others run all the same.
#pragma once

#include <functional>
#include <memory>
#include <optional>

namespace sidestep::inline v0 {

namespace detail {
struct ExitHook;
}

// Calls the hook at the end of this process.
void at_exit(std::function<void()> hook, int priority = 0);

// A clean-up that happens once: when it is called, when this object goes, or, if it has an exit
// priority, at the end of the process, whatever comes first.
class Finalizer {
  public:
    explicit Finalizer(std::function<void()> clean_up, std::optional<int> exit_priority = {});
    Finalizer(Finalizer&& other) noexcept = default;
    Finalizer& operator=(Finalizer&& other) noexcept;
    // What the clean-up throws here is written to stderr.
    ~Finalizer();

    // Cleans up, unless that was done; throws what the clean-up throws.
    void operator()();
    // Forgets it: nothing will be done.
    void cancel() noexcept;
    bool still_active() const noexcept;

  private:
    std::shared_ptr<detail::ExitHook> hook_;
};

// Steps 1 to 3, now; what was run is not run again. For a process that ends by other means.
void run_exit_hooks() noexcept;

// Ends this process: runs the hooks, flushes, and leaves with the code (its low 8 bits). In a child
// by fork this is the way to leave early: std::exit() would destroy the static objects that it
// copied from its parent.
[[noreturn]] void exit_process(int exit_code) noexcept;

}  // namespace sidestep
