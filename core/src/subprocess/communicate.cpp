// Popen::communicate: a conversation with one child.
#include <fmt/format.h>

#include <system_error>
#include <utility>

#include "spawn/pump.hpp"
#include "subprocess/popen_state.hpp"
#include "subprocess/subprocess_pipes_impl.hpp"

namespace sidestep::inline v0::subprocess {
namespace {

// What the reader has read ahead belongs to the output.
void take_over(PipeReader& pipe, Heard& heard, const TextMode& text) {
    PipeReaderImpl* reader = PipeAccess::impl(pipe);
    heard = {};
    if (!reader) return;
    std::string& before = text.on ? heard.before : heard.bytes;
    before = reader->take(std::string::npos);
    heard.decoder = std::exchange(reader->decoder, {});
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

std::string decoded(Heard& heard, const TextMode& text) {
    if (!text.on) return std::move(heard.bytes);
    std::string result = heard.before;
    if (!heard.decoder) return result;
    heard.decoder->decode(heard.bytes, result);
    heard.decoder->finish(result);
    return result;
}

}  // namespace

void begin_talk(PopenState& state) {
    Conversation& talk = state.talk;
    // What cannot be encoded is not sent; the conversation has not begun then.
    std::string input = std::exchange(talk.input, {});
    report_stream(state.in);
    if (PipeWriterImpl* writer = PipeAccess::impl(state.in)) {
        if (writer->encoder) {
            input = encoded(*writer, input, state.args);
            writer->encoder.reset();
        }
        input.insert(0, std::exchange(writer->gathered, {}));
    }
    talk.started = true;
    talk.input = std::move(input);
    talk.sent = 0;
    take_over(state.out, talk.out, state.text);
    take_over(state.err, talk.err, state.text);
}

bool talk(PopenState& state, const detail::Deadline& deadline, const TalkCallbacks& callbacks) {
    if (!state.talk.started) begin_talk(state);
    Pump pump(state.pipe_size_chosen);
    pump.add_writer(state.in, state.talk.input, state.talk.sent);
    hear(pump, state.out, state.talk.out, callbacks.on_stdout, callbacks.collect, state.text);
    hear(pump, state.err, state.talk.err, callbacks.on_stderr, callbacks.collect, state.text);
    if (state.drain_timeout)
        pump.end_after({state.child.fd()}, *state.drain_timeout, state.talk.drained_by);
    return pump.run(deadline) && state.wait_until(deadline);
}

void hear(Pump& pump, PipeReader& pipe, Heard& heard, const LineCallback& on_line, bool collect,
          const TextMode& text) {
    if (on_line)
        pump.add_reader(pipe, LineReader{.on_line = on_line,
                                         .text = text,
                                         .collected = collect ? &heard.bytes : nullptr,
                                         .undelivered = collect ? nullptr : &heard.before});
    else
        pump.add_reader(pipe, heard.bytes);
}

Output heard_so_far(const PopenState& state) {
    return {state.talk.out.before + state.talk.out.bytes,
            state.talk.err.before + state.talk.err.bytes};
}

Output take_output(PopenState& state) {
    Output output;
    const char* stream = "std_out";
    try {
        output.std_out = decoded(state.talk.out, state.text);
        stream = "std_err";
        output.std_err = decoded(state.talk.err, state.text);
    } catch (const DecodeError& error) {
        Output raw = heard_so_far(state);
        state.talk = {};
        throw_located(error, stream, state.args, std::move(raw));
    }
    state.talk = {};
    return output;
}

void kill_and_reap(PopenState& state) {
    using namespace std::chrono_literals;
    {
        std::lock_guard lock(state.mutex);
        state.kill_as_configured_locked();
    }
    // All writers are dead, unless one escaped: then its pipe is not waited for.
    auto grace = state.kill_whole_tree ? 1s : 0s;
    Pump pump(true);
    pump.add_reader(state.out, state.talk.out.bytes);
    pump.add_reader(state.err, state.talk.err.bytes);
    detail::Deadline drained_by;
    pump.end_after({state.child.fd()}, grace, drained_by);
    pump.run({});
    state.in = {};
    state.wait_until({});
}

}  // namespace sidestep::subprocess
