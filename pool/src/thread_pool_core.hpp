// The inside of a ThreadPool: who waits, who runs, and the clock.
#pragma once

#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <typeinfo>
#include <utility>
#include <vector>

#include <sidestep/pool_errors.hpp>
#include <sidestep/pool_stats.hpp>
#include <sidestep/thread_pool.hpp>

#include "insight/task_names.hpp"
#include "insight/trace_writer.hpp"
#include "joiner.hpp"
#include "life/lifecycle.hpp"
#include "service_thread.hpp"
#include "sync/pool_mutex.hpp"
#include "sys/fork_marker.hpp"
#include "task/dependents.hpp"
#include "task/token_gate.hpp"

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
        bool only_asks;  // it is a soft timeout
    };
    using Deadlines = std::map<Due, Timed>;
    using Running = std::map<std::uint64_t, LocalTaskBase*>;  // by number
    // A job, with the nodes that it takes later on: what runs it must not fail for want of memory.
    struct Entry {
        std::unique_ptr<ThreadJob> job;
        TokenUsePtr tokens;  // null: it needs none
        Running::node_type running;
        // None: it has no timeout of that kind, or that is armed, or over.
        Deadlines::node_type deadline, soft_deadline;
    };
    using Jobs = std::map<Key, Entry>;

    explicit ThreadPoolCore(ThreadPoolOptions options);
    ~ThreadPoolCore();

    void submit(std::unique_ptr<ThreadJob> job, const TaskOptions* options,
                bool begun) POOL_UNLOCKED;
    void submit_late(std::unique_ptr<ThreadJob> job, std::vector<TaskRef> needs,
                     const TaskOptions* options) POOL_UNLOCKED;
    void check_open() POOL_UNLOCKED;
    // See thread_stream.hpp.
    static std::shared_ptr<void> take_place(const std::shared_ptr<ThreadPoolCore>& core);
    bool take_place() POOL_UNLOCKED;  // see Place
    void give_place_back() POOL_UNLOCKED;
    // Between them join() waits: a map is collected.
    void begin_map() POOL_UNLOCKED;
    void end_map() POOL_UNLOCKED;
    void run_in_background(std::function<void()> work) POOL_UNLOCKED;
    void close() POOL_UNLOCKED;
    void cancel_waiting() POOL_UNLOCKED;
    void interrupt() POOL_UNLOCKED;  // both; and nothing is run again
    void terminate() POOL_UNLOCKED;
    void ask_to_stop() POOL_UNLOCKED;
    void join() POOL_UNLOCKED override;
    bool join_until(const sys::Deadline& deadline) POOL_UNLOCKED;
    // Nobody has the pool any more: join() does not wait for what others are to do.
    void be_destroyed() POOL_UNLOCKED;
    // This thread runs tasks or callbacks of the pool, or feeds a map: it cannot join().
    bool in_own_thread() POOL_UNLOCKED override;
    void end_with_process() noexcept POOL_UNLOCKED override;
    void keep_for_ever() { self_ = shared_from_this(); }  // nobody will join()
    unsigned most_threads() const { return *options_.threads; }
    unsigned threads() POOL_UNLOCKED;
    unsigned idle_threads() POOL_UNLOCKED;
    PoolStats stats() POOL_UNLOCKED;
    void trace(const std::string& path) POOL_UNLOCKED;
    void trace_stop();
    bool owned_here() const { return marker_.same_process(); }
    const TaskOptions& default_options() const { return options_.task; }
    // Throws std::invalid_argument for tokens that the pool has not.
    void check_tokens(const TaskOptions& options) const { (void)tokens_.wanted(options.uses); }

    // What its tasks have as this_task::pool(). Before the first one.
    void set_nested(std::shared_ptr<NestedPool> nested) { nested_ = std::move(nested); }
    // Whose thread this is; null: no pool's.
    static ThreadPoolCore* of_this_thread() noexcept;
    // A thread of the pool begins, or ends, to wait for a future: another one may run meanwhile.
    void begin_wait() noexcept POOL_UNLOCKED;
    void end_wait() noexcept POOL_UNLOCKED;
    // An attempt of the job that this thread runs failed; see retry_here().
    bool retry(const Retry& retry, unsigned attempts,
               const std::exception_ptr& error) POOL_UNLOCKED;

  private:
    using Lock = PoolLock;

    bool was_interrupted() POOL_UNLOCKED;
    bool is_full() const POOL_LOCKED {
        return options_.max_pending != 0 && unfinished_ + places_taken_ >= options_.max_pending;
    }
    // Not in the pool's own threads, which may be those that make room.
    void await_room() POOL_LOCKED;
    class Late;
    Entry prepare(std::unique_ptr<ThreadJob> job) POOL_LOCKED;
    // Throws what submit() throws for these options.
    void set_options(ThreadJob& job, const TaskOptions* options) const;
    Jobs::node_type accept(std::unique_ptr<ThreadJob> job) POOL_LOCKED;
    void queue(Jobs::node_type job, bool wants_help) noexcept POOL_LOCKED;
    // With an error: that becomes its result.
    void queue_late(Late& late, const std::exception_ptr& error,
                    bool cancelled) noexcept POOL_UNLOCKED;
    void require_joinable() POOL_UNLOCKED;
    void await_end() POOL_UNLOCKED;
    bool waits_in_vain() const POOL_LOCKED;
    void end_vain_waits() POOL_UNLOCKED;
    void start_thread() POOL_LOCKED;
    void start_timer() POOL_LOCKED;
    Deadlines::node_type timed(ThreadJob& job, Timeout timeout, bool only_asks) POOL_LOCKED;
    void help_if_needed() noexcept POOL_LOCKED;
    void run(unsigned index) POOL_UNLOCKED;
    bool initialize(unsigned index) POOL_UNLOCKED;
    void break_pool(std::exception_ptr reason) noexcept POOL_UNLOCKED;
    Entry take(unsigned index) POOL_LOCKED;
    // Of the jobs that wait for tokens, the first that this thread may run now; null: none.
    TokenUse* first_at_gate(unsigned index) noexcept POOL_LOCKED;
    static Key key_of(const TokenUse& use) { return {-use.priority, use.number}; }
    void wait_at_gate(Jobs::node_type job, bool wants_help) noexcept POOL_LOCKED;
    void free_tokens(TokenUse& use) noexcept POOL_LOCKED;
    void look_at_gate() POOL_UNLOCKED;
    bool is_extra(unsigned index) const { return index >= most_threads(); }
    bool may_run(unsigned index) const POOL_LOCKED;
    void wake_all_if_extra() POOL_LOCKED;
    void run_job(Entry& entry, unsigned index) POOL_UNLOCKED;
    void run_attempts(Entry& entry, unsigned index) POOL_UNLOCKED;
    void end_job(Entry& entry, unsigned index) noexcept POOL_UNLOCKED;
    // The timeout of an attempt, in the thread that runs it.
    void arm_timer(Entry& entry) noexcept POOL_UNLOCKED;
    void disarm_timer(Entry& entry) noexcept POOL_UNLOCKED;
    void run_timer() POOL_UNLOCKED;
    void fail_waiting(const std::exception_ptr& error) noexcept POOL_UNLOCKED;
    void note_end(ThreadJob& job, unsigned index,
                  std::chrono::steady_clock::time_point begun) noexcept POOL_UNLOCKED;
    void trace_end(ThreadJob& job, unsigned index, std::chrono::steady_clock::time_point begun,
                   std::chrono::nanoseconds took, const char* outcome) POOL_LOCKED;

    void require_owner() const;

    const ThreadPoolOptions options_;
    std::shared_ptr<NestedPool> nested_;
    const ForkMarker marker_;
    const int pid_ = ::getpid();
    BackgroundThreads background_;
    Dependents dependents_;
    TaskNames names_;  // types: guarded by mutex_
    Tracing trace_;
    std::shared_ptr<ThreadPoolCore> self_;  // see keep_for_ever()
    Joiner joiner_;
    std::mutex joining_;  // before mutex_
    PoolMutex mutex_;
    // Guarded by mutex_.
    PoolCondition changed_;  // a job came, or may be run, or the end
    PoolCondition timed_;    // for the timer
    PoolCondition quiet_;    // for join(): perhaps nothing is left
    Lifecycle life_ POOL_GUARDED;
    Jobs waiting_ POOL_GUARDED;
    TokenGate tokens_;           // guarded by mutex_, but for what says otherwise
    Jobs at_gate_ POOL_GUARDED;  // they need tokens
    std::map<std::uint64_t, std::shared_ptr<Late>> late_ POOL_GUARDED;  // by number
    std::uint64_t late_left_ POOL_GUARDED = 0;  // so many have stopped waiting
    bool is_destroyed_ POOL_GUARDED = false;
    std::map<unsigned, Jobs> keyed_ POOL_GUARDED;  // by thread: each has one
    Deadlines deadlines_ POOL_GUARDED;
    Running running_ POOL_GUARDED;
    std::list<std::thread> threads_ POOL_GUARDED;
    ServiceThread timer_ POOL_GUARDED;
    unsigned idle_ POOL_GUARDED = 0;
    unsigned in_wait_ POOL_GUARDED = 0;
    unsigned extra_running_ POOL_GUARDED = 0;    // see may_run()
    std::uint64_t unfinished_ POOL_GUARDED = 0;  // jobs
    std::size_t places_taken_ POOL_GUARDED = 0;  // by try_submit(), now
    std::uint64_t next_number_ POOL_GUARDED = 1;
    PoolStats noted_ POOL_GUARDED;  // of the tasks that ended, and of the threads that ran them
    bool timer_ends_ POOL_GUARDED = false;
};

}  // namespace sidestep::detail
