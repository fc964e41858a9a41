// What a worker knows about its own time: written into words that it shares with the parent, read
// and checked there.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "sync/event_count.hpp"

namespace sidestep::inline v0 {

// What a worker found when something had been written over what it shares with its parent: the task
// that it had taken and did not begin, or something else while it ran one.
// Numbers that nobody writes by chance.
enum class Damage : std::uint64_t {
    none,
    task_refused = 0x6465737566657274,
    found_later = 0x726574616c646e66
};

// The worker alone writes; all relaxed: each word is right by itself, and a reader that is a task
// late is right enough. Nanoseconds.
struct WorkerWords {
    static constexpr std::uint64_t kIdle = 1;
    alignas(kCacheLine) std::atomic<std::uint64_t> init{0};
    std::atomic<std::uint64_t> idle{0};
    std::atomic<std::uint64_t> work{0};
    std::atomic<std::uint64_t> measured{0};   // of the tasks whose parts were measured: all of it
    std::atomic<std::uint64_t> serialize{0};  //   and the part of arguments and results
    // Since when it does what it does now (steady clock), doubled, plus kIdle if that is nothing.
    // 0: neither. A task's begin is written before the task is claimed; nothing orders the two for
    // a reader in another process, so that one keeps within what its own clock says.
    std::atomic<std::uint64_t> since{0};
    // How many tasks it has begun: a second word, beside the state of a slot, on whether the one at
    // the front was.
    std::atomic<std::uint64_t> begun{0};
    std::atomic<std::uint64_t> initializing{0};  // 1: it has begun its initializer
    std::atomic<std::uint64_t> damaged{0};       // a Damage: why it ended because of a stray write
    // Of the chunk that runs, what vouches for `progress` and `partial_block` (ProgressTeller).
    std::atomic<std::uint64_t> partial_checks[2] = {};
};

// A task has written where it must not: what this worker shares with its parent is not what the two
// of them wrote. Ends this process; a word tells the parent, which says so in the task's error.
[[noreturn]] void end_damaged(WorkerWords& words, Damage damage) noexcept;

// The worker's side.
class WorkerMeter {
  public:
    // A task that is shorter is not always looked at closely: looking takes a tenth of the
    // shortest.
    static constexpr std::uint64_t kTinyTaskNs = 2'000;
    static constexpr std::uint64_t kTinyTasksForOne = 16;

    explicit WorkerMeter(WorkerWords& words) : words_(&words) {}

    void initialized(std::uint64_t ns) { add(words_->init, ns); }
    // The first task, or the wait for it, begins.
    void begin(std::uint64_t at) { set_since(at << 1); }
    // It had nothing to do from then to then, and has something now.
    void begin_idle(std::uint64_t from) { set_since(from << 1 | WorkerWords::kIdle); }
    void end_idle(std::uint64_t from, std::uint64_t to) {
        add(words_->idle, to - from);
        set_since(to << 1);
    }
    void begin_task() { words_->begun.store(++begun_, std::memory_order_relaxed); }
    // A task took from then to then.
    void worked(std::uint64_t from, std::uint64_t to) {
        last_ns_ = to - from;
        add(words_->work, last_ns_);
        set_since(to << 1);
    }
    // Of the task that was told last.
    void measured(std::uint64_t serialize_ns) {
        add(words_->measured, last_ns_);
        add(words_->serialize, serialize_ns);
    }
    // Are the parts of the next task to be measured?
    bool wants_parts() { return last_ns_ >= kTinyTaskNs || ++tiny_ % kTinyTasksForOne == 0; }
    void leave() { set_since(0); }

  private:
    static void add(std::atomic<std::uint64_t>& word, std::uint64_t ns) {
        word.store(word.load(std::memory_order_relaxed) + ns, std::memory_order_relaxed);
    }
    void set_since(std::uint64_t word) { words_->since.store(word, std::memory_order_relaxed); }

    WorkerWords* words_;
    std::uint64_t last_ns_ = kTinyTaskNs;  // the first one is measured
    std::uint64_t tiny_ = 0;
    std::uint64_t begun_ = 0;
};

// The parent's: sums over the processes of one worker.
struct WorkerTally {
    std::uint64_t launches = 0;
    std::chrono::steady_clock::time_point launch_began{};  // of the last one
    std::chrono::nanoseconds start{0}, init{0}, wait{0}, work{0}, serialize{0};

    // Adds what a process says that began at `launch_began` and is alive now, or was until now.
    void add(const WorkerWords& words, std::chrono::steady_clock::time_point now);
};

}  // namespace sidestep
