// Popen::communicate: a conversation with one child.
#include <utility>

#include "popen_state.hpp"
#include "pump.hpp"
#include "subprocess_pipes_impl.hpp"

namespace sidestep::subprocess {
namespace {

// What the reader has read ahead belongs to the output.
void take_over(PipeReader& pipe, Heard& heard, const TextMode& text) {
    PipeReaderImpl* reader = PipeAccess::impl(pipe);
    heard = {};
    if (!reader) return;
    std::string& before = text.on ? heard.before : heard.bytes;
    before = reader->take(std::string::npos);
    heard.decoder = std::move(reader->decoder);
}

std::string decoded(Heard& heard, const TextMode& text) {
    if (!text.on) return std::move(heard.bytes);
    std::string result = std::move(heard.before);
    if (!heard.decoder) return result;
    heard.decoder->decode(heard.bytes, result);
    heard.decoder->finish(result);
    return result;
}

}  // namespace

void begin_talk(PopenState& state) {
    Conversation& talk = state.talk;
    talk.started = true;
    talk.sent = 0;
    if (PipeWriterImpl* writer = PipeAccess::impl(state.in)) {
        if (writer->encoder) {
            talk.input = writer->encode(talk.input);
            writer->encoder->finish(talk.input);
            writer->encoder.reset();
        }
        talk.input.insert(0, std::exchange(writer->gathered, {}));
    }
    take_over(state.out, talk.out, state.text);
    take_over(state.err, talk.err, state.text);
}

bool talk(PopenState& state, const sys::Deadline& deadline, const TalkCallbacks& callbacks) {
    if (!state.talk.started) begin_talk(state);
    Pump pump(state.pipe_size_chosen);
    pump.add_writer(state.in, state.talk.input, state.talk.sent);
    bool collect_out = !callbacks.on_stdout || callbacks.collect;
    bool collect_err = !callbacks.on_stderr || callbacks.collect;
    pump.add_reader(state.out, collect_out ? &state.talk.out.bytes : nullptr, callbacks.on_stdout,
                    state.text);
    pump.add_reader(state.err, collect_err ? &state.talk.err.bytes : nullptr, callbacks.on_stderr,
                    state.text);
    if (state.drain_timeout) pump.end_after(state.child.pidfd.get(), *state.drain_timeout);
    return pump.run(deadline) && state.wait_until(deadline);
}

Output take_output(PopenState& state) {
    Output output{decoded(state.talk.out, state.text), decoded(state.talk.err, state.text)};
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
    pump.add_reader(state.out, &state.talk.out.bytes);
    pump.add_reader(state.err, &state.talk.err.bytes);
    pump.end_after(state.child.pidfd.get(), grace);
    pump.run({});
    state.in = {};
    state.wait_until({});
}

}  // namespace sidestep::subprocess
