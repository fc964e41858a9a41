// What a pool has done so far, and does now: pool.stats().
//
//     std::cout << pool.stats().describe();
//     if (pool.stats().wait.quantile(0.99) > 1s) pool.resize(2 * pool.processes());
//
// The numbers are kept as tasks run, for next to nothing: workers write theirs into words of the
// memory that they share with this process, which adds up what it sees. So a worker that dies, or
// is replaced, takes nothing along but what it knew about the last microseconds.
//
// Ownership: plain values, a copy of the moment. Threads: single-owner.
// Peer death: the time that a worker spent on the task in which it died is work. What a worker
//            says about itself cannot exceed its life: one that scribbles over its memory spoils
//            its own row at most.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <sidestep/histogram.hpp>

namespace sidestep::inline v0 {

// A worker: the process that has this index now, and, added up, all that had it before.
struct WorkerStats {
    unsigned index = 0;
    int pid = 0;                 // 0: none runs now
    bool stopped = false;        // by a signal (SIGSTOP, SIGTSTP, a debugger): it does nothing now
    std::uint64_t tasks = 0;     // that it ran to their end: a value, or an error that they threw
    std::uint64_t restarts = 0;  // processes that followed the first: after a death, a
                                 //   replacement by max_age and its like, or an idle_timeout

    // From the decision to start the process until it was ready; and the part of that which the
    // initializer took.
    std::chrono::nanoseconds start{0}, init{0};
    // Without a task; and with one.
    std::chrono::nanoseconds wait{0}, work{0};
    // The part of `work` in which arguments were read and results written. An estimate: of tasks
    // shorter than 2 microseconds one in 16 is measured, in a map one item of 1024.
    std::chrono::nanoseconds serialize{0};

    // The task that it runs now: its number in the pool, 0 if none; what it is called (as SlowTask
    // has it); and for how long it has run. Of a pool of processes.
    std::uint64_t task = 0;
    std::string task_name;
    std::chrono::nanoseconds task_time{0};

    // Bytes now: the resident set, shared pages and all; and the proportional set, in which a page
    // that n processes share counts one n-th. 0: none runs now; nothing: the kernel does not tell.
    std::optional<std::size_t> resident = 0, proportional = 0;
};

// A host with workers, in a pool over several (cluster.hpp). Of those on other hosts, the rows by
// worker above tell nothing.
struct HostStats {
    std::string name;
    unsigned processes = 0;       // workers there
    std::uint64_t tasks = 0;      // that ended there, with a value or an error that they threw
    std::uint64_t in_flight = 0;  // that it has now
    std::uint64_t failures = 0;   // tasks that cost a worker there, or ran too long
    bool lost = false;            // nothing is heard of it any more
};

// Tokens of one name (PoolOptions::tokens).
struct TokenStats {
    std::string name;
    std::uint64_t count = 0;    // that there are
    std::uint64_t in_use = 0;   // that tasks have now
    std::uint64_t waiting = 0;  // tasks that need some, and wait: for them, or for a worker
};

// A task that took long.
struct SlowTask {
    std::uint64_t number = 0;  // in its pool, from 1
    unsigned worker = 0;       // index; 0, if it ran on another host
    std::chrono::nanoseconds duration{0};
    // TaskOptions::name; else the function's; else what kind of task, as the compiler spells it.
    std::string name;
    std::string host = {};  // another one where it ran; empty: it was this one
};

struct PoolStats {
    // By index: this host's. Empty for a pool that runs its tasks in this process (processes = 0).
    std::vector<WorkerStats> workers;
    // This host, then the others of a pool over several.
    std::vector<HostStats> hosts;

    // From submit until a worker began it, without retries. Of tasks shorter than 2 microseconds
    // one in 16 is measured: a look at the clock costs a tenth of the shortest.
    Histogram wait;
    // How long tasks ran: each attempt, also one that ended in an error, by a crash or a timeout.
    Histogram run;
    // The longest runs, the longest first: 10 at most.
    std::vector<SlowTask> slowest;

    // Tasks; a chunk of a map is one, and so is each part of a chunk that was split by a crash or
    // a timeout of one of its items.
    std::uint64_t submitted = 0;
    std::uint64_t completed = 0;  // done, in whatever way: failed and cancelled ones, too
    std::uint64_t failed = 0;     // with an error (items of a map fail alone: not counted here)
    std::uint64_t cancelled = 0;
    std::uint64_t retried = 0;  // attempts that followed a failed one
    // Now. What other hosts have is waiting here, run or not (HostStats::in_flight), and so are
    // tasks that wait for futures, or for tokens.
    std::uint64_t waiting = 0;
    std::uint64_t running = 0;
    std::vector<TokenStats> tokens;  // as in the pool's options

    std::uint64_t worker_deaths = 0;  // those that the pool did not ask to leave

    // All of it as a table of several lines, for people; of 80 columns.
    std::string describe() const;
};

}  // namespace sidestep
