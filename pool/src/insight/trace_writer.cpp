#include "insight/trace_writer.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <exception>
#include <iterator>
#include <new>
#include <utility>

#include <sidestep/detail/call_times.hpp>

#include "sys/error.hpp"

namespace sidestep::inline v0::detail {
namespace {

using namespace std::chrono_literals;
// What is written so late at most is what a program that is killed takes along.
constexpr auto kLongestDelay = 250ms;
constexpr std::size_t kBufferBytes = std::size_t(64) << 10;

std::string in_quotes(std::string_view text) {
    std::string quoted = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') quoted += '\\';
        if (static_cast<unsigned char>(c) < 0x20)
            quoted += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        else
            quoted += c;
    }
    return quoted + '"';
}

// Microseconds, as the format wants them, without losing the nanoseconds.
std::string in_us(std::uint64_t ns) { return fmt::format("{}.{:03}", ns / 1000, ns % 1000); }

Fd open_file(const std::string& path) {
    int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) throw_errno(errno, fmt::format("open the trace file \"{}\"", path));
    return Fd(fd);
}

}  // namespace

TraceWriter::TraceWriter(const std::string& path, TaskNames& names, TrackNames track_names,
                         const char* who)
    : path_(path),
      names_(names),
      track_names_(std::move(track_names)),
      pid_(::getpid()),
      file_(open_file(path)) {
    buffer_ = fmt::format(
        "[\n{{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":{},\"tid\":0,\"args\":{{\"name\":"
        "{}}}}}",
        pid_, in_quotes(fmt::format("sidestep {} of process {}", who, pid_)));
    thread_.start("sidestep-trace", ServiceThread::Runs::library_code, [this] { run(); });
}

TraceWriter::~TraceWriter() {
    try {
        finish();
    } catch (const std::exception&) {  // who wants to know has called it
    }
}

void TraceWriter::add(const TraceEvent& event) noexcept {
    std::lock_guard lock(mutex_);
    if (ending_) return;
    if (pending_.size() >= kMostPending) return (void)++dropped_;
    try {
        pending_.push_back(event);
    } catch (const std::bad_alloc&) {
        ++dropped_;
    }
    if (pending_.size() == kWakeAt) changed_.notify_one();
}

void TraceWriter::finish() {
    std::lock_guard one_at_a_time(finishing_);
    if (thread_.joinable()) {
        {
            std::lock_guard lock(mutex_);
            ending_ = true;
            changed_.notify_one();
        }
        thread_.join();
        flush();
        write_bytes("\n]\n");
        if (::close(file_.release()) < 0 && error_ == 0) error_ = errno;  // a quota, or NFS
    }
    if (error_ != 0) throw_errno(error_, fmt::format("write the trace file \"{}\"", path_));
}

// --- the trace's thread ------------------------------------------------------------------------

void TraceWriter::run() {
    std::vector<TraceEvent> events;
    std::unique_lock lock(mutex_);
    for (bool ending = false; !ending;) {
        changed_.wait_for(lock, kLongestDelay,
                          [this] { return ending_ || pending_.size() >= kWakeAt; });
        ending = ending_;
        events.swap(pending_);
        std::uint64_t dropped = std::exchange(dropped_, 0);
        lock.unlock();
        try {
            write(events, dropped);
        } catch (const std::exception&) {  // there is no memory: what is in the file stays whole
            buffer_.clear();
            if (error_ == 0) error_ = ENOMEM;
        }
        events.clear();
        lock.lock();
    }
}

void TraceWriter::write(const std::vector<TraceEvent>& events, std::uint64_t dropped) {
    std::uint64_t now = steady_now_ns();
    for (const TraceEvent& event : events) {
        name_track(event.track);
        if (event.kind == TraceEvent::Kind::task)
            write_task(event, now);
        else
            write_worker(event);
        if (buffer_.size() >= kBufferBytes) flush();
    }
    if (dropped > 0)
        buffer_ += fmt::format(
            ",\n{{\"ph\":\"i\",\"s\":\"p\",\"name\":\"{} events dropped: they came faster than the "
            "file could be written\",\"pid\":{},\"tid\":0,\"ts\":{}}}",
            dropped, pid_, in_us(now));
    flush();
}

void TraceWriter::write_task(const TraceEvent& event, std::uint64_t now_ns) {
    // I7: a worker that scribbles over its memory may have run its task at any time.
    bool sound = event.begin_ns <= now_ns && event.duration_ns <= now_ns - event.begin_ns;
    auto out = std::back_inserter(buffer_);
    fmt::format_to(out,
                   ",\n{{\"ph\":\"X\",\"cat\":\"task\",\"name\":{},\"pid\":{},\"tid\":{},\"ts\":{},"
                   "\"dur\":{},",
                   in_quotes(names_.name(event.label)), pid_, event.track,
                   in_us(sound ? event.begin_ns : now_ns), in_us(sound ? event.duration_ns : 0));
    if (event.failed) buffer_ += "\"cname\":\"terrible\",";
    fmt::format_to(
        out,
        "\"args\":{{\"task\":{},\"attempt\":{},\"process\":{},\"failed\":{},\"outcome\":\"{}\"",
        event.number, event.attempt, event.pid, event.failed, event.outcome);
    if (event.items > 0)
        fmt::format_to(out, ",\"first_item\":{},\"items\":{}", event.first_item, event.items);
    buffer_ += "}}";
}

void TraceWriter::write_worker(const TraceEvent& event) {
    std::string what = event.kind == TraceEvent::Kind::worker_started ? "worker started"
                       : event.kind == TraceEvent::Kind::worker_left
                           ? "worker left"
                           : "worker " + event.status.describe();
    fmt::format_to(std::back_inserter(buffer_),
                   ",\n{{\"ph\":\"i\",\"s\":\"t\",\"cat\":\"worker\",\"name\":{},\"pid\":{},"
                   "\"tid\":{},\"ts\":{},\"args\":{{\"process\":{}}}}}",
                   in_quotes(what), pid_, event.track, in_us(event.begin_ns), event.pid);
}

void TraceWriter::name_track(std::uint32_t track) {
    if (!named_.insert(track).second) return;
    const std::string* host = track_names_.host_of(track);
    fmt::format_to(
        std::back_inserter(buffer_),
        ",\n{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":{},\"tid\":{},\"args\":{{"
        "\"name\":{}}}}}",
        pid_, track,
        in_quotes(host ? "host " + *host : fmt::format("{} {}", track_names_.each, track)));
}

void TraceWriter::flush() noexcept {
    write_bytes(buffer_);
    buffer_.clear();
}

void TraceWriter::write_bytes(std::string_view bytes) noexcept {
    while (!bytes.empty() && error_ == 0) {
        ssize_t n = ::write(file_.get(), bytes.data(), bytes.size());
        if (n > 0)
            bytes.remove_prefix(static_cast<std::size_t>(n));
        else if (n == 0 || errno != EINTR)
            error_ = n == 0 ? EIO : errno;
    }
}

// --- of a pool ---------------------------------------------------------------------------------

std::shared_ptr<TraceWriter> Tracing::exchange(std::shared_ptr<TraceWriter> fresh) noexcept {
    std::lock_guard lock(mutex_);
    on_.store(fresh != nullptr, std::memory_order_relaxed);
    return std::exchange(writer_, std::move(fresh));
}

void Tracing::start(const std::string& path, TaskNames& names, const TrackNames& track_names,
                    const char* who) {
    stop();  // first: it may be the same file
    auto other = exchange(std::make_shared<TraceWriter>(path, names, track_names, who));
    if (other) other->finish();  // another thread's, made meanwhile
}

void Tracing::stop() {
    if (auto writer = exchange(nullptr)) writer->finish();
}

void Tracing::end() noexcept {
    try {
        stop();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sidestep: a pool's trace is not complete: %s\n", error.what());
    }
}

void Tracing::add(const TraceEvent& event) noexcept {
    std::lock_guard lock(mutex_);
    if (writer_) writer_->add(event);
}

}  // namespace sidestep::detail
