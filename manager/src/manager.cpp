#include <sidestep/manager.hpp>

#include <fmt/format.h>

#include <atomic>
#include <new>
#include <stdexcept>

#include <sidestep/connection.hpp>
#include <sidestep/pool_proxy.hpp>
#include <sidestep/process.hpp>

#include "connection/tls.hpp"
#include "new_key.hpp"
#include "object_server.hpp"
#include "server_link.hpp"
#include "sys/fork_marker.hpp"

namespace sidestep::inline v0 {

struct Manager::Impl {
    ForkMarker here;
    std::shared_ptr<Process> process;
    Connection control;
    Timeout stop_grace;
};

namespace {

std::string new_name() {
    static std::atomic<unsigned> last{0};
    return fmt::format("Manager-{}", ++last);
}

detail::ServerSetup make_setup(const WorkerHook& initializer) {
    detail::ServerSetup setup;
    setup.authkey = new_key();
    if (!initializer) return setup;
    detail::HeapBuffer state;
    OutputArchive archive(state);
    initializer.save(archive);
    setup.has_initializer = true;
    setup.initializer = initializer.kind().id;
    setup.initializer_state.assign(state.bytes().begin(), state.bytes().end());
    return setup;
}

}  // namespace

Manager::Manager(ManagerOptions options) : impl_(std::make_unique<Impl>()) {
    impl_->stop_grace = options.stop_grace;
    detail::ServerSetup setup = make_setup(options.initializer);
    auto [here, there] = Pipe();
    impl_->control = std::move(here);
    // A group of its own: Ctrl-C is for this process, which ends the server.
    impl_->process = std::make_shared<Process>(
        ProcessOptions{.name = options.name.empty() ? new_name() : options.name,
                       .daemon = true,
                       .start_method = options.start_method,
                       .own_group = true},
        &detail::serve_objects, setup, std::move(there));
    impl_->process->start();
    (void)wait({impl_->control, impl_->process->sentinel()});
    detail::ServerName name;
    try {
        // Its end was waited for, too: what its initializer has forked holds a copy of the stream.
        if (!impl_->control.poll()) throw EndOfStream("the server has ended");
        name = {.address = impl_->control.recv<UnixAddress>(),
                .authkey = setup.authkey,
                .pid = impl_->process->pid()};
    } catch (const EndOfStream&) {
        impl_->process->join();
        impl_->process->rethrow();
        throw std::runtime_error(fmt::format("the manager's server {} {} before it served",
                                             impl_->process->pid(),
                                             impl_->process->exit_status().describe()));
    }
    server_ = detail::ServerLink::to(name);
    server_->set_process(impl_->process);
}

Manager::Manager(std::shared_ptr<detail::ServerLink> session)
    : server_(std::move(session)), impl_(std::make_unique<Impl>()) {}

Manager Manager::connect(const Address& address, const ConnectOptions& options) {
    if (options.timeout && options.timeout->count() <= 0)
        throw std::invalid_argument("ConnectOptions::timeout must be positive, or none");
    if (options.lost_after.count() <= 0)
        throw std::invalid_argument("ConnectOptions::lost_after must be positive");
    detail::ServerName server{.address = address,
                              .authkey = options.authkey,
                              .is_manager_server = true,
                              .lost_after = options.lost_after.time()};
    if (server.encrypted()) (void)TlsKey::of(*server.authkey);
    return Manager(
        detail::ServerLink::connect(std::move(server), detail::deadline_after(options.timeout)));
}

Manager::~Manager() {
    if (!impl_->process && impl_->here.same_process()) return;  // others may have its session, too
    if (impl_->here.same_process())
        shutdown();
    else  // a copy in a forked child: see HeldObject
        (void)new (std::nothrow) std::shared_ptr<detail::ServerLink>(std::move(server_));
}

void Manager::shutdown() noexcept {
    if (!server_ || !impl_->here.same_process()) return;
    if (!impl_->process) return detail::ServerLink::close(server_);
    detail::ServerLink::end(server_, *impl_->process, impl_->control, impl_->stop_grace);
}

ServerStats Manager::stats() const { return server_->stats(); }
void Manager::trace(const std::string& path) const { server_->trace(path); }
void Manager::trace_stop() const { server_->trace({}); }

int Manager::pid() const { return server_->server().pid; }
bool Manager::is_alive() const {
    return impl_->process ? impl_->process->is_alive() : !server_->broken();
}
std::optional<int> Manager::exitcode() const {
    return impl_->process ? impl_->process->exitcode() : std::nullopt;
}

LockProxy Manager::lock() { return face<LockProxy>(false); }
RLockProxy Manager::rlock() { return face<RLockProxy>(true); }
SemaphoreProxy Manager::semaphore(unsigned permits) { return face<SemaphoreProxy>(permits, false); }
SemaphoreProxy Manager::bounded_semaphore(unsigned permits) {
    return face<SemaphoreProxy>(permits, true);
}
ConditionProxy Manager::condition() { return face<ConditionProxy>(); }
EventProxy Manager::event() { return face<EventProxy>(); }
BarrierProxy Manager::barrier(unsigned parties) { return face<BarrierProxy>(parties); }
PoolProxy Manager::pool(unsigned processes) {
    return face<PoolProxy>(processes > 0 ? processes : process_cpu_count());
}

}  // namespace sidestep
