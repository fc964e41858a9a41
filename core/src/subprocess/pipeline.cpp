// pipeline(): several children at once, each one's output the next one's input.
#include <exception>
#include <stdexcept>
#include <utility>

#include <sidestep/subprocess.hpp>

#include "spawn/pump.hpp"
#include "subprocess/popen_state.hpp"
#include "subprocess/subprocess_run.hpp"

namespace sidestep::inline v0::subprocess {
namespace {

std::vector<Popen> start_members(const std::vector<Args>& commands, const Options& options) {
    std::vector<Popen> members;
    members.reserve(commands.size());
    for (std::size_t i = 0; i < commands.size(); ++i) {
        Options one = for_popen(options);
        one.on_destroy = OnDestroy::kill;  // if a later member cannot be started
        if (i > 0) one.std_in = members.back().std_out();
        if (i + 1 < commands.size()) one.std_out = PIPE;
        members.emplace_back(commands[i], one);
        if (i > 0) members[i - 1].std_out().close();
    }
    return members;
}

// Feeds the first, reads the last and every std_err, waits for all. False at the deadline.
bool talk_to_all(std::vector<Popen>& members, const Options& options,
                 const detail::Deadline& deadline) {
    PopenState& first = PopenAccess::state(members.front());
    PopenState& last = PopenAccess::state(members.back());
    first.communication.input = options.input.value_or("");
    for (Popen& member : members) begin_communicate(PopenAccess::state(member));
    Pump pump(options.pipesize > 0);
    pump.add_writer(first.in, first.communication.input, first.communication.sent);
    capture(pump, last.out, last.communication.out, options.on_stdout, options.capture_output,
            last.text);
    std::vector<int> pidfds;
    for (Popen& member : members) {
        PopenState& state = PopenAccess::state(member);
        capture(pump, state.err, state.communication.err, options.on_stderr, options.capture_output,
                state.text);
        pidfds.push_back(member.pidfd());
    }
    if (options.drain_timeout)
        pump.end_after(std::move(pidfds), *options.drain_timeout, last.communication.drained_by);
    if (!pump.run(deadline)) return false;
    for (Popen& member : members)
        if (!PopenAccess::state(member).wait_until(deadline)) return false;
    return true;
}

// All of them, also where one's descendants cannot be looked for; then throws.
void kill_all(std::vector<Popen>& members) {
    std::exception_ptr first;
    for (Popen& member : members) {
        try {
            kill_and_reap(PopenAccess::state(member));
        } catch (...) {
            if (!first) first = std::current_exception();
        }
    }
    if (first) std::rethrow_exception(first);
}

Args whole_command(const std::vector<Args>& commands) {
    std::string text;
    for (const Args& command : commands) {
        if (!text.empty()) text += " | ";
        text += command.describe();
    }
    return text;
}

}  // namespace

int CompletedPipeline::returncode() const {
    for (auto member = members.rbegin(); member != members.rend(); ++member)
        if (member->returncode != 0) return member->returncode;
    return 0;
}

void CompletedPipeline::check_returncode() const {
    for (auto member = members.rbegin(); member != members.rend(); ++member)
        member->check_returncode();
}

CompletedPipeline pipeline(const std::vector<Args>& commands, const Options& options) {
    if (commands.empty())
        throw std::invalid_argument("pipeline() got no command: give one at least");
    if (options.std_err.kind() == Redirect::Kind::stdout_)
        throw std::invalid_argument(
            "pipeline() cannot merge std_err into std_out for all members: redirect std_err "
            "elsewhere, or run the member as {\"sh\", \"-c\", \"... 2>&1\"}");
    detail::Deadline deadline = detail::deadline_after(options.timeout);
    std::vector<Popen> members = start_members(commands, options);
    bool in_time = false;
    try {
        in_time = talk_to_all(members, options, deadline);
    } catch (...) {
        kill_all(members);
        throw;
    }
    PopenState& last = PopenAccess::state(members.back());
    if (!in_time) {
        kill_all(members);
        throw TimeoutExpired(whole_command(commands), *options.timeout, heard_so_far(last));
    }
    CompletedPipeline result;
    for (Popen& member : members)
        result.members.push_back(completed(member, take_output(PopenAccess::state(member))));
    result.std_out = result.members.back().std_out;
    if (options.check) result.check_returncode();
    return result;
}

}  // namespace sidestep::subprocess
