// The inside of a pool in the application's process: who has which task.
//
// Everything is guarded by one mutex, which no other process can hold. Draining (taking results out
// of the rings) is done by whoever is there: a submitter, a thread that waits for a result (the
// first one leads, the others sleep), else the supervisor.
//
// P1 Each task that was submitted and is not done is in exactly one place: the backlog, or the
//    shadow of one ring. complete() is called once for each.
// P2 References are dropped outside the mutex (Garbage): the last one frees shared memory, which
//    takes the mutex.
// P3 What a worker wrote is checked against the shadow before it is believed; a worker that wrote
//    nonsense is killed, and its tasks are sorted by the shadow alone.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <sidestep/pool_options.hpp>
#include <sidestep/task_state.hpp>

#include "arena.hpp"
#include "fork_marker.hpp"
#include "launch.hpp"
#include "task_ring.hpp"
#include "worker_protocol.hpp"

namespace sidestep::detail {

// The shared memory of one worker process. It stays mapped until the last result in it is dropped.
class WorkerMemory {
  public:
    explicit WorkerMemory(std::size_t arena_bytes);
    void close_descriptors();  // once the worker has its own

    Segment ring_segment;
    Segment results;
    RingParent ring;
    bool alive = true;                  // a dead worker takes no blocks back
    std::vector<BlockId> to_give_back;  // blocks that found the queue full
};

// One worker, as the parent knows it.
struct WorkerLink {
    static constexpr std::uint64_t kNoFront = ~std::uint64_t(0);

    std::uint32_t index = 0;
    Launched process;
    std::shared_ptr<WorkerMemory> memory;
    std::vector<TaskState*> shadow;  // by ring position: who is in flight
    bool alive = false;
    bool ready = false;                   // it said so
    bool stopping = false;                // it was asked to leave
    bool corrupt = false;                 // it wrote nonsense and was killed
    unsigned stuck = 0;                   // looks in a row at which the same task was at its front
    std::uint64_t last_front = kNoFront;  // at the last look
    bool unresponsive = false;  // a task was taken back from its front; until it completes one
    sys::Clock::time_point respawn_at{};

    RingParent& ring() { return memory->ring; }
};

// Completed tasks whose reference is dropped when the mutex is not held (P2).
class Garbage {
  public:
    Garbage() = default;
    Garbage(const Garbage&) = delete;
    Garbage& operator=(const Garbage&) = delete;
    ~Garbage() { drop(); }
    void add(TaskState* task);
    void drop();
    // The same, with the mutex released meanwhile.
    void drop(std::unique_lock<std::mutex>& lock);

  private:
    friend class PoolCore;
    TaskState* first_ = nullptr;
};

class PoolCore : public std::enable_shared_from_this<PoolCore> {
  public:
    explicit PoolCore(const PoolOptions& options);
    ~PoolCore();

    // Starts the workers and the supervisor; throws what went wrong, having cleaned up.
    void start();

    std::uint32_t workers() const { return static_cast<std::uint32_t>(links_.size()); }
    std::vector<int> worker_pids();

    void submit(const TaskRef& task, Completions* sink);
    bool cancel(TaskState& task);
    bool wait_done(const TaskState& task, const Deadline& deadline);
    TaskRef wait_next(Completions& sink);
    void forget(Completions& sink);
    void poll();

    BlockId allocate_argument(std::size_t size);
    void free_argument(BlockId block);
    std::byte* argument_data(BlockId block) const { return args_.data(block); }
    void free_result(WorkerMemory& memory, BlockId block);

    void close();
    void terminate();
    void join();
    bool owned_here() const { return marker_.same_process(); }
    void abandon();  // in a forked child: leave the parent's threads and processes alone

  private:
    enum class State { running, closed, terminating, broken };
    using Lock = std::unique_lock<std::mutex>;

    // Dispatcher (pool_core.cpp). All with the mutex held.
    void place(TaskState* task);
    WorkerLink* pick();
    std::uint64_t cost(WorkerLink& link) const;
    std::uint64_t depth() const;
    bool publish(WorkerLink& link, TaskState* task);
    void push_backlog(TaskState* task);
    void push_back_to_backlog(TaskState* task);
    bool take_back_from(WorkerLink& link, std::uint64_t index);
    std::uint64_t waiting(WorkerLink& link);
    TaskState* pop_backlog();
    void unlink_backlog(TaskState* task);
    void refill();
    void rebalance();
    bool drain(Garbage& garbage);
    bool drain(WorkerLink& link, Garbage& garbage);
    bool accept_reply(WorkerLink& link, TaskSlot& slot, TaskState& task);
    void note_duration(std::uint64_t ns);
    void complete(TaskState* task, Garbage& garbage);
    void fail(TaskState* task, std::exception_ptr error, Garbage& garbage);
    void check_accepting() const;
    void require_owner() const;
    bool ending() const { return state_ == State::terminating || state_ == State::broken; }

    // Waiting (pool_wait.cpp).
    bool wait(const std::function<bool()>& ready, const Deadline& deadline);
    void lead(Lock& lock, const std::function<bool()>& ready, const Deadline& deadline);
    void wake_waiters();

    // Life and death (supervisor.cpp). On the supervisor's thread unless said otherwise.
    void launch(WorkerLink& link);  // also from start()
    void adopt(WorkerLink& link, Launched process, std::shared_ptr<WorkerMemory> memory);
    void supervise();
    int next_timeout();
    void handle_event(std::uint64_t tag);
    void handle_control(std::uint32_t index);
    void handle_death(std::uint32_t index);
    void sort_tasks_of_dead(WorkerLink& link, const ExitStatus& status, Garbage& garbage);
    std::exception_ptr lost_error(const WorkerLink& link, const TaskState& task,
                                  const ExitStatus& status) const;
    void note_barren_death(WorkerLink& link);
    bool crash_loop() const;
    void respawn_due();
    void retire(WorkerLink& link);
    void tick();
    sys::Clock::time_point next_look() const;
    void note_front(WorkerLink& link);
    void kill_overdue();
    void break_pool(const std::string& reason, Garbage& garbage);
    void fail_everything(const std::function<std::exception_ptr()>& error, Garbage& garbage);
    void signal_workers(int signal);
    void ask_to_stop();
    void kick_supervisor();
    bool all_gone() const;

    // Constant after construction.
    const PoolOptions options_;
    const int owner_pid_;
    const ForkMarker marker_;
    std::unique_ptr<Launcher> launcher_;
    Segment control_segment_;
    Segment args_segment_;
    Fd args_reader_;  // the args arena for workers: read only
    ControlPage* control_;
    Fd supervisor_bell_;
    Fd epoll_;
    SpinPolicy spin_;
    std::uint64_t wake_cost_ns_ = 0;
    std::thread supervisor_;

    mutable std::mutex mutex_;
    // Guarded by mutex_.
    std::condition_variable changed_;  // followers sleep here
    std::vector<WorkerLink> links_;
    Arena args_;
    State state_ = State::running;
    std::string broken_reason_;
    TaskState* backlog_first_ = nullptr;
    TaskState* backlog_last_ = nullptr;
    std::uint64_t backlog_size_ = 0;
    std::uint64_t next_serial_ = 1;
    std::uint64_t outstanding_ = 0;  // submitted, not done
    std::uint64_t completed_ = 0;
    std::uint64_t task_ns_;  // moving average of a task's duration
    std::uint32_t hot_ = 0;  // the link that was used last
    bool leader_ = false;
    unsigned followers_ = 0;
    bool ticking_ = false;   // the supervisor looks for stuck tasks every kTick,
    bool watching_ = false;  //   or every kHeartbeat
    sys::Clock::time_point last_look_{};
    std::uint64_t completed_at_look_ = 0;
    bool joining_ = false;
    unsigned barren_deaths_ = 0;  // in a row, of workers that began nothing, no task ending between
    std::uint64_t completed_at_death_ = 0;
    sys::Deadline kill_at_;  // workers that are still there then get SIGKILL
    bool supervisor_done_ = false;
};

}  // namespace sidestep::detail
