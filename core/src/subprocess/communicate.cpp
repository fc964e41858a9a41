// Popen::communicate: a conversation with one child.
#include <fmt/format.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "spawn/pump.hpp"
#include "subprocess/popen_state.hpp"
#include "subprocess/subprocess_pipes_impl.hpp"

namespace sidestep::inline v0::subprocess {
namespace {

// What the reader has read ahead belongs to the output.
void take_over(PipeReader& pipe, CapturedStream& captured, const TextMode& text) {
    PipeReaderImpl* reader = PipeAccess::impl(pipe);
    captured = {};
    if (!reader) return;
    std::string& before = text.on ? captured.before : captured.bytes;
    before = reader->take(std::string::npos);
    captured.decoder = std::exchange(reader->decoder, {});
}

// What was lost in the writer's stream is told before the conversation; that the child is gone is
// no error here.
void report_stream(PipeWriter& pipe) {
    try {
        if (PipeWriterImpl* writer = PipeAccess::impl(pipe)) writer->report();
    } catch (const std::system_error&) {
    }
}

// "std_out of \"cat\": ..."
[[noreturn]] void throw_located(const DecodeError& error, const char* stream, const Args& args,
                                Output output = {}) {
    throw DecodeError(fmt::format("{} of \"{}\": {}", stream, args.describe(), error.what()),
                      std::move(output));
}

std::string encoded(PipeWriterImpl& writer, const std::string& input, const Args& args) {
    try {
        std::string bytes = writer.encode(input);
        writer.encoder->finish(bytes);
        return bytes;
    } catch (const DecodeError& error) {
        throw_located(error, "the input", args);
    }
}

std::string decoded(CapturedStream& captured, const TextMode& text) {
    if (!text.on) return std::move(captured.bytes);
    std::string result = captured.before;
    if (!captured.decoder) return result;
    captured.decoder->decode(captured.bytes, result);
    captured.decoder->finish(result);
    return result;
}

}  // namespace

void begin_communicate(PopenState& state) {
    Communication& communication = state.communication;
    // What cannot be encoded is not sent; the conversation has not begun then.
    std::string input = std::exchange(communication.input, {});
    report_stream(state.in);
    if (PipeWriterImpl* writer = PipeAccess::impl(state.in)) {
        if (writer->encoder) {
            input = encoded(*writer, input, state.args);
            writer->encoder.reset();
        }
        input.insert(0, std::exchange(writer->gathered, {}));
    }
    communication.started = true;
    communication.input = std::move(input);
    communication.sent = 0;
    take_over(state.out, communication.out, state.text);
    take_over(state.err, communication.err, state.text);
}

bool run_communicate(PopenState& state, const detail::Deadline& deadline,
                     const CommunicateCallbacks& callbacks) {
    if (!state.communication.started) begin_communicate(state);
    Pump pump(state.pipe_size_chosen);
    pump.add_writer(state.in, state.communication.input, state.communication.sent);
    capture(pump, state.out, state.communication.out, callbacks.on_stdout, callbacks.collect,
            state.text);
    capture(pump, state.err, state.communication.err, callbacks.on_stderr, callbacks.collect,
            state.text);
    if (state.drain_timeout)
        pump.end_after({state.child.fd()}, *state.drain_timeout, state.communication.drained_by);
    return pump.run(deadline) && state.wait_until(deadline);
}

void capture(Pump& pump, PipeReader& pipe, CapturedStream& captured, const LineCallback& on_line,
             bool collect, const TextMode& text) {
    if (on_line)
        pump.add_reader(pipe, LineReader{.on_line = on_line,
                                         .text = text,
                                         .collected = collect ? &captured.bytes : nullptr,
                                         .undelivered = collect ? nullptr : &captured.before});
    else
        pump.add_reader(pipe, captured.bytes);
}

Output heard_so_far(const PopenState& state) {
    return {state.communication.out.before + state.communication.out.bytes,
            state.communication.err.before + state.communication.err.bytes};
}

Output take_output(PopenState& state) {
    Output output;
    const char* stream = "std_out";
    try {
        output.std_out = decoded(state.communication.out, state.text);
        stream = "std_err";
        output.std_err = decoded(state.communication.err, state.text);
    } catch (const DecodeError& error) {
        Output raw = heard_so_far(state);
        state.communication = {};
        throw_located(error, stream, state.args, std::move(raw));
    }
    state.communication = {};
    return output;
}

void kill_and_reap(PopenState& state) {
    using namespace std::chrono_literals;
    try {
        std::lock_guard lock(state.mutex);
        state.kill_as_configured_locked();
    } catch (const std::system_error& error) {
        if (error.code().value() != EPERM) throw;
        // It became someone else (setuid), and runs on: as where a Popen that kills is destroyed.
        state.on_destroy = OnDestroy::kill;
        return;
    }
    // All writers are dead, unless one escaped: then its pipe is not waited for.
    auto grace = state.kill_whole_tree ? 1s : 0s;
    Pump pump(true);
    pump.add_reader(state.out, state.communication.out.bytes);
    pump.add_reader(state.err, state.communication.err.bytes);
    detail::Deadline drained_by;
    pump.end_after({state.child.fd()}, grace, drained_by);
    pump.run({});
    state.in = {};
    state.wait_until({});
}

}  // namespace sidestep::subprocess
