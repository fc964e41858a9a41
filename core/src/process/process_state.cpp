#include "process/process_state.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <limits>
#include <mutex>
#include <stdexcept>

#include "process/process_core.hpp"
#include "sys/error.hpp"
#include "sys/kept_value.hpp"
#include "sys/log_line.hpp"
#include "sys/parent_fd.hpp"
#include "sys/per_process.hpp"
#include "sys/process_handle.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
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
    Children& mine = *registry.find();  // it was made when the child was
    std::shared_ptr<ProcessCore> last;  // dropped without the lock
    std::lock_guard lock(mine.mutex);
    auto found = std::find_if(mine.alive.begin(), mine.alive.end(),
                              [&](const auto& c) { return c.get() == child; });
    if (found == mine.alive.end()) return;
    last = std::move(*found);
    mine.alive.erase(found);
}

std::shared_ptr<ProcessCore> ProcessRegistry::child_at(std::size_t limit,
                                                       std::size_t& place) noexcept {
    Children* mine = registry.find();
    if (!mine) return nullptr;
    std::lock_guard lock(mine->mutex);
    if (mine->alive.empty()) return nullptr;
    place = std::min(limit, mine->alive.size() - 1);
    return mine->alive[place];
}

std::vector<std::shared_ptr<ProcessCore>> ProcessRegistry::children() {
    Children& mine = registry.get();
    std::lock_guard lock(mine.mutex);
    return mine.alive;
}

namespace {

// From the last to the first: those that end leave the list, and those that others start meanwhile
// come behind. One child's trouble (another thread closed it, say) is not the others'.
template <class Action>
void for_each_child(Action action) noexcept {
    for (std::size_t place = std::numeric_limits<std::size_t>::max(); place != 0;) {
        std::shared_ptr<ProcessCore> child = ProcessRegistry::child_at(place - 1, place);
        if (!child) return;
        try {
            if (child->still_runs()) action(*child);
        } catch (const std::exception& error) {
            log_line(LogLevel::error, SourceLine::current(), "cannot end {}: {}", child->name(),
                     error.what());
        }
    }
}

template <class Action>
void for_each_daemon(Action action) noexcept {
    for_each_child([&](ProcessCore& child) {
        if (child.daemon()) action(child);
    });
}

}  // namespace

void end_children() noexcept {
    for_each_daemon([](ProcessCore& child) {
        log_line(LogLevel::info, SourceLine::current(), "ending the daemon {}", child.name());
        child.send_signal(SIGTERM);
    });
    auto deadline = sys::Clock::now() + ProcessCore::kGrace;
    for_each_daemon([&](ProcessCore& child) { (void)child.wait_until(deadline); });
    for_each_daemon([](ProcessCore& child) { child.send_signal(SIGKILL); });
    for_each_child([](ProcessCore& child) {
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
    sys::ProcessHandle<ParentFd> process;  // kept as long as this one: sentinel() gives it away
};
PerProcess<Parent> parents;

// The parent's; null: it has ended.
const sys::ProcessHandle<ParentFd>* parent_handle(int pid) {
    Parent& parent = parents.get();
    std::lock_guard lock(parent.mutex);
    if (parent.process) return &parent.process;
    int error = 0;
    sys::ProcessHandle<Fd> found = sys::find(pid, error);
    // While it is our parent, its number is its own; so if it is after, it was before.
    if (error == ESRCH || ::getppid() != pid) return nullptr;
    if (error != 0) throw_errno(error, fmt::format("pidfd_open({}), the parent process", pid));
    parent.process = {pid, std::move(found.pidfd)};
    return &parent.process;
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
    const auto* parent = parent_handle(pid_);
    return !parent || parent->wait_for_end(detail::deadline_after(timeout));
}
int ParentProcess::sentinel() const {
    const auto* parent = parent_handle(pid_);
    if (!parent) throw std::logic_error("the parent process has ended: it has no sentinel");
    return parent->fd();
}

unsigned cpu_count() {
    return static_cast<unsigned>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
}
unsigned process_cpu_count() { return static_cast<unsigned>(sys::usable_cpus()); }
unsigned physical_cpus() { return static_cast<unsigned>(sys::usable_cores()); }

}  // namespace sidestep
