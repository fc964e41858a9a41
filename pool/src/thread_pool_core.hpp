// The inside of a ThreadPool: who waits, who runs, and the clock.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <typeinfo>
#include <vector>

#include <sidestep/pool_errors.hpp>
#include <sidestep/pool_stats.hpp>
#include <sidestep/thread_pool.hpp>

#include "fork_marker.hpp"
#include "service_thread.hpp"
#include "task_names.hpp"
#include "trace_writer.hpp"

namespace sidestep::inline v0::detail {

class ThreadPoolCore final : public std::enable_shared_from_this<ThreadPoolCore>,
                             public EndingPool {
  public:
    using Due = std::pair<std::chrono::steady_clock::time_point, std::uint64_t>;  // and number
    using Key = std::pair<int, std::uint64_t>;  // minus priority, number: what is begun first
    struct Timed {
        Ref<LocalTaskBase> task;
        const std::type_info* type;  // of the job, for the message
        TaskError::Details details;
    };
    using Deadlines = std::map<Due, Timed>;
    using Running = std::map<std::uint64_t, LocalTaskBase*>;  // by number
    // A job, with the nodes that it takes later on: what runs it must not fail for want of memory.
    struct Entry {
        std::unique_ptr<ThreadJob> job;
        Running::node_type running;
        Deadlines::node_type deadline;  // none: it has no timeout, or that is armed, or over
    };
    using Jobs = std::map<Key, Entry>;

    explicit ThreadPoolCore(ThreadPoolOptions options);
    ~ThreadPoolCore();

    void submit(std::unique_ptr<ThreadJob> job, const TaskOptions* options, bool begun);
    void check_open();
    // Between them join() waits: a map is collected.
    void begin_map();
    void end_map();
    void run_in_background(std::function<void()> work);
    void close();
    void cancel_waiting();
    void interrupt();  // both; and nothing is run again
    void terminate();
    void ask_to_stop();
    void join() override;
    // This thread runs tasks or callbacks of the pool, or feeds a map: it cannot join().
    bool in_own_thread() override;
    void end_with_process() noexcept override;
    void keep_for_ever() { self_ = shared_from_this(); }  // nobody will join()
    unsigned most_threads() const { return *options_.threads; }
    unsigned threads();
    unsigned idle_threads();
    PoolStats stats();
    void trace(const std::string& path);
    void trace_stop();
    bool owned_here() const { return marker_.same_process(); }
    const TaskOptions& default_options() const { return options_.task; }

    // A thread of the pool begins, or ends, to wait for a future: another one may run meanwhile.
    void begin_wait() noexcept;
    void end_wait() noexcept;
    // An attempt of the job that this thread runs failed; see retry_here().
    bool retry(const Retry& retry, unsigned attempts, const std::exception_ptr& error);

  private:
    using Lock = std::unique_lock<std::mutex>;

    void check_accepting(bool begun) const;
    Entry prepare(std::unique_ptr<ThreadJob> job);
    void start_thread();
    void start_timer();
    void help_if_needed() noexcept;
    void run(unsigned index);
    bool initialize(unsigned index);
    void break_pool(std::exception_ptr reason) noexcept;
    Entry take(Lock& lock, unsigned index);
    bool is_extra(unsigned index) const { return index >= most_threads(); }
    bool may_run(unsigned index) const;
    void wake_all_if_extra();
    void run_job(Entry& entry, unsigned index);
    void run_attempts(Entry& entry, unsigned index);
    void end_job(Entry& entry, unsigned index) noexcept;
    // The timeout of an attempt, in the thread that runs it.
    void arm_timer(Entry& entry) noexcept;
    void disarm_timer(Entry& entry) noexcept;
    void run_timer();
    void fail_waiting(const std::exception_ptr& error) noexcept;
    void note_end(ThreadJob& job, unsigned index,
                  std::chrono::steady_clock::time_point begun) noexcept;
    void trace_end(ThreadJob& job, unsigned index, std::chrono::steady_clock::time_point begun,
                   std::chrono::nanoseconds took, const char* outcome);

    void require_owner() const;

    const ThreadPoolOptions options_;
    const ForkMarker marker_;
    const int pid_ = ::getpid();
    BackgroundThreads background_;
    TaskNames names_;  // types: guarded by mutex_
    Tracing trace_;
    std::atomic<bool> interrupted_{false};
    std::shared_ptr<ThreadPoolCore> self_;  // see keep_for_ever()
    std::mutex joining_;                    // before mutex_
    std::mutex mutex_;
    // Guarded by mutex_.
    std::condition_variable changed_;  // a job came, or may be run, or the end
    std::condition_variable timed_;    // for the timer
    std::condition_variable quiet_;    // for join(): perhaps nothing is left
    Jobs waiting_;
    std::map<unsigned, Jobs> keyed_;  // by thread: each has one
    Deadlines deadlines_;
    Running running_;
    std::deque<std::thread> threads_;
    ServiceThread timer_;
    unsigned idle_ = 0;
    unsigned in_wait_ = 0;
    unsigned extra_running_ = 0;    // see may_run()
    std::uint64_t unfinished_ = 0;  // jobs
    unsigned maps_ = 0;             // that are collected
    std::uint64_t next_number_ = 1;
    PoolStats noted_;  // of the tasks that ended, and of the threads that ran them
    bool closed_ = false;
    bool terminated_ = false;
    bool ended_ = false;  // nothing is left, and nothing more is taken
    bool timer_ends_ = false;
    std::exception_ptr broken_;  // a BrokenPool: why it is
};

}  // namespace sidestep::detail
