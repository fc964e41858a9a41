// What a pool and its workers share: the control page, and the message that sets a worker up.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "queue/task_ring.hpp"
#include "sync/event_count.hpp"
#include "worker/crash_stack.hpp"
#include "worker/line_mark.hpp"
#include "worker/output_capture.hpp"
#include "worker/worker_meter.hpp"

namespace sidestep::inline v0 {

inline constexpr std::uint32_t kMaxWorkers = 1024;
inline constexpr std::uint32_t kRingCapacity = 512;
// When nobody waits, the supervisor is called for what is to be announced after a task that took
// longer than this; after shorter ones for 64 at a time.
inline constexpr std::uint64_t kLongTaskNs = 20'000;

// The memory of one worker's ring: the header, the slots, its meter, what is left of a crash, and
// for each slot how far the worker's output was when the task in it ended (if it is captured).
inline constexpr std::size_t kWorkerWordsAt = sizeof(RingHeader) + kRingCapacity * sizeof(TaskSlot);
inline constexpr std::size_t kCrashRecordAt = kWorkerWordsAt + sizeof(WorkerWords);
inline constexpr std::size_t kOutputMarksAt = kCrashRecordAt + sizeof(CrashRecord);
static_assert(kOutputMarksAt % alignof(OutputMark) == 0);
inline constexpr std::size_t kRingBytes = kOutputMarksAt + kRingCapacity * sizeof(OutputMark);

// One page for all processes of a pool. Everything here is a hint: a worker that scribbles over it
// can cost time, not results. So nothing that bounds a loop or a wait is read from it.
struct ControlPage {
    // Where a thread of the application sleeps that waits for a result (participant 0).
    alignas(kCacheLine) EventCount bell;
    // The application looks at the rings by itself right now (1), so need not be called.
    alignas(kCacheLine) std::atomic<std::uint32_t> attended{0};
    // The supervisor sleeps, and wants its eventfd written when a result waits (1).
    alignas(kCacheLine) std::atomic<std::uint32_t> armed{0};
    // Which workers sleep, one bit each: for the decision whether spinning is worth while.
    alignas(kCacheLine) std::atomic<std::uint64_t> parked[kMaxWorkers / 64] = {};

    void set_parked(std::uint32_t worker, bool parked_now);
};

// How long a process of the pool may spin: known to each when it starts.
struct SpinPolicy {
    std::uint32_t workers = 0;
    std::uint32_t cpus = 1;
    std::uint64_t spin_ns = 0;

    std::uint32_t awake(const ControlPage& page) const;  // workers; a hint
    // Zero when there are more participants awake than CPUs; and when no worker is, since what one
    // does that was just woken comes no sooner than a wake-up takes, which is as long as we spin.
    std::chrono::nanoseconds budget(const ControlPage& page) const;
};

// An initializer or finalizer: its code, and its arguments in the args arena. No code: there is
// none.
struct HookSetup {
    std::uint64_t module = 0, offset = 0, signature = 0;
    std::uint64_t block = 0;
    std::uint64_t size = 0;
    std::uint64_t fds = 0;  // descriptors, sent like those of the task with the number below
    std::uint64_t lasting_fds = 0;
    bool given = false;
};

// WorkerSettings, in the args arena. Size 0: there are none.
struct SettingsBlock {
    std::uint64_t block = 0;
    std::uint64_t size = 0;
};

inline constexpr std::uint64_t kInitializerFds = 0;
inline constexpr std::uint64_t kFinalizerFds = ~std::uint64_t(0);  // kept for longest: see TaskFds

// Sent with five descriptors: ring, result arena, args arena (read-only), control page, an eventfd
// (write-only: see WorkerProcess::bell); and two more if output is captured.
struct WorkerSetup {
    static constexpr std::uint64_t kMagic = 0x7075746573647473;
    static constexpr std::size_t kFds = 5;
    std::size_t fds() const { return kFds + 2 * captures_output; }
    std::uint64_t magic = kMagic;
    std::uint32_t index = 0;
    std::uint32_t ring_capacity = kRingCapacity;
    std::int32_t parent_pid = 0;
    std::int32_t cpu = -1;  // that it runs on; -1: any
    std::uint32_t inner_threads = 0;
    std::uint32_t captures_output = 0;  // 0 or 1
    std::uint32_t marks_lines = 0;      // 1: each mark begins with line_nonce
    detail::LineNonce line_nonce = {};
    std::uint64_t seed = 0;
    std::uint64_t wake_ns = 0;  // what it costs to wake a process
    SpinPolicy spin;
    SettingsBlock settings;
    HookSetup initializer, finalizer;
};

// A worker's answer: it takes tasks now; or its initializer threw, or what it was to set up could
// not be had (in_settings: 1), and it leaves. Later, once, with the other magic: the descriptor
// that comes along is the way to its nested tasks (nested_message.hpp).
struct WorkerReady {
    static constexpr std::uint64_t kMagic = 0x7964616572;
    static constexpr std::uint64_t kLineMagic = 0x656e696c6473656e;
    std::uint64_t magic = kMagic;
    std::uint64_t error_block = 0;  // in its result arena; 0: it is ready
    std::uint64_t error_size = 0;
    std::uint64_t in_settings = 0;
};

// A slot with this offset (and no module) asks the worker to leave.
inline constexpr std::uint64_t kStopOffset = ~std::uint64_t(0);

// A worker's life, from boot() on.
void worker_main(Fd control);

}  // namespace sidestep
