#include "spawn/popen_child.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <string>
#include <system_error>
#include <utility>

#include "spawn/kill_tree.hpp"
#include "sys/hints.hpp"

namespace sidestep::inline v0::subprocess {
namespace {

using Kind = Redirect::Kind;

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

void set_pipe_size(const Fd& fd, int size) {
    if (::fcntl(fd.get(), F_SETPIPE_SZ, size) >= 0) return;
    const int error = errno;
    const bool too_large = error == EPERM || error == EINVAL;
    throw StartError(StartStep::pipe, error, {},
                     fmt::format("pipesize = {}{}", size,
                                 too_large ? ": no pipe may be as large here (limits: "
                                             "fs.pipe-max-size, and fs.pipe-user-pages-soft for "
                                             "all pipes of a user together)"
                                           : ": fcntl(F_SETPIPE_SZ)"));
}

bool reads_from_terminal(const Options& options) {
    if (options.std_in.kind() == Kind::fd) return ::isatty(options.std_in.fd()) == 1;
    return options.std_in.kind() == Kind::inherit && ::isatty(STDIN_FILENO) == 1;
}

std::optional<Options> with_own_group(const Options& options) {
    if (options.process_group || options.start_new_session || reads_from_terminal(options))
        return {};
    Options grouped = options;
    grouped.process_group = 0;
    return grouped;
}

}  // namespace

// --- PopenChild ------------------------------------------------------------------------------

ExitStatus PopenChild::reap(ResourceUsage* usage) const {
    struct rusage used = {};
    ExitStatus status = child_.reap(&used);
    if (usage && !status.running() && !status.lost()) *usage = usage_of(used);
    return status;
}

bool PopenChild::wait_for_group(const sys::Deadline& deadline) const {
    return subprocess::wait_for_group(child_.pid, leads_session_, deadline);
}

void PopenChild::kill_tree() const { kill_process_tree(child_, leads_group_, leads_session_); }

// --- PopenStart ------------------------------------------------------------------------------

PopenStart::PopenStart(const Args& args, const Options& options, bool own_group)
    : grouped_(own_group ? with_own_group(options) : std::nullopt),
      options_(grouped_ ? *grouped_ : options),
      description_(args, options_) {
    open_streams();
}

// Returns the descriptor that becomes the child's stream; -1: inherited.
int PopenStart::open_stream(const Redirect& redirect, Fd sys::Pipe::*child_end, sys::Pipe& pipe) {
    switch (redirect.kind()) {
        case Kind::pipe:
            pipe = sys::make_pipe();
            if (options_.pipesize > 0) set_pipe_size(pipe.write_end, options_.pipesize);
            return (pipe.*child_end).get();
        case Kind::devnull:
            if (!null_) null_ = sys::open_dev_null();
            return null_.get();
        case Kind::fd:
            return redirect.fd();
        case Kind::stdout_:
            return stdio_.out >= 0 ? stdio_.out : STDOUT_FILENO;
        case Kind::inherit:
            break;
    }
    return -1;
}

void PopenStart::open_streams() {
    sys::Pipe to_in, from_out, from_err;
    try {
        stdio_.in = open_stream(options_.std_in, &sys::Pipe::read_end, to_in);
        stdio_.out = open_stream(options_.std_out, &sys::Pipe::write_end, from_out);
        stdio_.err = open_stream(options_.std_err, &sys::Pipe::write_end, from_err);
    } catch (const StartError&) {
        throw;
    } catch (const std::system_error& e) {
        const int error = e.code().value();
        throw StartError(StartStep::pipe, error, {},
                         "cannot prepare the child's streams" + sys::descriptor_hint(error));
    }
    in = std::move(to_in.write_end);
    out = std::move(from_out.read_end);
    err = std::move(from_err.read_end);
    child_in_ = std::move(to_in.read_end);
    child_out_ = std::move(from_out.write_end);
    child_err_ = std::move(from_err.write_end);
}

PopenChild PopenStart::start() {
    description_.set_stdio(stdio_);
    PopenChild child;
    child.leads_group_ = description_.leads_group();
    child.leads_session_ = options_.start_new_session;
    child.child_ = spawn::start(description_);
    child.child_.lifeline = description_.take_lifeline();
    return child;
}

}  // namespace sidestep::subprocess
