// The insides of PipeReader and PipeWriter, and the library's way to them.
//
// Each is the buffer of its own stream(), too: what the stream has not delivered, and what it holds
// back, is in the one place where the reader and the writer look, so they mix in any order.
#pragma once

#include <exception>
#include <istream>
#include <memory>
#include <optional>
#include <ostream>
#include <streambuf>
#include <string>

#include <sidestep/subprocess_pipes.hpp>

#include "sys/fd.hpp"
#include "sys/fork_marker.hpp"
#include "text/text_codec.hpp"

namespace sidestep::inline v0::subprocess {

struct PipeReaderImpl : public std::streambuf {
    PipeReaderImpl(Fd pipe, int bufsize, const TextMode& text);

    // Reads once: what there is, or without read-ahead at most `size` bytes; false at end of file.
    bool fill(std::size_t size);
    // What was read, decoded, and not yet asked for.
    std::string_view available() const {
        return {gptr(), static_cast<std::size_t>(egptr() - gptr())};
    }
    std::string take(std::size_t size);
    void skip(std::size_t size) { setg(eback(), gptr() + size, egptr()); }
    std::istream& as_stream();
    void close() noexcept;

    Fd fd;
    bool read_ahead;
    std::optional<TextDecoder> decoder;

  private:
    int_type underflow() override;
    // Makes all of `buffer_` available.
    void show_buffer();

    std::string buffer_;
    bool ended_ = false;
    std::optional<std::istream> stream_;
};

struct PipeWriterImpl : public std::streambuf {
    PipeWriterImpl(Fd pipe, int bufsize, const TextMode& text);

    // `gather` is like bufsize: 0 or less writes at once, 1 at the end of a line, n at n bytes.
    void write(std::string_view text, int gather);
    std::string encode(std::string_view text);
    void flush();
    // Throws what went wrong in the stream, which could only tell it by its badbit; once.
    void report();
    std::ostream& as_stream();
    void close();
    // Closes without waiting: what is held back is written if the pipe takes it. Not by a forked
    // child's copy: its parent has it, too, and would send it again.
    void abandon() noexcept;

    const ForkMarker owner;
    Fd fd;
    int bufsize;
    std::unique_ptr<Converter> encoder;
    std::string gathered;  // encoded

  private:
    int_type overflow(int_type c) override;
    std::streamsize xsputn(const char* text, std::streamsize size) override;
    int sync() override;
    template <class Action>
    bool for_stream(Action action);
    int stream_gather() const;

    std::exception_ptr stream_error_;
    std::optional<std::ostream> stream_;
};

struct PipeAccess {
    static PipeReader reader(Fd pipe, int bufsize, const TextMode& text);
    static PipeWriter writer(Fd pipe, int bufsize, const TextMode& text);
    // Null if it is no open pipe.
    static PipeReaderImpl* impl(PipeReader& reader) {
        return reader ? reader.impl_.get() : nullptr;
    }
    static PipeWriterImpl* impl(PipeWriter& writer) {
        return writer ? writer.impl_.get() : nullptr;
    }
};

}  // namespace sidestep::subprocess
