#include <sidestep/interrupt_guard.hpp>

#include <semaphore.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

#include "pool_core.hpp"
#include "service_thread.hpp"
#include "sys/error.hpp"
#include "sys/fork_marker.hpp"
#include "sys/per_process.hpp"
#include "thread_pool_core.hpp"

namespace sidestep::inline v0 {
namespace detail {

struct InterruptSteps {
    std::function<void(unsigned)> take_step;
    const ForkMarker marker;
    std::atomic<unsigned> taken{0};
    std::mutex mutex;
    bool gone = false;  // guarded by mutex
    std::uint64_t round =
        0;  // guarded by the mutex of the list: the last interrupt that it heard of
};

}  // namespace detail

namespace {

using Steps = std::shared_ptr<detail::InterruptSteps>;
constexpr unsigned kLastStep = 2;

// What the handler uses. A semaphore, since sem_post(3) is async-signal-safe, and takes no
// descriptor.
sem_t interrupted;
std::atomic<int> owner{0};  // the process whose guards these are
struct sigaction former;    // constant while the handler is in place

// A forked copy has the handler, but no guards: there the signal goes where it went before.
void handle_interrupt(int number) {
    int error = errno;
    if (owner.load() == ::getpid()) {
        (void)::sem_post(&interrupted);
    } else {
        ::sigaction(number, &former, nullptr);
        ::raise(number);  // it comes when this returns
    }
    errno = error;
}

bool is_ours(const struct sigaction& action) {
    return !(action.sa_flags & SA_SIGINFO) && action.sa_handler == &handle_interrupt;
}

// All guards of this process.
class Interrupts {
  public:
    void add(const Steps& steps) {
        std::lock_guard one_change(changing_);
        if (!thread_.joinable()) start();
        std::lock_guard lock(mutex_);
        guards_.reserve(guards_.size() + 1);
        install();
        steps->round = round_;
        guards_.push_back(steps);
    }
    void remove(const Steps& steps) {
        std::lock_guard one_change(changing_);
        {
            std::lock_guard lock(mutex_);
            std::erase(guards_, steps);
            if (!guards_.empty()) return;
            put_back();
        }
        stopping_ = true;
        ::sem_post(&interrupted);
        thread_.join();
    }

  private:
    void start() {
        ::sem_init(&interrupted, 0, 0);
        owner = ::getpid();
        stopping_ = false;
        thread_.start("sidestep-intr", detail::ServiceThread::Runs::library_code,
                      [this] { serve(); });
    }
    void serve() {
        for (;;) {
            while (::sem_wait(&interrupted) < 0) {  // EINTR
            }
            if (stopping_) return;
            take_steps();
        }
    }
    // For each guard, without a lock that a guard needs to go. What throws ends nothing: the others
    // are told, and this one may be asked again.
    void take_steps() {
        {
            std::lock_guard lock(mutex_);
            ++round_;
        }
        while (Steps steps = next()) {
            std::lock_guard lock(steps->mutex);
            if (steps->gone) continue;
            unsigned step = ++steps->taken;
            try {
                if (step <= kLastStep) steps->take_step(step);
            } catch (const std::exception& error) {
                std::fprintf(stderr, "sidestep: an InterruptGuard could not stop its pool: %s\n",
                             error.what());
            }
        }
        std::lock_guard lock(mutex_);
        if (std::all_of(guards_.begin(), guards_.end(),
                        [](const Steps& s) { return s->taken >= kLastStep; }))
            put_back();
    }

    // One that has not been told of this interrupt; null: all have.
    Steps next() {
        std::lock_guard lock(mutex_);
        auto found = std::find_if(guards_.begin(), guards_.end(),
                                  [this](const Steps& s) { return s->round != round_; });
        if (found == guards_.end()) return nullptr;
        (*found)->round = round_;
        return *found;
    }

    // Both with the mutex held.
    static void install() {
        struct sigaction now = {}, ours = {};
        ::sigaction(SIGINT, nullptr, &now);
        if (is_ours(now)) return;  // in a forked copy: `former` is what was there before
        former = now;
        ours.sa_handler = &handle_interrupt;
        ours.sa_flags = SA_RESTART;
        sigemptyset(&ours.sa_mask);
        if (::sigaction(SIGINT, &ours, nullptr) < 0) throw_errno(errno, "sigaction(SIGINT)");
    }
    static void put_back() {
        struct sigaction now = {};
        ::sigaction(SIGINT, nullptr, &now);
        if (is_ours(now)) ::sigaction(SIGINT, &former, nullptr);
    }

    std::mutex changing_;           // before mutex_
    detail::ServiceThread thread_;  // guarded by changing_
    std::mutex mutex_;
    std::vector<Steps> guards_;  // guarded by mutex_
    std::uint64_t round_ = 0;    // likewise: how many interrupts there were
    std::atomic<bool> stopping_{false};
};
PerProcess<Interrupts> all_guards;

}  // namespace

InterruptGuard::InterruptGuard(Pool& pool) {
    if (!pool.core_->owned_here())
        throw std::logic_error(
            "InterruptGuard: this pool belongs to the process that made it, and this is a forked "
            "copy: make a pool of its own here");
    watch(
        [core = pool.core_](unsigned step) { step == 1 ? core->interrupt() : core->terminate(); });
}

InterruptGuard::InterruptGuard(ThreadPool& pool) {
    if (!pool.core_->owned_here())
        throw std::logic_error(
            "InterruptGuard: this pool's threads are in the process that made it, and this is a "
            "forked copy: make a pool of its own here");
    watch([core = pool.core_](unsigned step) {
        core->interrupt();
        if (step > 1) core->ask_to_stop();
    });
}

void InterruptGuard::watch(std::function<void(unsigned step)> take_step) {
    steps_ = std::make_shared<detail::InterruptSteps>();
    steps_->take_step = std::move(take_step);
    all_guards.get().add(steps_);
}

InterruptGuard::~InterruptGuard() {
    if (!steps_->marker.same_process()) return;  // a forked copy: the guard is the parent's
    {
        std::lock_guard lock(steps_->mutex);  // a step that is being taken is finished
        steps_->gone = true;
    }
    all_guards.get().remove(steps_);
}

unsigned InterruptGuard::interrupts() const { return steps_->taken; }

}  // namespace sidestep
