#include "process_state.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <mutex>
#include <stdexcept>

#include "error.hpp"
#include "kept_value.hpp"
#include "log_settings.hpp"
#include "parent_fd.hpp"
#include "per_process.hpp"
#include "process_core.hpp"
#include "sys.hpp"

namespace sidestep {
namespace {

using namespace std::chrono_literals;
using detail::ProcessCore;

KeptValue<Identity> current;

struct Children {
    std::mutex mutex;  // guards all of it
    std::vector<std::shared_ptr<ProcessCore>> alive;
    std::uint32_t started = 0;
};
PerProcess<Children> registry;

const Identity& make_first() {
    Identity fresh;
    fresh.authkey.resize(32);
    sys::fill_random(std::as_writable_bytes(std::span(fresh.authkey)));
    return current.set_first(std::move(fresh));
}

}  // namespace

const Identity& identity() {
    const Identity* known = current.get();
    return known ? *known : make_first();
}

void set_identity(Identity identity) { current.set(std::move(identity)); }

std::vector<std::uint32_t> ProcessRegistry::next_path() {
    std::vector<std::uint32_t> path = identity().path;
    Children& mine = registry.get();
    std::lock_guard lock(mine.mutex);
    path.push_back(++mine.started);
    return path;
}

void ProcessRegistry::add(const std::shared_ptr<ProcessCore>& child) {
    Children& mine = registry.get();
    std::lock_guard lock(mine.mutex);
    mine.alive.push_back(child);
}

void ProcessRegistry::remove(const ProcessCore* child) noexcept {
    Children& mine = registry.get();
    std::shared_ptr<ProcessCore> last;  // dropped without the lock
    std::lock_guard lock(mine.mutex);
    auto found = std::find_if(mine.alive.begin(), mine.alive.end(),
                              [&](const auto& c) { return c.get() == child; });
    if (found == mine.alive.end()) return;
    last = std::move(*found);
    mine.alive.erase(found);
}

std::vector<std::shared_ptr<ProcessCore>> ProcessRegistry::children() {
    Children& mine = registry.get();
    std::lock_guard lock(mine.mutex);
    return mine.alive;
}

namespace {

// One child's trouble (another thread closed it, say) is not the others'.
template <class Action>
void for_each_child(const std::vector<std::shared_ptr<ProcessCore>>& children, Action action) {
    for (const auto& child : children) try {
            if (child->still_runs()) action(*child);
        } catch (const std::exception& error) {
            log_line(LogLevel::error, SourceLine::current(), "cannot end {}: {}", child->name(),
                     error.what());
        }
}

}  // namespace

void end_children() noexcept {
    auto all = ProcessRegistry::children();
    auto daemons = all;
    std::erase_if(daemons, [](const auto& child) { return !child->daemon(); });
    for_each_child(daemons, [](ProcessCore& child) {
        log_line(LogLevel::info, SourceLine::current(), "ending the daemon {}", child.name());
        child.send_signal(SIGTERM);
    });
    auto deadline = sys::Clock::now() + ProcessCore::kGrace;
    for_each_child(daemons, [&](ProcessCore& child) { (void)child.wait_until(deadline); });
    for_each_child(daemons, [](ProcessCore& child) { child.send_signal(SIGKILL); });
    for_each_child(all, [](ProcessCore& child) {
        log_line(LogLevel::debug, SourceLine::current(), "waiting for {}", child.name());
        (void)child.wait_until({});
    });
    stop_forkserver();
}

std::vector<ChildProcess> active_children() {
    std::vector<ChildProcess> alive;
    for (auto& child : ProcessRegistry::children())
        if (child->still_runs()) alive.push_back(ProcessRegistry::handle(std::move(child)));
    return alive;
}

CurrentProcess current_process() {
    const Identity& me = identity();
    return {::getpid(), me.name, me.daemon, me.authkey};
}

void set_authkey(std::string authkey) {
    Identity changed = identity();
    changed.authkey = std::move(authkey);
    set_identity(std::move(changed));
}

// --- the parent --------------------------------------------------------------------------------

namespace {

struct Parent {
    std::mutex mutex;
    ParentFd pidfd;  // kept as long as this process: sentinel() gives it away
};
PerProcess<Parent> parents;

// The parent's pidfd; -1: it has ended.
int parent_pidfd(int pid) {
    Parent& parent = parents.get();
    std::lock_guard lock(parent.mutex);
    if (parent.pidfd) return parent.pidfd.get();
    Fd fd;
    int error = sys::find_process(pid, fd);
    // While it is our parent, its number is its own; so if it is after, it was before.
    if (error == ESRCH || ::getppid() != pid) return -1;
    if (error != 0) throw_errno(error, fmt::format("pidfd_open({}), the parent process", pid));
    parent.pidfd = std::move(fd);
    return parent.pidfd.get();
}

}  // namespace

std::optional<ParentProcess> parent_process() {
    const Identity& me = identity();
    if (me.parent_pid == 0) return {};
    return ParentProcess(me.parent_pid, me.parent_name);
}

bool ParentProcess::is_alive() const { return ::getppid() == pid_; }
void ParentProcess::join() const { (void)join_for(Timeout::forever()); }
bool ParentProcess::join_for(Timeout timeout) const {
    int pidfd = parent_pidfd(pid_);
    return pidfd < 0 || sys::wait_for_exit(pidfd, detail::deadline_after(timeout));
}
int ParentProcess::sentinel() const {
    int pidfd = parent_pidfd(pid_);
    if (pidfd < 0) throw std::logic_error("the parent process has ended: it has no sentinel");
    return pidfd;
}

unsigned cpu_count() {
    return static_cast<unsigned>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
}
unsigned process_cpu_count() { return static_cast<unsigned>(sys::usable_cpus()); }

}  // namespace sidestep
