// The inside of a pool in the application's process: who has which task.
//
// Everything is guarded by one mutex, which no other process can hold. Draining (taking results out
// of the rings) is done by whoever is there: a submitter, a thread that waits for a result (the
// first one leads, the others sleep), else the supervisor.
//
// P1 Each task that was submitted and is not done is in exactly one place: the backlog, the shadow
// of
//    one ring, the eviction of one ring, delayed_, or judged_. complete() is called once for each.
// P2 References are dropped outside the mutex (Garbage): the last one frees shared memory, which
//    takes the mutex.
// P3 What a worker wrote is checked against the shadow before it is believed; a worker that wrote
//    nonsense is killed, and its tasks are sorted by the shadow alone.
// P4 What completes a task takes no memory: that was had when the task was submitted, or there is a
//    spare (spare_errors.hpp). What is only noted (statistics, output, a retry) goes without when
//    memory is used up. So no drain, and no event of the supervisor, throws for want of memory with
//    a task in no place.
// P5 What a worker has too (its bell, its control socket) is never waited for with the mutex held,
//    nor is /proc read about a worker: it decides how long that takes.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

#include <sidestep/pool_errors.hpp>
#include <sidestep/pool_options.hpp>
#include <sidestep/pool_stats.hpp>
#include <sidestep/pool_task.hpp>

#include "arena.hpp"
#include "crash_stack.hpp"
#include "fork_marker.hpp"
#include "launch.hpp"
#include "orphans.hpp"
#include "output_capture.hpp"
#include "pool_meters.hpp"
#include "service_thread.hpp"
#include "task_fds.hpp"
#include "task_list.hpp"
#include "task_ring.hpp"
#include "trace_writer.hpp"
#include "worker_memory.hpp"
#include "worker_protocol.hpp"

namespace sidestep::inline v0::detail {

// Why a task has no result; what Retry tells apart.
enum class FailureKind : unsigned char { error, timeout, crash, out_of_memory, cancelled };

// What a worker wrote into a slot, copied: it may change while we look (I7).
struct Reply {
    explicit Reply(const TaskSlot& slot) : Reply(slot, slot.reply) {}

    const ReplyKind raw_kind, kind;
    const bool lacks_fds;
    const std::uint32_t sum;
    const std::uint64_t serial, block, size, begun_ns, duration_ns;
    const std::byte* const inline_bytes;

  private:
    Reply(const TaskSlot& slot, ReplyKind what)
        : raw_kind(what),
          kind(what == ReplyKind::lacks_fds ? ReplyKind::error : what),
          lacks_fds(what == ReplyKind::lacks_fds),
          sum(slot.sum),
          serial(slot.serial),
          block(slot.block),
          size(slot.size),
          begun_ns(slot.begun_ns),
          duration_ns(slot.duration_ns),
          inline_bytes(slot.inline_bytes) {}
};

// The task at the front of a ring is stopped: asked by its flag, then by SIGTERM, then SIGKILL.
struct Eviction {
    enum class Step : unsigned char { asked, terminated, killed };
    Step step = Step::asked;
    sys::Clock::time_point next_at;
    BlockId arguments = 0;       // the task still reads them,
    std::shared_ptr<void> kept;  //   or these
    PoolTask* task = nullptr;    // it is not done: it may be run again when the worker is free,
    FailureKind kind = FailureKind::error;
    std::exception_ptr error;  //   else this is its result
    std::uint64_t key = 0;     // of the task, which runs still
};

// Since when the task at the front of a ring runs, or the item that it is at, by the parent's own
// clock: between the last look that did not see it run, and the first one that did.
struct FrontClock {
    std::uint64_t index = 0;
    std::uint64_t item = 0;
    bool runs = false;
    sys::Clock::time_point looked_at{}, not_before{}, seen_at{};
};

// One worker, as the parent knows it.
struct WorkerLink {
    static constexpr std::uint64_t kNoFront = ~std::uint64_t(0);

    std::uint32_t index = 0;
    Launched process;
    // The worker writes to it when the supervisor is wanted. Nobody reads: the supervisor hears of
    // each write (EPOLLET), so what a task does to it is no matter.
    ParentFd bell;
    std::shared_ptr<WorkerMemory> memory;
    std::vector<PoolTask*> shadow;  // by ring position: who is in flight
    bool alive = false;
    bool ready = false;     // it said so
    bool stopping = false;  // it was asked to leave
    bool corrupt = false;   // it wrote nonsense and was killed
    bool deaf = false;      // its socket takes nothing; until it completes a task, or the next look
    unsigned stuck = 0;     // looks in a row at which the same task was at its front
    std::uint64_t last_front = kNoFront;  // at the last look
    bool doubtful = false;                // at the last look its words contradicted each other
    FrontClock front_clock;
    bool unresponsive = false;  // a task was taken back from its front; until it completes one
    sys::Clock::time_point respawn_at{};
    std::optional<Eviction> eviction;
    bool retiring = false;   // takes no more tasks, and is asked to leave when it is through
    bool dormant = false;    // left after idle_timeout; started again when there is something to do
    bool surplus = false;    // beyond the number of workers that is wanted
    sys::Deadline leave_by;  // it was asked to leave; if it is still there then, it is killed
    sys::Deadline cut_off_at;  // its socket is closed; if it lives on then, it is replaced
    sys::Deadline gone_by;     // nothing but its lifeline could end it; then the pool gives up
    // Owned by the supervisor's thread:
    std::uint64_t limited = 0;     // the task whose worker's memory is to be looked at; 0: none
    std::size_t memory_limit = 0;  //   what it may use
    std::optional<std::size_t> private_memory;  // at the last look; see measure_growth()
    sys::Clock::time_point started_at{};
    std::size_t memory_at_start = 0;       // its own, without what it shares
    std::string boot_failure;              // what it said when it could not start
    std::unique_ptr<WorkerOutput> output;  // of its tasks, if it is captured
    WorkerTally tally;
    GivenFds given;

    RingParent& ring() { return memory->ring; }
};

// As late as can be said at most: the longest durations mean "never".
sys::Clock::time_point later(sys::Clock::time_point now, std::chrono::nanoseconds duration);

// Completed tasks whose reference is dropped when the mutex is not held (P2).
class Garbage {
  public:
    Garbage() = default;
    Garbage(const Garbage&) = delete;
    Garbage& operator=(const Garbage&) = delete;
    ~Garbage() { drop(); }
    void add(PoolTask* task) noexcept;
    void add(std::shared_ptr<const void> object) noexcept;
    void drop() noexcept;
    // The same, with the mutex released meanwhile.
    void drop(std::unique_lock<std::mutex>& lock);

  private:
    friend class PoolCore;
    PoolTask* first_ = nullptr;
    std::vector<std::shared_ptr<const void>> objects_;
};

class PoolCore final : public std::enable_shared_from_this<PoolCore>, public EndingPool {
  public:
    explicit PoolCore(const PoolOptions& options);
    ~PoolCore();

    // Starts the workers and the supervisor; throws what went wrong, having cleaned up.
    void start();

    std::uint32_t workers() const { return target_.load(std::memory_order_relaxed); }
    std::vector<int> worker_pids();
    PoolStats stats();
    void trace(const std::string& path);
    void trace_stop();

    // What tasks get that say nothing else; null: nothing.
    const TaskOptions* default_options() const {
        return has_default_options_ ? &options_.task : nullptr;
    }
    const PoolOptions& options() const { return options_; }

    void submit(const PoolTaskRef& task, Completions* sink, bool begun);
    void submit_again(const PoolTaskRef& task);
    void check_open();
    // Between them join() waits: a map is collected.
    void begin_map();
    void end_map();
    void run_in_background(std::function<void()> work);
    enum class Cancel { waiting_only, running_too };
    bool cancel(PoolTask& task, Cancel mode);
    bool running(PoolTask& task);
    // False: the task is done.
    bool add_listener(PoolTask& task, const std::function<void(TaskListeners&)>& add);
    CallbackThread& callbacks() { return callbacks_; }
    bool wait(const std::function<bool()>& ready, const Deadline& deadline);
    bool wait_done(const PoolTask& task, const Deadline& deadline);
    PoolTaskRef wait_next(Completions& sink);
    void forget(Completions& sink) noexcept;
    void poll();

    BlockId allocate_argument(std::size_t size);
    void free_argument(BlockId block) noexcept;
    std::byte* argument_data(BlockId block) const { return args_.data(block); }
    void free_result(WorkerMemory& memory, BlockId block) noexcept;

    void close();
    // Like close(), for maps that were begun, too; what waits is cancelled, nothing is run again.
    void interrupt();
    void terminate();
    void join() override;
    void end_with_process() noexcept override;
    void keep_for_ever() { self_ = shared_from_this(); }  // nobody will join()
    void cancel_waiting();                                // all of them
    void resize(unsigned workers);
    bool accepting();  // false: closed, broken, or a forked copy
    bool owned_here() const { return marker_.same_process(); }
    // This thread runs callbacks of the pool's futures or Retry::when, or is in a map: it cannot
    // join().
    bool in_own_thread() override {
        return callbacks_.is_this_thread() || judges_.is_this_thread() ||
               background_.is_this_thread() || InPool::is_here(*this);
    }
    void abandon();  // in a forked child: leave the parent's threads and processes alone

  private:
    enum class State { running, closed, terminating, broken };
    using Lock = std::unique_lock<std::mutex>;

    // Dispatcher (pool_core.cpp). All with the mutex held.
    void place(PoolTask* task);
    bool overtake(const PoolTask& task);
    WorkerLink* pick();
    bool crowded() const;
    std::uint64_t cost(WorkerLink& link) const;
    std::uint64_t depth() const;
    bool publish(WorkerLink& link, PoolTask* task);
    void push_backlog(PoolTask* task);
    void push_back_to_backlog(PoolTask* task);
    TaskList& backlog_of(const PoolTask& task);
    bool has_room(WorkerLink& link) const;
    void run_inline(PoolTask& task, Garbage& garbage);
    bool take_back_from(WorkerLink& link, std::uint64_t index);
    std::uint64_t waiting(WorkerLink& link);
    bool is_idle(WorkerLink& link) const;
    WorkerLink* oldest_queue();
    void refill();
    const std::vector<bool>& held_keys();
    bool send_descriptors(WorkerLink& link, const PoolTask& task,
                          const TaskDescriptors& fds) noexcept;
    void rebalance();
    bool drain(Garbage& garbage);
    bool drain(WorkerLink& link, Garbage& garbage);
    static bool is_sound(WorkerLink& link, const Reply& reply, const PoolTask* task);
    void condemn(WorkerLink& link);
    void take_reply(WorkerLink& link, const Reply& reply, PoolTask* task, Garbage& garbage);
    void accept_reply(WorkerLink& link, const Reply& reply, PoolTask& task);
    void note_duration(std::uint64_t ns);
    void complete(PoolTask* task, Garbage& garbage);
    void fail(PoolTask* task, std::exception_ptr error, Garbage& garbage);
    void check_accepting(bool begun = false) const;
    [[noreturn]] static void throw_interrupted();
    void require_owner() const;
    bool ending() const { return state_ == State::terminating || state_ == State::broken; }

    // Captured output (pool_output.cpp). With the mutex held.
    bool captures_output() const { return options_.output == Output::capture; }
    static void take_output(WorkerLink& link, PoolTask* task) noexcept;
    static void keep_output(const WorkerLink& link, PoolTask& task) noexcept;
    static std::string last_words(const TaskOutput& output);  // for a message; or empty
    void trim_outputs(sys::Clock::time_point now);

    // Policies: what becomes of a task that fails, runs too long or is not wanted
    // (pool_policy.cpp). All with the mutex held.
    void add_part(const PoolTaskRef& task);
    bool split(WorkerLink& link, PoolTask* task, FailureKind kind, const std::exception_ptr& error,
               Garbage& garbage);
    struct Partial {
        std::uint32_t items;           // that were finished
        std::vector<std::byte> bytes;  // their results
    };
    static std::optional<Partial> copy_partial(WorkerLink& link, std::uint64_t most);
    bool may_retry(const PoolTask& task, FailureKind kind) const;
    bool may_retry_now(const PoolTask& task) const;  // without the mutex
    void settle(PoolTask* task, FailureKind kind, std::exception_ptr error, Garbage& garbage);
    void settle_error_reply(WorkerLink& link, const Reply& reply, PoolTask* task, Garbage& garbage);
    void judge(PoolTask* task, FailureKind kind, const std::function<std::exception_ptr()>& error);
    void ask_retry_filter(PoolTask& task, const std::exception_ptr& error);
    void run_again(PoolTask* task);
    void wait_again(PoolTask* task);
    void start_delayed(sys::Clock::time_point now);
    bool forget_waiting(PoolTask& task);
    void watch_policy(const PoolTask& task);
    bool front_runs(WorkerLink& link);
    static std::uint64_t front_item(WorkerLink& link, const PoolTask& task);
    sys::Clock::time_point front_begun(WorkerLink& link, std::uint64_t item,
                                       sys::Clock::time_point now);
    void evict(WorkerLink& link, FailureKind kind, std::exception_ptr error, Garbage& garbage);
    void finish_eviction(WorkerLink& link, Garbage& garbage);
    void fail_at_end(PoolTask* task, Garbage& garbage);
    void continue_eviction(WorkerLink& link, sys::Clock::time_point now);
    void enforce(Garbage& garbage);
    void enforce(WorkerLink& link, sys::Clock::time_point now, Garbage& garbage);
    void enforce_memory_limits();  // without the mutex
    void enforce_memory_limit(WorkerLink& link, std::uint64_t serial, std::size_t used,
                              Garbage& garbage);
    void time_out(WorkerLink& link, const PoolTask& task, std::uint64_t item, Garbage& garbage);
    static TaskError::Details describe(const WorkerLink& link, const PoolTask& task);

    // Statistics and traces (pool_insight.cpp). With the mutex held unless said otherwise.
    void note_submit(PoolTask& task);
    void note_reply(WorkerLink& link, const Reply& reply, PoolTask& task);
    void note_run(std::uint32_t worker, std::chrono::nanoseconds duration, PoolTask& task);
    void note_stopped(WorkerLink& link, PoolTask& task, FailureKind kind);
    void note_inline(PoolTask& task, std::uint64_t begun_ns, bool failed);
    void trace_task(TraceEvent event, const PoolTask& task);
    void trace_worker(const WorkerLink& link, TraceEvent::Kind kind, const ExitStatus& status = {});
    WorkerStats stats_of(WorkerLink& link) const;
    void read_memory(PoolStats& stats);  // without the mutex

    // Waiting (pool_wait.cpp).
    void lead(Lock& lock, const std::function<bool()>& ready, const Deadline& deadline);
    void wake_waiters();

    // Life and death (supervisor.cpp, pool_workers.cpp). On the supervisor's thread unless said
    // otherwise.
    struct Started;
    void launch(WorkerLink& link);  // also from start()
    void set_up(WorkerLink& link, Started& started);
    void adopt(WorkerLink& link, Started started);
    void note_failed_launch(WorkerLink& link, const std::exception_ptr& error) noexcept;
    void let_go_of_handles(sys::Clock::time_point now);
    void save_hook(const WorkerHook& hook, HookSetup& setup, TaskDescriptors& fds);
    std::string initializer_error(const WorkerLink& link, const WorkerReady& ready) const;
    void retire_early(WorkerLink& link);
    void retire_old(sys::Clock::time_point now);
    void measure_growth();  // without the mutex
    void ask_to_stop(WorkerLink& link);
    void sleep_if_idle(sys::Clock::time_point now);
    void wake_dormant();
    void follow_target();
    bool wanted(const WorkerLink& link) const;
    void signal_worker(WorkerLink& link, int signal) noexcept;
    void give_up(WorkerLink& link, Garbage& garbage);
    void supervise();
    // Nothing that a step throws ends the supervisor's thread. A step that throws has left
    // everything so that it can be done again, and is done again in the next round.
    template <class Step>
    void attempt(Step step) noexcept {
        try {
            step();
        } catch (...) {
            trouble_ = std::current_exception();
        }
    }
    void weather_trouble() noexcept;
    void look_at_all(int error) noexcept;
    int next_timeout();
    void handle_event(std::uint64_t tag);
    void handle_control(std::uint32_t index);
    void handle_ready(WorkerLink& link, const WorkerReady& ready);
    void handle_closed(WorkerLink& link);
    bool lives_on(const WorkerLink& link) const;
    void distrust(WorkerLink& link);
    void handle_death(std::uint32_t index);
    void bury(WorkerLink& link, const ExitStatus& status, Garbage& garbage);
    void sort_tasks_of_dead(WorkerLink& link, const ExitStatus& status, Garbage& garbage);
    void lose(WorkerLink& link, PoolTask* task, const std::exception_ptr& error, Garbage& garbage);
    bool split_if_memory(WorkerLink& link, PoolTask* task, FailureKind kind,
                         const std::exception_ptr& error, Garbage& garbage) noexcept;
    std::exception_ptr lost_error(const WorkerLink& link, const PoolTask& task,
                                  const ExitStatus& status) noexcept;
    void note_barren_death(WorkerLink& link);
    bool crash_loop() const;

    void respawn_due();
    void retire(WorkerLink& link);
    void tick();
    sys::Clock::time_point next_look() const;
    void note_front(WorkerLink& link);
    static bool contradicts_itself(WorkerLink& link);
    void give_back_arguments(Lock& lock);
    void kill_overdue(Garbage& garbage);
    void break_pool(std::exception_ptr reason, Garbage& garbage) noexcept;
    void fail_everything(const std::function<void(PoolTask*)>& fail_it);
    void fail_cancelled(PoolTask* task, const std::exception_ptr& error, Garbage& garbage);
    void signal_workers(int signal) noexcept;
    void ask_all_to_stop();
    void kick_supervisor() noexcept;
    bool all_gone() const;

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
    TaskNames names_;                    // types: guarded by mutex_
    std::atomic<std::uint32_t> target_;  // relaxed: how many workers are wanted
    Tracing trace_;
    std::shared_ptr<PoolCore> self_;  // see keep_for_ever()

    // Owned by the supervisor's thread.
    Orphans orphans_;
    std::exception_ptr trouble_;            // what a step threw in this round,
    sys::Deadline trouble_since_;           //   and since when each round has some
    sys::Deadline shortage_since_;          // no worker can be started: something is used up,
    sys::Deadline nobody_since_;            //   and since when there is none
    sys::Clock::time_point growth_look_{};  // when measure_growth() is next due

    std::mutex joining_one_;  // before mutex_: the turn of whoever is in join()
    mutable std::mutex mutex_;
    // Guarded by mutex_.
    std::condition_variable changed_;  // followers sleep here
    std::deque<WorkerLink> links_;     // grows in the supervisor's thread only
    Arena args_;
    State state_ = State::running;
    std::exception_ptr broken_;  // a BrokenPool: why it is
    bool interrupted_ = false;
    bool waiting_cancelled_ = false;  // maps that were begun go on no more
    TaskList backlog_;
    bool prioritized_ = false;     // a task had a priority
    std::vector<TaskList> keyed_;  // by worker: tasks with a key
    bool keys_moved_ = false;      // some may be in the ring of the worker that had them before
    std::vector<bool> held_;       // what held_keys() returns
    std::multimap<sys::Clock::time_point, PoolTask*> delayed_;
    std::set<PoolTask*> judged_;                         // Retry::when is asked about them
    std::chrono::nanoseconds policy_look_ = kNoTimeout;  // the supervisor looks again so soon
    sys::Deadline policy_due_;                           //   that is, then
    bool policies_in_flight_ = false;
    unsigned evictions_ = 0;
    std::optional<std::uint64_t> oom_kills_;  // of the kernel, when it was last looked
    std::uint64_t next_serial_ = 1;
    std::uint64_t outstanding_ = 0;  // submitted, not done
    std::uint64_t completed_ = 0;
    std::uint64_t task_ns_;  // moving average of a task's duration
    std::uint32_t hot_ = 0;  // the link that was used last
    bool leader_ = false;
    unsigned followers_ = 0;
    bool ticking_ = false;     // the supervisor looks for stuck tasks every kTick,
    bool watching_ = false;    //   or every kHeartbeat,
    unsigned idle_looks_ = 0;  //   until so many have seen nothing to do
    sys::Clock::time_point last_look_{};
    std::uint64_t completed_at_look_ = 0;
    sys::Clock::time_point let_go_at_{};      // when lasting descriptors are next looked at
    sys::Clock::time_point trim_at_{};        // when captured output is next looked at,
    std::chrono::nanoseconds trim_pause_{0};  //   so long after the look before
    bool joining_ = false;
    unsigned maps_ = 0;           // that are collected
    unsigned barren_deaths_ = 0;  // in a row, of workers that began nothing, no task ending between
    std::uint64_t completed_at_death_ = 0;
    sys::Deadline idle_since_;
    bool asleep_ = false;    // workers are dormant
    sys::Deadline kill_at_;  // after terminate(): workers that are still there then get SIGKILL
    bool supervisor_done_ = false;
    PoolMeters meters_;
};

}  // namespace sidestep::detail
