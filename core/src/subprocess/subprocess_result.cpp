#include <sidestep/subprocess_result.hpp>

#include <fmt/format.h>

#include <chrono>
#include <csignal>

namespace sidestep::inline v0::subprocess {
namespace {

ExitStatus status_of(int returncode) {
    return returncode < 0 ? ExitStatus::from_signal(-returncode)
                          : ExitStatus::from_exit_code(returncode);
}

std::string called_process_text(const ExitStatus& status, const Args& cmd) {
    std::string what = fmt::format("command \"{}\" ", cmd.describe());
    if (status.lost()) return what + status.describe();
    if (!status.signaled())
        return what + fmt::format("returned non-zero exit status {}", status.code());
    int signal = status.signal();
    std::string name = signal_name(signal);
    if (!name.starts_with("SIG")) return what + fmt::format("died with unknown signal {}", signal);
    return what + fmt::format("died with signal {} ({}{})", signal, name,
                              status.core_dumped() ? ", core dumped" : "");
}

}  // namespace

void CompletedProcess::check_returncode() const {
    if (returncode == 0) return;
    // A result that was made by hand may have no status.
    if (status.running()) throw CalledProcessError(returncode, args, {std_out, std_err});
    throw CalledProcessError(status, args, {std_out, std_err});
}

CalledProcessError::CalledProcessError(ExitStatus status, Args cmd, Output output)
    : SubprocessError(called_process_text(status, cmd)),
      returncode_(status.returncode()),
      status_(status),
      cmd_(std::move(cmd)),
      output_(std::move(output)) {}

CalledProcessError::CalledProcessError(int returncode, Args cmd, Output output)
    : CalledProcessError(status_of(returncode), std::move(cmd), std::move(output)) {}

TimeoutExpired::TimeoutExpired(Args cmd, Timeout timeout, Output output)
    : SubprocessError(fmt::format("command \"{}\" timed out after {} seconds", cmd.describe(),
                                  std::chrono::duration<double>(timeout.time()).count())),
      cmd_(std::move(cmd)),
      timeout_(timeout),
      output_(std::move(output)) {}

const char* to_string(StartStep step) {
    switch (step) {
        case StartStep::pipe:
            return "pipe";
        case StartStep::spawn:
            return "spawn";
        case StartStep::redirect:
            return "redirect";
        case StartStep::chdir:
            return "chdir";
        case StartStep::signals:
            return "signals";
        case StartStep::setsid:
            return "setsid";
        case StartStep::setpgid:
            return "setpgid";
        case StartStep::setrlimit:
            return "setrlimit";
        case StartStep::affinity:
            return "affinity";
        case StartStep::nice:
            return "nice";
        case StartStep::setgroups:
            return "setgroups";
        case StartStep::setgid:
            return "setgid";
        case StartStep::setuid:
            return "setuid";
        case StartStep::die_with_parent:
            return "die_with_parent";
        case StartStep::preexec_fn:
            return "preexec_fn";
        case StartStep::close_fds:
            return "close_fds";
        case StartStep::exec:
            return "exec";
    }
    return "unknown step";
}

StartError::StartError(StartStep step, int error, std::string path, const std::string& what)
    : std::system_error(error, std::generic_category(), what),
      step_(step),
      path_(std::move(path)) {}

}  // namespace sidestep::subprocess
