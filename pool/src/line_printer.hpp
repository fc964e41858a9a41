// Output::lines: writes what workers print to this process's own output, line by line.
//
// Each worker has two pipes, whose other ends a thread reads. It alone writes, so lines stay whole;
// and what a worker wrote is in a pipe, so its death loses nothing. Who reads slowly has the thread
// wait, then the pipes fill, then tasks wait in their writes: nothing grows. Where the prefix names
// the task, marks in a pipe say whose lines follow (line_mark.hpp); one ends half a line before it.
#pragma once

#include <poll.h>

#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "service_thread.hpp"
#include "sys/parent_fd.hpp"
#include "sys/sys.hpp"
#include "worker/line_mark.hpp"

namespace sidestep::inline v0::detail {

// Threads: thread-safe; stop() by one thread.
class LinePrinter {
  public:
    explicit LinePrinter(const std::string& prefix) : prefix_(prefix) {}

    // Where a worker is to write; and how its marks begin, if its lines name its tasks.
    struct Ends {
        Fd out, err;
        std::optional<LineNonce> nonce = {};
    };
    // Starts the thread if it does not run. Throws std::system_error.
    Ends add(unsigned worker, int pid);
    // Writes what is there, and ends the thread. Who writes later finds no reader.
    void stop();
    void abandon() { thread_.abandon(); }  // in a forked child

  private:
    struct Source {
        ParentFd pipe;
        int to;            // this process's descriptor
        std::string form;  // of the prefix; what it says of tasks is open
        std::string prefix;
        std::optional<LineNonce> nonce;
        std::string rest = {};  // of a line that has no end yet
        bool ended = false;
    };

    void run();
    void look(bool last);
    void take_added();
    int read(Source& source);
    void print(Source& source, bool ended);
    void print_begin(Source& source, std::size_t size, bool ended);
    void write(int fd, std::string_view text);
    bool is_stopping();

    const std::string prefix_;
    ServiceThread thread_;
    ParentFd bell_;
    // Owned by the thread.
    std::list<Source> sources_;
    std::vector<pollfd> entries_;
    bool is_behind_ = false;  // there was no memory for what was read
    std::mutex mutex_;
    // Guarded by mutex_.
    std::list<Source> added_;
    bool stopping_ = false;
};

}  // namespace sidestep::detail
