#include <sidestep/manager_server.hpp>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>

#include <sidestep/connection.hpp>

#include "object_server.hpp"
#include "server_link.hpp"
#include "sys/fork_marker.hpp"
#include "sys/make_thread.hpp"
#include "sys/parent_fd.hpp"

namespace sidestep::inline v0 {
namespace {

std::uint64_t new_id() {
    std::random_device random;
    return (std::uint64_t(random()) << 32 | random()) | 1;  // 0 is none
}

bool is_loopback(const std::string& host) {
    in_addr address{};
    if (::inet_pton(AF_INET, host.c_str(), &address) == 1)
        return ntohl(address.s_addr) >> 24 == 127;
    return host == "::1";
}

[[noreturn]] void refuse_open(const std::string& where) {
    throw std::invalid_argument(
        fmt::format("a ManagerServer at {} without an authkey would be open to everybody who can "
                    "reach this machine: give ManagerServerOptions::authkey, or listen at "
                    "127.0.0.1",
                    where));
}

// What the name has come to: nobody is let in before.
void check_bound(const Address& bound, const ManagerServerOptions& options) {
    const auto* tcp = std::get_if<TcpAddress>(&bound);
    if (tcp && !options.authkey && !is_loopback(tcp->host))
        refuse_open(
            fmt::format("{}, which is {} here,", to_string(options.address), to_string(bound)));
}

ListenerOptions checked(const ManagerServerOptions& options) {
    const auto* tcp = std::get_if<TcpAddress>(&options.address);
    if (tcp && !options.authkey && !is_loopback(tcp->host) && tcp->host != "localhost")
        refuse_open(to_string(options.address));
    if (options.lost_after.count() <= 0)
        throw std::invalid_argument("ManagerServerOptions::lost_after must be positive");
    if (options.max_call_bytes < 1)
        throw std::invalid_argument("ManagerServerOptions::max_call_bytes must be positive");
    return {.address = options.address,
            .authkey = options.authkey,
            .encrypted = tcp && options.authkey,
            .handshake_timeout = options.handshake_timeout,
            .max_handshakes = options.max_handshakes};
}

}  // namespace

struct ManagerServer::Impl {
    explicit Impl(const ManagerServerOptions& options)
        : listener(checked(options)),
          server({.address = listener.address(),
                  .authkey = options.authkey,
                  .pid = ::getpid(),
                  .id = new_id(),
                  .is_manager_server = true,
                  .lost_after = options.lost_after.time()},
                 {.exposed_only = true,
                  .lost_after = options.lost_after,
                  .max_call_bytes = options.max_call_bytes}) {
        check_bound(listener.address(), options);
        hidden.emplace(detail::listening_socket(listener));
        std::tie(stop_here, stop_there) = Pipe();
    }

    // With the mutex held. False: it was stopped before.
    bool begin_serving() {
        if (stopping) return false;
        if (state != State::made)
            throw std::logic_error("a ManagerServer serves once: make another one");
        state = State::serving;
        return true;
    }
    void run() {
        server.run(listener, stop_there);
        std::lock_guard lock(mutex);
        state = State::ended;
        changed.notify_all();
    }

    // Constant after construction.
    const ForkMarker process;
    Listener listener;
    detail::ObjectServer server;
    Connection stop_here, stop_there;
    std::optional<ParentFdMark> hidden;  // the listener's socket, as long as that is open

    std::mutex mutex;
    std::condition_variable changed;
    // Guarded by mutex.
    enum class State { made, serving, ended } state = State::made;
    bool stopping = false;
    std::thread thread;
};

ManagerServer::ManagerServer(ManagerServerOptions options)
    : impl_(std::make_unique<Impl>(options)) {}

ManagerServer::~ManagerServer() {
    bool here = impl_->process.same_process();
    if (here) stop();
    // A forked child's copy: its parent's threads may have been in the middle of anything. And one
    // whose end is that of the process, by exit() in a method: the call that runs has it.
    if (!here || impl_->server.runs_here()) (void)impl_.release();
}

void ManagerServer::add(detail::Exposure exposure, std::shared_ptr<detail::Hosted> object) {
    impl_->server.expose(std::move(exposure), std::move(object));
}
detail::HeldRef ManagerServer::find(const std::string& name, const char* type) {
    {
        std::lock_guard lock(impl_->mutex);
        if (impl_->stopping) throw std::logic_error("the ManagerServer was stopped");
    }
    return detail::find_object(detail::ServerLink::to(impl_->server.name()), name, type);
}

void ManagerServer::start() {
    std::lock_guard lock(impl_->mutex);
    if (!impl_->begin_serving()) return;
    try {
        impl_->thread = make_service_thread([impl = impl_.get()] { impl->run(); });
    } catch (...) {
        impl_->state = Impl::State::made;
        throw;
    }
}

void ManagerServer::serve() {
    {
        std::lock_guard lock(impl_->mutex);
        if (!impl_->begin_serving()) return;
    }
    impl_->run();
}

void ManagerServer::stop() noexcept {
    if (!impl_->process.same_process()) return;
    std::thread thread;
    {
        std::unique_lock lock(impl_->mutex);
        if (!std::exchange(impl_->stopping, true)) impl_->stop_here.close();
        // The end waits for the calls that run: not for itself.
        if (impl_->server.runs_here()) return;
        impl_->changed.wait(lock, [&] { return impl_->state != Impl::State::serving; });
        thread = std::move(impl_->thread);
        impl_->hidden.reset();
    }
    if (thread.joinable()) thread.join();
    impl_->listener.close();
    detail::ServerLink::close_local(impl_->server.name());
}

ServerStats ManagerServer::stats() const { return impl_->server.stats(); }
void ManagerServer::trace(const std::string& path) { impl_->server.start_trace(path); }
void ManagerServer::trace_stop() { impl_->server.stop_trace(); }

const Address& ManagerServer::address() const { return impl_->listener.address(); }

}  // namespace sidestep
