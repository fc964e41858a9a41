#include <sidestep/actor.hpp>

#include <fmt/format.h>

#include <new>
#include <stdexcept>
#include <system_error>

#include <sidestep/remote_error.hpp>
#include <sidestep/wait.hpp>

#include "actor_keeper.hpp"
#include "new_key.hpp"
#include "server_link.hpp"
#include "service_thread.hpp"
#include "start/launch.hpp"
#include "sys/fork_marker.hpp"
#include "text/demangle.hpp"

namespace sidestep::inline v0::detail {

struct ActorOwner::Impl {
    const ForkMarker here;
    std::string name;
    Timeout stop_grace;
    RawValue<ActorNumbers> numbers;
    std::shared_ptr<Process> process;
    Connection control;
    std::shared_ptr<ServerLink> link;
};

namespace {

void check_actor(const ActorOptions& options, bool serializes) {
    auto refuse = [](const char* why) { throw std::invalid_argument(why); };
    if (options.within.count() <= 0) refuse("ActorOptions::within must be positive");
    if (options.readers < 1) refuse("ActorOptions::readers must be >= 1");
    if (options.timeout_grace.count() < 0)
        refuse("ActorOptions::timeout_grace must not be negative");
    if (options.checkpoint_every == 0) return;
    if (options.max_restarts == 0)
        refuse("ActorOptions::checkpoint_every needs max_restarts: nobody would read a checkpoint");
    if (!serializes)
        refuse(
            "ActorOptions::checkpoint_every needs the actor's type to have a cereal `serialize` "
            "member");
}

// Throws what came to pass instead.
ActorBegun begun_by(Connection& control, Process& process, const std::string& name) {
    TaskError::Details details;
    details.pid = process.pid();
    // Its end, too: a child that it has forked keeps its end of the stream open.
    (void)wait({control, process.sentinel()});
    try {
        if (!control.poll()) throw EndOfStream("the actor's process has ended");
        auto begun = control.recv<ActorBegun>();
        if (begun.serves) return begun;
        process.join();
        if (!begun.thrown.empty()) {
            InputArchive archive(begun.thrown);
            std::rethrow_exception(load_exception(archive));
        }
        details.pid = begun.end.pid;
        details.exit_status = begun.end.status();
    } catch (const EndOfStream&) {
        details.exit_status = process.join();
        process.rethrow();
    }
    throw ActorLost(std::move(details), 0, "its constructor", true, name);
}

}  // namespace

ActorOwner::ActorOwner(const ActorOptions& options, const std::type_info& type, bool serializes,
                       const Start& start)
    : impl_(std::make_unique<Impl>()) {
    check_actor(options, serializes);
    const StartMethod method = options.start_method ? *options.start_method : get_start_method();
    if (method == StartMethod::fork) require_single_thread("an actor", ServiceThread::count());
    impl_->name = options.name.empty() ? demangle(type.name()) : options.name;
    impl_->stop_grace = options.stop_grace;
    ActorSetup setup{.name = impl_->name,
                     .authkey = new_key(),
                     .max_restarts = options.max_restarts,
                     .within = options.within.time(),
                     .checkpoint_every = options.checkpoint_every,
                     .readers = options.readers,
                     .max_pending = options.max_pending,
                     .timeout_grace = options.timeout_grace.time(),
                     .start_method = static_cast<std::int32_t>(method)};
    auto [here, there] = Pipe();
    impl_->control = std::move(here);
    // A group of its own: Ctrl-C is for this process, which ends the actor.
    impl_->process =
        start({.name = impl_->name,
               .daemon = true,
               // Beside threads of the library's own, as a pool forks.
               .start_method = method == StartMethod::fork ? StartMethod::fork_threaded : method,
               .own_group = true},
              setup, std::move(there), impl_->numbers);
    const ActorBegun begun = begun_by(impl_->control, *impl_->process, impl_->name);
    impl_->link =
        ServerLink::to(actor_server(setup, begun.address, impl_->numbers.value().pid.load()));
    impl_->link->set_process(impl_->process);
    object_ = std::make_shared<HeldObject>(impl_->link, 1);
}

ActorOwner::~ActorOwner() {
    if (impl_->here.same_process())
        shutdown();
    else  // a copy in a forked child: see HeldObject
        (void)impl_.release();
}

void ActorOwner::shutdown() noexcept {
    if (!impl_->here.same_process()) return;
    ServerLink::end(impl_->link, *impl_->process, impl_->control, impl_->stop_grace);
}

const std::string& ActorOwner::name() const { return impl_->name; }
int ActorOwner::pid() const { return is_alive() ? impl_->numbers.value().pid.load() : 0; }
bool ActorOwner::is_alive() const {
    if (impl_->here.same_process() && !impl_->process->is_alive()) return false;
    return impl_->numbers.value().pid.load() != 0;
}
ServerStats ActorOwner::stats() const { return object_->link()->stats(); }
void ActorOwner::trace(const std::string& path) const { object_->link()->trace(path); }
unsigned ActorOwner::restarts() const { return impl_->numbers.value().restarts.load(); }

}  // namespace sidestep::detail
