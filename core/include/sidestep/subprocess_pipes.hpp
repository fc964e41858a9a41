// The parent's ends of a child's pipes: PipeReader (std_out, std_err) and PipeWriter (std_in).
//
// Ownership: move-only owners of one descriptor (O_CLOEXEC, numbered 3 or more). A default
//            constructed one is "not a pipe"; using it is a std::logic_error that says so.
// Threads:   single-owner. The reader and the writer of one child may be used by two threads.
// Fork:      a forked child owns copies; a copy of a writer keeps the other side from seeing EOF.
//            What a writer gathers is its parent's to send: the copy's destructor leaves it alone.
// Peer death: a reader sees end of file once every holder of the other end is gone (grandchildren
//            too); a writer throws std::system_error with EPIPE. SIGPIPE is never raised by them.
// Errors:    std::system_error from the system, std::logic_error on a closed pipe, DecodeError in
//            text mode.
// Streams:   stream() and the other functions of a reader or writer, and Popen::communicate, take
//            turns as you like: no byte is lost or overtaken (but for the rest of the input of a
//            communicate() that timed out, see there). A stream stays valid as long as the
//            reader or writer (so as long as its Popen) and follows it when it is moved; once the
//            pipe is closed, it is at its end: eofbit, badbit.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace sidestep::inline v0::subprocess {

// The library's own.
struct PipeAccess;
struct PipeReaderImpl;
struct PipeWriterImpl;

class PipeReader {
  public:
    class Lines;

    PipeReader() noexcept;
    PipeReader(PipeReader&& other) noexcept;
    PipeReader& operator=(PipeReader&& other) noexcept;
    ~PipeReader();

    // True while it is an open pipe.
    explicit operator bool() const noexcept;
    bool closed() const noexcept { return !*this; }
    // The descriptor, for poll(2). What has been read ahead is not in it any more: see buffered().
    int fd() const;
    // Bytes that have been read from the pipe and not yet been asked for.
    std::size_t buffered() const noexcept;

    // Reads everything up to end of file.
    std::string read();
    // Reads `size` bytes; fewer only at end of file (with bufsize = 0: what one read(2) of 64 KiB
    // at most returns).
    std::string read(std::size_t size);
    // Waits until there is something, and returns it: at most `size` bytes, empty at end of file.
    std::string read_some(std::size_t size = 65536);
    // One line without its '\n'; nothing at end of file. A last line may lack its '\n'.
    std::optional<std::string> read_line();
    // The lines that are left, for a range-for; each is valid until the next one.
    Lines lines();
    // The same bytes as a std::istream, made at the first call.
    std::istream& stream();

    // Closes the pipe; does nothing if it is closed.
    void close() noexcept;

  private:
    friend struct PipeAccess;
    std::unique_ptr<PipeReaderImpl> impl_;
};

// An input range over the lines of a reader, which must outlive it.
class PipeReader::Lines {
  public:
    class iterator {
      public:
        using iterator_concept = std::input_iterator_tag;
        using value_type = std::string_view;
        using difference_type = std::ptrdiff_t;

        iterator() = default;
        explicit iterator(Lines* lines) : lines_(lines) {}
        std::string_view operator*() const { return *lines_->line_; }
        iterator& operator++() {
            lines_->line_ = lines_->reader_->read_line();
            return *this;
        }
        void operator++(int) { ++*this; }
        friend bool operator==(const iterator& it, std::default_sentinel_t) { return it.at_end(); }

      private:
        bool at_end() const { return !lines_->line_; }
        Lines* lines_ = nullptr;
    };

    explicit Lines(PipeReader& reader) : reader_(&reader) {}
    iterator begin() {
        line_ = reader_->read_line();
        return iterator(this);
    }
    std::default_sentinel_t end() const noexcept { return {}; }

  private:
    PipeReader* reader_;
    std::optional<std::string> line_;
};

inline PipeReader::Lines PipeReader::lines() { return Lines(*this); }

class PipeWriter {
  public:
    PipeWriter() noexcept;
    PipeWriter(PipeWriter&& other) noexcept;
    PipeWriter& operator=(PipeWriter&& other) noexcept;
    ~PipeWriter();  // closes; what a gathering buffer still holds is written if the pipe takes it

    explicit operator bool() const noexcept;
    bool closed() const noexcept { return !*this; }
    int fd() const;

    // Writes all of it. Blocks while the pipe is full. By default nothing is held back, so that a
    // question reaches the child before its answer is waited for; bufsize > 1 gathers up to that
    // many bytes, and bufsize = 1 (text mode) up to the end of a line.
    void write(std::string_view bytes);
    // Throws also what has gone wrong in stream() before, which only its badbit has told.
    void flush();
    // The same pipe as a std::ostream, made at the first call. Unless bufsize says otherwise, it
    // gathers up to 4 KiB; std::flush and std::endl send that, as write(), flush() and close() do.
    std::ostream& stream();

    // Flushes and closes, which is the child's end of file. The pipe is closed even if the flush
    // throws (EPIPE: the child is gone).
    void close();

  private:
    friend struct PipeAccess;
    std::unique_ptr<PipeWriterImpl> impl_;
};

}  // namespace sidestep::subprocess
