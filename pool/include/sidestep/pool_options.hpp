// Options of a Pool and of its map functions.
//
// Threads: values.
// Errors:  all are looked at once, by the pool's constructor or when a map begins:
//          std::invalid_argument names the field, and says what it takes.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sidestep/start_method.hpp>
#include <sidestep/subprocess_options.hpp>
#include <sidestep/task_options.hpp>
#include <sidestep/task_output.hpp>
#include <sidestep/worker_hook.hpp>

namespace sidestep::inline v0 {

namespace detail {
class Hosts;
class PoolCore;
class ThreadPoolCore;
}

struct PoolOptions {
    // Worker processes, 1 to 1024. Nothing: as many as the environment's SIDESTEP_PROCESSES says;
    // if it says nothing, one for each CPU that this process may use (affinity mask and cgroup
    // quota; physical_cpus() counts cores). 0: none, tasks run inside submit() in this process, for
    // debugging; what they do is the same, but timeouts, memory limits and crashes are not held
    // off.
    std::optional<unsigned> processes = std::nullopt;

    // How workers are started; see start_method.hpp.
    StartMethod start_method = StartMethod::spawn;

    // Called in each worker before its first task. One that throws, or costs its worker, breaks the
    // pool at once: BrokenPool says why, and nothing is tried again.
    WorkerHook initializer = {};
    // Called in each worker that leaves in order: at the end of the pool, or when it is replaced
    // after max_tasks_per_child, or leaves for another reason below. It and the exit handlers have
    // leave_grace. What it throws is reported on stderr. (Both take what a task takes: handles of
    // shared memory, queues and locks too.)
    WorkerHook finalizer = {};

    // A worker is replaced after so many tasks (a chunk of a map is one). 0: never.
    std::size_t max_tasks_per_child = 0;
    // A worker is replaced, between two tasks, when its memory (RSS, without what it shares) has
    // grown by so many bytes since it started, or when it is so old; one worker at a time,
    // while there are tasks. 0: never.
    std::size_t max_memory_growth = 0;
    Timeout max_age = {};

    // When nothing was submitted and nothing has run for so long, the workers leave; the next task
    // starts them anew. 0: never.
    Timeout idle_timeout = {};

    // The most tasks that are submitted and not done; then submit() waits until one of them is, and
    // try_submit() says no: for a producer that is faster than the workers. In the pool's own
    // threads (a callback, a Retry::when, the input of a map) submit() never waits; nor does a map,
    // which has a window of its own, though what it has handed out counts. 0: as memory allows.
    // (With processes = 0 a task is done when submit() comes back.)
    std::size_t max_pending = 0;

    // How many tasks of a kind run at once, however many workers there are: named tokens, which
    // tasks have while they run, and wait for without a worker.
    //     Pool pool({.tokens = {{"gpu", 2}, {"licence", 5}}});
    //     pool.submit({.uses = {{"gpu", 1}}}, train, model);    // two of these at once
    // See TaskOptions::uses. With processes = 0, where several threads submit, submit() waits for
    // the tokens; who gives some back runs what waits for them. (In a task or callback of the pool
    // it does not wait.) std::invalid_argument for no name, none of it, a name that comes twice,
    // and in a pool with workers on other hosts: what those do is not counted here.
    std::vector<Tokens> tokens = {};

    // How tasks are run that say nothing else. (A key, a soft_timeout, or tokens are a task's own.)
    TaskOptions task = {};

    // How a task is stopped that was cancelled or ran too long: this_task::stop_requested() says
    // so, stop_grace later its worker's process group gets SIGTERM, terminate_grace later SIGKILL.
    Timeout stop_grace = std::chrono::milliseconds(2);
    Timeout terminate_grace = std::chrono::seconds(1);
    // How long a worker may take that leaves in order, with its finalizer and its exit handlers.
    // Then its process group gets SIGKILL.
    Timeout leave_grace = std::chrono::seconds(30);

    // How long a worker is tried again that cannot be started since something is used up that may
    // come back: descriptors, processes, memory (EMFILE, ENFILE, EAGAIN, ENOMEM, ENOSPC). Tasks
    // wait meanwhile, or other workers do them. When no worker is left for so long, the pool is
    // broken, and its reason says what was short. 0: at the first time. (The constructor does not
    // try again: it throws.)
    Timeout start_patience = std::chrono::seconds(10);

    // How long a worker may take from its start until it takes tasks: until its program has come to
    // init(), and the initializer has ended. Then it is killed and the pool is broken; BrokenPool
    // says which of the two it was. (For a fork server to answer: so long, or 30 s.) 0: as long as
    // it takes.
    Timeout start_timeout = {};

    // Each worker runs on one CPU of those that this process may use.
    bool pin_workers = false;

    // What each worker finds in its environment, beside this process's own; its working folder; the
    // CPUs that it may run on (the first set is worker 0's, and so on, round and round); and its
    // limits (setrlimit). "{index}" in a value, or in cwd, is the worker's number, from 0;
    // "{index%4}" goes round from 0 to 3 (nobody but you knows how many there are):
    //     Pool alone({.env = {{"CUDA_VISIBLE_DEVICES", "{index}"}}});     // one GPU for each
    //     Pool shared({.env = {{"CUDA_VISIBLE_DEVICES", "{index%4}"}}});  // four, shared by all
    // All is there before the initializer; the environment of spawned workers from their start, and
    // of a fork server what has no {index}. A forked worker has a copy of what libraries of this
    // process have read before. What cannot be had (no such folder, a limit above the hard one)
    // breaks the pool, and BrokenPool says what. Empty: as this process. On other hosts workers
    // count from 0, too. A limit of address_space counts what is reserved: see arena_bytes. (With
    // processes = 0 nothing is set.)
    std::map<std::string, std::string> env = {};
    std::string cwd = {};
    std::vector<std::vector<int>> cpus = {};
    std::vector<subprocess::ResourceLimit> limits = {};

    // How many threads each worker's libraries may start: what OMP_NUM_THREADS,
    // OPENBLAS_NUM_THREADS, GOTO_NUM_THREADS, MKL_NUM_THREADS, BLIS_NUM_THREADS,
    // VECLIB_MAXIMUM_THREADS, NUMEXPR_NUM_THREADS and NUMBA_NUM_THREADS say in it. Nothing: its
    // share of the CPUs, max(1, CPUs / processes), or 1 if it is pinned, or as many as the smallest
    // set of `cpus`; so workers that compute in parallel do not take each other's CPUs. 0: they are
    // left alone. A variable that is set already wins, and OMP_NUM_THREADS speaks for all. This
    // process's own environment is not changed. Spawned workers and the fork server have them from
    // their start. A forked worker gets them before its initializer, which is too late for a
    // library that has read them in this process (libgomp does so when it is loaded): call
    // omp_set_num_threads() in the initializer. oneTBB reads no variable: make a
    // tbb::global_control there, or pin the workers.
    std::optional<unsigned> inner_threads = std::nullopt;

    // What becomes of that which tasks write to stdout and stderr; see task_output.hpp. Initializer
    // and finalizer write to this process's own, always. (With processes = 0 nothing is captured.)
    Output output = Output::pass;
    // Output::lines: what stands before each line. "{index}" is as in `env`, "{pid}" the worker's
    // process, "{task}" what the task is called that printed the line (TaskOptions::name, else its
    // function; 256 bytes of it), "{number}" its number in the pool: "[{index}] ", "{task}: ".
    // With the last two, half a line that a task leaves is a line, and each task costs its worker
    // four system calls more. See task_output.hpp for what is whose.
    std::string line_prefix = {};
    // Of each task's stdout, and of its stderr, so many bytes are kept: the last ones. A task that
    // writes more than that takes more memory for 20 ms at most. From 1 on.
    std::size_t output_limit = std::size_t(1) << 20;

    // For this_task::random_seed().
    std::uint64_t seed = 0;

    // Shared address space for arguments that are in flight, and for the results of one worker that
    // are not dropped yet, in bytes. It is reserved, not used: pages come on first touch, and go
    // back to the system when there was nothing to do for a second. Where RLIMIT_AS is lower, as
    // much as fits. From 16 MiB on.
    std::size_t arena_bytes = std::size_t(16) << 30;

    // The other hosts of this program's job: set by cluster() (cluster.hpp). Null: there are none.
    std::shared_ptr<detail::Hosts> hosts = nullptr;
};

struct ShutdownOptions {
    bool wait = true;  // until all is done and the workers are gone
    // Tasks that no worker has begun get CancelledError, and so does a map_async() of which not all
    // has begun.
    bool cancel_futures = false;
};

struct MapOptions {
    // Items in one task; fewer where the input pauses, or takes half a millisecond for them. 0:
    // chosen from the measured time of an item, smaller towards the end.
    std::size_t chunksize = 0;

    // Of streams only (imap, imap_unordered, istarmap): the most items that are pulled from the
    // input and not yet taken from the stream; at least one chunk is. 0: a few chunks for each
    // worker.
    std::size_t window = 0;

    // Ends with the first error that is seen, whichever item's it is: what runs is stopped, what
    // waits is taken back, and a worker begins no other item of the chunk. Without it all items are
    // run. (An item that is to be run again has failed when its last attempt has, and that is seen
    // when it is its turn.)
    bool fail_fast = false;

    // The time for the whole, from the call on; then it ends in the same way, and the first item
    // that is not finished gets TaskTimeout (of a chunk that another host has, its first). A
    // stream's results that are there are handed over first. It is looked at while the stream is
    // advanced, and an input that blocks map() is not interrupted. 0: none.
    //
    // What runs in a thread (of a ThreadPool; or of this process, without workers) cannot be
    // stopped: it is asked to (this_task::stop_requested(); not without workers), and goes on
    // beside, while map() comes back. Without workers it comes back between two chunks.
    Timeout deadline = {};

    // For each item: timeout, memory limit, retries; and the priority of the whole. What is not set
    // is the pool's. A key is refused: chunks go to whoever is free.
    TaskOptions task = {};
};

namespace detail {
// Throw std::invalid_argument for options that make no sense; and what submit() would.
void check_map(PoolCore& core, const MapOptions& options);
void check_map(ThreadPoolCore& core, const MapOptions& options);
void check_map_options(const MapOptions& options);
}  // namespace detail

}  // namespace sidestep
