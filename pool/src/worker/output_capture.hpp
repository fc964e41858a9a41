// The output of tasks, captured: two files in memory for each worker, which are its descriptors 1
// and 2. The worker says after each task how far they are; the parent reads what came since the
// task before, and gives the pages back. The files outlive the worker, so a crash loses nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include <sidestep/task_output.hpp>

#include "sys/fd.hpp"

namespace sidestep::inline v0 {

// How a line begins that stands in the place of what could not be read back.
inline constexpr const char* kOutputNote = "[sidestep: ";

// The sizes of both files when a task ended.
struct OutputMark {
    std::uint64_t out = 0;
    std::uint64_t err = 0;
};

// The worker's side.
class OutputCapture {
  public:
    // From here on descriptors 1 and 2 are these files.
    OutputCapture(Fd out, Fd err);
    // Flushes the standard streams; how far they are now.
    OutputMark mark() const;
    int out_fd() const { return out_.get(); }
    int err_fd() const { return err_.get(); }
    // Descriptors 1 and 2 are what they were.
    void stop();

  private:
    Fd out_, err_;
    Fd former_out_, former_err_;  // none: they were closed
};

// The parent's side. Whatever a worker says is cut to what is there.
// Threads: the caller serialises.
class WorkerOutput {
  public:
    // Throws std::system_error.
    explicit WorkerOutput(std::size_t limit);
    int out_fd() const { return out_.file.get(); }
    int err_fd() const { return err_.file.get(); }

    // What was written since the last end_task(), up to the mark; or up to now. What cannot be read
    // is a note that says so.
    TaskOutput read(const OutputMark& end) const;
    TaskOutput read() const;
    // What comes after the mark is the next task's.
    void end_task(const OutputMark& end);
    // Gives back the memory of what is above the limit already. True: something was written since
    // the last time.
    bool trim();
    // The worker is gone: nothing more can be written. What its tasks left running, in process
    // groups of their own, would go on to fill files that nobody looks at.
    void end();

  private:
    struct Stream {
        Fd file;
        std::uint64_t begin = 0;  // of what the task wrote
        std::uint64_t freed = 0;  // the pages before this were given back
        std::uint64_t seen = 0;   // its size at the last trim()

        std::uint64_t size() const;
        std::string read(const char* name, std::uint64_t end, std::size_t limit,
                         std::size_t& dropped) const;
        void free_until(std::uint64_t end);
    };

    std::size_t limit_;
    Stream out_, err_;
};

}  // namespace sidestep
