#include <sidestep/listener.hpp>

#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <list>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "connection/credentials.hpp"
#include "connection/handshake.hpp"
#include "connection/socket_address.hpp"
#include "connection/tls.hpp"
#include "sys/error.hpp"
#include "sys/fork_marker.hpp"

namespace sidestep::inline v0 {
namespace {

[[noreturn]] void throw_closed(const Address& address) {
    throw_errno(EBADF, fmt::format("the listener at {} is closed", to_string(address)));
}

void watch(int epoll, int fd) {
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) throw_errno(errno, "epoll_ctl");
}

}  // namespace

// The file of a bound Unix socket, by what it is rather than by its name alone. It goes with this
// object, from bind() on: a constructor that fails leaves none.
class SocketFile {
  public:
    SocketFile() = default;
    SocketFile(const SocketFile&) = delete;
    SocketFile& operator=(const SocketFile&) = delete;
    ~SocketFile() { remove(); }

    // Before bind(), since it may throw.
    void prepare(const std::string& path) { path_ = path; }
    // Behind it.
    void take() {
        if (path_.empty()) return;
        struct stat status = {};
        if (::lstat(path_.c_str(), &status) < 0) {
            int error = errno;
            ::unlink(path_.c_str());
            throw_errno(error, fmt::format("lstat({})", path_));
        }
        device_ = status.st_dev;
        inode_ = status.st_ino;
        owner_.emplace();
    }
    // Once: later the inode's number may be another's.
    void remove() noexcept {
        bool is_ours = owner_ && owner_->same_process();
        owner_.reset();
        if (!is_ours) return;
        struct stat status;
        constexpr int kTries = 20;  // what could not be looked at a moment ago must not stay
        for (int tries = 0; ::lstat(path_.c_str(), &status) < 0; (void)::poll(nullptr, 0, 1))
            if (errno == ENOENT || ++tries == kTries) return;
        if (status.st_dev == device_ && status.st_ino == inode_) ::unlink(path_.c_str());
    }

  private:
    std::string path_;
    dev_t device_ = 0;
    ino_t inode_ = 0;
    std::optional<ForkMarker> owner_;  // none: there is no file
};

Fd bind_to(const Address& address, int backlog, SocketFile& file) {
    int error = 0;
    const auto* local = std::get_if<UnixAddress>(&address);
    bool is_file = local != nullptr && !local->is_abstract;
    if (is_file) file.prepare(local->path);
    for (const sys::SocketAddress& candidate : resolve(address, AddressUse::listen)) {
        Fd socket = sys::make_socket(candidate.storage.ss_family);
        if (candidate.storage.ss_family != AF_UNIX)
            sys::set_option(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
        error = sys::bind(socket.get(), candidate);
        if (error != 0) continue;
        file.take();
        sys::set_nonblocking(socket.get(), true);
        sys::listen(socket.get(), backlog);
        return socket;
    }
    throw_errno(error, fmt::format("cannot listen at {}{}", to_string(address),
                                   error == EADDRINUSE && is_file
                                       ? " (if nobody listens there, remove the file)"
                                       : ""));
}

void validate(const ListenerOptions& options) {
    if (options.backlog < 1) throw std::invalid_argument("ListenerOptions::backlog must be >= 1");
    if (options.encrypted && !options.authkey)
        throw std::invalid_argument("ListenerOptions::encrypted needs an authkey");
    if (options.max_handshakes < 1)
        throw std::invalid_argument("ListenerOptions::max_handshakes must be >= 1");
    if (options.handshake_timeout.count() <= 0)
        throw std::invalid_argument("ListenerOptions::handshake_timeout must be positive");
}

class Listener::Impl {
  public:
    explicit Impl(ListenerOptions options) : options_(std::move(options)) {
        validate(options_);
        if (options_.authkey)
            credentials_ =
                make_credentials(*options_.authkey, options_.digest, options_.legacy_md5);
        if (options_.encrypted) tls_key_ = TlsKey::of(*options_.authkey);
        socket_ = bind_to(options_.address, options_.backlog, file_);
        address_ = from_kernel(sys::own_address(socket_.get()));
        accept_state_ = new AcceptState(socket_.get());
    }
    ~Impl() {
        close();
        delete accept_state_.load();
        // What a thread of the parent was at when it forked may be half done: that is left as it
        // is.
        if (inherited_ == nullptr || !inherited_->accepting.try_lock()) return;
        inherited_->accepting.unlock();
        delete inherited_;
    }

    std::optional<Connection> accept(const sys::Deadline& deadline);
    void close() noexcept;

    const Address& address() const { return address_; }
    bool closed() const { return closed_; }
    int fd() { return accept_state().epoll.get(); }
    int socket() const { return socket_.get(); }
    std::optional<Address> last_accepted() const {
        std::lock_guard lock(last_accepted_mutex_);
        return last_accepted_;
    }

  private:
    // A peer that has not proved the key yet.
    struct Pending {
        Pending(Fd peer_socket, Address peer_address, const Credentials& credentials,
                const sys::Deadline& when)
            : socket(std::move(peer_socket)),
              peer(std::move(peer_address)),
              handshake(Handshake::Side::listener, credentials),
              give_up(when) {}
        Fd socket;
        Address peer;
        Handshake handshake;                     // with `tls`, for the reason alone
        std::shared_ptr<detail::TlsStream> tls;  // null: not encrypted
        sys::Deadline give_up;
    };
    using Pendings = std::list<Pending>;  // oldest first: all have the same timeout

    // Where one process receives peers. A forked copy has one of its own: an epoll set and an
    // eventfd that two processes share would tell one what the other does.
    struct AcceptState {
        explicit AcceptState(int socket);
        const ForkMarker process;
        std::timed_mutex accepting;  // the turn of whoever is in accept()
        Fd wake;                     // readable from close() on: whoever is in accept() leaves
        // guarded by accepting
        Fd epoll;
        Pendings pending;
    };
    AcceptState& accept_state();
    void leave(AcceptState* inherited) noexcept;

    std::optional<Connection> take_event(AcceptState& state, int fd);
    std::optional<Connection> greet(AcceptState& state);
    std::optional<Connection> go_on(AcceptState& state, Pendings::iterator peer);
    bool advance_tls(Pending& peer);
    Connection admit(Fd socket, const Address& peer,
                     std::shared_ptr<detail::TlsStream> tls = nullptr);
    [[noreturn]] void reject(AcceptState& state, Pendings::iterator peer,
                             const char* reason = nullptr);
    bool is_stranger(int socket) const;

    // constant after construction
    ListenerOptions options_;
    Credentials credentials_;
    std::optional<TlsKey> tls_key_;  // none: not encrypted
    Address address_ = UnixAddress{};
    SocketFile file_;

    Fd socket_;  // constant until close(), which has AcceptState::accepting
    std::atomic<bool> closed_{false};

    // Another one is set only in a forked copy, by the holder of moving_ (which, therefore, nobody
    // holds when the creator forks). Null: closed by a forked copy that had none of its own.
    std::atomic<AcceptState*> accept_state_{nullptr};
    std::mutex moving_;
    AcceptState* inherited_ = nullptr;  // the parent's, in a forked copy that has left it

    mutable std::mutex last_accepted_mutex_;
    std::optional<Address> last_accepted_;  // guarded by last_accepted_mutex_
};

Listener::Impl::AcceptState::AcceptState(int socket)
    : wake(sys::make_eventfd()), epoll(::epoll_create1(EPOLL_CLOEXEC)) {
    if (!epoll) throw_errno(errno, "epoll_create1");
    watch(epoll.get(), socket);
    watch(epoll.get(), wake.get());
}

Listener::Impl::AcceptState& Listener::Impl::accept_state() {
    if (closed_) throw_closed(address_);
    AcceptState* present = accept_state_.load();
    if (present != nullptr && present->process.same_process()) return *present;
    std::lock_guard lock(moving_);
    if (closed_) throw_closed(address_);
    present = accept_state_.load();  // another thread may have been faster
    if (present->process.same_process()) return *present;
    accept_state_ = new AcceptState(socket_.get());
    leave(present);
    return *accept_state_;
}

// Closes a forked copy's descriptors of its parent's AcceptState. That itself stays while this
// object does: another thread of the copy may be looking whose it is.
void Listener::Impl::leave(AcceptState* inherited) noexcept {
    inherited->epoll.reset();
    inherited->wake.reset();
    inherited_ = inherited;
}

std::optional<Connection> Listener::Impl::accept(const sys::Deadline& deadline) {
    AcceptState& own = accept_state();
    std::unique_lock turn(own.accepting, std::defer_lock);
    if (!deadline)
        turn.lock();
    else if (!turn.try_lock_until(*deadline))
        return {};
    Pendings& pending = own.pending;
    // After the deadline, what is there and does not wait is still taken, so that accept_for(0s)
    // gets on: but not for ever, if peers that come to nothing never end.
    std::size_t late = 0;
    for (;;) {
        if (closed_) throw_closed(address_);
        if (!pending.empty() && detail::is_over(pending.front().give_up))
            reject(own, pending.begin(), "did not finish the handshake in time");
        sys::Deadline next = deadline;
        if (!pending.empty()) next = detail::sooner(next, pending.front().give_up);
        epoll_event event = {};
        int count = ::epoll_wait(own.epoll.get(), &event, 1, sys::poll_timeout(next));
        if (count < 0 && errno != EINTR) throw_errno(errno, "epoll_wait");
        bool is_peer = count > 0 && event.data.fd != own.wake.get();
        if (is_peer)
            if (auto connection = take_event(own, event.data.fd)) return connection;
        if (detail::is_over(deadline) && (!is_peer || ++late > options_.max_handshakes)) return {};
    }
}

std::optional<Connection> Listener::Impl::take_event(AcceptState& state, int fd) {
    if (fd == socket_.get()) return greet(state);
    for (auto peer = state.pending.begin(); peer != state.pending.end(); ++peer)
        if (peer->socket.get() == fd) return go_on(state, peer);
    return {};
}

// Takes the next peer out of the backlog.
std::optional<Connection> Listener::Impl::greet(AcceptState& state) {
    if (state.pending.size() >= options_.max_handshakes)
        reject(state, state.pending.begin(),
               "was given up in the middle of the handshake: too many others "
               "came meanwhile");
    sys::SocketAddress kernel_address;
    Fd socket = sys::try_accept(socket_.get(), kernel_address);
    if (!socket) return {};
    Address peer = from_kernel(kernel_address);
    if (std::holds_alternative<TcpAddress>(address_)) set_tcp_options(socket.get());
    if (!options_.authkey) {
        if (is_stranger(socket.get())) return {};
        return admit(std::move(socket), peer);
    }
    std::shared_ptr<detail::TlsStream> tls;  // first: without it a peer is not asked to encrypt
    if (tls_key_)
        tls = std::make_shared<detail::TlsStream>(detail::TlsStream::Side::listener, *tls_key_);
    watch(state.epoll.get(), socket.get());
    state.pending.emplace_back(std::move(socket), std::move(peer), credentials_,
                               detail::deadline_after(options_.handshake_timeout));
    state.pending.back().tls = std::move(tls);
    return go_on(state, std::prev(state.pending.end()));
}

std::optional<Connection> Listener::Impl::go_on(AcceptState& state, Pendings::iterator peer) {
    try {
        if (peer->tls ? advance_tls(*peer) : advance(peer->socket.get(), peer->handshake))
            return {};
    } catch (...) {
        state.pending.erase(peer);
        throw;
    }
    if (peer->handshake.state() == Handshake::State::failed) reject(state, peer);
    Fd socket = std::move(peer->socket);
    Address address = std::move(peer->peer);
    std::shared_ptr<detail::TlsStream> tls = std::move(peer->tls);
    state.pending.erase(peer);
    (void)::epoll_ctl(state.epoll.get(), EPOLL_CTL_DEL, socket.get(), nullptr);
    return admit(std::move(socket), address, std::move(tls));
}

// True: it goes on.
bool Listener::Impl::advance_tls(Pending& peer) {
    using Progress = detail::TlsStream::Progress;
    const Progress progress = peer.tls->advance(peer.socket.get());
    if (progress == Progress::failed) peer.handshake.fail(peer.tls->reason());
    return progress == Progress::goes_on;
}

namespace {

// A process that has no number here has 0.
std::string describe_process(int pid) {
    return pid == 0 ? "process of another pid namespace" : fmt::format("process {}", pid);
}

}  // namespace

Connection Listener::Impl::admit(Fd socket, const Address& peer,
                                 std::shared_ptr<detail::TlsStream> tls) {
    Connection connection =
        tls ? detail::secure_connection(socket.get(), std::move(tls)) : Connection(socket.get());
    (void)socket.release();
    std::lock_guard lock(last_accepted_mutex_);
    last_accepted_ = peer;
    return connection;
}

void Listener::Impl::reject(AcceptState& state, Pendings::iterator peer, const char* reason) {
    if (reason != nullptr) peer->handshake.fail(reason);
    std::string who = to_string(peer->peer);
    if (std::holds_alternative<UnixAddress>(peer->peer))
        who = describe_process(sys::peer_credentials(peer->socket.get()).pid);
    AuthenticationError error(
        fmt::format("the peer {} at {} {}", who, to_string(address_), peer->handshake.reason()));
    // A message that it sent and nobody reads would make the close a reset, and lose our last word.
    std::byte unread[Handshake::kMaxMessage];
    try {
        (void)sys::try_receive(peer->socket.get(), unread);
    } catch (const std::system_error&) {
    }
    state.pending.erase(peer);
    throw error;
}

// Abstract names have no permissions: without a key, they are for processes of the same user.
bool Listener::Impl::is_stranger(int socket) const {
    const auto* local = std::get_if<UnixAddress>(&address_);
    if (local == nullptr || !local->is_abstract) return false;
    return !is_own_user(socket);
}

void Listener::Impl::close() noexcept {
    if (closed_.exchange(true)) return;
    file_.remove();
    AcceptState* own = accept_state_.load();
    if (!own->process.same_process()) {
        std::lock_guard lock(moving_);
        own = accept_state_.load();
        if (!own->process.same_process()) {
            accept_state_ = nullptr;
            leave(own);
            socket_.reset();
            return;
        }
    }
    std::uint64_t one = 1;
    (void)!::write(own->wake.get(), &one, sizeof one);
    std::lock_guard turn(own->accepting);
    own->pending.clear();
    socket_.reset();
    own->epoll.reset();
}

// ---------------------------------------------------------------------------------------------

Listener::Listener(ListenerOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Listener::~Listener() = default;

Connection Listener::accept() { return std::move(*impl_->accept({})); }
std::optional<Connection> Listener::accept_for(Timeout timeout) {
    return impl_->accept(detail::deadline_after(timeout));
}
const Address& Listener::address() const { return impl_->address(); }
std::optional<Address> Listener::last_accepted() const { return impl_->last_accepted(); }
int Listener::fd() const { return impl_->fd(); }
void Listener::close() noexcept { impl_->close(); }
bool Listener::closed() const { return impl_->closed(); }
int detail::listening_socket(const Listener& listener) noexcept { return listener.impl_->socket(); }

}  // namespace sidestep
