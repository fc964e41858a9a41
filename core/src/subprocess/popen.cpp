#include <sidestep/popen.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <list>
#include <ostream>
#include <stdexcept>
#include <vector>

#include "subprocess/popen_state.hpp"
#include "subprocess/subprocess_pipes_impl.hpp"
#include "sys/per_process.hpp"

namespace sidestep::inline v0::subprocess {
namespace {

using Kind = Redirect::Kind;

// Children that were given up while they ran, with the lifelines that hold them until we die. They
// are reaped when another Popen starts or ends: that needs no thread and no signal handler, and
// touches only what was ours.
class Detached {
  public:
    // Needs no memory.
    void add(std::list<PopenChild> child) noexcept {
        std::lock_guard lock(mutex_);
        children_.splice(children_.end(), child);
    }
    void sweep() noexcept {
        std::lock_guard lock(mutex_);
        std::erase_if(children_, [](const PopenChild& child) {
            try {
                return !child.reap().running();
            } catch (...) {
                return false;  // nobody can tell now: it is looked at again
            }
        });
    }

  private:
    std::mutex mutex_;
    std::list<PopenChild> children_;
};
// A forked child has none, and its parent's mutex may be locked for ever.
PerProcess<Detached> detached;

void check(bool allowed, const char* message) {
    if (!allowed) throw std::invalid_argument(message);
}

void check_fields_of_run(const Options& options) {
    check(!options.input, "input belongs to run(): here, communicate(input) sends it");
    check(!options.capture_output,
          "capture_output belongs to run(): here, give .std_out = PIPE, .std_err = PIPE");
    check(!options.timeout, "timeout belongs to run(): here, wait() and communicate() take one");
    check(!options.check, "check belongs to run(): here, look at the return code of wait()");
    check(!options.on_stdout && !options.on_stderr,
          "on_stdout and on_stderr belong to run(): here, std_out().lines() yields the lines");
}

void check_redirects(const Options& options) {
    const Redirect* streams[] = {&options.std_in, &options.std_out, &options.std_err};
    for (const Redirect* stream : streams)
        check(stream->kind() != Kind::fd || stream->fd() >= 0,
              "a negative number is no descriptor to redirect to");
}

}  // namespace

// --- State -----------------------------------------------------------------------------------

PopenState::PopenState(const Args& command, const Options& options)
    : args(command),
      text(TextMode::of(options)),
      kill_whole_tree(options.kill_tree.value_or(false)),
      drain_timeout(options.drain_timeout),
      pipe_size_chosen(options.pipesize > 0),
      stop_ladder(options.stop_ladder),
      on_destroy(options.on_destroy) {
    check_fields_of_run(options);
    check_redirects(options);
    check(options.bufsize >= -1, "bufsize is -1 (default), 0 (unbuffered), 1 (lines) or a size");
    check(options.bufsize != 1 || text.on,
          "bufsize = 1 means line by line, which needs text mode: add .text = true");
    detached.get().sweep();
    PopenStart start(args, options, kill_whole_tree);
    if (start.in) in = PipeAccess::writer(std::move(start.in), options.bufsize, text);
    if (start.out) out = PipeAccess::reader(std::move(start.out), options.bufsize, text);
    if (start.err) err = PipeAccess::reader(std::move(start.err), options.bufsize, text);
    child = start.start();
}

PopenState::~PopenState() {
    in = {};
    out.close();
    err.close();
    if (owner.same_process()) end_by_policy();
    if (Detached* mine = detached.find()) mine->sweep();
}

void PopenState::end_by_policy() noexcept {
    bool ends = on_destroy == OnDestroy::wait || on_destroy == OnDestroy::kill;
    try {
        if (on_destroy == OnDestroy::kill) {
            std::lock_guard lock(mutex);
            kill_as_configured_locked();
        }
        if (on_destroy == OnDestroy::stop) stop(stop_ladder, kill_whole_tree);
    } catch (const std::system_error& e) {
        // EPERM: the child became someone else (setuid) and runs on. Otherwise it was killed, while
        // others of its tree may not have been found: nobody to tell.
        if (e.code().value() == EPERM) ends = false;
    } catch (const std::exception&) {
        // The same.
    }
    try {
        if (ends) wait_until({});
        std::lock_guard lock(mutex);
        if (!reap().running()) return;
    } catch (const std::exception&) {
        // Nobody to tell: the kernel refuses to wait for our own child now. It is looked at again.
    }
    if (on_destroy != OnDestroy::detach) child.close_lifeline();
    place_when_given_up.front() = std::move(child);
    detached.get().add(std::move(place_when_given_up));  // it was made with the first Popen
}

ExitStatus PopenState::reap() {
    if (!status.running()) return status;
    status = child.reap(&usage);
    return status;
}

bool PopenState::wait_until(const detail::Deadline& deadline) {
    for (;;) {
        {
            std::lock_guard lock(mutex);
            if (!status.running()) return true;
        }
        if (!child.wait_for_end(deadline)) return false;
        std::lock_guard lock(mutex);
        if (!reap().running()) return true;
    }
}

void PopenState::kill_as_configured_locked() {
    if (!status.running()) return;
    if (kill_whole_tree)
        child.kill_tree();
    else
        child.signal(SIGKILL);
}

ExitStatus PopenState::stop(const StopLadder& ladder, bool whole_tree) {
    // A group is stopped when all of it has ended. The child is not reaped before: that keeps the
    // group's number.
    bool group = whole_tree && child.leads_group();
    for (const StopStep& step : ladder) {
        if (step.signal != 0) {
            std::lock_guard lock(mutex);
            if (!status.running()) break;
            if (step.signal == SIGKILL)
                kill_as_configured_locked();
            else if (group)
                child.signal_group(step.signal);
            else
                child.signal(step.signal);
        }
        detail::Deadline deadline = detail::deadline_after(step.wait);
        bool ended = group ? child.wait_for_end(deadline) : wait_until(deadline);
        if (!ended) continue;
        if (!group || step.signal == SIGKILL) break;
        if (step.signal == 0)
            deadline = std::chrono::steady_clock::now();  // the patience was for the child
        if (child.wait_for_group(deadline)) break;
    }
    std::lock_guard lock(mutex);
    return group ? reap() : status;
}

// --- Popen -----------------------------------------------------------------------------------

Popen::Popen(const Args& args, const Options& options)
    : state_(std::make_unique<PopenState>(args, options)) {}
Popen::Popen(Popen&& other) noexcept = default;
Popen& Popen::operator=(Popen&& other) noexcept = default;
Popen::~Popen() = default;

PopenState& PopenAccess::state(const Popen& child) {
    if (!child.state_) throw std::logic_error("this Popen was moved from: it has no child");
    return *child.state_;
}

const Args& Popen::args() const { return PopenAccess::state(*this).args; }
int Popen::pid() const { return PopenAccess::state(*this).child.pid(); }
int Popen::pidfd() const { return PopenAccess::state(*this).child.fd(); }
PipeWriter& Popen::std_in() { return PopenAccess::state(*this).in; }
PipeReader& Popen::std_out() { return PopenAccess::state(*this).out; }
PipeReader& Popen::std_err() { return PopenAccess::state(*this).err; }

std::optional<int> Popen::poll() {
    PopenState& state = PopenAccess::state(*this);
    std::lock_guard lock(state.mutex);
    ExitStatus status = state.reap();
    if (status.running()) return {};
    return status.returncode();
}

int Popen::wait() {
    PopenAccess::state(*this).wait_until({});
    return *returncode();
}

int Popen::wait(Timeout timeout) {
    if (!wait_for(timeout)) throw TimeoutExpired(args(), timeout);
    return *returncode();
}

bool Popen::wait_for(Timeout timeout) {
    return PopenAccess::state(*this).wait_until(detail::deadline_after(timeout));
}

Output Popen::communicate(std::optional<std::string> input, std::optional<Timeout> timeout) {
    PopenState& state = PopenAccess::state(*this);
    if (input) {
        if (state.communication.started)
            throw std::logic_error(
                "communicate() was interrupted by a timeout: the rest of its input is still being "
                "sent; call it again without input");
        if (!state.in)
            throw std::logic_error(
                "communicate() got input, but std_in is no open pipe: start with .std_in = PIPE");
        state.communication.input = std::move(*input);
    }
    if (!run_communicate(state, detail::deadline_after(timeout)))
        throw TimeoutExpired(state.args, *timeout, heard_so_far(state));
    return take_output(state);
}

void Popen::send_signal(int signal) {
    PopenState& state = PopenAccess::state(*this);
    std::lock_guard lock(state.mutex);
    if (state.reap().running()) state.child.signal(signal);
}
void Popen::terminate() { send_signal(SIGTERM); }
void Popen::kill() { send_signal(SIGKILL); }

void Popen::kill_tree() {
    PopenState& state = PopenAccess::state(*this);
    std::lock_guard lock(state.mutex);
    if (state.status.running()) state.child.kill_tree();
}

ExitStatus Popen::stop(const StopLadder& ladder) {
    PopenState& state = PopenAccess::state(*this);
    return state.stop(ladder, state.kill_whole_tree);
}

void Popen::detach() {
    PopenState& state = PopenAccess::state(*this);
    state.on_destroy = OnDestroy::detach;
    state.in = {};
    state.out.close();
    state.err.close();
}

std::optional<int> Popen::returncode() const {
    ExitStatus status = exit_status();
    if (status.running()) return {};
    return status.returncode();
}

ExitStatus Popen::exit_status() const {
    PopenState& state = PopenAccess::state(*this);
    std::lock_guard lock(state.mutex);
    return state.status;
}

ResourceUsage Popen::resource_usage() const {
    PopenState& state = PopenAccess::state(*this);
    std::lock_guard lock(state.mutex);
    return state.usage;
}

std::string Popen::describe() const {
    constexpr std::size_t kColumns = 80;  // one line in a log, whatever the command
    std::string command = args().describe();
    if (command.size() > kColumns) command.replace(kColumns - 3, std::string::npos, "...");
    return fmt::format("Popen({}): pid {} {}", command, pid(), exit_status().describe());
}

std::ostream& operator<<(std::ostream& out, const Popen& child) { return out << child.describe(); }

}  // namespace sidestep::subprocess
