#include "wired_details.hpp"

#include <exception>
#include <utility>

#include "worker/asked_stack.hpp"

namespace sidestep::inline v0::detail {

WiredDetails wired(const TaskError::Details& details) {
    WiredDetails wire;
    wire.pid = details.pid;
    wire.worker_index = details.worker_index;
    wire.item = details.item;
    const ExitStatus& status = details.exit_status;
    wire.ended = status.exited()     ? 1
                 : status.signaled() ? 2 + status.core_dumped()
                 : status.lost()     ? 4
                                     : 0;
    wire.status = status.exited() ? status.code() : status.signal();
    for (const void* address : stack_of(details)) {
        try {
            wire.stack.push_back(locate_code(address));
        } catch (const std::exception&) {  // code of no module: it has no name elsewhere
        }
    }
    wire.note = details.note;
    wire.oom_killed = details.oom_killed;
    wire.limit = details.limit;
    wire.used = details.used;
    wire.output.output = details.output;
    wire.attempts = details.attempts;
    wire.most_attempts = details.most_attempts;
    wire.retry_limit = details.retry_limit;
    return wire;
}

TaskError::Details unwired(WiredDetails wire) {
    TaskError::Details details;
    details.pid = wire.pid;
    details.worker_index = wire.worker_index;
    details.item = wire.item;
    if (wire.ended == 1) details.exit_status = ExitStatus::from_exit_code(wire.status);
    if (wire.ended == 2 || wire.ended == 3)
        details.exit_status = ExitStatus::from_signal(wire.status, wire.ended == 3);
    if (wire.ended == 4) details.exit_status = ExitStatus::lost_status();
    for (const CodeAddress& address : wire.stack) {
        try {
            details.stack.push_back(resolve_code(address));
        } catch (const SerializationError&) {  // a library that is not loaded here
        }
    }
    details.note = std::move(wire.note);
    details.oom_killed = wire.oom_killed;
    details.limit = wire.limit;
    details.used = wire.used;
    if (wire.output.output) details.output = std::move(*wire.output.output);
    details.attempts = wire.attempts;
    details.most_attempts = wire.most_attempts;
    details.retry_limit = wire.retry_limit;
    return details;
}

}  // namespace sidestep::detail
