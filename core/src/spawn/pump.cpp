#include "spawn/pump.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "sys/error.hpp"
#include "sys/sigpipe.hpp"
#include "text/large_text.hpp"

namespace sidestep::inline v0::subprocess {

namespace {

// A pipe that carries much gets the capacity that any user may have (fs.pipe-max-size): fewer
// switches between the two processes. Small talk is not worth the memory.
constexpr std::size_t kMuch = 1 << 20;
constexpr int kLargePipe = 1 << 20;
constexpr std::size_t kLargeRead = 256 << 10;  // what a core's cache holds until it is appended

// What the writer holds back was meant to be sent before.
void abandon(PipeWriter& pipe) noexcept {
    try {
        pipe.close();
    } catch (const std::system_error&) {
        // EPIPE: the child is gone, and that is no error here.
    }
}

}  // namespace

Pump::~Pump() = default;

void Pump::add_writer(PipeWriter& pipe, const std::string& input, std::size_t& sent) {
    if (!pipe) return;
    if (sent == input.size()) return abandon(pipe);
    writer_.emplace(Writer{pipe, input, sent});
}

void Pump::add_reader(PipeReader& pipe, std::string& collected) {
    if (pipe) readers_.push_back({.pipe = pipe, .collected = &collected});
}

void Pump::add_reader(PipeReader& pipe, const LineReader& reader) {
    if (!pipe) return;
    readers_.push_back({.pipe = pipe,
                        .collected = reader.collected,
                        .lines = std::make_unique<LineSplitter>(reader.on_line, reader.text),
                        .undelivered = reader.undelivered});
}

void Pump::end_after(std::vector<int> pidfds, Timeout grace, sys::Deadline& drained_by) {
    if (!drained_by) running_ = std::move(pidfds);
    grace_ = grace;
    drained_by_ = &drained_by;
}

bool Pump::finished() const {
    return !(writer_ && writer_->pipe) &&
           std::none_of(readers_.begin(), readers_.end(),
                        [](const Reader& reader) { return bool(reader.pipe); });
}

bool Pump::run(const sys::Deadline& deadline) {
    if (!space_) space_.reset(new char[space_bytes_]);
    deadline_ = deadline;
    if (run_in_time()) return true;
    for (Reader& reader : readers_)
        if (reader.undelivered) *reader.undelivered += reader.lines->take_rest();
    return false;
}

bool Pump::run_in_time() {
    while (!finished()) {
        if (!wait()) return false;
        if (drained_by() && detail::is_over(drained_by())) return read_what_is_there();
    }
    return true;
}

// Waits for something to do, and does it. False: the deadline has come.
bool Pump::wait() {
    auto is_open = [](const Reader& reader) { return bool(reader.pipe); };
    bool writing = writer_ && writer_->pipe;
    auto first = std::find_if(readers_.begin(), readers_.end(), is_open);
    bool alone = !writing && std::count_if(first, readers_.end(), is_open) == 1;
    if (alone && !deadline_ && running_.empty() && !drained_by()) {
        read(*first, ::read);  // nothing else can happen: it may block
        return true;
    }
    std::vector<pollfd> entries;
    for (Reader& reader : readers_)
        if (reader.pipe) entries.push_back({reader.pipe.fd(), POLLIN, 0});
    if (writing) entries.push_back({writer_->pipe.fd(), POLLOUT, 0});
    std::size_t pidfds = entries.size();
    for (int pidfd : running_) entries.push_back({pidfd, POLLIN, 0});

    sys::Deadline until = deadline_;
    if (drained_by() && (!until || *drained_by() < *until)) until = drained_by();
    int n = ::poll(entries.data(), entries.size(), sys::poll_timeout(until));
    if (n < 0 && errno != EINTR) throw_errno(errno, "poll(the child's pipes)");
    if (detail::is_over(deadline_)) return false;
    if (n <= 0) return true;

    for (std::size_t i = pidfds; i < entries.size(); ++i)
        if (entries[i].revents) note_end(entries[i].fd);
    std::size_t at = 0;
    for (Reader& reader : readers_) reader.ready = reader.pipe && entries[at++].revents != 0;
    if (writing && entries[at].revents) write();
    for (Reader& reader : readers_)
        if (reader.ready) read(reader, sys::read_now);  // another process may have been faster
    return true;
}

void Pump::note_end(int pidfd) {
    std::erase(running_, pidfd);
    if (running_.empty()) *drained_by_ = detail::deadline_after(grace_);
}

void Pump::write() {
    const std::string& input = writer_->input;
    SigpipeGuard guard;
    std::size_t sent = writer_->sent;
    ssize_t n = sys::write_now(writer_->pipe.fd(), input.data() + sent, input.size() - sent);
    int error = n < 0 ? errno : 0;
    if (error == EPIPE)
        guard.raised();
    else if (error != 0 && error != EAGAIN && error != EINTR)
        throw_errno(error, "write to the child's std_in");
    if (n > 0) writer_->sent += static_cast<std::size_t>(n);
    if (error == EPIPE || writer_->sent == input.size()) abandon(writer_->pipe);
}

// `call`: ::read, or what does not wait.
void Pump::read(Reader& reader, ssize_t (*call)(int, void*, std::size_t)) {
    ssize_t n = call(reader.pipe.fd(), space_.get(), space_bytes_);
    if (n < 0) {
        if (errno == EINTR || errno == EAGAIN) return;
        throw_errno(errno, "read from the child's pipe");
    }
    if (n == 0) {
        reader.pipe.close();
        if (reader.lines) reader.lines->finish();
        return;
    }
    std::string_view bytes(space_.get(), static_cast<std::size_t>(n));
    if (reader.collected) append_large(*reader.collected, bytes);
    if (reader.lines) reader.lines->feed(bytes, deadline_);
    reader.total += bytes.size();
    if (may_grow_pipes_ && !reader.grown && reader.total >= kMuch) grow_pipe(reader);
}

void Pump::grow_pipe(Reader& reader) {
    reader.grown = true;
    int size = ::fcntl(reader.pipe.fd(), F_SETPIPE_SZ, kLargePipe);
    if (size <= 0 || static_cast<std::size_t>(size) <= space_bytes_) return;  // not allowed: fine
    space_bytes_ = std::min(static_cast<std::size_t>(size), kLargeRead);
    space_.reset(new char[space_bytes_]);
}

// The end of the grace: what the pipes hold now, and no more: a writer may be faster than we are.
// False: the deadline came meanwhile.
bool Pump::read_what_is_there() {
    for (Reader& reader : readers_) {
        if (!reader.pipe) continue;
        int bytes = 0;
        if (::ioctl(reader.pipe.fd(), FIONREAD, &bytes) < 0) throw_errno(errno, "ioctl(FIONREAD)");
        std::size_t end = reader.total + static_cast<std::size_t>(bytes);
        for (std::size_t before = reader.total; reader.pipe && reader.total < end;) {
            read(reader, sys::read_now);
            if (detail::is_over(deadline_)) return false;
            if (std::exchange(before, reader.total) == reader.total) break;
        }
        if (!reader.pipe) continue;
        reader.pipe.close();
        if (reader.lines) reader.lines->finish();
    }
    if (writer_ && writer_->pipe) abandon(writer_->pipe);
    return true;
}

}  // namespace sidestep::subprocess
