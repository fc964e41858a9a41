// ThreadPool: the interface of Pool on threads of this process.
//
//     sidestep::ThreadPool pool({.threads = 4});
//     auto sizes = pool.map([&](const Path& p) { return cache.size_of(p); }, paths);
//
// For tasks that wait (files, networks, other programs), and to debug what a Pool will run. Nothing
// is serialized: any callable will do, lambdas with captures too; arguments and results are copied,
// or moved if they are temporaries, and what travels as a std::string (task.hpp) is one here, too,
// if the callable takes that (with a retry, copied once more for each attempt but the last;
// std::invalid_argument for retries of a task with an argument that cannot be copied). A crash ends
// the program; what Pool has for that (processes) this has not.
//
// Ownership: the pool owns its threads. ~ThreadPool closes and joins (all tasks are finished);
//            while an exception unwinds the stack, tasks that have not begun are cancelled first.
//            One that ends in a task or a callback of its own does not wait there: its tasks are
//            finished in the background, and the end of the program waits for them. It does not
//            move.
// Threads:   thread-safe. Threads are started when there is work for them. A task that waits for a
//            future of a ThreadPool or a Promise does not hold up the pool: another thread takes
//            over meanwhile, and finishes what it has when that one goes on. Threads stay until
//            join(). Where tasks are tiny (2 microseconds, all of the last 64), nobody is woken for
//            each: then one that has to wait for another thread may wait for a millisecond.
//            A task or callback that calls exit() is waited for by nobody.
// Order:     tasks begin about in the order in which they were submitted, those of a higher
//            TaskOptions::priority first.
// Fork:      a forked child has no threads: it must not use the pool (std::logic_error); destroying
//            it there does nothing.
// Errors:    get() throws what the task threw, the object itself. std::logic_error after close();
//            BrokenPool when the initializer failed.
// Memory:    a future that is held costs 128 bytes, its task included, if callable, arguments and
//            result take 32 at most. What a burst took is kept until the pool has had nothing to do
//            for a second, or ends.
// Limits:    what runs cannot be stopped, only asked to (this_task::stop_requested()): cancel() of
//            a running task is false; a timeout (each attempt's) fails the future, and asks; there
//            is no other attempt then. memory_limit needs a process: std::invalid_argument. 4096
//            threads.
#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <sidestep/completions.hpp>
#include <sidestep/detail/then.hpp>
#include <sidestep/detail/thread_job.hpp>
#include <sidestep/future.hpp>
#include <sidestep/futures.hpp>
#include <sidestep/pool_face.hpp>
#include <sidestep/pool_options.hpp>
#include <sidestep/pool_stats.hpp>
#include <sidestep/thread_stream.hpp>
#include <sidestep/when.hpp>

namespace sidestep::inline v0 {

struct ThreadPoolOptions {
    // The most threads that run tasks at a time, not counting those that wait for a future; 1 to
    // 4096. Nothing: four more than CPUs, at most 32 (tasks of threads wait).
    std::optional<unsigned> threads = std::nullopt;

    // Called in each thread before its first task. One that throws breaks the pool: BrokenPool.
    std::function<void()> initializer = nullptr;
    // Called in each thread at its end. What it throws is reported on stderr.
    std::function<void()> finalizer = nullptr;

    // Threads are called <prefix>_<index>, cut to the 15 characters that Linux has for a name.
    // Empty: tpool<number of the pool>.
    std::string thread_name_prefix = {};

    // The most tasks that are submitted and not done; then submit() waits, but for one in a task or
    // callback of this pool, and try_submit() says no. See PoolOptions::max_pending. 0: as memory
    // allows.
    std::size_t max_pending = 0;

    // How many tasks of a kind run at once: see PoolOptions::tokens. A task that a timeout has
    // ended keeps its own until its thread is through with it.
    std::vector<Tokens> tokens = {};

    // How tasks are run that say nothing else.
    TaskOptions task = {};
    // For this_task::random_seed().
    std::uint64_t seed = 0;
};

class InterruptGuard;

class ThreadPool : public PoolFace<ThreadPool> {
  public:
    // Throws std::invalid_argument for options that make no sense. Starts no thread yet.
    explicit ThreadPool(ThreadPoolOptions options = {});
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // Takes no more tasks; those that were submitted are finished.
    void close();
    // The same; tasks that have not begun get CancelledError, those that run are asked to stop.
    void terminate();
    // Waits until all tasks are done, with their callbacks, and the threads gone. (Those of a
    // future that somebody cancels are called in cancel().) Throws std::logic_error before close()
    // or terminate(), and from a thread of the pool itself.
    void join();
    // The same, for no longer than that. False: it has not ended yet. It goes on ending, in a
    // thread of its own, and join() and join_for() may be called again; so may terminate(). Throws
    // std::system_error, too, if there is no thread for that.
    [[nodiscard]] bool join_for(Timeout timeout);
    // close(); with cancel_futures, what has not begun is cancelled; with wait, join().
    void shutdown(ShutdownOptions options = {});

    // The most threads that run tasks at a time; how many there are now, and how many of them wait
    // for work.
    unsigned processes() const;
    unsigned threads() const;
    unsigned idle_threads() const;

    // What the pool and its threads have done so far: pool_stats.hpp. A thread is a worker without
    // a process: pid, restarts, start, init, wait, serialize and memory are 0. A task counts as
    // running until its thread is through with it.
    PoolStats stats() const;

    // As Pool::trace(): a track for each thread; the attempts at a task are one event.
    void trace(const std::string& path);
    void trace_stop();

  private:
    friend class PoolFace<ThreadPool>;
    friend class InterruptGuard;
    template <class F, class... Args>
    auto submit_task(const TaskOptions* options, F&& f, Args&&... args) {
        if constexpr ((detail::kIsLate<Args> || ...))
            return detail::submit_late_thread_call(core_, options, false, std::forward<F>(f),
                                                   std::forward<Args>(args)...);
        else
            return submit_now(options, std::forward<F>(f), std::forward<Args>(args)...);
    }
    template <class F, class... Args>
    auto submit_now([[maybe_unused]] const TaskOptions* options, [[maybe_unused]] F&& f,
                    [[maybe_unused]] Args&&... args) {
        using Callable = std::decay_t<F>;
        constexpr bool called =
            std::is_invocable_v<Callable&, detail::KeptArgument<Callable, Args, Args...>...>;
        static_assert(called,
                      "the callable cannot be called with these arguments: they arrive as "
                      "temporaries (parameters by value, const& or &&). What a thread is to "
                      "change goes by std::ref(x); a member function takes its object first");
        if constexpr (called) {
            using Result = std::decay_t<
                std::invoke_result_t<Callable&, detail::KeptArgument<Callable, Args, Args...>...>>;
            using Job =
                detail::CallJob<Result, Callable, detail::KeptArgument<Callable, Args, Args...>...>;
            auto job = Job::make(std::forward<F>(f), std::forward<Args>(args)...);
            Future<Result> future(detail::task_of(*job));
            detail::submit_job(*core_, std::move(job), options);
            return future;
        } else {
            return detail::Refused();
        }
    }
    template <bool kSpread, bool kUnordered, class F, class Range>
    auto stream(F&& f, Range&& items, const MapOptions& options) {
        static_assert(
            detail::kCanTakeItems<kSpread, std::decay_t<F>, Range>,
            "these items cannot be copied: move the container of them into the map or stream");
        return ThreadStream<std::decay_t<F>, Range, kSpread>(core_, std::forward<F>(f),
                                                             std::forward<Range>(items), options,
                                                             {processes(), kUnordered});
    }
    void run_in_background(std::function<void()> work);
    // A task of a map: also after close().
    template <class F, class... Args>
    auto submit_part(const TaskOptions* options, F f, Args... args) {
        using Result = std::decay_t<std::invoke_result_t<F&, Args...>>;
        auto job = detail::CallJob<Result, F, Args...>::make(std::move(f), std::move(args)...);
        Future<Result> future(detail::task_of(*job));
        detail::submit_job(*core_, std::move(job), options, true);
        return future;
    }
    void check_open() { detail::check_open(*core_); }
    std::shared_ptr<void> take_place() { return detail::take_place(core_); }
    std::shared_ptr<void> hold() { return detail::hold_open(core_); }
    static constexpr bool kRunsInThreads = true;

    std::shared_ptr<detail::ThreadPoolCore> core_;
    int exceptions_at_start_;
};

template <>
inline constexpr bool detail::stays_here<ThreadPool> = true;

}  // namespace sidestep
