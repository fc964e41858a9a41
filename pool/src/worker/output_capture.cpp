#include "worker/output_capture.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <iostream>
#include <limits>
#include <new>
#include <system_error>

#include <sidestep/detail/printed_output.hpp>

#include "sys/error.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr std::uint64_t kFreeStep = std::uint64_t(1) << 20;  // fewer are not worth a call
constexpr std::uint64_t kEverything = std::numeric_limits<std::uint64_t>::max();

// By lseek(2), which always knows (the files are only appended to, wherever the offset is). Of one
// that is not there, since a task closed it: everything, which the reader cuts to what there is.
std::uint64_t size_of(const Fd& file) {
    off_t size = ::lseek(file.get(), 0, SEEK_END);  // of a pipe: none, and nobody asks
    return size < 0 ? kEverything : static_cast<std::uint64_t>(size);
}

// Where a task's output begins that comes after `begin`, if no task has truncated the file: a shell
// does for `echo ... > /dev/stderr`, and so does std::ofstream("/dev/stderr"). All that is there
// then came since. (It shows: of what earlier tasks wrote the first byte was given back, and is 0.)
std::uint64_t begin_of(const Fd& file, std::uint64_t begin, std::uint64_t end) {
    if (begin == 0) return 0;
    char first = 0;
    const ssize_t n = ::pread(file.get(), &first, 1, 0);
    if (n < 0) return begin;  // nobody can tell now
    return n > 0 && first == 0 ? std::min(begin, end) : 0;
}

// In the place of what is lost: an empty text would say that the task wrote nothing.
std::string lost_note(std::uint64_t bytes, const char* stream, const std::string& cause) {
    return fmt::format("{}{} bytes that the task wrote to {} are lost: {}]\n", kOutputNote, bytes,
                       stream, cause);
}

// Appends only: tasks and all that they start write through it, each at the end.
Fd make_file(const char* name) {
    Fd file = sys::growing_memfd(name);
    if (::fcntl(file.get(), F_SETFL, O_APPEND) < 0) throw_errno(errno, "fcntl(O_APPEND)");
    return file;
}

Fd duplicate_if_open(int fd) { return sys::is_open(fd) ? Fd::duplicate_of(fd) : Fd(); }

void put_back(const Fd& before, int fd) {
    if (before)
        ::dup2(before.get(), fd);
    else
        ::close(fd);
}

}  // namespace

OutputCapture::OutputCapture(Fd out, Fd err)
    : out_(std::move(out)),
      err_(std::move(err)),
      former_out_(duplicate_if_open(STDOUT_FILENO)),
      former_err_(duplicate_if_open(STDERR_FILENO)) {
    (void)detail::flush_printed();
    ::dup2(out_.get(), STDOUT_FILENO);
    ::dup2(err_.get(), STDERR_FILENO);
    // What waits in a buffer would be lost in a crash.
    std::setvbuf(stdout, nullptr, _IONBF, 0);
    for (std::ios* stream :
         {static_cast<std::ios*>(&std::cout), static_cast<std::ios*>(&std::clog)})
        stream->setf(std::ios::unitbuf);
    for (std::wios* stream :
         {static_cast<std::wios*>(&std::wcout), static_cast<std::wios*>(&std::wclog)})
        stream->setf(std::ios::unitbuf);
}

OutputMark OutputCapture::mark() const {
    (void)detail::flush_printed();
    return {size_of(out_), size_of(err_)};
}

void OutputCapture::stop() {
    (void)detail::flush_printed();
    put_back(former_out_, STDOUT_FILENO);
    put_back(former_err_, STDERR_FILENO);
}

WorkerOutput::WorkerOutput(std::size_t limit) : limit_(limit) {
    out_.file = make_file("sidestep-out");
    err_.file = make_file("sidestep-err");
}

void WorkerOutput::end() {
    for (const Stream* stream : {&out_, &err_}) {
        sys::stop_growth(stream->file.get());
        sys::discard(stream->file.get(), 0, std::max<std::uint64_t>(stream->size(), 1));
    }
}

TaskOutput WorkerOutput::read(const OutputMark& end) const {
    TaskOutput output;
    output.out = out_.read("stdout", end.out, limit_, output.out_dropped);
    output.err = err_.read("stderr", end.err, limit_, output.err_dropped);
    return output;
}

TaskOutput WorkerOutput::read() const { return read({kEverything, kEverything}); }

void WorkerOutput::end_task(const OutputMark& end) {
    for (auto [stream, mark] : {std::pair(&out_, end.out), std::pair(&err_, end.err)}) {
        const std::uint64_t begin = begin_of(stream->file, stream->begin, mark);
        if (begin != stream->begin) stream->freed = 0;
        stream->begin = begin;
        if (mark <= begin) continue;
        const std::uint64_t size = stream->size();
        if (mark > size && mark != kEverything) {  // a later task has truncated it
            stream->begin = stream->freed = 0;
            continue;
        }
        stream->begin = std::min(mark, size);
        if (begin == 0) sys::discard(stream->file.get(), 0, 1);
        stream->free_until(stream->begin);
    }
}

bool WorkerOutput::trim() {
    bool grows = false;
    for (Stream* stream : {&out_, &err_}) {
        std::uint64_t size = stream->size();
        grows = grows || size != stream->seen;
        stream->seen = size;
        if (size < stream->freed) stream->freed = 0;  // it was truncated
        if (size - std::min(size, stream->begin) > limit_) stream->free_until(size - limit_);
    }
    return grows;
}

std::uint64_t WorkerOutput::Stream::size() const { return size_of(file); }

// (What was given back is beyond the limit, if not because of what came behind `end`.)
std::string WorkerOutput::Stream::read(const char* name, std::uint64_t end, std::size_t limit,
                                       std::size_t& dropped) const {
    std::string text;
    if (end == kEverything) end = size();
    const std::uint64_t from = begin_of(file, begin, end);
    if (end <= from) return text;
    if (end > size()) {  // a later task has truncated it
        dropped = end - std::min(end, begin);
        return text;
    }
    std::uint64_t there = end - std::min(end, from == begin ? std::max(begin, freed) : from);
    std::uint64_t length = std::min<std::uint64_t>(there, limit);
    try {
        text.resize(length);
    } catch (const std::bad_alloc&) {
        dropped = end - from;
        return lost_note(dropped, name,
                         "there is no memory for a copy of them; PoolOptions::output_limit says "
                         "how many are kept");
    }
    std::size_t got = 0;
    while (got < length) {
        ssize_t n = ::pread(file.get(), text.data() + got, length - got,
                            static_cast<off_t>(end - length + got));
        if (n < 0) {
            int error = errno;
            if (error == EINTR) continue;
            dropped = end - from;
            return lost_note(dropped, name,
                             fmt::format("reading them back, pread: {}; the kernel's log may say "
                                         "why. What must not be lost, let it write to a file",
                                         std::generic_category().message(error)));
        }
        if (n == 0) break;  // a task has truncated it
        got += static_cast<std::size_t>(n);
    }
    text.resize(got);
    dropped = end - from - got;
    return text;
}

void WorkerOutput::Stream::free_until(std::uint64_t end) {
    end -= end % sys::page_size();
    if (end < freed + kFreeStep) return;
    sys::discard(file.get(), freed, end - freed);
    freed = end;
}

}  // namespace sidestep
