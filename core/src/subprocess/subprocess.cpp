#include <sidestep/subprocess.hpp>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include "subprocess/popen_state.hpp"
#include "subprocess/subprocess_run.hpp"

namespace sidestep::inline v0::subprocess {
namespace {

using Kind = Redirect::Kind;

[[noreturn]] void refuse(const char* message) { throw std::invalid_argument(message); }

void check_contradictions(const Options& options) {
    if (options.input && options.std_in.kind() != Kind::inherit)
        refuse("input and std_in contradict each other: give one of them");
    if (options.capture_output &&
        (options.std_out.kind() != Kind::inherit || options.std_err.kind() != Kind::inherit))
        refuse("capture_output redirects both std_out and std_err: do not give them as well");
    auto takes_lines = [](const Redirect& stream) {
        return stream.kind() == Kind::inherit || stream.kind() == Kind::pipe;
    };
    if (options.on_stdout && !takes_lines(options.std_out))
        refuse("on_stdout reads std_out, which is redirected elsewhere: drop one of them");
    if (options.on_stderr && !takes_lines(options.std_err))
        refuse("on_stderr reads std_err, which is redirected elsewhere: drop one of them");
}

void refuse_fields_of_run(const Options& options) {
    if (options.input || options.capture_output)
        refuse("input and capture_output belong to run() and check_output(): call one of them");
}

}  // namespace

Options for_popen(const Options& options) {
    check_contradictions(options);
    Options popen = options;
    if (options.input) popen.std_in = PIPE;
    if (options.capture_output || options.on_stdout) popen.std_out = PIPE;
    if (options.capture_output || options.on_stderr) popen.std_err = PIPE;
    if (!options.kill_tree) popen.kill_tree = options.timeout.has_value();
    popen.input.reset();
    popen.capture_output = false;
    popen.timeout.reset();
    popen.check = false;
    popen.on_stdout = nullptr;
    popen.on_stderr = nullptr;
    return popen;
}

CompletedProcess completed(const Popen& child, Output output) {
    ExitStatus status = child.exit_status();
    return {
        child.args(), status.returncode(),   std::move(output.std_out), std::move(output.std_err),
        status,       child.resource_usage()};
}

namespace {

// With `collect`, what the callbacks got as well.
CompletedProcess run_and_collect(const Args& args, const Options& options, bool collect) {
    detail::Deadline deadline = detail::deadline_after(options.timeout);
    Popen child(args, for_popen(options));
    PopenState& state = PopenAccess::state(child);
    try {
        if (options.input) state.communication.input = *options.input;
        if (!run_communicate(state, deadline, {options.on_stdout, options.on_stderr, collect})) {
            kill_and_reap(state);
            throw TimeoutExpired(args, *options.timeout, heard_so_far(state));
        }
    } catch (const TimeoutExpired&) {
        throw;
    } catch (...) {
        kill_and_reap(state);
        throw;
    }
    CompletedProcess result = completed(child, take_output(state));
    if (options.check) result.check_returncode();
    return result;
}

}  // namespace

CompletedProcess run(const Args& args, const Options& options) {
    return run_and_collect(args, options, options.capture_output);
}

int call(const Args& args, const Options& options) {
    refuse_fields_of_run(options);
    return run(args, options).returncode;
}

void check_call(const Args& args, const Options& options) {
    refuse_fields_of_run(options);
    run(args, options).check_returncode();
}

std::string check_output(const Args& args, const Options& options) {
    if (options.std_out.kind() != Kind::inherit)
        refuse("check_output() returns std_out, so it must not be redirected: use run()");
    Options capturing = options;
    if (!options.capture_output) capturing.std_out = PIPE;
    capturing.check = true;
    return run_and_collect(args, capturing, true).std_out;
}

StatusOutput getstatusoutput(std::string_view command_line, const Options& options) {
    if (options.std_out.kind() != Kind::inherit || options.std_err.kind() != Kind::inherit ||
        options.capture_output)
        refuse("getstatusoutput() returns std_out and std_err as one: do not redirect them");
    if (options.check)
        refuse("getstatusoutput() returns the status: drop check, or use check_output()");
    if (options.text && !*options.text)
        refuse("getstatusoutput() is in text mode: drop text = false, or use run()");
    Options merged = options;
    merged.shell = true;
    merged.std_out = PIPE;
    merged.std_err = STDOUT;
    merged.text = true;
    CompletedProcess done = run_and_collect(command_line, merged, true);
    if (done.std_out.ends_with('\n')) done.std_out.pop_back();
    return {done.returncode, std::move(done.std_out)};
}

std::string getoutput(std::string_view command_line, const Options& options) {
    return getstatusoutput(command_line, options).output;
}

}  // namespace sidestep::subprocess
