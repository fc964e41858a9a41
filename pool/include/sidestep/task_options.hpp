// How a task is run: time, memory, retries, priority. As a pool's defaults (PoolOptions::task), or
// for one task:  pool.submit({.timeout = 2s, .retry = {.max_attempts = 3}}, f, x).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include <sidestep/timeout.hpp>

namespace sidestep::inline v0 {

// For a task of a pool whose options set a timeout, or a memory limit: this one has none.
inline constexpr std::chrono::nanoseconds kNoTimeout = std::chrono::nanoseconds::max();
inline constexpr std::size_t kNoLimit = ~std::size_t(0);

// Whether a task that failed is run again. What its error is in the end says how often it was run:
// TaskError::attempts() and its text; of what the task threw itself in a process, whose text is its
// own, remote_traceback() ("in task 17, attempt 3").
struct Retry {
    static constexpr unsigned kMostAttempts = 65535;

    // How often it may run in all, up to kMostAttempts; 1: once. 0: this whole Retry is the pool's
    // default, whatever the fields below say; that is once, if the pool's says nothing, too.
    unsigned max_attempts = 0;

    // The poison limit: how many workers it may cost. A task that reaches it is not run again, even
    // if attempts are left.
    unsigned max_crashes = 2;
    // The same for its memory limit: what was too large once will be so again.
    unsigned max_out_of_memory = 1;

    // Pause before the second run; `factor` times longer before each one more, up to max_backoff;
    // and by up to `jitter` of itself longer or shorter, so that tasks which failed together do not
    // come back together.
    Timeout backoff = {};
    double factor = 2;
    Timeout max_backoff = std::chrono::seconds(30);
    double jitter = 0.25;

    // Which errors: what the task threw, TaskTimeout, WorkerLost or OutOfMemory; none: all of them.
    // Called in a thread that the pool has for this, one call after the other: it may wait for a
    // task, unless `when` is asked about that one. For an item of a map that threw, it is called in
    // the thread that takes the results; in a ThreadPool, and in a Pool without workers, in the one
    // that ran the task.
    std::function<bool(const std::exception_ptr&)> when = nullptr;
};

// So many tokens of one name: those that a pool has (PoolOptions::tokens), or a task needs.
struct Tokens {
    std::string name;
    std::size_t count = 1;
};

struct TaskOptions {
    // How long the task may run, counted from its start. Then it fails with TaskTimeout, and its
    // worker is stopped (PoolOptions::stop_grace). In a map: for each item. 0: the pool's default,
    // which is none if nothing is set there; kNoTimeout: none.
    Timeout timeout = {};

    // How long it may run until it is asked to stop: from then on this_task::stop_requested() is
    // true, and this_task::sleep_for() comes back. That is all: what it returns, or throws, counts,
    // and `timeout`, which is longer, ends it. A task's own, not a pool's or a map's. Each attempt
    // has it anew; in a ThreadPool none follows one that was asked. A pool without workers does not
    // ask. 0: never.
    Timeout soft_timeout = {};

    // What its worker may use while it runs, in bytes: the process's proportional share (PSS), so
    // that memory shared with others is not counted for each. Then the task fails with OutOfMemory,
    // and its worker is killed. Looked at every 20 ms. Of a worker that may not be traced (it is
    // not dumpable, or became another user) the kernel tells no share: what counts then is how much
    // its own memory has grown since it started. From 1 MiB on. 0: the pool's default, which is
    // none if nothing is set there; kNoLimit: none.
    std::size_t memory_limit = 0;

    Retry retry = {};

    // Among the tasks that wait, the higher one is begun first. 0: the pool's default.
    int priority = 0;

    // A task's own, not a pool's or a map's: tasks with the same key (not 0) run in the same
    // worker, one after the other: for what a worker keeps between tasks. If the worker is
    // replaced, they move to the new one; after Pool::resize() they may move to another one, when
    // the former has none of them left.
    std::uint64_t key = 0;

    // What the task is called, beside its function, in errors (TaskError::name()), traces and
    // statistics: "resize cat.jpg". Empty: the pool's default.
    std::string name = {};

    // Which of the pool's tokens the task has while it runs, and how many: {{"gpu", 1}}. While they
    // are not free it waits in the pool, and no worker is held up by that: what was submitted later
    // and needs none of them goes on. Whoever came first gets them first (by priority, then in the
    // order of submission), also one that needs many: others do not pass it by until it would never
    // get all of them. It waits for what it has futures of before it waits for tokens.
    // - They are free again when it has ended, in whatever way, and its worker is through with it:
    //   for one that is stopped that is when the worker has come to the end of it, or is dead. A
    //   task that is run again has none in the pause, and then waits for them anew. (In a
    //   ThreadPool, and without workers, where the pause is made in its thread, it keeps them.)
    // - In a map each chunk is a task: it has them while its items run, one after the other. (In
    //   map_reduce each merge, too.)
    // - A task that has some must not wait for one that needs them.
    // A task's own, or a map's; not a pool's. std::invalid_argument for names that the pool has
    // not, and for more than it has.
    std::vector<Tokens> uses = {};

    // False: all fields have their default values.
    bool says_anything() const {
        return timeout.count() != 0 || soft_timeout.count() != 0 || memory_limit != 0 ||
               retry.max_attempts != 0 || priority != 0 || key != 0 || !name.empty() ||
               !uses.empty();
    }
};

namespace detail {

// Throws std::invalid_argument for options that make no sense.
void check_options(const TaskOptions& options);
// What `options` do not say is taken from the pool's defaults.
TaskOptions merged(TaskOptions options, const TaskOptions& defaults);
// Asks Retry::when, if there is one; if that throws, the answer is no.
bool wants_retry(const Retry& retry, const std::exception_ptr& error);
// The pause after so many failures, from 1 on; with jitter.
std::chrono::nanoseconds retry_pause(const Retry& retry, unsigned failures);
// Pauses in this thread. False: this_task::stop_requested().
bool pause_here(std::chrono::nanoseconds pause);

}  // namespace detail

}  // namespace sidestep
