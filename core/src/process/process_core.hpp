// A Process from the inside: its life, in the process that made it.
#pragma once

#include <signal.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <sidestep/process.hpp>

#include "start/launch.hpp"
#include "sys/fork_marker.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {

class Blob;
class BlobBuffer;
class BlobFds;

namespace detail {

class ProcessCore : public std::enable_shared_from_this<ProcessCore> {
  public:
    // From SIGTERM to SIGKILL, for those that are ended.
    static constexpr std::chrono::seconds kGrace{1};

    ProcessCore(std::unique_ptr<SentCall> task, ProcessOptions options);

    const std::string& name() const { return name_; }
    const std::string& authkey() const { return authkey_; }
    bool daemon() const { return daemon_; }
    int pid();

    void start();
    // False at the deadline.
    bool wait_until(const sys::Deadline& deadline);
    // Takes the status if the child has ended; running() before that, and before start().
    ExitStatus try_reap();
    // The same for those who go through all children: an object that was closed is no error.
    bool still_runs();
    bool is_alive();
    void send_signal(int signal);
    int sentinel();
    void rethrow();
    void close();
    bool started_here();
    // What a Process does with its child when it goes.
    void end_with_owner(bool unwinding);

  private:
    enum class Stage { made, running, ended, closed };

    // Holds `mutex_`. In a forked copy it does not: the one who forked may have held it, and there
    // is nobody else. What happened under it is logged when it is released: a sink is users' code.
    class Held {
      public:
        explicit Held(ProcessCore& core);
        ~Held();
        Held(const Held&) = delete;
        Held& operator=(const Held&) = delete;

      private:
        ProcessCore& core_;
        std::unique_lock<std::mutex> lock_;
    };
    // One of `waiting_`. The last one lets go of what close() left.
    class Waiting {
      public:
        explicit Waiting(ProcessCore& core) : core_(core) {}
        ~Waiting();
        Waiting(const Waiting&) = delete;
        Waiting& operator=(const Waiting&) = delete;

      private:
        ProcessCore& core_;
    };
    bool made_here() const;
    Launched launch(StartMethod method);
    void write_setup(BlobBuffer& buffer, BlobFds& fds, StartMethod method) const;
    // `mutex_` is held in all that follow.
    void check_open() const;
    void check_child(const char* verb) const;
    ExitStatus reap_locked();
    void read_report() noexcept;
    void read_one(const Blob& report);

    // Constant after construction.
    std::string name_;
    std::string authkey_;
    bool daemon_;
    bool own_group_;
    std::optional<StartMethod> method_;
    std::vector<std::uint32_t> path_;
    ForkMarker creator_;

    // Guarded by `mutex_`. A child is reaped with it held, so that no signal meets a free pid.
    std::mutex mutex_;
    Stage stage_ = Stage::made;
    std::unique_ptr<SentCall> task_;
    int pid_ = 0;
    Launched child_;
    unsigned waiting_ = 0;  // threads that wait by its pidfd, which stays until they are done
    ExitStatus status_;
    bool taken_over_ = false;  // the child has reached our code
    std::exception_ptr thrown_;
    std::exception_ptr report_error_;  // why its last report could not be read
    std::string boot_failure_;         // what it said when it could not start
    bool unlogged_end_ = false;
};

}  // namespace detail
}  // namespace sidestep
