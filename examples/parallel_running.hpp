// The jobs of `parallel` that run, and what ends all of them: each leads a process group of its
// own, so Ctrl-C does not reach it.
#pragma once

#include <signal.h>

#include <mutex>
#include <set>
#include <thread>

#include <sidestep/subprocess.hpp>

class Running {
  public:
    // One of them, while this lives.
    class Entry {
      public:
        Entry(Running& running, sidestep::subprocess::Popen& job) : running_(running), job_(job) {
            std::lock_guard lock(running_.mutex_);
            running_.jobs_.insert(&job_);
            if (running_.killed_) kill_job(job_);
        }
        ~Entry() {
            std::lock_guard lock(running_.mutex_);
            running_.jobs_.erase(&job_);
        }
        Entry(const Entry&) = delete;
        Entry& operator=(const Entry&) = delete;

      private:
        Running& running_;
        sidestep::subprocess::Popen& job_;
    };

    // Those to come, too.
    void kill_all() {
        std::lock_guard lock(mutex_);
        killed_ = true;
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

    std::mutex mutex_;
    std::set<sidestep::subprocess::Popen*> jobs_;
    bool killed_ = false;
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
