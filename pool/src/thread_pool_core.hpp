// The inside of a ThreadPool: who waits, who runs, and the clock.
#pragma once

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

namespace sidestep::detail {

class ThreadPoolCore : public std::enable_shared_from_this<ThreadPoolCore> {
  public:
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
    void join();
    // This thread runs tasks or callbacks of the pool, or feeds a map: it cannot join().
    bool in_own_thread();
    unsigned most_threads() const { return *options_.threads; }
    unsigned threads();
    unsigned idle_threads();
    PoolStats stats();
    void trace(const std::string& path);
    void trace_stop();
    bool owned_here() const { return marker_.same_process(); }
    const TaskOptions& default_options() const { return options_.task; }

    // A thread of the pool begins, or ends, to wait for a future: another one may run meanwhile.
    void begin_wait();
    void end_wait();
    // The timeout of an attempt, in the thread that runs it.
    void arm_timer(ThreadJob& job);
    void disarm_timer(ThreadJob& job);

  private:
    using Lock = std::unique_lock<std::mutex>;
    using Due = std::pair<std::chrono::steady_clock::time_point, std::uint64_t>;  // and number
    using Key = std::pair<int, std::uint64_t>;  // minus priority, number: what is begun first
    struct Timed {
        Ref<LocalTaskBase> task;
        const std::type_info* type;  // of the job, for the message
        TaskError::Details details;
    };

    void check_accepting(bool begun) const;
    void start_thread();
    void help_if_needed();
    void run(unsigned index);
    bool initialize(unsigned index);
    std::unique_ptr<ThreadJob> take(Lock& lock, unsigned index);
    bool is_extra(unsigned index) const { return index >= most_threads(); }
    bool may_run(unsigned index) const;
    void wake_all_if_extra();
    void run_job(ThreadJob& job, unsigned index);
    void run_attempts(ThreadJob& job, unsigned index);
    void end_job(ThreadJob& job, unsigned index);
    void run_timer();
    void fail_waiting(const std::function<std::exception_ptr()>& error);
    void note_end(ThreadJob& job, unsigned index, std::chrono::steady_clock::time_point begun);
    void trace_end(ThreadJob& job, unsigned index, std::chrono::steady_clock::time_point begun,
                   std::chrono::nanoseconds took, const char* outcome);

    void require_owner() const;

    const ThreadPoolOptions options_;
    const ForkMarker marker_;
    BackgroundThreads background_;
    TaskNames names_;  // types: guarded by mutex_
    Tracing trace_;
    std::atomic<bool> interrupted_{false};
    std::mutex joining_;  // before mutex_
    std::mutex mutex_;
    // Guarded by mutex_.
    std::condition_variable changed_;  // a job came, or may be run, or the end
    std::condition_variable timed_;    // for the timer
    std::condition_variable quiet_;    // for join(): perhaps nothing is left
    std::map<Key, std::unique_ptr<ThreadJob>> waiting_;
    std::map<unsigned, std::map<Key, std::unique_ptr<ThreadJob>>> keyed_;  // by thread
    std::map<Due, Timed> deadlines_;
    std::map<std::uint64_t, LocalTaskBase*> running_;
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
    std::string broken_;
};

}  // namespace sidestep::detail
