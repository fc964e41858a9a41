#include <sidestep/subprocess_pipes.hpp>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "spawn/pipe_io.hpp"
#include "subprocess/subprocess_pipes_impl.hpp"
#include "text/large_text.hpp"

namespace sidestep::inline v0::subprocess {
namespace {

constexpr std::size_t kReadBytes = 65536;

template <class Impl>
Impl& open_pipe(const std::unique_ptr<Impl>& impl, const char* remedy) {
    if (!impl || !impl->fd)
        throw std::logic_error(std::string("this is no open pipe: it was closed, or the child was "
                                           "started without ") +
                               remedy);
    return *impl;
}

constexpr const char* kReaderRemedy = ".std_out = PIPE (or std_err)";
constexpr const char* kWriterRemedy = ".std_in = PIPE";

// What the stream of a writer gathers by default: std::ostream writes in small pieces. It is
// PIPE_BUF, so that the last of it goes into a full pipe as a whole or not at all.
constexpr int kStreamBytes = 4096;

}  // namespace

// --- PipeReader ------------------------------------------------------------------------------

PipeReaderImpl::PipeReaderImpl(Fd pipe, int bufsize, const TextMode& text)
    : fd(std::move(pipe)), read_ahead(bufsize != 0) {
    if (text.on) decoder.emplace(text);
}

void PipeReaderImpl::show_buffer() {
    setg(buffer_.data(), buffer_.data(), buffer_.data() + buffer_.size());
}

bool PipeReaderImpl::fill(std::size_t size) {
    buffer_.erase(0, static_cast<std::size_t>(gptr() - eback()));
    show_buffer();
    // Not read into `buffer_` itself: making room there for what may come is to fill it with zeros.
    std::array<char, kReadBytes> bytes;
    std::size_t most = read_ahead ? bytes.size() : std::min(bytes.size(), size);
    std::size_t before = buffer_.size();
    while (buffer_.size() == before && !ended_ && fd) {  // half a character yields nothing
        std::string_view piece(bytes.data(), read_pipe(fd.get(), bytes.data(), most));
        ended_ = piece.empty();
        std::string text;
        if (decoder) {
            if (ended_)
                decoder->finish(text);
            else
                decoder->decode(piece, text);
            piece = text;
        }
        append_large(buffer_, piece);
        show_buffer();
    }
    return buffer_.size() != before;
}

std::string PipeReaderImpl::take(std::size_t size) {
    if (gptr() == eback() && size >= buffer_.size()) {  // all, which may be much: no copy
        std::string all = std::exchange(buffer_, {});
        show_buffer();
        return all;
    }
    std::string taken(available().substr(0, size));
    skip(taken.size());
    return taken;
}

std::streambuf::int_type PipeReaderImpl::underflow() {
    if (available().empty() && !fill(1)) return traits_type::eof();
    return traits_type::to_int_type(*gptr());
}

std::istream& PipeReaderImpl::as_stream() {
    if (!stream_) stream_.emplace(this);
    return *stream_;
}

void PipeReaderImpl::close() noexcept {
    fd.reset();
    std::string().swap(buffer_);
    show_buffer();
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
    while (impl.fill(kReadBytes)) {
    }
    return impl.take(std::string::npos);
}

std::string PipeReader::read(std::size_t size) {
    auto& impl = open_pipe(impl_, kReaderRemedy);
    if (!impl.read_ahead) return read_some(size);
    while (impl.available().size() < size && impl.fill(size)) {
    }
    return impl.take(size);
}

std::string PipeReader::read_some(std::size_t size) {
    auto& impl = open_pipe(impl_, kReaderRemedy);
    if (impl.available().empty() && size != 0) impl.fill(size);
    return impl.take(size);
}

std::optional<std::string> PipeReader::read_line() {
    auto& impl = open_pipe(impl_, kReaderRemedy);
    std::size_t searched = 0;
    for (;;) {
        std::size_t end = impl.available().find('\n', searched);
        if (end != std::string_view::npos) {
            std::string line = impl.take(end);
            impl.skip(1);
            return line;
        }
        searched = impl.available().size();
        if (!impl.fill(1)) break;
    }
    if (impl.available().empty()) return {};
    return impl.take(std::string::npos);
}

std::istream& PipeReader::stream() { return open_pipe(impl_, kReaderRemedy).as_stream(); }

void PipeReader::close() noexcept {
    if (impl_) impl_->close();
}

// --- PipeWriter ------------------------------------------------------------------------------

PipeWriterImpl::PipeWriterImpl(Fd pipe, int size, const TextMode& text)
    : fd(std::move(pipe)), bufsize(size) {
    if (!text.encoding.empty())
        encoder = std::make_unique<Converter>(text, Converter::Direction::from_utf8);
}

std::string PipeWriterImpl::encode(std::string_view text) {
    std::string encoded;
    encoder->convert(text, encoded);
    return encoded;
}

void PipeWriterImpl::write(std::string_view text, int gather) {
    bool ends_line = gather == 1 && text.find('\n') != std::string_view::npos;
    std::string encoded;
    if (encoder) text = encoded = encode(text);
    if (gather <= 0) {
        flush();
        return write_pipe(fd.get(), text);
    }
    gathered += text;
    bool full = gather > 1 && gathered.size() >= static_cast<std::size_t>(gather);
    if (full || ends_line) flush();
}

void PipeWriterImpl::flush() {
    // Given up on failure, too: the destructor must not fail on it again.
    write_pipe(fd.get(), std::exchange(gathered, {}));
}

void PipeWriterImpl::report() {
    if (std::exception_ptr error = std::exchange(stream_error_, {})) std::rethrow_exception(error);
}

// What is thrown here is swallowed by the std::ostream, unless its exceptions() say otherwise.
template <class Action>
bool PipeWriterImpl::for_stream(Action action) {
    if (!fd) return false;
    try {
        action();
    } catch (...) {
        stream_error_ = std::current_exception();
        throw;
    }
    return true;
}

int PipeWriterImpl::stream_gather() const { return bufsize < 0 ? kStreamBytes : bufsize; }

std::streambuf::int_type PipeWriterImpl::overflow(int_type c) {
    if (traits_type::eq_int_type(c, traits_type::eof())) return traits_type::not_eof(c);
    char byte = traits_type::to_char_type(c);
    return xsputn(&byte, 1) == 1 ? c : traits_type::eof();
}

std::streamsize PipeWriterImpl::xsputn(const char* text, std::streamsize size) {
    auto write_it = [&] { write({text, static_cast<std::size_t>(size)}, stream_gather()); };
    return for_stream(write_it) ? size : 0;
}

int PipeWriterImpl::sync() {
    return for_stream([&] { flush(); }) ? 0 : -1;
}

std::ostream& PipeWriterImpl::as_stream() {
    if (!stream_) stream_.emplace(this);
    return *stream_;
}

void PipeWriterImpl::close() {
    Fd closing = std::move(fd);  // whatever is thrown
    write_pipe(closing.get(), std::exchange(gathered, {}));
    std::string tail;
    if (encoder) encoder->finish(tail);
    write_pipe(closing.get(), tail);
    report();
}

void PipeWriterImpl::abandon() noexcept {
    Fd closing = std::move(fd);
    if (!closing || gathered.empty() || !owner.same_process()) return;
    write_pipe_now(closing.get(), gathered);
}

PipeWriter::PipeWriter() noexcept = default;
PipeWriter::PipeWriter(PipeWriter&& other) noexcept = default;
PipeWriter& PipeWriter::operator=(PipeWriter&& other) noexcept {
    if (this == &other) return *this;
    if (impl_) impl_->abandon();
    // To assign no pipe is a way to close without waiting: a held stream() is at its end then.
    if (other.impl_) impl_ = std::move(other.impl_);
    return *this;
}

PipeWriter::~PipeWriter() {
    if (impl_) impl_->abandon();
}

PipeWriter::operator bool() const noexcept { return impl_ && impl_->fd; }
int PipeWriter::fd() const { return open_pipe(impl_, kWriterRemedy).fd.get(); }

void PipeWriter::write(std::string_view bytes) {
    auto& impl = open_pipe(impl_, kWriterRemedy);
    impl.write(bytes, impl.bufsize);
}

void PipeWriter::flush() {
    auto& impl = open_pipe(impl_, kWriterRemedy);
    impl.flush();
    impl.report();
}

std::ostream& PipeWriter::stream() { return open_pipe(impl_, kWriterRemedy).as_stream(); }

void PipeWriter::close() {
    if (*this) impl_->close();
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
