#include <sidestep/popen.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <ostream>
#include <stdexcept>
#include <vector>

#include "error.hpp"
#include "popen_state.hpp"
#include "subprocess_pipes_impl.hpp"

namespace sidestep::inline v0::subprocess {
namespace {

using Kind = Redirect::Kind;

// Children that were given up while they ran, with the lifelines that hold them until we die. They
// are reaped when another Popen starts or ends: that needs no thread and no signal handler, and
// touches only what was ours.
class Detached {
  public:
    void add(spawn::Child child) {
        std::lock_guard lock(mutex_);
        children_.push_back(std::move(child));
    }
    void sweep() noexcept {
        std::lock_guard lock(mutex_);
        std::erase_if(children_, [](const spawn::Child& child) {
            try {
                return !child.reap().running();
            } catch (...) {
                return true;
            }
        });
    }
    static Detached& instance() {
        static auto* only = new Detached;  // never destroyed: a Popen may be static
        return *only;
    }

  private:
    std::mutex mutex_;
    std::vector<spawn::Child> children_;
};

ResourceUsage usage_of(const struct rusage& from) {
    auto time = [](const timeval& t) {
        return std::chrono::seconds(t.tv_sec) + std::chrono::microseconds(t.tv_usec);
    };
    auto count = [](long n) { return static_cast<std::uint64_t>(n); };
    return {.user_time = time(from.ru_utime),
            .system_time = time(from.ru_stime),
            .max_resident_bytes = count(from.ru_maxrss) * 1024,
            .minor_faults = count(from.ru_minflt),
            .major_faults = count(from.ru_majflt),
            .voluntary_switches = count(from.ru_nvcsw),
            .involuntary_switches = count(from.ru_nivcsw)};
}

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

// Descriptors of a start: the child's ends are closed when it is over, whatever comes.
struct Streams {
    Fd null;
    sys::Pipe in, out, err;
    spawn::Stdio stdio;
};

void set_pipe_size(const Fd& fd, int size) {
    if (::fcntl(fd.get(), F_SETPIPE_SZ, size) >= 0) return;
    throw StartError(StartStep::pipe, errno, {},
                     fmt::format("pipesize = {}: no pipe may be as large here (limits: "
                                 "fs.pipe-max-size, and fs.pipe-user-pages-soft for all pipes of a "
                                 "user together)",
                                 size));
}

// Returns the descriptor that becomes the child's stream; -1: inherited.
int open_stream(const Redirect& redirect, Fd sys::Pipe::*child_end, sys::Pipe& pipe, Streams& all,
                int pipesize) {
    switch (redirect.kind()) {
        case Kind::pipe:
            pipe = sys::make_pipe();
            if (pipesize > 0) set_pipe_size(pipe.write_end, pipesize);
            return (pipe.*child_end).get();
        case Kind::devnull:
            if (!all.null) all.null = sys::open_dev_null();
            return all.null.get();
        case Kind::fd:
            return redirect.fd();
        case Kind::stdout_:
            return all.stdio.out >= 0 ? all.stdio.out : STDOUT_FILENO;
        case Kind::inherit:
            break;
    }
    return -1;
}

Streams open_streams(const Options& options) {
    Streams all;
    try {
        all.stdio.in =
            open_stream(options.std_in, &sys::Pipe::read_end, all.in, all, options.pipesize);
        all.stdio.out =
            open_stream(options.std_out, &sys::Pipe::write_end, all.out, all, options.pipesize);
        all.stdio.err =
            open_stream(options.std_err, &sys::Pipe::write_end, all.err, all, options.pipesize);
    } catch (const StartError&) {
        throw;
    } catch (const std::system_error& e) {
        throw StartError(StartStep::pipe, e.code().value(), {},
                         std::string("cannot prepare the child's streams (limit on descriptors: "
                                     "ulimit -n; on pipes: fs.pipe-user-pages-soft)"));
    }
    return all;
}

void check_redirects(const Options& options) {
    const Redirect* streams[] = {&options.std_in, &options.std_out, &options.std_err};
    for (const Redirect* stream : streams)
        check(stream->kind() != Kind::fd || stream->fd() >= 0,
              "a negative number is no descriptor to redirect to");
}

// A background process group cannot read from the terminal: a child that shall, stays in ours.
bool reads_from_terminal(const Options& options) {
    if (options.std_in.kind() == Kind::fd) return ::isatty(options.std_in.fd()) == 1;
    return options.std_in.kind() == Kind::inherit && ::isatty(STDIN_FILENO) == 1;
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
    bool own_group = kill_whole_tree && !options.process_group && !options.start_new_session &&
                     !reads_from_terminal(options);
    if (own_group) {
        Options grouped = options;
        grouped.process_group = 0;
        start(grouped);
    } else {
        start(options);
    }
}

void PopenState::start(const Options& options) {
    Detached::instance().sweep();
    spawn::Description description(args, options);
    Streams streams = open_streams(options);
    // All that may fail comes before the child, which nobody would wait for.
    if (streams.in.write_end)
        in = PipeAccess::writer(std::move(streams.in.write_end), options.bufsize, text);
    if (streams.out.read_end)
        out = PipeAccess::reader(std::move(streams.out.read_end), options.bufsize, text);
    if (streams.err.read_end)
        err = PipeAccess::reader(std::move(streams.err.read_end), options.bufsize, text);
    description.set_stdio(streams.stdio);
    leads_group = description.leads_group();
    leads_session = options.start_new_session;
    child = spawn::start(description);
    child.lifeline = description.take_lifeline();
}

PopenState::~PopenState() {
    in = {};
    out.close();
    err.close();
    if (owner.same_process()) {
        try {
            end_by_policy();
        } catch (...) {
            // Nobody to tell: the kernel refused to wait for or to signal our own child.
        }
    }
    Detached::instance().sweep();
}

void PopenState::end_by_policy() {
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
    } catch (const std::bad_alloc&) {
        // The same.
    }
    if (ends) wait_until({});
    std::lock_guard lock(mutex);
    if (!reap().running()) return;
    if (on_destroy != OnDestroy::detach) child.lifeline.reset();
    Detached::instance().add(std::move(child));
}

ExitStatus PopenState::reap() {
    if (!status.running()) return status;
    struct rusage used = {};
    status = child.reap(&used);
    if (!status.running() && !status.lost()) usage = usage_of(used);
    return status;
}

bool PopenState::wait_until(const sys::Deadline& deadline) {
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
        kill_process_tree(child, leads_group, leads_session);
    else
        child.signal(SIGKILL);
}

ExitStatus PopenState::stop(const StopLadder& ladder, bool whole_tree) {
    // A group is stopped when all of it has ended. The child is not reaped before: that keeps the
    // group's number.
    bool group = whole_tree && leads_group;
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
        sys::Deadline deadline = detail::deadline_after(step.wait);
        bool ended = group ? child.wait_for_end(deadline) : wait_until(deadline);
        if (!ended) continue;
        if (!group || step.signal == SIGKILL) break;
        if (step.signal == 0) deadline = sys::Clock::now();  // the patience was for the child
        if (wait_for_group(child.pid, leads_session, deadline)) break;
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
int Popen::pid() const { return PopenAccess::state(*this).child.pid; }
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
        if (state.talk.started)
            throw std::logic_error(
                "communicate() was interrupted by a timeout: the rest of its input is still being "
                "sent; call it again without input");
        if (!state.in)
            throw std::logic_error(
                "communicate() got input, but std_in is no open pipe: start with .std_in = PIPE");
        state.talk.input = std::move(*input);
    }
    if (!talk(state, detail::deadline_after(timeout)))
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
    if (state.status.running())
        kill_process_tree(state.child, state.leads_group, state.leads_session);
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
