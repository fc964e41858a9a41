// Moving bytes between us and the pipes of one child or several, until all pipes are at their end
// or a deadline comes.
//
// Threads: single-owner.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sidestep/subprocess_pipes.hpp>

#include "sys/sys.hpp"
#include "text/line_splitter.hpp"
#include "text/text_codec.hpp"

namespace sidestep::inline v0::subprocess {

// Who gets a stream line by line. The pointers may be null.
struct LineReader {
    LineCallback on_line;
    const TextMode& text;
    std::string* collected = nullptr;    // all bytes, too
    std::string* undelivered = nullptr;  // at the deadline: what was read, and was no line yet
};

class Pump {
  public:
    explicit Pump(bool pipe_size_chosen = false) : may_grow_pipes_(!pipe_size_chosen) {}
    ~Pump();

    // Sends input from `sent` on, then closes the pipe; at once if there is nothing to send. A
    // reader that is gone is no error.
    void add_writer(PipeWriter& pipe, const std::string& input, std::size_t& sent);
    // Reads to the end, then closes the pipe.
    void add_reader(PipeReader& pipe, std::string& collected);
    void add_reader(PipeReader& pipe, const LineReader& reader);
    // Once all the processes have ended, pipes that others keep open are read for `grace` at most:
    // until `drained_by`, which is set then, and which the next Pump for the same pipes gets.
    void end_after(std::vector<int> pidfds, Timeout grace, sys::Deadline& drained_by);

    // True: all pipes are at their end, and closed. False: the deadline came; run() again resumes.
    bool run(const sys::Deadline& deadline);

  private:
    struct Writer {
        PipeWriter& pipe;
        const std::string& input;
        std::size_t& sent;
    };
    struct Reader {
        PipeReader& pipe;
        std::string* collected;
        std::unique_ptr<LineSplitter> lines = nullptr;
        std::string* undelivered = nullptr;
        std::size_t total = 0;
        bool grown = false;
        bool ready = false;
    };

    bool run_in_time();
    bool wait();
    void note_end(int pidfd);
    const sys::Deadline& drained_by() const { return *drained_by_; }
    void write();
    void read(Reader& reader, ssize_t (*call)(int, void*, std::size_t));
    void grow_pipe(Reader& reader);
    bool read_what_is_there();
    bool finished() const;

    std::optional<Writer> writer_;
    std::vector<Reader> readers_;
    sys::Deadline deadline_;
    std::vector<int> running_;  // pidfds of those whose end is waited for
    Timeout grace_;
    sys::Deadline never_;
    sys::Deadline* drained_by_ = &never_;
    std::unique_ptr<char[]> space_;
    std::size_t space_bytes_ = 64 * 1024;
    bool may_grow_pipes_;
};

}  // namespace sidestep::subprocess
