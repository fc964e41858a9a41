// What a task writes to its standard output and standard error.
//
//     sidestep::Pool pool({.output = sidestep::Output::capture});
//     auto f = pool.submit(simulate, 42);
//     std::cerr << f.output().err;         // also when f.get() throws
//
// Captured is what reaches descriptors 1 and 2 while the task runs: of printf, std::cout, a
// library's write(2), a child program that it starts. It lies in memory that the worker shares with
// this process, so what a task had written before it crashed, was killed or timed out is there, too
// (TaskError::output(), Future::output()). In a captured worker stdout and std::cout are not
// buffered.
//
// Errors: what cannot be read back (there is no memory for it, the kernel gives EIO) costs no task
//         its result: in its place stands a line "[sidestep: ... are lost: ...]" that says why.
// Limits: of each stream the last PoolOptions::output_limit bytes are kept; what came before them
//         is dropped, and counted. What a process that outlives its task writes belongs to the
//         worker's next task, and takes no more memory than that, and what it writes in a quarter
//         of a second; if it outlives the worker, in a process group of its own, it can write no
//         more (EPERM). Descriptors 1 and 2 are files: who truncates one (`> /dev/stderr` in a
//         shell, std::ofstream("/dev/stdout")) loses what the same task wrote before. A task that
//         closes them or has them lead elsewhere does so for the worker's later tasks, too. This
//         process has two descriptors more for each worker.
#pragma once

#include <cstddef>
#include <string>

namespace sidestep::inline v0 {

enum class Output {
    // Goes where this process's output goes. What waits in a buffer of std::cout, std::clog, stdout
    // or another FILE is written before the task's result counts, and after each item of a map: a
    // later task may end the worker.
    pass,
    capture,  // is kept for the task's future
    // Goes where this process's output goes, line by line: a line stays whole, and has
    // PoolOptions::line_prefix in front. See below.
    lines,
};

// Of Output::lines: each worker has a pipe for stdout and one for stderr, and a thread of this
// process writes what comes out of them to its own descriptors 1 and 2, with a progress bar
// (progress.hpp) below it. What a worker had written when it died is written, too, also half a
// line, which gets an end. A line of more than 64 KiB is cut into such pieces.
// - Whoever reads slowly slows down what writes: what is not written yet is 64 KiB for each pipe,
//   then the task waits in its write. What cannot be written at all (EPIPE) is dropped.
// - A line comes out a moment after it was printed, perhaps after its task's result; the lines of
//   one worker in their order, those to stdout and those to stderr each for themselves. When the
//   pool has ended, all are out; but when nobody has taken any for two seconds then, the rest is
//   dropped.
// - "{task}" and "{number}" in the prefix: the task is the last one that its worker has begun when
//   the line is written, by whatever: the task, its threads, a library, a child program. (So it is
//   a later one for what a task leaves running; and none, an empty name and 0, before the first.)
//   In a map it is that of the chunk. Which task it is stands in the pipe between the lines, behind
//   16 random bytes: whatever tasks print is text.
// - In the worker, stdout is a pipe and no terminal, and not buffered: a library may use no colours
//   for that. A process that outlives the pool finds no reader (SIGPIPE).

struct TaskOutput {
    std::string out;
    std::string err;
    std::size_t out_dropped = 0;  // bytes before those of `out`, too many or lost
    std::size_t err_dropped = 0;
};

}  // namespace sidestep
