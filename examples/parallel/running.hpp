// The jobs of `parallel` that run, and what ends all of them: each leads a process group of its
// own, so Ctrl-C does not reach it.
#pragma once

#include <signal.h>

#include <atomic>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <stdexcept>
#include <thread>

#include <sidestep/subprocess.hpp>

class Running {
  public:
    // Starts one of them; it is known from then on, and while this lives.
    class Entry {
      public:
        Entry(Running& running, const sidestep::subprocess::Args& command,
              const sidestep::subprocess::Options& options)
            : running_(running), starting_(running.starting_), job(start(command, options)) {
            std::lock_guard lock(running_.mutex_);
            running_.jobs_.insert(&job);
            starting_.unlock();
        }
        ~Entry() {
            std::lock_guard lock(running_.mutex_);
            running_.jobs_.erase(&job);
        }
        Entry(const Entry&) = delete;
        Entry& operator=(const Entry&) = delete;

      private:
        sidestep::subprocess::Popen start(const sidestep::subprocess::Args& command,
                                          const sidestep::subprocess::Options& options) const {
            if (running_.killed_) throw std::runtime_error("not started: all jobs are ended");
            return sidestep::subprocess::Popen(command, options);
        }

        Running& running_;
        std::shared_lock<std::shared_mutex> starting_;

      public:
        sidestep::subprocess::Popen job;
    };

    // No others are started after that.
    void kill_all() {
        killed_ = true;
        std::unique_lock all_started(starting_);
        std::lock_guard lock(mutex_);
        for (auto* job : jobs_) kill_job(*job);
    }

  private:
    static void kill_job(sidestep::subprocess::Popen& job) {
        try {
            job.kill_tree();
        } catch (const std::system_error&) {
            // No descriptor was left to look for descendants outside of its group.
        }
    }

    std::shared_mutex starting_;  // shared by those who start a job; before mutex_
    std::mutex mutex_;
    std::set<sidestep::subprocess::Popen*> jobs_;  // guarded by mutex_
    std::atomic<bool> killed_ = false;
};

// While it lives, a signal that ends this program kills the jobs first. Made before other threads
// are, which must not get these signals.
class SignalGuard {
  public:
    explicit SignalGuard(Running& running) {
        sigemptyset(&signals_);
        sigaddset(&signals_, kEnough);
        for (int signal : {SIGHUP, SIGINT, SIGTERM}) {
            struct sigaction now;
            sigaction(signal, nullptr, &now);
            if (now.sa_handler != SIG_IGN) sigaddset(&signals_, signal);  // else: nohup, and such
        }
        pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
        thread_ = std::thread([this, &running] { wait(running); });
    }
    ~SignalGuard() {
        pthread_kill(thread_.native_handle(), kEnough);
        thread_.join();
    }
    SignalGuard(const SignalGuard&) = delete;
    SignalGuard& operator=(const SignalGuard&) = delete;

  private:
    static constexpr int kEnough = SIGUSR1;

    void wait(Running& running) {
        int signal = 0;
        sigwait(&signals_, &signal);
        if (signal == kEnough) return;
        running.kill_all();
        ::signal(signal, SIG_DFL);
        pthread_sigmask(SIG_UNBLOCK, &signals_, nullptr);
        raise(signal);
    }

    sigset_t signals_;
    std::thread thread_;
};
