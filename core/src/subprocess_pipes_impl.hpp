// The insides of PipeReader and PipeWriter, and the library's way to them.
#pragma once

#include <istream>
#include <memory>
#include <optional>
#include <ostream>
#include <string>

#include <sidestep/subprocess_pipes.hpp>

#include "fd.hpp"
#include "text_codec.hpp"

namespace sidestep::subprocess {

struct PipeReaderImpl {
    PipeReaderImpl(Fd pipe, int bufsize, const TextMode& text);

    // Reads once into `buffer`; false at end of file.
    bool fill(std::size_t size);
    std::string_view available() const { return std::string_view(buffer).substr(position); }
    std::string take(std::size_t size);

    Fd fd;
    bool read_ahead;
    std::optional<TextDecoder> decoder;
    std::string buffer;  // what was read, decoded; from `position` on it is not yet asked for
    std::size_t position = 0;
    bool ended = false;
    std::unique_ptr<std::streambuf> stream_buffer;
    std::unique_ptr<std::istream> stream;
};

struct PipeWriterImpl {
    PipeWriterImpl(Fd pipe, int bufsize, const TextMode& text);

    std::string encode(std::string_view bytes);
    void flush();

    Fd fd;
    int bufsize;
    std::unique_ptr<Converter> encoder;
    std::string gathered;
    std::unique_ptr<std::streambuf> stream_buffer;
    std::unique_ptr<std::ostream> stream;
};

struct PipeAccess {
    static PipeReader reader(Fd pipe, int bufsize, const TextMode& text);
    static PipeWriter writer(Fd pipe, int bufsize, const TextMode& text);
    static PipeReaderImpl* impl(PipeReader& reader) { return reader.impl_.get(); }
    static PipeWriterImpl* impl(PipeWriter& writer) { return writer.impl_.get(); }
};

// Writes all of it to a pipe, without SIGPIPE; throws std::system_error (EPIPE too). Waits where
// the descriptor is non-blocking.
void write_all(int fd, std::string_view bytes);

}  // namespace sidestep::subprocess
