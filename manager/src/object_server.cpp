#include "object_server.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <tuple>

#include <sidestep/actor_lost.hpp>
#include <sidestep/remote_error.hpp>

#include "sys/sys.hpp"
#include "sys/sys_socket.hpp"

namespace sidestep::inline v0::detail {

struct ObjectServer::Client {
    Client(std::uint64_t its_number, Connection stream)
        : number(its_number), connection(std::move(stream)) {}

    void send(FrameKind kind, std::uint64_t request, std::span<const std::byte> body) noexcept {
        std::lock_guard lock(sending);
        if (gone) return;
        try {
            connection.send(ObjectFrame{{kind, request, 0, 0, {}}, body, {}, {}, {}});
        } catch (...) {  // it is dead, or cut off
            cut();
        }
    }
    void cut() noexcept { ::shutdown(connection.fd(), SHUT_RDWR); }

    // Constant after construction.
    const std::uint64_t number;
    Fd process;  // a pidfd; none: not of this machine, or not to be seen
    int pid = 0;

    std::mutex sending;             // held while a frame is written
    Connection connection;          // read by its own thread
    std::atomic<bool> gone{false};  // set with the server's mutex held

    // Guarded by the server's mutex: object -> references.
    std::map<std::uint64_t, std::uint64_t> references;

    std::mutex queueing;
    // Guarded by queueing: by caller, those that have calls.
    std::map<std::uint64_t, Strand> strands;
};

namespace {
std::atomic<ObjectServer*> the_server{nullptr};
thread_local ObjectServer::CurrentCall* current_call = nullptr;

// For more than any machine has: a call that waits has a thread.
ThreadPoolOptions many_threads(const char* name) {
    return {.threads = 4096, .thread_name_prefix = name};
}

// Readable at the process's end. None: it cannot be seen, or is gone, and its connection will tell.
Fd watch(int pid) {
    if (pid <= 0) return {};
    try {
        return sys::pidfd_open(pid);
    } catch (const std::system_error&) {
        return {};
    }
}

[[noreturn]] void throw_no_object(std::uint64_t object) {
    throw NoSuchObject(fmt::format(
        "there is no object {} at this server (any more): nobody had a proxy of it when it was "
        "asked for. Keep one until the receiver of a copy has used it",
        object));
}
}  // namespace

ObjectServer* ObjectServer::here(const ServerName& server) {
    ObjectServer* there = the_server.load(std::memory_order_acquire);
    return there && there->here_.same_process() && there->name_.address == server.address ? there
                                                                                          : nullptr;
}

ObjectServer::ObjectServer(ServerName name)
    : name_(std::move(name)),
      self_(std::make_shared<Client>(0, Connection())),
      readers_(many_threads("clients")),
      callers_(many_threads("calls")) {
    std::tie(bell_, ring_) = Pipe();
    the_server.store(this, std::memory_order_release);
}

ObjectServer::~ObjectServer() {
    // Objects hold proxies, whose ends ask for this server: one after the other, while it is there.
    for (;;) {
        std::shared_ptr<Hosted> object;
        std::lock_guard lock(mutex_);
        if (objects_.empty()) break;
        object = std::move(objects_.begin()->second.object);
        objects_.erase(objects_.begin());
    }
    the_server.store(nullptr, std::memory_order_release);
}

ObjectServer::CurrentCall& ObjectServer::current() {
    if (!current_call) throw std::logic_error("no call of an object runs in this thread");
    return *current_call;
}

// --- clients ---------------------------------------------------------------------------------

void ObjectServer::run(Listener& listener, Connection& owner) {
    for (;;) {
        std::vector<Waitable> things{listener, owner, bell_};
        std::vector<std::shared_ptr<Client>> watched;
        {
            std::lock_guard lock(mutex_);
            for (auto& [number, client] : clients_) {
                if (!client->process || client->gone) continue;
                things.emplace_back(client->process.get());
                watched.push_back(client);
            }
        }
        for (const Waitable& ready : wait(things)) {
            if (ready == owner) return end_clients();
            if (ready == bell_) (void)bell_.recv_bytes();
            if (ready == listener) {
                accept(listener);
                continue;
            }
            for (auto& client : watched) {
                if (client->process.get() != ready.fd()) continue;
                client->cut();
                client->process.reset();
            }
        }
    }
}

void ObjectServer::accept(Listener& listener) {
    std::shared_ptr<Client> client;
    try {
        std::optional<Connection> connection = listener.accept_for(Timeout());
        if (!connection) return;
        {
            std::lock_guard lock(mutex_);
            client = std::make_shared<Client>(++last_client_, std::move(*connection));
            client->pid = sys::peer_credentials(client->connection.fd()).pid;
            client->process = watch(client->pid);
            clients_.emplace(client->number, client);
        }
        (void)readers_.submit([this, client] { read(client); });
    } catch (const AuthenticationError&) {
    } catch (...) {  // this process is short of something, for a while
        if (client) forget(client);
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
}

void ObjectServer::read(const std::shared_ptr<Client>& client) {
    try {
        for (;;) receive(client, client->connection.recv<ObjectFrame>());
    } catch (...) {  // its end, or what no client of ours sends
    }
    client->cut();
    forget(client);
    std::lock_guard lock(ringing_);
    ring_.send_bytes("gone");
}

void ObjectServer::receive(const std::shared_ptr<Client>& client, ObjectFrame frame) {
    InputArchive body(frame.bytes);
    std::uint64_t ticket = 0;
    switch (frame.head.kind) {
        case FrameKind::call:
            return queue_call(client, std::move(frame));
        case FrameKind::pin: {
            Answer answer{FrameKind::value, {}};
            try {
                body(ticket);
                pin(*client, frame.head.object, ticket);
            } catch (...) {
                refuse(std::current_exception(), answer);
            }
            return client->send(answer.kind, frame.head.request, answer.bytes.bytes());
        }
        case FrameKind::claim:
            body(ticket);
            return claim(*client, frame.head.object, ticket);
        case FrameKind::release:
            return release(*client, frame.head.object);
        default:
            throw SerializationError("this is no frame that a client sends");
    }
}

// What it holds goes: outside of the mutex, since objects hold proxies.
void ObjectServer::forget(const std::shared_ptr<Client>& client) {
    std::vector<std::shared_ptr<Hosted>> all, dropped;
    {
        std::lock_guard lock(mutex_);
        client->gone = true;
        clients_.erase(client->number);
        for (auto& [number, entry] : objects_) all.push_back(entry.object);
        for (auto [object, count] : client->references) dropped.push_back(drop(object, count));
        client->references.clear();
        std::erase_if(tickets_, [&](const auto& ticket) {
            if (ticket.second.client != client->number) return false;
            dropped.push_back(drop(ticket.second.object, 1));
            return true;
        });
    }
    {
        std::lock_guard lock(client->queueing);
        for (auto& [caller, strand] : client->strands) strand.calls.clear();
    }
    for (auto& object : all) object->wake();
    for (auto& object : all) {
        if (!object->holds_for_clients()) continue;
        object->enter();
        object->client_gone(client->number);
        object->leave();
    }
}

void ObjectServer::end_clients() {
    std::vector<std::shared_ptr<Client>> all;
    std::vector<std::shared_ptr<Hosted>> objects;
    {
        std::lock_guard lock(mutex_);
        self_->gone = true;
        for (auto& [number, client] : clients_) all.push_back(client);
        for (auto& [number, entry] : objects_) objects.push_back(entry.object);
    }
    for (auto& client : all) client->cut();
    for (auto& object : objects) object->wake();
    objects.clear();
    readers_.shutdown();
    callers_.shutdown();
}

// --- calls -----------------------------------------------------------------------------------

// The object is looked up now: a call counts, until it has run, as a reference to it.
void ObjectServer::queue_call(const std::shared_ptr<Client>& client, ObjectFrame frame) {
    const std::uint64_t caller = frame.head.caller;
    Call call{std::move(frame), nullptr, nullptr};
    if (call.frame.head.object != 0) {
        try {
            call.object = find(call.frame.head.object);
        } catch (...) {
            call.refused = std::current_exception();
        }
    }
    std::lock_guard lock(client->queueing);
    Strand& strand = client->strands[caller];
    strand.calls.push_back(std::move(call));
    if (!std::exchange(strand.has_thread, true))
        (void)callers_.submit([this, client, caller] { run_strand(client, caller); });
}

void ObjectServer::run_strand(const std::shared_ptr<Client>& client, std::uint64_t caller) {
    for (;;) {
        Call call;
        {
            std::lock_guard lock(client->queueing);
            auto strand = client->strands.find(caller);
            if (strand->second.calls.empty()) {
                client->strands.erase(strand);
                return;
            }
            call = std::move(strand->second.calls.front());
            strand->second.calls.pop_front();
        }
        if (run_call(client, std::move(call))) return;
    }
}

void ObjectServer::let_next_begin(CurrentCall& call) {
    if (call.client == self_ || std::exchange(call.waits, true)) return;
    // Told first: of what comes after it the client knows that it may have begun.
    call.client->send(FrameKind::waits, call.request, {});
    const std::uint64_t caller = call.caller.thread;
    std::lock_guard lock(call.client->queueing);
    auto strand = call.client->strands.find(caller);
    if (strand->second.calls.empty())
        call.client->strands.erase(strand);
    else
        (void)callers_.submit([this, client = call.client, caller] { run_strand(client, caller); });
}

// True: it has waited, and its strand has another thread.
bool ObjectServer::run_call(const std::shared_ptr<Client>& client, Call call) {
    const FrameHead head = call.frame.head;
    Answer answer{FrameKind::value, {}};
    CurrentCall current{*this,
                        client,
                        {client->number, head.caller, client->pid},
                        std::move(call.object),
                        head.request};
    if (call.refused)
        refuse(call.refused, answer);
    else
        execute(current, head, call.frame.bytes, &call.frame.incoming, answer);
    client->send(answer.kind, head.request, answer.bytes.bytes());
    return current.waits;
}

void ObjectServer::execute(CurrentCall& call, const FrameHead& head,
                           std::span<const std::byte> body, FdSource* fds, Answer& answer) {
    CurrentCall* outer = std::exchange(current_call, &call);
    try {
        const TaskEntry& entry = require_entry(head.task, "the call's method");
        InputArchive arguments(body, fds);
        OutputArchive result(answer.bytes);
        entry.run(arguments, result);
    } catch (...) {
        refuse(std::current_exception(), answer);
    }
    current_call = outer;
}

void ObjectServer::refuse(const std::exception_ptr& why, Answer& answer) {
    answer.kind = FrameKind::error;
    answer.bytes.clear();
    try {
        OutputArchive archive(answer.bytes);
        try {
            std::rethrow_exception(why);
        } catch (...) {
            save_current_exception(archive,
                                   fmt::format("  in the server of objects {}\n", ::getpid()));
        }
    } catch (...) {  // no memory: the client finds an error that cannot be read
        answer.bytes.clear();
    }
}

void ObjectServer::call_here(const FrameHead& head, std::span<const std::byte> body,
                             std::span<const int> fds, CallTask& task) {
    Answer answer{FrameKind::value, {}};
    try {
        IncomingFds copies;
        for (int fd : fds) copies.add(DupFd::duplicate_of(fd));
        std::shared_ptr<Hosted> object = head.object != 0 ? find(head.object) : nullptr;
        CurrentCall current{*this, self_, {0, head.caller, ::getpid()}, std::move(object)};
        execute(current, head, body, &copies, answer);
    } catch (...) {
        refuse(std::current_exception(), answer);
    }
    auto bytes = answer.bytes.bytes();
    std::vector<std::byte> owned(bytes.begin(), bytes.end());
    if (answer.kind == FrameKind::value)
        task.answer(std::move(owned));
    else
        task.answer_error(std::move(owned));
}

// --- references --------------------------------------------------------------------------------

std::shared_ptr<Hosted> ObjectServer::find(std::uint64_t object) {
    std::lock_guard lock(mutex_);
    auto found = objects_.find(object);
    if (found == objects_.end()) throw_no_object(object);
    return found->second.object;
}

std::uint64_t ObjectServer::host(Client& client, std::shared_ptr<Hosted> object) {
    std::lock_guard lock(mutex_);
    if (client.gone) throw std::runtime_error("the client is gone");
    const std::uint64_t number = ++last_object_;
    objects_.emplace(number, Entry{std::move(object), 1});
    ++client.references[number];
    return number;
}

void ObjectServer::pin(Client& client, std::uint64_t object, std::uint64_t ticket) {
    std::lock_guard lock(mutex_);
    auto found = objects_.find(object);
    if (found == objects_.end()) throw_no_object(object);
    if (client.gone) throw std::runtime_error("the client is gone");
    if (!tickets_.emplace(ticket, Ticket{object, client.number}).second)
        throw std::invalid_argument("this ticket is in use");
    ++found->second.references;
}

// A ticket's reference becomes the client's. Of an object that is gone there is none: its calls
// will say so.
void ObjectServer::claim(Client& client, std::uint64_t object, std::uint64_t ticket) {
    std::lock_guard lock(mutex_);
    auto found = objects_.find(object);
    if (found == objects_.end() || client.gone) return;
    ++client.references[object];
    auto pinned = tickets_.find(ticket);
    if (pinned != tickets_.end() && pinned->second.object == object)
        tickets_.erase(pinned);
    else
        ++found->second.references;
}

void ObjectServer::release(Client& client, std::uint64_t object) {
    std::shared_ptr<Hosted> dropped;  // destroyed outside of the mutex
    std::lock_guard lock(mutex_);
    auto held = client.references.find(object);
    if (held == client.references.end()) return;
    if (--held->second == 0) client.references.erase(held);
    dropped = drop(object, 1);
}

// With the mutex held.
std::shared_ptr<Hosted> ObjectServer::drop(std::uint64_t object, std::uint64_t count) {
    auto found = objects_.find(object);
    if (found == objects_.end()) return nullptr;
    found->second.references -= std::min(count, found->second.references);
    if (found->second.references > 0) return nullptr;
    std::shared_ptr<Hosted> last = std::move(found->second.object);
    objects_.erase(found);
    return last;
}

// Whose call this is: in the server itself, the client for whom it runs.
void ObjectServer::pin_here(std::uint64_t object, std::uint64_t ticket) {
    pin(current_call ? *current_call->client : *self_, object, ticket);
}
void ObjectServer::claim_here(std::uint64_t object, std::uint64_t ticket) {
    claim(*self_, object, ticket);
}
void ObjectServer::release_here(std::uint64_t object) { release(*self_, object); }

bool wait_here(const std::function<bool()>& ready, const Deadline& deadline) {
    ObjectServer::CurrentCall& call = ObjectServer::current();
    if (ready()) return true;
    if (is_over(deadline)) return false;
    call.server.let_next_begin(call);
    auto client = call.client;
    WaitScope waits;
    const bool done = call.object->wait(ready, deadline, [&] { return client->gone.load(); });
    if (!done && client->gone) throw std::runtime_error("the client is gone");
    return done;
}

// --- the process -------------------------------------------------------------------------------

void serve_objects(ServerSetup setup, Connection owner) {
    ::signal(SIGINT, SIG_IGN);  // Ctrl-C is for the owner, who ends this
    if (setup.has_initializer) {
        const TaskEntry& entry = require_entry(setup.initializer, "the manager's initializer");
        InputArchive arguments(setup.initializer_state);
        HeapBuffer nowhere;
        OutputArchive result(nowhere);
        entry.run(arguments, result);
    }
    Listener listener({.authkey = setup.authkey});
    ObjectServer server({listener.address(), setup.authkey, ::getpid()});
    owner.send(std::get<UnixAddress>(listener.address()));
    server.run(listener, owner);
}

}  // namespace sidestep::detail
