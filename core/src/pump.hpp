// Moving bytes between us and the pipes of one child or several, until all pipes are at their end
// or a deadline comes.
//
// Threads: single-owner.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sidestep/subprocess_pipes.hpp>

#include "sys.hpp"
#include "text_codec.hpp"

namespace sidestep::subprocess {

using LineCallback = std::function<void(std::string_view)>;

class Pump {
  public:
    explicit Pump(bool pipe_size_chosen = false) : may_grow_pipes_(!pipe_size_chosen) {}
    ~Pump();

    // Sends input from `sent` on, then closes the pipe; at once if there is nothing to send. A
    // reader that is gone is no error.
    void add_writer(PipeWriter& pipe, const std::string& input, std::size_t& sent);
    // Reads to the end, then closes the pipe. Each destination may be missing.
    void add_reader(PipeReader& pipe, std::string* collected, LineCallback on_line = {},
                    const TextMode& text = {});
    // Once the process has ended, pipes that others keep open are read for `grace` at most.
    void end_after(int pidfd, std::chrono::nanoseconds grace);

    // True: all pipes are at their end, and closed. False: the deadline came; run() again resumes.
    bool run(const sys::Deadline& deadline);

  private:
    class LineSplitter;
    struct Writer {
        PipeWriter& pipe;
        const std::string& input;
        std::size_t& sent;
    };
    struct Reader {
        PipeReader& pipe;
        std::string* collected;
        std::shared_ptr<LineSplitter> lines;
        std::size_t total = 0;
        bool grown = false;
        bool ready = false;
    };

    bool wait(const sys::Deadline& deadline);
    void write();
    void read(Reader& reader);
    void grow_pipe(Reader& reader);
    void read_what_is_there();
    bool finished() const;

    std::optional<Writer> writer_;
    std::vector<Reader> readers_;
    int pidfd_ = -1;
    std::chrono::nanoseconds grace_{};
    sys::Deadline drained_by_;  // set when the process has ended
    std::unique_ptr<char[]> space_;
    std::size_t space_bytes_ = 64 * 1024;
    bool may_grow_pipes_;
};

}  // namespace sidestep::subprocess
