#include "sys/printed.hpp"

#include <stdio_ext.h>

#include <cstdio>
#include <iostream>
#include <streambuf>

// glibc's list of all open FILEs, newest first, which it has exported ever since; weak, in case
// that ends. There is no call that asks whether anything waits in one, and to write all of them
// takes as long as a short task, and waits for those that others hold.
extern "C" {
[[gnu::weak]] FILE* _IO_iter_begin();
[[gnu::weak]] void _IO_list_lock();
[[gnu::weak]] void _IO_list_unlock();
}

namespace sidestep::inline v0::sys {
namespace {

// How much waits in a stream's buffer is a protected member of it.
template <class Char>
struct Buffer : std::basic_streambuf<Char> {
    static bool waits(const std::basic_streambuf<Char>* buffer) {
        return buffer && (buffer->*&Buffer::pptr)() != (buffer->*&Buffer::pbase)();
    }
};

// Found once: they are virtual bases. (std::cerr is not buffered, unless it was told to be.)
std::ios* const kNarrow[] = {&std::cout, &std::clog};
std::wios* const kWide[] = {&std::wcout, &std::wclog};

bool stream_waits() noexcept {
    bool waits = false;  // no branches: next to always nothing does
    for (const std::ios* stream : kNarrow) waits |= Buffer<char>::waits(stream->rdbuf());
    for (const std::wios* stream : kWide) waits |= Buffer<wchar_t>::waits(stream->rdbuf());
    return waits;
}

void write_streams() noexcept {
    try {
        for (std::ostream* stream : {&std::cout, &std::clog, &std::cerr}) stream->flush();
        for (std::wostream* stream : {&std::wcout, &std::wclog, &std::wcerr}) stream->flush();
    } catch (...) {  // a stream that throws is the application's
    }
}

// A FILE of wide characters keeps them elsewhere.
bool waits(FILE* file) noexcept {
    return file->_IO_write_ptr != file->_IO_write_base ||
           (file->_mode > 0 && __fpending(file) != 0);
}

bool write_unless_held(FILE* file) noexcept {
    if (!waits(file) || ftrylockfile(file) != 0) return false;
    (void)::fflush_unlocked(file);
    funlockfile(file);
    return true;
}

// Where there is no list of FILEs, of stdout and stderr alone.
template <class Action>
void for_each_file(const Action& action) noexcept {
    if (!_IO_iter_begin) return action(stdout), action(stderr);
    _IO_list_lock();  // another thread may open one, or close it
    for (FILE* file = _IO_iter_begin(); file; file = file->_chain) action(file);
    _IO_list_unlock();
}

}  // namespace

bool write_printed() noexcept {
    bool elsewhere = stream_waits();
    if (elsewhere) write_streams();
    FILE* first = _IO_iter_begin ? _IO_iter_begin() : stderr;
    if (first == stderr) {  // no file was opened beside the standard ones
        (void)write_unless_held(stdout);
        return write_unless_held(stderr) || elsewhere;
    }
    for_each_file([&](FILE* file) {
        if (write_unless_held(file)) elsewhere = elsewhere || file != stdout;
    });
    return elsewhere;
}

void write_printed_at_exit() noexcept {
    write_streams();
    if (!_IO_iter_begin) return (void)std::fflush(nullptr);
    for_each_file([](FILE* file) {
        if (!write_unless_held(file) && waits(file)) (void)::fflush_unlocked(file);
    });
}

void drop_printed() noexcept {
    for_each_file([](FILE* file) {
        if (waits(file)) ::__fpurge(file);
    });
}

}  // namespace sidestep::sys
