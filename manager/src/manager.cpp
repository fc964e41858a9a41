#include <sidestep/manager.hpp>

#include <fmt/format.h>

#include <atomic>
#include <new>
#include <random>
#include <stdexcept>

#include <sidestep/connection.hpp>
#include <sidestep/pool_proxy.hpp>
#include <sidestep/process.hpp>

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

std::string new_key() {
    std::random_device random;
    std::string key;
    for (int i = 0; i < 8; ++i) {
        unsigned word = random();
        key.append(reinterpret_cast<const char*>(&word), sizeof word);
    }
    return key;
}

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
        name = {impl_->control.recv<UnixAddress>(), setup.authkey, impl_->process->pid()};
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

Manager::~Manager() {
    if (impl_->here.same_process())
        shutdown();
    else  // a copy in a forked child: see HeldObject
        (void)new (std::nothrow) std::shared_ptr<detail::ServerLink>(std::move(server_));
}

void Manager::shutdown() noexcept {
    if (!server_) return;
    try {
        if (impl_->process->is_alive()) impl_->control.send_bytes("stop");
        if (!impl_->process->join_for(impl_->stop_grace)) impl_->process->kill();
        impl_->process->join();
    } catch (...) {  // it is dead already
        impl_->process->kill();
    }
    detail::ServerLink::close(server_);
}

int Manager::pid() const { return impl_->process->pid(); }
bool Manager::is_alive() const { return impl_->process->is_alive(); }
std::optional<int> Manager::exitcode() const { return impl_->process->exitcode(); }

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
