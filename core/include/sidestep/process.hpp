// Process: a function that runs in a process of its own. The face of std::thread, the vocabulary of
// Python's multiprocessing.
//
//     int main() {
//         sidestep::init();                                   // first statement
//         sidestep::Process child(resize, "photo.jpg", 800);  // any task: see task.hpp
//         child.start();
//         child.join();
//         if (child.exitcode() != 0) child.rethrow();         // what resize() threw, by type
//     }
//
// The child runs f(args...) and ends: with exit code 0 when f returns (what it returns is dropped),
// with 1 when it throws (the traceback goes to its stderr, the exception to rethrow()), with n
// after std::exit(n) or exit_process(n), by a signal if one kills it. Its exit hooks run
// (exit_hooks.hpp). It has the parent's environment, working folder and streams, except stdin,
// which is /dev/null; ignores the signals that its parent ignores; and has none of its parent's
// handlers: the whole state, the same by each start method, stands in start_method.hpp. There is no
// ban on children of children.
//
// Arguments: whatever serializes, of any size. Handles (queues, locks, connections, descriptors)
//            travel as descriptors, under each start method. They are kept until start(), which
//            serializes them and lets go of them: std::move a connection's end into a Process, and
//            after start() only the child has it.
// Ownership: a Process owns its child. The destructor of a running one waits for it; a daemonic
//            one, and any while an exception unwinds the stack, it ends instead: SIGTERM, and
//            SIGKILL a second later. detach() gives that up; a detached child is ended (daemonic)
//            or waited for at the end of this process.
// Threads:   thread-safe, but for moving and destroying. A join() that another thread's close()
//            overtakes throws std::logic_error, as one that comes after it.
// Fork:      only the process that made a Process can start it, and only the one that started it
//            can wait for it and signal it (std::logic_error). A forked copy's destructor does
//            nothing, and a child of fork(2) has none of the sentinels' descriptors.
// Peer death: a child that dies, of whatever, is exitcode(); nothing hangs. When this process dies
//            without its exit hooks (kill -9), its daemonic children are killed by the kernel at
//            that moment; others live on, as in Python, and can see it: parent_process(). (A copy
//            of this process that was made by a raw clone(2) or _Fork(3) keeps the daemonic ones
//            alive until it ends or calls exec; one by fork(2), in whichever thread, does not.)
// Trust:     the child is this program, run by this user; it does what its arguments say, and they
//            may name functions. What it throws is read as data.
// Errors:    std::logic_error for calls in the wrong state (table below), and for a start method
//            that will not do here (init.hpp, start_method.hpp); what an argument's `serialize`
//            throws; subprocess::StartError (a std::system_error with step and errno)
//            or std::system_error if there can be no child; then nothing was started.
// Limits:    two descriptors while it runs (daemonic: three), one from its end until close().
//
// | state \ call | start | join, signals, sentinel | is_alive | exitcode | close |
// |--------------|-------|-------------------------|----------|----------|-------|
// | made         | starts | std::logic_error       | false    | nothing  | closed |
// | running      | std::logic_error | yes          | true     | nothing  | std::logic_error |
// | ended        | std::logic_error | nothing to do | false   | the code | closed |
// | closed       | std::logic_error | std::logic_error | std::logic_error | std::logic_error | - |
#pragma once

#include <concepts>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <sidestep/detail/sent_call.hpp>
#include <sidestep/exit_hooks.hpp>
#include <sidestep/exit_status.hpp>
#include <sidestep/init.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/start_method.hpp>
#include <sidestep/timeout.hpp>

namespace sidestep::inline v0 {

struct ProcessOptions {
    // Empty: "Process-N", the N-th of this process; children of children are "Process-N:M".
    std::string name = {};
    // Ends with its parent: see Ownership and Peer death above. None: as this process is.
    std::optional<bool> daemon = std::nullopt;
    // None: get_start_method() when it starts.
    std::optional<StartMethod> start_method = std::nullopt;
    // None: that of this process.
    std::optional<std::string> authkey = std::nullopt;
    // It leads a process group of its own: Ctrl-C does not reach it, and terminate(), kill() and
    // interrupt() reach its children, too. Otherwise it is in the group of this process.
    // Where there is a terminal, such a group is in the background: a read of it stops the process
    // (SIGTTIN), and with `stty tostop` a write, too, unless it ignores those signals.
    bool own_group = false;
};

namespace detail {

class ProcessCore;

}  // namespace detail

// A child process of this one: what active_children() lists. A small value; copies are the same
// child.
class ChildProcess {
  public:
    const std::string& name() const;
    const std::string& authkey() const;
    bool daemon() const;
    // 0 before start().
    int pid() const;

    // Waits for the end.
    ExitStatus join() const;
    // False: it still runs after the timeout. Zero or less looks once.
    [[nodiscard]] bool join_for(Timeout timeout) const;
    bool is_alive() const;
    // Python's convention: 0..255, -N for signal N. Nothing before the end. A status that someone
    // else has taken (SIGCHLD ignored, a foreign wait) is lost: 255, and never 0.
    std::optional<int> exitcode() const;
    // The same in detail; running() before the end.
    ExitStatus exit_status() const;
    // A descriptor that is readable when the process has ended: for wait(), poll(2)... It stays
    // this object's; valid until close().
    int sentinel() const;

    // Signals, to the whole process group if it has one of its own. Nothing happens when it has
    // ended. terminate() and kill() give it no time for exit hooks, and its children become
    // orphans, unless they are daemonic.
    void terminate() const;  // SIGTERM
    void kill() const;       // SIGKILL
    void interrupt() const;  // SIGINT

    // Throws what its function threw, by type (see remote_error.hpp); returns if it threw nothing.
    // Throws std::logic_error before the end, and std::runtime_error if the program that was
    // started never took the task over (set_executable: it does not call init()), or if what it
    // threw could not be told, or be read here.
    void rethrow() const;

    // The same process?
    friend bool operator==(const ChildProcess& a, const ChildProcess& b) {
        return a.core_ == b.core_;
    }

  protected:
    friend class ProcessRegistry;
    explicit ChildProcess(std::shared_ptr<detail::ProcessCore> core) : core_(std::move(core)) {}
    detail::ProcessCore& core() const;  // throws std::logic_error if moved from

    std::shared_ptr<detail::ProcessCore> core_;
};

class Process : public ChildProcess {
  public:
    // f(args...) in a process of its own; nothing is started yet. Throws std::invalid_argument for
    // a name with a NUL.
    template <class F, class... Args>
    requires(!std::derived_from<std::remove_cvref_t<F>, ChildProcess> &&
             !std::same_as<std::remove_cvref_t<F>, ProcessOptions>) explicit Process(F&& f,
                                                                                     Args&&... args)
        : Process(detail::make_sent_call(std::forward<F>(f), std::forward<Args>(args)...),
                  ProcessOptions{}) {}
    template <class F, class... Args>
    Process(ProcessOptions options, F&& f, Args&&... args)
        : Process(detail::make_sent_call(std::forward<F>(f), std::forward<Args>(args)...),
                  std::move(options)) {}
    Process(Process&& other) noexcept = default;
    Process& operator=(Process&& other) noexcept;
    ~Process();

    // Starts the child. Returns when it exists; its function may not run yet. After an exception
    // it can be called again.
    void start();
    // Lets go of the descriptor. Throws std::logic_error while the child runs.
    void close();
    // The child no longer ends with this object; see Ownership.
    void detach() noexcept { core_.reset(); }

  private:
    Process(std::unique_ptr<detail::SentCall> task, ProcessOptions options);
    void end() noexcept;

    int exceptions_at_start_;
};

// The children of this process that run: those of its Process objects and detached ones. Takes the
// status of those that have ended.
std::vector<ChildProcess> active_children();

// --- this process and its parent -------------------------------------------------------------

// A value: how this process is known to the library.
struct CurrentProcess {
    int pid = 0;
    std::string name = {};  // "MainProcess", unless it is a child
    bool daemon = false;
    std::string authkey = {};  // 32 random bytes, unless set; children have their parent's
};
CurrentProcess current_process();
// For children that are made from now on, and for whoever asks.
void set_authkey(std::string authkey);

// The process that started this one.
class ParentProcess {
  public:
    int pid() const { return pid_; }
    const std::string& name() const { return name_; }
    bool is_alive() const;
    // Waits for its end; join_for: false if it still runs after the timeout.
    void join() const;
    [[nodiscard]] bool join_for(Timeout timeout) const;
    // Readable when it has ended; stays open as long as this process.
    int sentinel() const;

  private:
    friend std::optional<ParentProcess> parent_process();
    ParentProcess(int pid, std::string name) : pid_(pid), name_(std::move(name)) {}
    int pid_;
    std::string name_;
};
// Nothing in a process that is no child of ours.
std::optional<ParentProcess> parent_process();

// CPUs of the machine, and those that this process may use: its affinity mask, cut by the
// quotas of its control groups, its own and those above it (cgroup v1 and v2).
unsigned cpu_count();
unsigned process_cpu_count();
// The same, with the hardware threads of a core counted once: workers for work that keeps a core
// busy by itself. What the system does not say (no /sys) counts as a core.
unsigned physical_cpus();

// --- contexts ----------------------------------------------------------------------------------

// One start method, to make processes with.
class Context {
  public:
    explicit Context(StartMethod method) : method_(method) {}
    StartMethod start_method() const { return method_; }

    template <class F, class... Args>
    requires(!std::same_as<std::remove_cvref_t<F>, ProcessOptions>) sidestep::Process
        process(F&& f, Args&&... args)
    const {
        return sidestep::Process({.start_method = method_}, std::forward<F>(f),
                                 std::forward<Args>(args)...);
    }
    // Its method is this context's, whatever the options say.
    template <class F, class... Args>
    sidestep::Process process(ProcessOptions options, F&& f, Args&&... args) const {
        options.start_method = method_;
        return sidestep::Process(std::move(options), std::forward<F>(f),
                                 std::forward<Args>(args)...);
    }

  private:
    StartMethod method_;
};
// That of the default method (get_start_method), of this one, or of the one so named.
Context get_context();
inline Context get_context(StartMethod method) { return Context(method); }
inline Context get_context(std::string_view name) { return Context(start_method_named(name)); }

template <>
inline constexpr bool detail::stays_here<Process> = true;

}  // namespace sidestep
