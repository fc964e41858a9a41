#include <sidestep/detail/printed_output.hpp>

#include <stdio_ext.h>

#include <iostream>
#include <streambuf>

// glibc's list of all open FILEs, newest first, which it has exported ever since; weak, in case
// that ends. There is no call that asks whether anything waits in one, and to write all of them
// takes as long as a short task.
extern "C" {
[[gnu::weak]] FILE* _IO_iter_begin();
[[gnu::weak]] void _IO_list_lock();
[[gnu::weak]] void _IO_list_unlock();
}

namespace sidestep::inline v0::detail {
namespace {

// How much waits in a stream's buffer is a protected member of it.
template <class Char>
struct Buffer : std::basic_streambuf<Char> {
    static bool waits(const std::basic_streambuf<Char>* buffer) {
        return buffer && (buffer->*&Buffer::pptr)() != (buffer->*&Buffer::pbase)();
    }
};

// Found once: they are virtual bases. (std::cerr is never buffered.)
std::ios* const kNarrow[] = {&std::cout, &std::clog};
std::wios* const kWide[] = {&std::wcout, &std::wclog};

bool stream_waits() noexcept {
    bool waits = false;  // no branches: next to always nothing does
    for (const std::ios* stream : kNarrow) waits |= Buffer<char>::waits(stream->rdbuf());
    for (const std::wios* stream : kWide) waits |= Buffer<wchar_t>::waits(stream->rdbuf());
    return waits;
}

void flush_streams() noexcept {
    try {
        std::cout.flush();
        std::wcout.flush();
        std::clog.flush();
        std::wclog.flush();
    } catch (...) {  // a stream that throws is the application's
    }
}

// A FILE of wide characters keeps them elsewhere.
bool waits(FILE* file) noexcept {
    return file->_IO_write_ptr != file->_IO_write_base ||
           (file->_mode > 0 && __fpending(file) != 0);
}

// Another thread may hold it, and wait for something.
bool flush_unless_held(FILE* file) noexcept {
    if (!waits(file) || ftrylockfile(file) != 0) return false;
    (void)::fflush_unlocked(file);
    funlockfile(file);
    return true;
}

}  // namespace

bool flush_printed() noexcept {
    bool elsewhere = stream_waits();
    if (elsewhere) flush_streams();
    FILE* first = _IO_iter_begin ? _IO_iter_begin() : stderr;
    if (first == stderr) {  // no file was opened beside the standard ones
        (void)flush_unless_held(stdout);
        return flush_unless_held(stderr) || elsewhere;
    }
    _IO_list_lock();  // another thread may open one, or close it
    for (FILE* file = _IO_iter_begin(); file; file = file->_chain)
        if (flush_unless_held(file)) elsewhere = elsewhere || file != stdout;
    _IO_list_unlock();
    return elsewhere;
}

}  // namespace sidestep::detail
