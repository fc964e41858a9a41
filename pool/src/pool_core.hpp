// The inside of a pool in the application's process: who has which task.
//
// Everything is guarded by one mutex, which no other process can hold. Draining (taking results out
// of the rings) is done by whoever is there: a submitter, a thread that waits for a result (the
// first one leads, the others sleep), else the supervisor.
//
// P1 Each task that was submitted and is not done is in exactly one place: the backlog, the shadow
//    of one ring, the eviction of one ring, or judged_. TaskEnd::complete() is called
//    once for each.
// P2 References are dropped outside the mutex (Hold::drop_later()): the last one frees shared
//    memory, which takes the mutex.
// P3 What a worker wrote is checked against the shadow before it is believed; a worker that wrote
//    nonsense is killed, and its tasks are sorted by the shadow alone.
// P4 What completes a task takes no memory: that was had when the task was submitted, or there is a
//    spare (spare_errors.hpp). What is only noted (statistics, output, a retry) goes without when
//    memory is used up. So no drain, and no event of the supervisor, throws for want of memory with
//    a task in no place.
// P5 What a worker has too (its bell, its control socket) is never waited for with the mutex held,
//    nor is /proc read about a worker: it decides how long that takes.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

#include <sidestep/detail/pool_task.hpp>
#include <sidestep/pool_errors.hpp>
#include <sidestep/pool_options.hpp>
#include <sidestep/pool_stats.hpp>

#include "crash_stack.hpp"
#include "dispatch/backlog.hpp"
#include "dispatch/wait_room.hpp"
#include "insight/insight.hpp"
#include "lanes/worker_link.hpp"
#include "life/lifecycle.hpp"
#include "memory/arena.hpp"
#include "orphans.hpp"
#include "output_capture.hpp"
#include "queue/task_ring.hpp"
#include "service_thread.hpp"
#include "start/launch.hpp"
#include "supervise/timers.hpp"
#include "sync/pool_mutex.hpp"
#include "sync/supervisor_role.hpp"
#include "sys/fork_marker.hpp"
#include "task/failure_kind.hpp"
#include "task/hold.hpp"
#include "task/task_end.hpp"
#include "task_fds.hpp"
#include "worker_memory.hpp"
#include "worker_protocol.hpp"

namespace sidestep::inline v0::detail {

// How often it is looked whether workers keep shared objects that are gone.
inline constexpr std::chrono::seconds kLetGo{1};

// As late as can be said at most: the longest durations mean "never".
sys::Clock::time_point later(sys::Clock::time_point now, std::chrono::nanoseconds duration);

class PoolCore final : public std::enable_shared_from_this<PoolCore>,
                       public EndingPool,
                       private Sleepers {
  public:
    explicit PoolCore(const PoolOptions& options);
    ~PoolCore();

    // Starts the workers and the supervisor; throws what went wrong, having cleaned up.
    void start() POOL_UNLOCKED;

    std::uint32_t workers() const { return target_.load(std::memory_order_relaxed); }
    std::vector<int> worker_pids() POOL_UNLOCKED;
    PoolStats stats() POOL_UNLOCKED;
    void trace(const std::string& path) POOL_UNLOCKED;
    void trace_stop();

    // What tasks get that say nothing else; null: nothing.
    const TaskOptions* default_options() const {
        return has_default_options_ ? &options_.task : nullptr;
    }
    const PoolOptions& options() const { return options_; }

    void submit(const PoolTaskRef& task, Completions* sink, bool begun) POOL_UNLOCKED;
    void submit_again(const PoolTaskRef& task) POOL_UNLOCKED;
    void check_open() POOL_UNLOCKED;
    // Between them join() waits: a map is collected.
    void begin_map() POOL_UNLOCKED;
    void end_map() POOL_UNLOCKED;
    void run_in_background(std::function<void()> work) POOL_UNLOCKED;
    enum class Cancel { waiting_only, running_too };
    bool cancel(PoolTask& task, Cancel mode) POOL_UNLOCKED;
    bool running(PoolTask& task) POOL_UNLOCKED;
    // False: the task is done.
    bool add_listener(PoolTask& task, const std::function<void(TaskListeners&)>& add) POOL_UNLOCKED;
    CallbackThread& callbacks() { return callbacks_; }
    bool wait(const std::function<bool()>& ready, const Deadline& deadline) POOL_UNLOCKED;
    bool wait_done(const PoolTask& task, const Deadline& deadline) POOL_UNLOCKED;
    PoolTaskRef wait_next(Completions& sink) POOL_UNLOCKED;
    void forget(Completions& sink) noexcept POOL_UNLOCKED;
    void poll() POOL_UNLOCKED;

    BlockId allocate_argument(std::size_t size) POOL_UNLOCKED;
    void free_argument(BlockId block) noexcept POOL_UNLOCKED;
    // Unchecked: where a block lies does not change.
    std::byte* argument_data(BlockId block) const SIDESTEP_UNCHECKED { return args_.data(block); }
    void free_result(WorkerMemory& memory, BlockId block) noexcept POOL_UNLOCKED;

    void close() POOL_UNLOCKED;
    // Like close(), for maps that were begun, too; what waits is cancelled, nothing is run again.
    void interrupt() POOL_UNLOCKED;
    void terminate() POOL_UNLOCKED;
    void join() POOL_UNLOCKED override;
    void end_with_process() noexcept POOL_UNLOCKED override;
    void keep_for_ever() { self_ = shared_from_this(); }  // nobody will join()
    void cancel_waiting() POOL_UNLOCKED;                  // all of them
    void resize(unsigned workers) POOL_UNLOCKED;
    bool accepting() POOL_UNLOCKED;  // false: closed, broken, or a forked copy
    bool owned_here() const { return marker_.same_process(); }
    // This thread runs callbacks of the pool's futures or Retry::when, or is in a map: it cannot
    // join().
    bool in_own_thread() override {
        return callbacks_.is_this_thread() || judges_.is_this_thread() ||
               background_.is_this_thread() || InPool::is_here(*this);
    }
    void abandon();  // in a forked child: leave the parent's threads and processes alone

  private:
    using Lock = PoolLock;

    // Dispatcher (pool_core.cpp). All with the mutex held.
    void place(PoolTask* task, Hold& hold) POOL_LOCKED;
    bool overtake(const PoolTask& task) POOL_LOCKED;
    WorkerLink* pick() POOL_LOCKED;
    bool crowded() const POOL_LOCKED;
    std::uint64_t cost(WorkerLink& link) const POOL_LOCKED;
    std::uint64_t depth() const POOL_LOCKED;
    bool publish(WorkerLink& link, PoolTask* task, Hold& hold) POOL_LOCKED;
    bool has_room(WorkerLink& link) const POOL_LOCKED;
    void run_inline(PoolTask& task) POOL_UNLOCKED;
    bool take_back_from(WorkerLink& link, std::uint64_t index) POOL_LOCKED;
    std::uint64_t waiting(WorkerLink& link) POOL_LOCKED;
    bool is_idle(WorkerLink& link) const POOL_LOCKED;
    WorkerLink* oldest_queue() POOL_LOCKED;
    void refill(Hold& hold) POOL_LOCKED;
    void look_for_held_keys() POOL_LOCKED;
    bool is_held(const WorkerLink& link) POOL_LOCKED;
    bool send_descriptors(WorkerLink& link, const PoolTask& task,
                          const TaskDescriptors& fds) noexcept POOL_LOCKED;
    void rebalance(Hold& hold) POOL_LOCKED;
    bool drain(Hold& hold) POOL_LOCKED;
    bool drain(WorkerLink& link, Hold& hold) POOL_LOCKED;
    static bool is_sound(WorkerLink& link, const Reply& reply, const PoolTask* task);
    void condemn(WorkerLink& link, Hold& hold) POOL_LOCKED;
    void take_reply(WorkerLink& link, const Reply& reply, PoolTask* task, Hold& hold) POOL_LOCKED;
    void accept_reply(WorkerLink& link, const Reply& reply, PoolTask& task) POOL_LOCKED;
    void note_duration(std::uint64_t ns) POOL_LOCKED;
    void require_owner() const;

    // Captured output (pool_output.cpp). With the mutex held.
    bool captures_output() const { return options_.output == Output::capture; }
    static void take_output(WorkerLink& link, PoolTask* task) noexcept;
    static void keep_output(const WorkerLink& link, PoolTask& task) noexcept;
    static std::string last_words(const TaskOutput& output);  // for a message; or empty
    void trim_outputs(sys::Clock::time_point now) SUPERVISOR_ONLY POOL_LOCKED;

    // Policies: what becomes of a task that fails, runs too long or is not wanted
    // (pool_policy.cpp). All with the mutex held.
    void add_part(const PoolTaskRef& task) POOL_LOCKED;
    bool split(WorkerLink& link, PoolTask* task, FailureKind kind, const std::exception_ptr& error,
               Hold& hold) POOL_LOCKED;
    struct Partial {
        std::uint32_t items;           // that were finished
        std::vector<std::byte> bytes;  // their results
    };
    static std::optional<Partial> copy_partial(WorkerLink& link, std::uint64_t most);
    bool may_retry(const PoolTask& task, FailureKind kind) const POOL_LOCKED;
    bool may_retry_now(const PoolTask& task) const POOL_UNLOCKED;
    void settle(PoolTask* task, FailureKind kind, std::exception_ptr error, Hold& hold) POOL_LOCKED;
    void settle_error_reply(WorkerLink& link, const Reply& reply, PoolTask* task,
                            Hold& hold) POOL_LOCKED;
    void judge(PoolTask* task, FailureKind kind, const std::function<std::exception_ptr()>& error,
               Hold& hold) POOL_LOCKED;
    void ask_retry_filter(PoolTask& task, const std::exception_ptr& error) POOL_UNLOCKED;
    void run_again(PoolTask* task, Hold& hold) POOL_LOCKED;
    void wait_again(PoolTask* task) POOL_LOCKED;
    void start_delayed(sys::Clock::time_point now, Hold& hold) POOL_LOCKED;
    bool forget_waiting(PoolTask& task) POOL_LOCKED;
    void watch_policy(const PoolTask& task, Hold& hold) POOL_LOCKED;
    bool front_runs(WorkerLink& link) POOL_LOCKED;
    static std::uint64_t front_item(WorkerLink& link, const PoolTask& task);
    sys::Clock::time_point front_begun(WorkerLink& link, std::uint64_t item,
                                       sys::Clock::time_point now) POOL_LOCKED;
    void evict(WorkerLink& link, FailureKind kind, std::exception_ptr error,
               Hold& hold) POOL_LOCKED;
    void finish_eviction(WorkerLink& link, Hold& hold) POOL_LOCKED;
    void fail_at_end(PoolTask* task, Hold& hold) POOL_LOCKED;
    void continue_eviction(WorkerLink& link, sys::Clock::time_point now, Hold& hold) POOL_LOCKED;
    void enforce(Hold& hold) POOL_LOCKED;
    void enforce(WorkerLink& link, sys::Clock::time_point now, Hold& hold) POOL_LOCKED;
    void enforce_memory_limits() SUPERVISOR_ONLY POOL_UNLOCKED;
    void enforce_memory_limit(WorkerLink& link, std::uint64_t serial, std::size_t used,
                              Hold& hold) POOL_LOCKED;
    void time_out(WorkerLink& link, const PoolTask& task, std::uint64_t item,
                  Hold& hold) POOL_LOCKED;
    static TaskError::Details describe(const WorkerLink& link, const PoolTask& task);

    // Statistics and traces (pool_insight.cpp). With the mutex held unless said otherwise.
    void note_submit(PoolTask& task) POOL_LOCKED;
    void note_reply(WorkerLink& link, const Reply& reply, PoolTask& task) POOL_LOCKED;
    static TaskFacts facts_of(const PoolTask& task);
    void note_stopped(WorkerLink& link, PoolTask& task, FailureKind kind) POOL_LOCKED;
    void note_inline(PoolTask& task, std::uint64_t begun_ns, bool failed) POOL_UNLOCKED;
    WorkerStats stats_of(WorkerLink& link) const POOL_LOCKED;
    void read_memory(PoolStats& stats) POOL_UNLOCKED;

    // Waiting (pool_wait.cpp).
    void wake_waiters() noexcept override;

    // Life and death (supervisor.cpp, pool_workers.cpp). On the supervisor's thread unless said
    // otherwise.
    struct Started;
    void launch(WorkerLink& link) SUPERVISOR_ONLY POOL_UNLOCKED;  // also from start()
    void set_up(WorkerLink& link, Started& started) SUPERVISOR_ONLY POOL_UNLOCKED;
    void adopt(WorkerLink& link, Started started, Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    void note_failed_launch(WorkerLink& link,
                            const std::exception_ptr& error) noexcept SUPERVISOR_ONLY POOL_UNLOCKED;
    void let_go_of_handles(sys::Clock::time_point now) SUPERVISOR_ONLY POOL_LOCKED;
    void save_hook(const WorkerHook& hook, HookSetup& setup, TaskDescriptors& fds);
    std::string initializer_error(const WorkerLink& link, const WorkerReady& ready) const;
    void retire_early(WorkerLink& link, Hold& hold) POOL_LOCKED;
    void retire_old(sys::Clock::time_point now, Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    void measure_growth() SUPERVISOR_ONLY POOL_UNLOCKED;
    void ask_to_stop(WorkerLink& link, Hold& hold) POOL_LOCKED;
    void sleep_if_idle(sys::Clock::time_point now, Hold& hold) POOL_LOCKED;
    void wake_dormant(Hold& hold) POOL_LOCKED;
    void follow_target() SUPERVISOR_ONLY POOL_UNLOCKED;
    bool wanted(const WorkerLink& link) const POOL_LOCKED;
    void signal_worker(WorkerLink& link, int signal, Hold& hold) noexcept POOL_LOCKED;
    void give_up(WorkerLink& link, Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    void supervise() POOL_UNLOCKED;
    // Nothing that a step throws ends the supervisor's thread. A step that throws has left
    // everything so that it can be done again, and is done again in the next round.
    template <class Step>
    void attempt(Step step) noexcept SUPERVISOR_ONLY {
        try {
            step();
        } catch (...) {
            trouble_ = std::current_exception();
        }
    }
    void weather_trouble() noexcept SUPERVISOR_ONLY POOL_UNLOCKED;
    void look_at_all(int error) noexcept SUPERVISOR_ONLY POOL_UNLOCKED;
    int next_timeout() SUPERVISOR_ONLY POOL_LOCKED;
    void handle_event(std::uint64_t tag) SUPERVISOR_ONLY POOL_UNLOCKED;
    void handle_control(std::uint32_t index) SUPERVISOR_ONLY POOL_UNLOCKED;
    void handle_ready(WorkerLink& link, const WorkerReady& ready) SUPERVISOR_ONLY POOL_UNLOCKED;
    void handle_closed(WorkerLink& link) SUPERVISOR_ONLY POOL_UNLOCKED;
    bool lives_on(const WorkerLink& link) const POOL_LOCKED;
    void distrust(WorkerLink& link) SUPERVISOR_ONLY POOL_UNLOCKED;
    void handle_death(std::uint32_t index) SUPERVISOR_ONLY POOL_UNLOCKED;
    void bury(WorkerLink& link, const ExitStatus& status, Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    void sort_tasks_of_dead(WorkerLink& link, const ExitStatus& status, Hold& hold) POOL_LOCKED;
    void lose(WorkerLink& link, PoolTask* task, const std::exception_ptr& error,
              Hold& hold) POOL_LOCKED;
    bool split_if_memory(WorkerLink& link, PoolTask* task, FailureKind kind,
                         const std::exception_ptr& error, Hold& hold) noexcept POOL_LOCKED;
    std::exception_ptr lost_error(const WorkerLink& link, const PoolTask& task,
                                  const ExitStatus& status) noexcept POOL_LOCKED;
    bool oom_kills_rose() noexcept POOL_LOCKED;
    void note_barren_death(WorkerLink& link) POOL_LOCKED;
    bool crash_loop() const POOL_LOCKED;

    // Unchecked: links come and go in the supervisor's thread only, and what it reads of them
    // without the mutex changes there only.
    std::deque<WorkerLink>& own_links() SUPERVISOR_ONLY SIDESTEP_UNCHECKED { return links_; }
    void respawn_due() SUPERVISOR_ONLY POOL_UNLOCKED;
    void retire(WorkerLink& link) POOL_LOCKED;
    void tick() SUPERVISOR_ONLY POOL_UNLOCKED;
    sys::Clock::time_point next_look() const POOL_LOCKED;
    void watch_rings(bool soon, Hold& hold) POOL_LOCKED;
    void note_front(WorkerLink& link, Hold& hold) POOL_LOCKED;
    static bool contradicts_itself(WorkerLink& link);
    void give_back_arguments(Hold& hold) POOL_LOCKED;
    void kill_overdue(Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    void break_pool(std::exception_ptr reason, Hold& hold) noexcept POOL_LOCKED;
    void fail_everything(const std::function<void(PoolTask*)>& fail_it) POOL_LOCKED;
    void signal_workers(int signal, Hold& hold) noexcept POOL_LOCKED;
    void ask_all_to_stop(Hold& hold) POOL_LOCKED;
    void kick_supervisor() noexcept override;
    bool all_gone() const POOL_LOCKED;

    // Constant after construction.
    const PoolOptions options_;
    const bool has_default_options_;
    const int owner_pid_;
    const ForkMarker marker_;
    LaunchOptions launch_options_;
    std::unique_ptr<Launcher> launcher_;
    Segment control_segment_;
    Segment args_segment_;
    Fd args_reader_;  // the args arena for workers: read only
    ControlPage* control_;
    ParentFd supervisor_bell_;  // the application's own: no worker has it
    ParentFd epoll_;
    SpinPolicy spin_;
    std::uint64_t wake_cost_ns_ = 0;
    HookSetup initializer_, finalizer_;
    TaskDescriptors initializer_fds_, finalizer_fds_;
    ServiceThread supervisor_;
    CallbackThread callbacks_;
    CallbackThread judges_;              // Retry::when: a callback may wait for its answer
    BackgroundThreads background_;       // they feed maps to the workers
    std::atomic<std::uint32_t> target_;  // relaxed: how many workers are wanted
    Insight insight_;
    std::shared_ptr<PoolCore> self_;  // see keep_for_ever()

    // Owned by the supervisor's thread.
    Orphans orphans_ SUPERVISOR_OWNED;
    std::exception_ptr trouble_ SUPERVISOR_OWNED;   // what a step threw in this round,
    sys::Deadline trouble_since_ SUPERVISOR_OWNED;  //   and since when each round has some
    // Since when no worker can be started, as something is used up, and since when none is left.
    sys::Deadline shortage_since_ SUPERVISOR_OWNED;
    sys::Deadline nobody_since_ SUPERVISOR_OWNED;
    sys::Clock::time_point growth_look_ SUPERVISOR_OWNED{};  // when measure_growth() is next due

    std::mutex joining_one_;  // before mutex_: the turn of whoever is in join()
    mutable PoolMutex mutex_;
    WaitRoom wait_room_;
    // Guarded by mutex_.
    std::deque<WorkerLink> links_ POOL_GUARDED;  // grows in the supervisor's thread only
    Arena args_ POOL_GUARDED;
    TaskEnd task_end_;
    Lifecycle life_ POOL_GUARDED;
    Backlog backlog_ POOL_GUARDED;
    std::set<PoolTask*> judged_ POOL_GUARDED;  // Retry::when is asked about them
    // How soon the supervisor looks at policies again.
    std::chrono::nanoseconds policy_look_ POOL_GUARDED = kNoTimeout;
    bool policies_in_flight_ POOL_GUARDED = false;
    unsigned evictions_ POOL_GUARDED = 0;
    std::optional<std::uint64_t> oom_kills_ POOL_GUARDED;  // of the kernel, when it was last looked
    std::uint64_t task_ns_ POOL_GUARDED;                   // moving average of a task's duration
    std::uint32_t hot_ POOL_GUARDED = 0;                   // the link that was used last
    Timers timers_ POOL_GUARDED;
    bool ticking_ POOL_GUARDED = false;     // the supervisor looks for stuck tasks every kTick,
    bool watching_ POOL_GUARDED = false;    //   or every kHeartbeat,
    unsigned idle_looks_ POOL_GUARDED = 0;  //   until so many have seen nothing to do
    sys::Clock::time_point last_look_ POOL_GUARDED{};
    std::uint64_t completed_at_look_ POOL_GUARDED = 0;
    // From one look at captured output to the next.
    std::chrono::nanoseconds trim_pause_ POOL_GUARDED{0};
    // In a row, of workers that began nothing, with no task ending in between.
    unsigned barren_deaths_ POOL_GUARDED = 0;
    std::uint64_t completed_at_death_ POOL_GUARDED = 0;
    bool asleep_ POOL_GUARDED = false;  // workers are dormant
    bool supervisor_done_ POOL_GUARDED = false;
};

}  // namespace sidestep::detail
