#include <sidestep/pool.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <exception>
#include <memory>
#include <stdexcept>

#include <sidestep/exit_hooks.hpp>

#include "checked_options.hpp"
#include "pool_core.hpp"

namespace sidestep::inline v0 {
namespace {

// From here on `options` say how many workers this host has.
detail::HostPlan share_out(PoolOptions& options) {
    detail::HostPlan plan;
    if (options.processes == 0u) options.hosts = nullptr;  // tasks run in this process
    if (!options.hosts) return plan;
    plan.options = options;
    plan.shares = options.hosts->share_out(options.processes);
    if (plan.shares.empty()) {
        options.hosts = nullptr;
        return {};
    }
    if (plan.shares.size() > 1 && !options.tokens.empty())
        detail::refuse_option(
            "tokens are counted on one host, and this pool has workers on others; make a pool "
            "without cluster() for the tasks that need them");
    for (detail::Hosts::Share& share : plan.shares) {
        if (!options.processes) share.processes = std::min(share.processes, kMaxWorkers);
        if (share.processes > kMaxWorkers)
            detail::refuse_option(
                fmt::format("processes is {}, {} of them on host {}; a pool has 1 to {} workers "
                            "on each host",
                            *options.processes, share.processes, share.name, kMaxWorkers));
    }
    options.processes = plan.shares.front().processes;
    return plan;
}

}  // namespace

Pool::Pool(PoolOptions options) : exceptions_at_start_(std::uncaught_exceptions()) {
    if (!options.processes) options.processes = detail::processes_of_environment();
    detail::HostPlan plan = share_out(options);
    core_ = std::make_shared<detail::PoolCore>(detail::checked(options));
    core_->start(plan);
}

Pool::~Pool() {
    if (!core_->owned_here()) {
        core_->abandon();
        core_->keep_for_ever();  // what it owns is the parent's: nothing is touched, or freed
        return;
    }
    if (std::uncaught_exceptions() > exceptions_at_start_) core_->terminate();
    core_->be_destroyed();
    if (!core_->in_own_thread()) {
        core_->join();
    } else if (!detail::join_elsewhere(core_)) {
        core_->terminate();  // the process is ending, or gives no thread
        core_->keep_for_ever();
    }
}

void Pool::close() { core_->close(); }
void Pool::terminate() { core_->terminate(); }
void Pool::join() { core_->join(); }
bool Pool::join_for(Timeout timeout) { return core_->join_until(detail::deadline_after(timeout)); }
void Pool::shutdown(ShutdownOptions options) {
    core_->close();
    if (options.cancel_futures) core_->cancel_waiting();
    if (options.wait) core_->join();
}
void Pool::resize(unsigned processes) {
    if (core_->workers() == 0)
        throw std::logic_error(
            "Pool::resize(): this pool has no workers (processes = 0), and gets "
            "none; make another one");
    if (core_->has_hosts())
        throw std::logic_error(
            "Pool::resize(): this pool has workers on several hosts, and keeps their number; make "
            "another one");
    if (processes < 1 || processes > kMaxWorkers)
        throw std::invalid_argument(
            fmt::format("Pool::resize({}): a pool has 1 to {} workers", processes, kMaxWorkers));
    core_->resize(processes);
}
void Pool::run_in_background(std::function<void()> work) {
    core_->run_in_background(std::move(work));
}

Pool& Pool::global() {
    // Never destroyed: at the program's exit nobody knows who uses it still, and its workers end
    // with the process. No lock: a fork may come at any time.
    struct Node {
        explicit Node(Node* before) : former(before) {}
        Pool pool;
        Node* const former;  // stays reachable, for those who look for leaks
    };
    static std::atomic<Node*> current{nullptr};
    for (;;) {
        Node* node = current.load();
        if (node && node->pool.core_->intake().accepting()) return node->pool;
        if (node && node->pool.core_->owned_here()) {
            const std::shared_ptr<detail::PoolCore>& core = node->pool.core_;
            if (!core->in_own_thread())
                core->join();
            else  // which cannot wait for itself
                (void)detail::join_elsewhere(core);
        }
        auto fresh = std::make_unique<Node>(node);
        if (!current.compare_exchange_strong(node, fresh.get())) continue;
        Pool& pool = fresh.release()->pool;
        at_exit([&pool] { pool.trace_stop(); }, INT_MIN);  // tasks of other hooks are in it
        return pool;
    }
}

unsigned Pool::processes() const { return core_->workers(); }
std::vector<PoolHost> Pool::hosts() const {
    std::vector<PoolHost> hosts;
    for (const detail::Hosts::Share& share : core_->view().hosts()) {
        auto same = [&](const PoolHost& host) { return host.name == share.name; };
        auto known = std::find_if(hosts.begin(), hosts.end(), same);
        if (known == hosts.end())
            hosts.push_back({share.name, share.processes});
        else
            known->processes += share.processes;
    }
    return hosts;
}
std::vector<int> Pool::worker_pids() const { return core_->view().worker_pids(); }
PoolStats Pool::stats() const { return core_->view().stats(); }
void Pool::trace(const std::string& path) { core_->view().trace(path); }
void Pool::trace_stop() { core_->view().trace_stop(); }

}  // namespace sidestep
