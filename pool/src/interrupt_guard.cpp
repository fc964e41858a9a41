#include <sidestep/interrupt_guard.hpp>

#include <fmt/format.h>
#include <semaphore.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <iterator>
#include <mutex>
#include <stdexcept>
#include <string>
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
    std::vector<int> signals;
    const ForkMarker marker;
    std::atomic<unsigned> taken{0};
    std::atomic<int> last_signal{0};
    std::mutex mutex;
    bool gone = false;  // guarded by mutex
    // Guarded by the mutex of the list: the last interrupt that it heard of.
    std::uint64_t round = 0;

    bool heeds(int number) const {
        return std::find(signals.begin(), signals.end(), number) != signals.end();
    }
};

}  // namespace detail

namespace {

using Steps = std::shared_ptr<detail::InterruptSteps>;
constexpr unsigned kLastStep = 2;
constexpr std::size_t kSignals = 65;  // 1 to 64

// What the handler uses. A semaphore, since sem_post(3) is async-signal-safe, and takes no
// descriptor.
sem_t interrupted;
std::atomic<unsigned> came[kSignals];      // of each signal, that were not heard yet
std::atomic<int> owner{0};                 // the process whose guards these are
std::atomic<ForkGeneration> owner_mark{};  // and its mark
std::atomic<bool> heeded[kSignals];        // there is one that waits for it
struct sigaction former[kSignals];         // constant while the handler may be called
static_assert(std::atomic<unsigned>::is_always_lock_free);

// Where it went before.
void pass_on(int number) {
    const struct sigaction& to = former[number];
    if (!(to.sa_flags & SA_SIGINFO) && to.sa_handler != SIG_DFL) {
        if (to.sa_handler != SIG_IGN) to.sa_handler(number);
        return;
    }
    ::sigaction(number, &to, nullptr);
    ::raise(number);  // it comes when this returns
}

// A forked copy has the handler, but no guards: nor has one with the same number (1, in a pid
// namespace of its own), nor one with the same memory (vfork). Nor may there be any (more) for this
// signal in a program that had another handler in place when the last one went (system(3) ignores
// SIGINT for a while), and then put this one back; or whose handler calls the one that was there
// before.
void handle_interrupt(int number) {
    int error = errno;
    if (owner == ::getpid() && owner_mark == fork_page().generation && heeded[number]) {
        ++came[number];
        (void)::sem_post(&interrupted);
    } else {
        pass_on(number);
    }
    errno = error;
}

bool is_ours(const struct sigaction& action) {
    return !(action.sa_flags & SA_SIGINFO) && action.sa_handler == &handle_interrupt;
}

// The next three with the mutex of the list held.
struct sigaction replaced[kSignals];  // what put_back() puts back
// It was not in place when the last guard went: somebody may have it, and call it. What it passes
// on may then not go to who calls it.
bool is_held_by_others[kSignals];

// Throws std::system_error.
void install(int number) {
    struct sigaction now = {}, ours = {};
    ::sigaction(number, nullptr, &now);
    if (!is_ours(now)) {  // else in a forked copy, or put back by others: `former` stays
        replaced[number] = now;
        if (!is_held_by_others[number]) former[number] = now;
        ours.sa_handler = &handle_interrupt;
        ours.sa_flags = SA_RESTART;
        sigemptyset(&ours.sa_mask);
        if (::sigaction(number, &ours, nullptr) < 0)
            throw_errno(errno, "sigaction(" + std::to_string(number) + ")");
    }
    heeded[number] = true;
}
void put_back(int number) {
    if (!heeded[number].exchange(false)) return;
    struct sigaction now = {};
    ::sigaction(number, nullptr, &now);
    if (is_ours(now))
        ::sigaction(number, &replaced[number], nullptr);
    else
        is_held_by_others[number] = true;
}

// One that came; 0: none did.
int take_one() {
    for (int number = 1; number < static_cast<int>(kSignals); ++number) {
        if (came[number] == 0) continue;
        --came[number];  // this thread alone takes
        return number;
    }
    return 0;
}

// All guards of this process.
class Interrupts {
  public:
    void add(const Steps& steps) {
        std::lock_guard one_change(changing_);
        if (!thread_.joinable()) start();
        std::lock_guard lock(mutex_);
        guards_.push_back(steps);
        steps->round = round_;
        try {
            for (int number : steps->signals) install(number);
        } catch (...) {
            guards_.pop_back();
            put_back_unheeded(*steps);
            throw;
        }
    }
    void remove(const Steps& steps) {
        std::lock_guard one_change(changing_);
        {
            std::lock_guard lock(mutex_);
            std::erase(guards_, steps);
            put_back_unheeded(*steps);
            if (!guards_.empty()) return;
        }
        stop();
    }

  private:
    void start() {
        ::sem_init(&interrupted, 0, 0);
        for (std::atomic<unsigned>& count : came) count = 0;
        for (std::atomic<bool>& each : heeded) each = false;  // a forked copy's
        owner = ::getpid();
        owner_mark = ForkMarker().generation();
        stopping_ = false;
        thread_.start("sidestep-intr", detail::ServiceThread::Runs::library_code,
                      [this] { serve(); });
    }
    void stop() {
        stopping_ = true;
        ::sem_post(&interrupted);
        thread_.join();
    }
    void serve() {
        for (;;) {
            while (::sem_wait(&interrupted) < 0) {  // EINTR
            }
            if (stopping_) return;
            if (int number = take_one()) take_steps(number);
        }
    }
    // For each guard, without a lock that a guard needs to go. What throws ends nothing: the others
    // are told, and this one may be asked again.
    void take_steps(int number) {
        {
            std::lock_guard lock(mutex_);
            ++round_;
        }
        while (Steps steps = next(number)) {
            std::lock_guard lock(steps->mutex);
            if (steps->gone) continue;
            steps->last_signal = number;
            unsigned step = ++steps->taken;
            try {
                if (step <= kLastStep) steps->take_step(step);
            } catch (const std::exception& error) {
                std::fprintf(stderr, "sidestep: an InterruptGuard could not stop its pool: %s\n",
                             error.what());
            }
        }
        std::lock_guard lock(mutex_);
        for (int each = 1; each < static_cast<int>(kSignals); ++each)
            if (is_over(each)) put_back(each);
    }

    // One that has not been told of this interrupt; null: all have.
    Steps next(int number) {
        std::lock_guard lock(mutex_);
        auto found = std::find_if(guards_.begin(), guards_.end(), [&](const Steps& s) {
            return s->round != round_ && s->heeds(number);
        });
        if (found == guards_.end()) return nullptr;
        (*found)->round = round_;
        return *found;
    }

    // With the mutex held: nobody waits for this signal any more, who did.
    bool is_over(int number) const {
        return std::all_of(guards_.begin(), guards_.end(), [&](const Steps& s) {
            return !s->heeds(number) || s->taken >= kLastStep;
        });
    }
    void put_back_unheeded(const detail::InterruptSteps& gone) {
        for (int number : gone.signals)
            if (std::none_of(guards_.begin(), guards_.end(),
                             [&](const Steps& s) { return s->heeds(number); }))
                put_back(number);
    }

    std::mutex changing_;           // before mutex_
    detail::ServiceThread thread_;  // guarded by changing_
    std::mutex mutex_;
    std::vector<Steps> guards_;  // guarded by mutex_
    std::uint64_t round_ = 0;    // likewise: how many interrupts there were
    std::atomic<bool> stopping_{false};
};
PerProcess<Interrupts> all_guards;

void check(const std::vector<int>& signals) {
    constexpr int kOthers[] = {SIGKILL, SIGSTOP, SIGSEGV, SIGBUS,  SIGFPE,  SIGILL,
                               SIGTRAP, SIGABRT, SIGSYS,  SIGCHLD, SIGCONT, SIGPIPE};
    constexpr const char* kRemedy =
        "give it those that ask a program to end: SIGINT, SIGTERM, SIGHUP";
    if (signals.empty())
        throw std::invalid_argument(fmt::format("InterruptGuard: there is no signal; {}", kRemedy));
    for (int number : signals)
        if (number < 1 || number > SIGRTMAX || (number >= 32 && number < SIGRTMIN) ||
            std::find(std::begin(kOthers), std::end(kOthers), number) != std::end(kOthers))
            throw std::invalid_argument(fmt::format(
                "InterruptGuard: signal {} cannot be one of its own; {}", number, kRemedy));
}

}  // namespace

InterruptGuard::InterruptGuard(Pool& pool, const std::vector<int>& signals) {
    if (!pool.core_->owned_here())
        throw std::logic_error(
            "InterruptGuard: this pool belongs to the process that made it, and this is a forked "
            "copy: make a pool of its own here");
    watch(signals, [core = pool.core_](unsigned step) {
        step == 1 ? core->interrupt() : core->terminate();
    });
}

InterruptGuard::InterruptGuard(ThreadPool& pool, const std::vector<int>& signals) {
    if (!pool.core_->owned_here())
        throw std::logic_error(
            "InterruptGuard: this pool's threads are in the process that made it, and this is a "
            "forked copy: make a pool of its own here");
    watch(signals, [core = pool.core_](unsigned step) {
        core->interrupt();
        if (step > 1) core->ask_to_stop();
    });
}

void InterruptGuard::watch(const std::vector<int>& signals,
                           std::function<void(unsigned step)> take_step) {
    check(signals);
    steps_ = std::make_shared<detail::InterruptSteps>();
    steps_->take_step = std::move(take_step);
    steps_->signals = signals;
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
int InterruptGuard::last_signal() const { return steps_->last_signal; }

}  // namespace sidestep
