// A trace file: what each worker did when, in the format of Chrome's tracing, which Perfetto opens.
//
// (Format: "Trace Event Format", Google; an array of events. The closing bracket may be missing
// there: so also the file of a program that was killed can be opened.)
//
// Events are taken under a short lock, and written by a thread of the trace's own: no pool waits
// for a disk. When that thread cannot keep up, events are dropped, and the file says how many.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <sidestep/exit_status.hpp>

#include "insight/task_names.hpp"
#include "service_thread.hpp"
#include "sys/fd.hpp"

namespace sidestep::inline v0::detail {

struct TraceEvent {
    enum class Kind : unsigned char { task, worker_started, worker_left, worker_died };
    Kind kind = Kind::task;
    bool failed = false;
    std::uint16_t attempt = 1;
    std::uint32_t track = 0;  // the worker's index; a pool without workers: the thread's
                              //   id; another host: see TrackNames
    int pid = 0;              // of the worker
    std::uint64_t begin_ns = 0, duration_ns = 0;  // steady clock; may be a worker's word, unchecked
    std::uint64_t number = 0;                     // of the task
    std::uint64_t first_item = 0;
    std::uint32_t items = 0;   // of a map's chunk; 0: it is none
    const char* outcome = "";  // of the task: a literal
    TaskLabel label;           // of the task
    ExitStatus status;         // of the worker
};

// What a trace calls its tracks: "worker 0", "worker 1"; and those of other hosts, behind them.
struct TrackNames {
    // Implicit: most have no other hosts.
    TrackNames(const char* each_track) : each(each_track) {}
    const std::string* host_of(std::uint32_t track) const {  // null: it is of this host
        return track >= first_host && track - first_host < hosts.size() ? &hosts[track - first_host]
                                                                        : nullptr;
    }

    const char* each;  // its number follows
    std::uint32_t first_host = 0;
    std::vector<std::string> hosts;
};

// Threads: thread-safe.
class TraceWriter {
  public:
    // Makes the file, or empties it. Throws std::system_error that names the path. `names` must
    // outlive this object.
    // who: whose trace it is, as it says.
    TraceWriter(const std::string& path, TaskNames& names, TrackNames track_names,
                const char* who = "pool");
    ~TraceWriter();
    TraceWriter(const TraceWriter&) = delete;
    TraceWriter& operator=(const TraceWriter&) = delete;

    // Does not wait for the file. After finish(): nothing.
    void add(const TraceEvent& event) noexcept;
    // Writes what is left, and ends and closes the file. Throws std::system_error if not all could
    // be written; each time it is called.
    void finish();

  private:
    static constexpr std::size_t kMostPending = std::size_t(1) << 17;
    static constexpr std::size_t kWakeAt = std::size_t(1) << 12;

    void run();
    void write(const std::vector<TraceEvent>& events, std::uint64_t dropped);
    void write_task(const TraceEvent& event, std::uint64_t now_ns);
    void write_worker(const TraceEvent& event);
    void name_track(std::uint32_t track);
    void flush() noexcept;
    void write_bytes(std::string_view bytes) noexcept;

    // Constant after construction.
    const std::string path_;
    TaskNames& names_;
    const TrackNames track_names_;
    const int pid_;

    // Owned by the thread, before it starts and after its end by who has finishing_.
    Fd file_;
    std::string buffer_;
    std::set<std::uint32_t> named_;
    int error_ = 0;  // of the file; then nothing more is written

    std::mutex finishing_;  // before mutex_
    std::mutex mutex_;
    // Guarded by mutex_.
    std::condition_variable changed_;
    std::vector<TraceEvent> pending_;
    std::uint64_t dropped_ = 0;
    bool ending_ = false;

    ServiceThread thread_;
};

// The trace that a pool writes now, if it writes one. Threads: thread-safe.
class Tracing {
  public:
    // Ends the one before. Throws as TraceWriter and its finish() do.
    void start(const std::string& path, TaskNames& names, const TrackNames& track_names,
               const char* who = "pool");
    void stop();          // throws as finish() does
    void end() noexcept;  // of the pool: what went wrong is said on stderr
    bool on() const { return on_.load(std::memory_order_relaxed); }  // a hint
    void add(const TraceEvent& event) noexcept;

  private:
    std::shared_ptr<TraceWriter> exchange(std::shared_ptr<TraceWriter> fresh) noexcept;

    std::atomic<bool> on_{false};
    std::mutex mutex_;
    std::shared_ptr<TraceWriter> writer_;  // guarded by mutex_
};

}  // namespace sidestep::detail
