#include <sidestep/exit_hooks.hpp>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "process/process_protocol.hpp"
#include "process/process_state.hpp"
#include "start/boot.hpp"
#include "sys/error.hpp"
#include "sys/fork_marker.hpp"
#include "sys/per_process.hpp"

namespace sidestep::inline v0 {
namespace detail {

struct ExitHook {
    std::function<void()> action;
    std::optional<int> priority;
    ForkMarker owner;
    std::atomic<bool> active{true};

    void run() {
        if (owner.same_process() && active.exchange(false)) action();
    }
    void run_reporting() noexcept {
        try {
            run();
        } catch (...) {
            print_current_exception("sidestep: an exit hook threw:");
        }
    }
};

}  // namespace detail

namespace {

using Hook = std::shared_ptr<detail::ExitHook>;

struct Hooks {
    std::mutex mutex;
    std::vector<Hook> list;  // guarded by mutex, oldest first; only those with a priority
};
PerProcess<Hooks> hooks;

Hook add(std::function<void()> action, std::optional<int> priority) {
    auto hook = std::make_shared<detail::ExitHook>();
    hook->action = std::move(action);
    hook->priority = priority;
    if (!priority) return hook;
    arm_exit_hooks();
    Hooks& mine = hooks.get();
    std::lock_guard lock(mine.mutex);
    std::erase_if(mine.list, [](const Hook& h) { return !h->active; });
    mine.list.push_back(hook);
    return hook;
}

// The next to be run, taken out of the list: of the highest priority, the youngest.
Hook take_next(int least_priority) {
    Hooks* mine = hooks.find();
    if (!mine) return nullptr;
    std::lock_guard lock(mine->mutex);
    auto next =
        std::max_element(mine->list.rbegin(), mine->list.rend(),
                         [](const Hook& a, const Hook& b) { return *a->priority < *b->priority; });
    if (next == mine->list.rend() || *(*next)->priority < least_priority) return nullptr;
    Hook hook = *next;
    mine->list.erase(std::next(next).base());
    return hook;
}

// Hooks may register hooks.
void run_from(int least_priority) noexcept {
    while (Hook hook = take_next(least_priority)) hook->run_reporting();
}

}  // namespace

void arm_exit_hooks() {
    // Relaxed: a second registration would do no harm. A forked child inherits both.
    static std::atomic<bool> armed{false};
    if (!armed.exchange(true, std::memory_order_relaxed) && std::atexit(run_exit_hooks) != 0)
        throw_errno(ENOMEM, "atexit");
}

void run_exit_hooks() noexcept {
    run_from(0);
    end_children();
    run_from(INT_MIN);
}

void at_exit(std::function<void()> hook, int priority) { (void)add(std::move(hook), priority); }

void exit_process(int exit_code) noexcept {
    if (!is_booted_child()) std::exit(exit_code);
    leave_process(exit_code);
}

Finalizer::Finalizer(std::function<void()> clean_up, std::optional<int> exit_priority)
    : hook_(add(std::move(clean_up), exit_priority)) {}

Finalizer& Finalizer::operator=(Finalizer&& other) noexcept {
    if (this == &other) return *this;
    if (hook_) hook_->run_reporting();
    hook_ = std::move(other.hook_);
    return *this;
}

Finalizer::~Finalizer() {
    if (hook_) hook_->run_reporting();
}

void Finalizer::operator()() {
    if (hook_) hook_->run();
}

void Finalizer::cancel() noexcept {
    if (hook_) hook_->active = false;
}

bool Finalizer::still_active() const noexcept { return hook_ && hook_->active; }

}  // namespace sidestep
