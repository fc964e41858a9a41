// Pool: worker processes that run your functions.
//
//     int main() {
//         sidestep::init();                       // first statement
//         sidestep::Pool pool;                    // a worker for each core
//         auto lengths = pool.map([](const std::string& s) { return s.size(); }, lines);
//         sidestep::Future<int> f = pool.submit(divide, 42, 7);
//         std::cout << f.get();
//     }
//
// How functions are run over it (submit, map, imap...): pool_face.hpp. What can be a task, and how
// arguments and results travel: task.hpp. What errors look like: future.hpp, remote_error.hpp.
//
// Ownership: the pool owns its workers. ~Pool closes and joins (all tasks are finished); while an
//            exception unwinds the stack it terminates instead. A pool that ends in a callback of
//            its own futures does not wait there: its tasks are finished in the background, and
//            the end of the program waits for them. A thread of the pool that calls exit() (in a
//            callback, a Retry::when, the input of a map_async()) is waited for by nobody: if the
//            pool is a static object, or has ended there, its tasks that are not done are cancelled
//            and its workers ended; if not, they end with the process. A Pool does not move.
// Threads:   thread-safe. One more thread, the supervisor, belongs to each pool; it takes no
//            signals.
// Fork:      a forked copy of the process must not use the pool (std::logic_error); destroying it
//            there does nothing.
// Peer death: a worker that dies costs the task that it ran (WorkerLost); tasks that it had not
//            begun are given to others, and it is replaced. One that writes nonsense to what it
//            shares with the pool is killed. When a worker ends, in order or not, what its tasks
//            left running in its process group is killed (and where that becomes this process's,
//            as in process 1 of a container, no zombie of it stays). When this process dies, its
//            workers die with it, and nothing is left behind. A fork server that dies is started
//            again; with StartMethod::fork it is a copy of this process as it was, which cannot be
//            made again: the pool goes on with the workers that it has, and is broken with the last
//            of them. What a task does to the descriptors that its worker has of the pool's (fills,
//            drains, shuts down, closes them) costs that worker, and nobody waits for it. A worker
//            ignores SIGTTIN and SIGTTOU: a task that reads the terminal gets EIO; and handles
//            SIGURG, to tell where it is. One that is stopped by a signal is shown in stats().
// Trust:     workers do what they are told, and run as this user, with its files and descriptors:
//            they keep accidents apart, not attackers. What a worker writes is checked all the
//            same: a result is a value of its type or an error, and carries no function pointers.
// Shortages: a worker that cannot be started for want of descriptors, processes or memory is tried
//            again (PoolOptions::start_patience); so is whatever else the supervisor finds no
//            memory for. A task whose result finds none fails with std::bad_alloc. After
//            setuid(2) and its like, when this process may not signal its workers any more, they
//            are ended by the kernel all the same (what they left running is not); where that
//            fails, too, the pool is broken.
// Errors:    std::system_error if workers cannot be started; BrokenPool when they die again and
//            again without finishing a task; std::logic_error after close().
// State:     what a worker finds when it begins, signals, streams and so on, is the same by each
//            start method, and stands in start_method.hpp.
// Limits:    1024 workers. The number of waiting tasks is limited by memory, and by max_pending.
// Order:     tasks begin about in the order in which they were submitted (those of a higher
//            TaskOptions::priority first), not exactly: each worker has some at hand, and may
//            begin one before an older one that another worker has. What is taken back from a
//            worker, since that died, stands still or has a long task, is not put behind younger
//            tasks, and a worker that has nothing begins with the oldest task that waits, wherever
//            that is. But no worker leaves what it runs for that: tasks that wait for each other
//            (by an Event, a Barrier, a Queue) need a worker each, besides one for each task that
//            runs for ever. A task that needs another's result takes the other's future as an
//            argument: it begins when the result is there, and no worker waits (pool_face.hpp).
//
// | state \ call | submit, map... | close | terminate | join                         |
// |--------------|----------------|-------|-----------|------------------------------|
// | running      | accepted       | closed | terminated | std::logic_error           |
// | closed       | std::logic_error | -   | terminated | waits for all tasks        |
// | terminated   | std::logic_error | -   | -         | waits for the workers' end   |
// | broken       | BrokenPool     | -     | -         | waits for the workers' end   |
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <sidestep/completions.hpp>
#include <sidestep/detail/hook_maker.hpp>
#include <sidestep/detail/number_writer.hpp>
#include <sidestep/detail/overloaded.hpp>
#include <sidestep/detail/result_reader.hpp>
#include <sidestep/detail/stored.hpp>
#include <sidestep/detail/then.hpp>
#include <sidestep/futures.hpp>
#include <sidestep/init.hpp>
#include <sidestep/pool_errors.hpp>
#include <sidestep/pool_face.hpp>
#include <sidestep/pool_options.hpp>
#include <sidestep/pool_stats.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/stream.hpp>
#include <sidestep/task.hpp>
#include <sidestep/task_pool.hpp>
#include <sidestep/this_task.hpp>
#include <sidestep/when.hpp>

namespace sidestep::inline v0 {

class InterruptGuard;
namespace detail {
struct PoolAccess;
}

struct PoolHost {
    std::string name;        // what this_task::host() says there
    unsigned processes = 0;  // workers
};

class Pool : public PoolFace<Pool> {
  public:
    // Starts the workers. Throws std::invalid_argument for options that make no sense,
    // std::logic_error if the start method will not do here (init() was not called or in the wrong
    // place; with StartMethod::fork, if there are other threads), std::system_error if a worker
    // cannot be started; then none is left.
    explicit Pool(PoolOptions options = {});
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    // Takes no more tasks; those that were submitted are finished.
    void close();
    // Ends the workers now: SIGTERM to each one's process group, SIGKILL a second later. Tasks that
    // are not done get CancelledError.
    void terminate();
    // Waits until all tasks are done, the workers gone, and the last callback has returned. Throws
    // std::logic_error before close() or terminate(), and in a callback of the pool's own futures
    // or a Retry::when.
    void join();
    // The same, for no longer than that. False: it has not ended yet. It goes on ending, in a
    // thread of its own, and join() and join_for() may be called again; so may terminate(). Throws
    // std::system_error, too, if there is no thread for that.
    [[nodiscard]] bool join_for(Timeout timeout);
    // close(); with cancel_futures, what has not begun is cancelled; with wait, join().
    void shutdown(ShutdownOptions options = {});

    // From now on so many workers, 1 to 1024. Those that are too many finish what they run. Keys
    // may move to other workers (TaskOptions::key). Throws std::invalid_argument for another
    // number; std::logic_error for a pool without workers (processes = 0), for one over several
    // hosts, and after close().
    void resize(unsigned processes);

    // One pool for the whole program, with the default options: made when it is first asked for,
    // and anew when it was closed or is broken, or in a forked child; a closed one is joined
    // before, unless this is a callback of its own. It ends with the program, without waiting for
    // its tasks. Throws what the constructor throws.
    static Pool& global();

    // The number of workers, of all hosts; and the process ids of those that are alive now, of this
    // one.
    unsigned processes() const;
    std::vector<int> worker_pids() const;
    // The hosts that have workers of this pool, this one first. More than one: cluster.hpp.
    std::vector<PoolHost> hosts() const;

    // What the pool and each of its workers have done so far: see pool_stats.hpp. Reads the memory
    // use of each worker from /proc: up to milliseconds for each that is large.
    PoolStats stats() const;

    // From now on writes what each worker does when, task by task, to a file (made, or emptied) for
    // Perfetto (https://ui.perfetto.dev) or chrome://tracing, until trace_stop(), another trace(),
    // or join(), or, of global(), the end of the program: then the file is complete. One track for
    // each worker (without workers: for each thread that submits): tasks with their name, number
    // and outcome, starts and deaths of workers. Times are those of the steady clock. A thread of
    // the trace's own writes; a task takes about 200 bytes. When tasks come faster than that, some
    // are left out, and the file says how many. What a program that is killed leaves lacks the last
    // quarter of a second, and the closing bracket, which both viewers forgive. Throws
    // std::system_error if the file cannot be opened, or the former one not be completed;
    // std::logic_error when the pool has ended.
    void trace(const std::string& path);
    // Completes the file. Throws std::system_error if not all could be written (at join() that is
    // said on stderr); does nothing without a trace.
    void trace_stop();

  private:
    friend class PoolFace<Pool>;
    friend class InterruptGuard;
    friend struct detail::PoolAccess;
    template <class F, class... Args>
    auto submit_task(const TaskOptions* options, F&& f, Args&&... args) {
        if constexpr ((detail::kIsLate<Args> || ...))
            return detail::submit_late_call(core_, options, false, std::forward<F>(f), args...);
        else
            return submit_now(options, std::forward<F>(f), std::forward<Args>(args)...);
    }
    template <class F, class... Args>
    auto submit_now([[maybe_unused]] const TaskOptions* options, [[maybe_unused]] F&& f,
                    [[maybe_unused]] Args&&... args) {
        using Callable = std::decay_t<F>;
        using Check = detail::TaskCheck<Callable, detail::Stored<Args>...>;
        Check::check();
        if constexpr (!Check::kFine) {
            return detail::Refused();
        } else {
            using Result = detail::ResultOf<Callable, detail::Stored<Args>...>;
            using Body = detail::Call<Callable, detail::Stored<Args>...>;
            detail::PoolTaskRef task =
                detail::PoolTask::create(core_, detail::task_kind<Body>(f), options);
            if constexpr (detail::kIsOfNumbers<Callable, detail::Stored<Args>...>) {
                detail::TaskWriter writer(*task);
                detail::save_numbers<Callable, detail::Stored<Args>...>(writer, f, args...);
            } else {
                detail::TaskWriter writer(*task);
                OutputArchive archive(writer, &writer);
                detail::save_callable<Callable>(archive, f);
                (archive(detail::stored_as<detail::Stored<Args>>(args)), ...);
            }
            detail::PoolTask::submit(task);
            return Future<Result>(std::move(task));
        }
    }
    template <bool kSpread, bool kUnordered, class F, class Range>
    auto stream([[maybe_unused]] F&& f, [[maybe_unused]] Range&& items,
                [[maybe_unused]] const MapOptions& options) {
        using Check = detail::MapCheck<kSpread, std::decay_t<F>, Range>;
        Check::check();
        if constexpr (Check::kFine)
            return Stream<std::decay_t<F>, Range, kSpread>(core_, std::forward<F>(f),
                                                           std::forward<Range>(items), options,
                                                           {processes(), kUnordered});
        else
            return detail::Refused();
    }
    void run_in_background(std::function<void()> work);
    // A task of a map: also after close().
    template <class F, class... Args>
    auto submit_part(const TaskOptions* options, F f, Args... args) {
        detail::TaskCheck<F, Args...>::check();
        using Body = detail::Call<F, Args...>;
        detail::PoolTaskRef task =
            detail::PoolTask::create(core_, detail::task_kind<Body>(f), options);
        {
            detail::TaskWriter writer(*task);
            OutputArchive archive(writer, &writer);
            detail::save_callable<F>(archive, f);
            (archive(args), ...);
        }
        [[maybe_unused]] auto tell_items = [&](const auto& arg) {
            if constexpr (detail::kIsItemBatch<std::decay_t<decltype(arg)>>)
                task->set_told_items(static_cast<std::uint32_t>(arg.items.size()), arg.first);
        };
        (tell_items(args), ...);
        detail::PoolTask::submit(task, nullptr, true);
        return Future<detail::ResultOf<F, Args...>>(std::move(task));
    }
    void check_open() { detail::check_open(*core_); }
    std::shared_ptr<void> take_place() { return detail::take_place(core_); }
    std::shared_ptr<void> hold() { return detail::hold_open(core_); }
    static constexpr bool kRunsInThreads = false;

    std::shared_ptr<detail::PoolCore> core_;
    int exceptions_at_start_;
};

template <>
inline constexpr bool detail::stays_here<Pool> = true;

}  // namespace sidestep
