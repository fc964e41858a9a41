// The insides of Popen, for the functions that are built on it: run(), pipeline().
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include <sidestep/popen.hpp>

#include "spawn/popen_child.hpp"
#include "spawn/pump.hpp"
#include "sys/fork_marker.hpp"
#include "text/text_codec.hpp"

namespace sidestep::inline v0::subprocess {

// One stream of a conversation: what was read so far.
struct CapturedStream {
    std::string bytes;                   // since the conversation began, undecoded
    std::string before;                  // read ahead by the PipeReader earlier, decoded
    std::optional<TextDecoder> decoder;  // in text mode, with what the PipeReader left in it
};

// A conversation that a timeout may interrupt: what was captured, what is still to be sent.
struct Communication {
    bool started = false;
    std::string input;
    std::size_t sent = 0;
    CapturedStream out;
    CapturedStream err;
    detail::Deadline drained_by;  // with drain_timeout, from the end of the child on
};

struct PopenState {
    PopenState(const Args& args, const Options& options);
    ~PopenState();
    PopenState(const PopenState&) = delete;
    PopenState& operator=(const PopenState&) = delete;

    // Looks once; `lock` is held.
    ExitStatus reap();
    // False at the deadline.
    bool wait_until(const detail::Deadline& deadline);
    void end_by_policy() noexcept;
    // SIGKILL to the child, or to its tree if kill_tree is set. `mutex` is held.
    void kill_as_configured_locked();
    ExitStatus stop(const StopLadder& ladder, bool whole_tree);

    // Constant after construction.
    ForkMarker owner;  // the process that may signal and reap the child: not one that it forks
    Args args;
    TextMode text;
    PopenChild child;
    bool kill_whole_tree = false;
    std::optional<Timeout> drain_timeout;
    bool pipe_size_chosen = false;
    StopLadder stop_ladder;
    // Made before there is a child: one that is given up is not lost for want of memory.
    std::list<PopenChild> place_when_given_up{1};

    // Of the one thread that reads and writes.
    OnDestroy on_destroy = OnDestroy::wait;
    PipeWriter in;
    PipeReader out;
    PipeReader err;
    Communication communication;

    // Guarded by `mutex`. A child is reaped with it held, so that no signal meets a free pid.
    std::mutex mutex;
    ExitStatus status;
    ResourceUsage usage;
};

struct PopenAccess {
    static PopenState& state(const Popen& child);
};

struct CommunicateCallbacks {
    LineCallback on_stdout = {};
    LineCallback on_stderr = {};
    bool collect = false;  // also a stream that has a callback
};

// Takes over what the pipes hold back, and encodes communication.input.
void begin_communicate(PopenState& state);
// Feeds and reads the child to the end of its pipes, then waits for its end. False at the
// deadline: the conversation can be resumed. Closes the pipes when it is done.
bool run_communicate(PopenState& state, const detail::Deadline& deadline,
                     const CommunicateCallbacks& callbacks = {});
// Adds a stream of a conversation. Without on_line it is collected; with it, if `collect` is set.
void capture(Pump& pump, PipeReader& pipe, CapturedStream& captured, const LineCallback& on_line,
             bool collect, const TextMode& text);
// As bytes, in text mode too; lines that a callback got are not in it, unless they are collected.
Output heard_so_far(const PopenState& state);
// What was captured; in text mode decoded. Ends the conversation, also when it throws DecodeError.
Output take_output(PopenState& state);

// Kills the child, or its tree if kill_tree is set, reads for a short while what it left in the
// pipes, and reaps it. One that may not be signalled is left alone, and not waited for.
void kill_and_reap(PopenState& state);

}  // namespace sidestep::subprocess
