#include "line_printer.hpp"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <new>

#include "progress_screen.hpp"
#include "sys/error.hpp"
#include "worker/worker_settings.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::size_t kMostOfLine = std::size_t(64) << 10;
constexpr std::size_t kAtOnce = 4096;  // so much a pipe takes that poll(2) calls writable
constexpr int kRead = 16 << 10;
constexpr int kShortPauseMs = 10;             // where memory is short
constexpr int kLookMs = 100;                  // at whether it is to stop, while nobody reads
constexpr std::chrono::seconds kPatience{2};  // then, with who takes nothing

std::string with_pid(std::string text, int pid) {
    constexpr std::string_view kPid = "{pid}";
    const std::string number = std::to_string(pid);
    for (std::size_t at = 0; (at = text.find(kPid, at)) != std::string::npos; at += number.size())
        text.replace(at, kPid.size(), number);
    return text;
}

}  // namespace

LinePrinter::Ends LinePrinter::add(unsigned worker, int pid) {
    Ends ends;
    std::list<Source> added;
    const std::string form = with_pid(with_index(prefix_, worker), pid);
    if (prefix_names_tasks(prefix_)) ends.nonce = make_line_nonce();
    const std::string prefix = ends.nonce ? task_prefix(form, 0, "") : form;
    for (auto [end, to] :
         {std::pair(&ends.out, STDOUT_FILENO), std::pair(&ends.err, STDERR_FILENO)}) {
        sys::Pipe pipe = sys::make_pipe();
        sys::set_nonblocking(pipe.read_end.get(), true);
        *end = std::move(pipe.write_end);
        added.push_back({ParentFd(std::move(pipe.read_end)), to, form, prefix, ends.nonce});
    }
    if (!thread_.joinable()) {
        bell_ = ParentFd(sys::make_eventfd());
        thread_.start("sidestep-lines", ServiceThread::Runs::library_code, [this] { run(); });
    }
    std::lock_guard lock(mutex_);
    added_.splice(added_.end(), added);
    const std::uint64_t one = 1;
    (void)!::write(bell_.get(), &one, sizeof one);
    return ends;
}

void LinePrinter::stop() {
    if (!thread_.joinable()) return;
    {
        std::lock_guard lock(mutex_);
        stopping_ = true;
        const std::uint64_t one = 1;
        (void)!::write(bell_.get(), &one, sizeof one);
    }
    thread_.join();
}

bool LinePrinter::is_stopping() {
    std::lock_guard lock(mutex_);
    return stopping_;
}

void LinePrinter::take_added() {
    std::lock_guard lock(mutex_);
    sources_.splice(sources_.end(), added_);
}

// What it has not the memory for now it does later: nothing was read that could not be kept.
void LinePrinter::run() {
    sys::Clock::time_point stopped{};
    for (;;) {
        const bool last = is_stopping();  // then all that is there is read once more
        if (last && stopped == sys::Clock::time_point{}) stopped = sys::Clock::now();
        try {
            look(last);
            if (last) break;
        } catch (const std::bad_alloc&) {
            is_behind_ = true;
            if (last && sys::Clock::now() - stopped > kPatience) break;
            (void)::poll(nullptr, 0, kShortPauseMs);
        }
    }
    sources_.clear();
}

void LinePrinter::look(bool last) {
    entries_.assign(1, {bell_.get(), POLLIN, 0});
    for (const Source& source : sources_) entries_.push_back({source.pipe.get(), POLLIN, 0});
    // Where the kernel has no memory, or this process a limit below its descriptors, all are read.
    if (::poll(entries_.data(), entries_.size(), last || is_behind_ ? 0 : -1) < 0)
        (void)::poll(nullptr, 0, kShortPauseMs);
    std::uint64_t count;
    if (entries_[0].revents != 0) (void)!::read(bell_.get(), &count, sizeof count);
    take_added();
    for (Source& source : sources_) {
        if (is_behind_) print(source, source.ended);
        // No more than was there: somebody may write for ever.
        int left = last ? std::max(::fcntl(source.pipe.get(), F_GETPIPE_SZ), kRead) : 1;
        while (left > 0) {
            const int n = read(source);
            if (n == 0) break;
            left -= n;
        }
        if (last && !source.ended) print(source, true);
    }
    sources_.remove_if([](const Source& source) { return source.ended; });
    is_behind_ = false;
}

// How many bytes there were.
int LinePrinter::read(Source& source) {
    char bytes[kRead];
    source.rest.reserve(source.rest.size() + sizeof bytes);
    const ssize_t n = ::read(source.pipe.get(), bytes, sizeof bytes);
    if (n < 0) return 0;  // EAGAIN
    if (n == 0) {
        source.ended = true;
        print(source, true);
        return 0;
    }
    source.rest.append(bytes, static_cast<std::size_t>(n));
    print(source, false);
    return static_cast<int>(n);
}

// Where memory is short it goes on later: each step is done, or has not been begun.
void LinePrinter::print(Source& source, bool ended) {
    std::string& rest = source.rest;
    if (!source.nonce) return print_begin(source, rest.size(), ended);
    LineMark mark = LineMark::find(rest, *source.nonce);
    while (mark.size > 0) {
        if (mark.begin > 0) {  // a line ends where its task does
            print_begin(source, mark.begin, true);
        } else {
            source.prefix = task_prefix(source.form, mark.number, mark.name);
            rest.erase(0, mark.size);
        }
        mark = LineMark::find(rest, *source.nonce);
    }
    // What may be the begin of a mark waits for the rest of it.
    print_begin(source, ended ? rest.size() : mark.begin, ended);
}

// The lines among its first bytes. ended: the last one, too, which has no end.
void LinePrinter::print_begin(Source& source, std::size_t size, bool ended) {
    std::string& rest = source.rest;
    const auto last = rest.begin() + static_cast<std::ptrdiff_t>(size);
    const auto lines = static_cast<std::size_t>(std::count(rest.begin(), last, '\n')) + 1;
    std::string text;
    text.reserve(size + 1 + lines * source.prefix.size());  // or nothing happened
    std::size_t begin = 0;
    for (std::size_t end; (end = rest.find('\n', begin)) < size; begin = end + 1)
        text.append(source.prefix).append(rest, begin, end + 1 - begin);
    if (size - begin > kMostOfLine || (ended && size > begin)) {
        text.append(source.prefix).append(rest, begin, size - begin) += '\n';
        begin = size;
    }
    rest.erase(0, begin);
    if (!text.empty()) write(source.to, text);
}

// Who does not read is waited for, until the pool ends.
void LinePrinter::write(int fd, std::string_view text) {
    if ((::fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY) return;  // poll(2) would wait for ever
    const BarAside aside(fd);
    auto progress = sys::Clock::now();
    while (!text.empty()) {
        pollfd entry = {fd, POLLOUT, 0};
        if (::poll(&entry, 1, kLookMs) == 0) {
            if (is_stopping() && sys::Clock::now() - progress > kPatience) return;
            continue;
        }
        const ssize_t n = ::write(fd, text.data(), std::min(text.size(), kAtOnce));
        if (n < 0 && errno != EINTR && errno != EAGAIN) return;  // nobody will ever have it
        if (n <= 0) continue;
        text.remove_prefix(static_cast<std::size_t>(n));
        progress = sys::Clock::now();
    }
}

}  // namespace sidestep::detail
