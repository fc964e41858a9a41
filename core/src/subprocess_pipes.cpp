#include <sidestep/subprocess_pipes.hpp>

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <functional>
#include <stdexcept>
#include <streambuf>

#include "error.hpp"
#include "sigpipe.hpp"
#include "subprocess_pipes_impl.hpp"
#include "sys.hpp"

namespace sidestep::subprocess {
namespace {

constexpr std::size_t kReadBytes = 65536;

void wait_for(int fd, short events) {
    pollfd entry = {.fd = fd, .events = events, .revents = 0};
    while (::poll(&entry, 1, -1) < 0)
        if (errno != EINTR) throw_errno(errno, "poll(pipe)");
}

std::size_t read_once(int fd, char* to, std::size_t size) {
    for (;;) {
        ssize_t n = ::read(fd, to, size);
        if (n >= 0) return static_cast<std::size_t>(n);
        if (errno == EAGAIN)
            wait_for(fd, POLLIN);
        else if (errno != EINTR)
            throw_errno(errno, "read from the child's pipe");
    }
}

template <class Impl>
Impl& open_pipe(const std::unique_ptr<Impl>& impl, const char* remedy) {
    if (!impl)
        throw std::logic_error(std::string("this is no open pipe: it was closed, or the child was "
                                           "started without ") +
                               remedy);
    return *impl;
}

constexpr const char* kReaderRemedy = ".std_out = PIPE (or std_err)";
constexpr const char* kWriterRemedy = ".std_in = PIPE";

class ReaderBuffer : public std::streambuf {
  public:
    explicit ReaderBuffer(std::function<std::string()> more) : more_(std::move(more)) {}

  protected:
    int_type underflow() override {
        piece_ = more_();
        if (piece_.empty()) return traits_type::eof();
        setg(piece_.data(), piece_.data(), piece_.data() + piece_.size());
        return traits_type::to_int_type(piece_[0]);
    }

  private:
    std::function<std::string()> more_;
    std::string piece_;
};

class WriterBuffer : public std::streambuf {
  public:
    WriterBuffer(std::function<void(std::string_view)> write, std::function<void()> flush)
        : write_(std::move(write)), flush_(std::move(flush)) {
        setp(bytes_.data(), bytes_.data() + bytes_.size());
    }

  protected:
    int_type overflow(int_type c) override {
        put();
        if (!traits_type::eq_int_type(c, traits_type::eof())) sputc(traits_type::to_char_type(c));
        return traits_type::not_eof(c);
    }
    int sync() override {
        put();
        flush_();
        return 0;
    }

  private:
    void put() {
        std::string_view bytes(pbase(), static_cast<std::size_t>(pptr() - pbase()));
        setp(bytes_.data(), bytes_.data() + bytes_.size());
        if (!bytes.empty()) write_(bytes);
    }

    std::function<void(std::string_view)> write_;
    std::function<void()> flush_;
    std::array<char, 4096> bytes_;
};

}  // namespace

void write_all(int fd, std::string_view bytes) {
    SigpipeGuard guard;
    while (!bytes.empty()) {
        ssize_t n = ::write(fd, bytes.data(), bytes.size());
        if (n >= 0) {
            bytes.remove_prefix(static_cast<std::size_t>(n));
            continue;
        }
        int error = errno;
        if (error == EPIPE) {
            guard.raised();
            throw_errno(error, "write to the child's std_in (it has closed it, or is gone)");
        }
        if (error == EAGAIN)
            wait_for(fd, POLLOUT);
        else if (error != EINTR)
            throw_errno(error, "write to the child's std_in");
    }
}

// --- PipeReader ------------------------------------------------------------------------------

PipeReaderImpl::PipeReaderImpl(Fd pipe, int bufsize, const TextMode& text)
    : fd(std::move(pipe)), read_ahead(bufsize != 0) {
    if (text.on) decoder.emplace(text);
}

bool PipeReaderImpl::fill(std::size_t size) {
    if (ended) return false;
    buffer.erase(0, position);
    position = 0;
    if (!decoder) {
        std::size_t before = buffer.size();
        buffer.resize(before + size);
        std::size_t n = 0;
        try {
            n = read_once(fd.get(), buffer.data() + before, size);
        } catch (...) {
            buffer.resize(before);
            throw;
        }
        buffer.resize(before + n);
        ended = n == 0;
        return !ended;
    }
    std::array<char, 8192> bytes;
    std::size_t before = buffer.size();
    while (buffer.size() == before && !ended) {  // half a character yields nothing
        std::size_t n = read_once(fd.get(), bytes.data(), std::min(bytes.size(), size));
        ended = n == 0;
        if (ended)
            decoder->finish(buffer);
        else
            decoder->decode({bytes.data(), n}, buffer);
    }
    return buffer.size() != before;
}

std::string PipeReaderImpl::take(std::size_t size) {
    std::string taken(available().substr(0, size));
    position += taken.size();
    return taken;
}

PipeReader::PipeReader() noexcept = default;
PipeReader::PipeReader(PipeReader&& other) noexcept = default;
PipeReader& PipeReader::operator=(PipeReader&& other) noexcept = default;
PipeReader::~PipeReader() = default;

PipeReader::operator bool() const noexcept { return impl_ && impl_->fd; }
int PipeReader::fd() const { return open_pipe(impl_, kReaderRemedy).fd.get(); }
std::size_t PipeReader::buffered() const noexcept { return impl_ ? impl_->available().size() : 0; }

std::string PipeReader::read() {
    auto& impl = open_pipe(impl_, kReaderRemedy);
    while (impl.fill(std::max(kReadBytes, impl.available().size()))) {
    }
    return impl.take(std::string::npos);
}

std::string PipeReader::read(std::size_t size) {
    auto& impl = open_pipe(impl_, kReaderRemedy);
    if (!impl.read_ahead) return read_some(size);
    while (impl.available().size() < size &&
           impl.fill(std::max(kReadBytes, size - impl.available().size()))) {
    }
    return impl.take(size);
}

std::string PipeReader::read_some(std::size_t size) {
    auto& impl = open_pipe(impl_, kReaderRemedy);
    if (impl.available().empty() && size != 0) impl.fill(impl.read_ahead ? kReadBytes : size);
    return impl.take(size);
}

std::optional<std::string> PipeReader::read_line() {
    auto& impl = open_pipe(impl_, kReaderRemedy);
    std::size_t searched = 0;
    for (;;) {
        std::size_t end = impl.available().find('\n', searched);
        if (end != std::string_view::npos) {
            std::string line = impl.take(end);
            ++impl.position;
            return line;
        }
        searched = impl.available().size();
        if (!impl.fill(impl.read_ahead ? kReadBytes : 1)) break;
    }
    if (impl.available().empty()) return {};
    return impl.take(std::string::npos);
}

std::istream& PipeReader::stream() {
    auto& impl = open_pipe(impl_, kReaderRemedy);
    if (!impl.stream) {
        auto more = [&impl] {
            if (impl.available().empty()) impl.fill(impl.read_ahead ? kReadBytes : 1);
            return impl.take(kReadBytes);
        };
        impl.stream_buffer = std::make_unique<ReaderBuffer>(more);
        impl.stream = std::make_unique<std::istream>(impl.stream_buffer.get());
    }
    return *impl.stream;
}

void PipeReader::close() noexcept { impl_.reset(); }

// --- PipeWriter ------------------------------------------------------------------------------

PipeWriterImpl::PipeWriterImpl(Fd pipe, int size, const TextMode& text)
    : fd(std::move(pipe)), bufsize(size) {
    if (!text.encoding.empty())
        encoder = std::make_unique<Converter>(text, Converter::Direction::from_utf8);
}

std::string PipeWriterImpl::encode(std::string_view bytes) {
    std::string encoded;
    encoder->convert(bytes, encoded);
    return encoded;
}

void PipeWriterImpl::flush() {
    // Given up on failure, too: the destructor must not fail on it again.
    std::string bytes = std::exchange(gathered, {});
    if (!bytes.empty()) write_all(fd.get(), bytes);
}

PipeWriter::PipeWriter() noexcept = default;
PipeWriter::PipeWriter(PipeWriter&& other) noexcept = default;
PipeWriter& PipeWriter::operator=(PipeWriter&& other) noexcept {
    if (this != &other) {
        PipeWriter former = std::move(*this);
        impl_ = std::move(other.impl_);
    }
    return *this;
}

PipeWriter::~PipeWriter() {
    if (!impl_) return;
    try {
        if (impl_->stream) impl_->stream->flush();
        if (!impl_->gathered.empty()) {
            sys::set_nonblocking(impl_->fd.get(), true);
            SigpipeGuard guard;
            const std::string& rest = impl_->gathered;
            if (::write(impl_->fd.get(), rest.data(), rest.size()) < 0 && errno == EPIPE)
                guard.raised();
        }
    } catch (...) {
        // The child is gone, or does not read: nobody is there to be told.
    }
}

PipeWriter::operator bool() const noexcept { return impl_ && impl_->fd; }
int PipeWriter::fd() const { return open_pipe(impl_, kWriterRemedy).fd.get(); }

void PipeWriter::write(std::string_view bytes) {
    auto& impl = open_pipe(impl_, kWriterRemedy);
    std::string encoded;
    if (impl.encoder) bytes = encoded = impl.encode(bytes);
    if (impl.bufsize <= 0) return write_all(impl.fd.get(), bytes);
    impl.gathered += bytes;
    bool full = impl.bufsize > 1 && impl.gathered.size() >= static_cast<std::size_t>(impl.bufsize);
    bool line = impl.bufsize == 1 && bytes.find('\n') != std::string_view::npos;
    if (full || line) impl.flush();
}

void PipeWriter::flush() {
    auto& impl = open_pipe(impl_, kWriterRemedy);
    if (impl.stream) impl.stream->flush();
    impl.flush();
}

std::ostream& PipeWriter::stream() {
    auto& impl = open_pipe(impl_, kWriterRemedy);
    if (!impl.stream) {
        auto write = [&impl](std::string_view bytes) {
            std::string encoded;
            if (impl.encoder) bytes = encoded = impl.encode(bytes);
            write_all(impl.fd.get(), bytes);
        };
        impl.stream_buffer = std::make_unique<WriterBuffer>(write, [&impl] { impl.flush(); });
        impl.stream = std::make_unique<std::ostream>(impl.stream_buffer.get());
    }
    return *impl.stream;
}

void PipeWriter::close() {
    if (!impl_) return;
    std::unique_ptr<PipeWriterImpl> closing = std::move(impl_);
    if (closing->stream) closing->stream->flush();
    if (closing->encoder) closing->encoder->finish(closing->gathered);
    closing->flush();
}

// --- PipeAccess ------------------------------------------------------------------------------

PipeReader PipeAccess::reader(Fd pipe, int bufsize, const TextMode& text) {
    PipeReader reader;
    reader.impl_ = std::make_unique<PipeReaderImpl>(std::move(pipe), bufsize, text);
    return reader;
}

PipeWriter PipeAccess::writer(Fd pipe, int bufsize, const TextMode& text) {
    PipeWriter writer;
    writer.impl_ = std::make_unique<PipeWriterImpl>(std::move(pipe), bufsize, text);
    return writer;
}

}  // namespace sidestep::subprocess
