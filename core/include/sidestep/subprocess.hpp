// Other programs: start them, feed them, read them, wait for them. Python's subprocess, whole.
//
//   CompletedProcess ls = run({"ls", "-1"}, {.capture_output = true, .check = true});
//   std::string sorted = check_output({"sort", "-n"}, {.input = "10\n9\n"});
//
// run() is for "start it, wait, give me what it said"; Popen (popen.hpp) for everything else.
//
// Ownership: nothing outlives a call: the child is reaped, the pipes are closed; on an exception
//            (a timeout, a throwing callback) the child is killed first, if that is allowed.
// Threads:   thread-safe; any number of threads may run children at once.
// Peer death: a child that dies early is a return code; input that it did not read is no error.
// Fork:      a forked copy has no children: what its parent started, its parent waits for.
// Trust:     the program is as trusted as whoever can write to its file, to the folders of PATH and
//            to its environment. What it prints is bytes. Before a child runs as another user, see
//            the fields user, as_user, cwd and start_new_session of Options.
// Errors:    std::invalid_argument for options that contradict each other, StartError (a
//            std::system_error with step, errno and path) if there is no child, TimeoutExpired,
//            CalledProcessError, DecodeError (text mode).
// Limits:    what is captured is kept in memory. The string of a large output has room to spare, of
//            up to 31 times its size: address space, not memory.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <sidestep/popen.hpp>
#include <sidestep/subprocess_options.hpp>
#include <sidestep/subprocess_pipes.hpp>
#include <sidestep/subprocess_result.hpp>

namespace sidestep::inline v0::subprocess {

// Runs the command to its end.
CompletedProcess run(const Args& args, const Options& options = {});

// The return code. Takes no input, captures nothing: run() does.
int call(const Args& args, const Options& options = {});

// As call(), but anything except 0 is a CalledProcessError.
void check_call(const Args& args, const Options& options = {});

// What the command writes to std_out; CalledProcessError (which has the output) unless it exits
// with 0. std_out must not be redirected; std_err = STDOUT collects both. on_stdout, if
// given, gets the lines as well.
std::string check_output(const Args& args, const Options& options = {});

struct StatusOutput {
    int status = 0;  // as CompletedProcess::returncode: 0..255, -N for signal N
    std::string output = {};
};
// Runs a shell command line, with std_err merged into std_out, in text mode; one newline at the
// end is stripped. Options say the rest: encoding, errors, cwd, env, timeout. What contradicts that
// is refused: std_out, std_err, capture_output, check, text = false.
StatusOutput getstatusoutput(std::string_view command_line, const Options& options = {});
// The output alone, however the command ended.
std::string getoutput(std::string_view command_line, const Options& options = {});

// What a pipeline returns: every member, first to last.
struct CompletedPipeline {
    std::vector<CompletedProcess> members = {};  // std_err of each, if captured
    std::string std_out = {};                    // of the last, if captured

    // That of the last member that failed (the shell's pipefail); 0 if none did.
    int returncode() const;
    // Throws CalledProcessError for the last member that failed.
    void check_returncode() const;
};

// Runs commands at the same time, each one's std_out connected to the next one's std_in:
//   pipeline({{"cat", file}, {"sort"}, {"head", "-1"}}, {.capture_output = true});
// `input` and std_in are the first member's, std_out is the last one's, timeout and everything
// else is for all of them. A member that cannot be started is a StartError; the others are killed.
CompletedPipeline pipeline(const std::vector<Args>& commands, const Options& options = {});

}  // namespace sidestep::subprocess
