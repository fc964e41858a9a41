// The process of a job that runs tasks on its host, for the first process.
//
// For each pool over there it has a Pool here, without retries: timeouts, memory limits, output and
// what is left of a chunk are settled here. It runs no task itself, so it always answers.
//
// Threads: one, which alone calls the transport; the pools have theirs.
// Peer death: without the first process, or when that has been silent for long, or without the
//          launcher's process on this host, all pools are terminated, and run() returns.
// Errors:  a step for which there is no memory is done again, and costs a task at most. If there is
//          none for long, or the first process says what makes no sense, this host resigns: its
//          pools are terminated, the first process is told why, and the job goes on without it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include <sidestep/pool.hpp>

#include "messages.hpp"
#include "service_thread.hpp"
#include "sys/sys.hpp"
#include "task/task_ids.hpp"
#include "transport.hpp"
#include "worker/asked_stack.hpp"

namespace sidestep::inline v0::detail {

class Agent {
  public:
    // What tells that the job is over, where nobody says goodbye and no launcher ends this process.
    struct Signs {
        // Ctrl-C is for the first process, which may die of it. Null: it never comes.
        const std::atomic<bool>* interrupt = nullptr;
        // From then on, how long the first process may be silent at most.
        std::chrono::nanoseconds patience = std::chrono::seconds(5);
        // The launcher's process on this host, which is the parent; 0: it is not looked at.
        pid_t launcher = 0;
        // How long there may be no memory for what is to be done next.
        std::chrono::nanoseconds most_short = std::chrono::seconds(5);
    };
    explicit Agent(Transport& transport, const Signs& signs);
    explicit Agent(Transport& transport) : Agent(transport, Signs()) {}
    ~Agent();

    // Says hello, and works until it is told goodbye. What main() returns then.
    int run(const Hello& own);

  private:
    struct AgentPool;
    struct Flight {
        std::uint32_t pool = 0;
        std::uint64_t number = 0;
        PoolTaskRef task;
    };

    // One whose task ran out of time, and whose worker has not told yet where it was then.
    struct Unlocated {
        std::size_t tag = 0;  // of its flight
        std::shared_ptr<const AskedStack> stack;
        sys::Clock::time_point give_up;
    };

    bool try_round();
    bool round();
    void resign(const char* why) noexcept;
    void take_leave();
    void handle(const ReceivedFrame& frame);
    bool is_abandoned();
    void open(OpenPool request);
    void submit(const SubmitTask& request, const ReceivedFrame& frame);
    PoolTaskRef make_task(AgentPool& pool, const SubmitTask& request);
    BodyPlace place_arguments(std::span<const std::byte> head, std::size_t size) noexcept;
    void cancel(const TaskNumber& request);
    void end(std::uint32_t pool, bool now);
    void finish(AgentPool& pool);
    std::size_t watch(AgentPool& pool, std::uint64_t number, const PoolTaskRef& task);
    void unwatch(std::size_t tag) noexcept;
    bool take_finished();
    bool take_located();
    void answer(std::size_t tag);
    void answer_now(std::size_t tag);
    void answer_in_full(const Flight& flight);
    void answer_failure(const Flight& flight, const std::exception_ptr& failure);
    void tell_broken(AgentPool& pool, const std::string& why);
    void say(Frame&& frame) { transport_.send(0, std::move(frame)); }
    void terminate_all() noexcept;

    Transport& transport_;
    const Signs signs_;
    sys::Clock::time_point heard_{}, looked_{};  // its last word; when that was thought of last
    std::chrono::nanoseconds patience_{0};       // how long it may be silent; 0: it never was heard
    TaskIds ids_;
    std::map<std::uint32_t, std::unique_ptr<AgentPool>> pools_;
    std::unordered_map<std::size_t, Flight> flights_;  // by the tag in finished_
    std::vector<Unlocated> unlocated_;
    std::shared_ptr<CompletionQueue> finished_ = std::make_shared<CompletionQueue>();
    std::size_t last_tag_ = 0;
    // What is being done, and is done again if there was no memory for it.
    std::optional<ReceivedFrame> frame_;
    std::optional<std::size_t> tag_;
    sys::Clock::time_point short_since_{};              // the epoch: nothing is short
    std::uint64_t last_rest_ = std::uint64_t(1) << 63;  // numbers of ours, for what chunks left
    const Hello* hello_ = nullptr;                      // to be said; null: it was
    Frame resignation_;                                 // made beforehand; empty: it was said
    bool resigned_ = false;
    bool ends_ = false;
    int exit_code_ = 0;
};

}  // namespace sidestep::detail
