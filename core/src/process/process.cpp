#include <sidestep/process.hpp>

#include <exception>
#include <stdexcept>

#include "process/process_core.hpp"
#include "process/process_protocol.hpp"
#include "process/process_state.hpp"

namespace sidestep::inline v0 {

detail::ProcessCore& ChildProcess::core() const {
    if (!core_)
        throw std::logic_error("this Process refers to nothing: it was moved from, or detached");
    return *core_;
}

const std::string& ChildProcess::name() const { return core().name(); }
const std::string& ChildProcess::authkey() const { return core().authkey(); }
bool ChildProcess::daemon() const { return core().daemon(); }
int ChildProcess::pid() const { return core().pid(); }

ExitStatus ChildProcess::join() const {
    (void)core().wait_until({});
    return core().try_reap();
}
bool ChildProcess::join_for(Timeout timeout) const {
    return core().wait_until(detail::deadline_after(timeout));
}
bool ChildProcess::is_alive() const { return core().is_alive(); }
ExitStatus ChildProcess::exit_status() const { return core().try_reap(); }
std::optional<int> ChildProcess::exitcode() const {
    ExitStatus status = exit_status();
    if (status.running()) return {};
    return status.returncode();
}
int ChildProcess::sentinel() const { return core().sentinel(); }

void ChildProcess::terminate() const { core().send_signal(SIGTERM); }
void ChildProcess::kill() const { core().send_signal(SIGKILL); }
void ChildProcess::interrupt() const { core().send_signal(SIGINT); }
void ChildProcess::rethrow() const { core().rethrow(); }

// --- Process -----------------------------------------------------------------------------------

Process::Process(std::unique_ptr<detail::SentCall> task, ProcessOptions options)
    : ChildProcess(std::make_shared<detail::ProcessCore>(std::move(task), std::move(options))),
      exceptions_at_start_(std::uncaught_exceptions()) {}

Process& Process::operator=(Process&& other) noexcept {
    if (this == &other) return *this;
    end();
    core_ = std::move(other.core_);
    exceptions_at_start_ = other.exceptions_at_start_;
    return *this;
}

Process::~Process() { end(); }

void Process::end() noexcept {
    if (!core_) return;
    try {
        core_->end_with_owner(std::uncaught_exceptions() > exceptions_at_start_);
    } catch (...) {
        print_current_exception("sidestep: cannot wait for the process " + core_->name());
    }
}

void Process::start() { core().start(); }
void Process::close() { core().close(); }

// --- contexts ----------------------------------------------------------------------------------

Context get_context() { return Context(get_start_method()); }

}  // namespace sidestep
