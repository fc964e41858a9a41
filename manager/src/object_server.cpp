#include "object_server.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>

#include <sidestep/detail/printed_output.hpp>

#include "insist.hpp"
#include "object_client.hpp"
#include "sys/error.hpp"
#include "sys/parent_fd.hpp"
#include "sys/per_process.hpp"
#include "sys/sys.hpp"
#include "sys/sys_socket.hpp"

namespace sidestep::inline v0::detail {
namespace {

// The servers of this process.
struct Servers {
    std::mutex mutex;
    std::vector<ObjectServer*> all;  // guarded by mutex
};
PerProcess<Servers> servers;

// Readable at the process's end. None: it cannot be seen, or is gone, and its connection will tell.
// Throws if this process is short of something: it may connect again.
Fd watch(int pid) {
    if (pid <= 0) return {};
    try {
        return sys::pidfd_open(pid);
    } catch (const std::system_error& error) {
        if (is_shortage(error.code().value())) throw;
        return {};
    }
}

void silence(const Fd& bell) {
    std::uint64_t rung = 0;
    (void)!::read(bell.get(), &rung, sizeof rung);
}

}  // namespace

ObjectServer* ObjectServer::here(const ServerName& server) {
    Servers& known = servers.get();
    std::lock_guard lock(known.mutex);
    for (ObjectServer* there : known.all)
        if (there->name_.key() == server.key()) return there;
    return nullptr;
}

ObjectServer::ObjectServer(ServerName name, ServerRules rules)
    : name_(std::move(name)), rules_(std::move(rules)), self_(std::make_shared<Client>(*this, 0)) {
    table_.add_client(self_->number);
    bell_ = sys::make_eventfd();
    Servers& known = servers.get();
    std::lock_guard lock(known.mutex);
    known.all.push_back(this);
}

ObjectServer::~ObjectServer() {
    // Objects hold proxies, whose ends ask for this server: one after the other, while it is there.
    while (std::shared_ptr<Hosted> object = table_.take_any()) object.reset();
    Servers& known = servers.get();
    std::lock_guard lock(known.mutex);
    std::erase(known.all, this);
}

// --- clients ---------------------------------------------------------------------------------

void ObjectServer::run(Listener& listener, Connection& owner) {
    for (bool serves = true; serves;) insist([&] { serves = look(listener, owner); });
    insist([&] { end_clients(); });
}

bool ObjectServer::look(Listener& listener, Connection& owner) {
    std::vector<Waitable> things{listener, owner, bell_.get()};
    std::vector<std::shared_ptr<Client>> watched;
    {
        std::lock_guard lock(mutex_);
        for (auto& [number, client] : clients_) {
            if (!client->process || client->gone) continue;
            things.emplace_back(client->process.get());
            watched.push_back(client);
        }
    }
    std::vector<Waitable> all_ready;
    try {
        all_ready = wait(things);
    } catch (const std::system_error& error) {
        if (error.code().value() != EBADF) throw;
        lose_descriptors();
        return false;
    }
    if (lost_descriptors_) return false;
    for (const Waitable& ready : all_ready) {
        if (ready == owner) return false;
        if (ready == bell_.get()) silence(bell_);
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
    return true;
}

void ObjectServer::accept(Listener& listener) {
    std::shared_ptr<Client> client;
    try {
        std::optional<Connection> connection = listener.accept_for(Timeout());
        if (!connection) return;
        connection->limit_silence(rules_.lost_after);
        // It has connected, and would take the end of that for the server's.
        client = insist_on_memory([&] { return std::make_shared<Client>(*this, ++last_client_); });
        client->take(std::move(*connection));
        insist_on_memory([&] { admit(client); });
    } catch (const AuthenticationError&) {
    } catch (...) {  // this process is short of something, for a while
        if (client) forget(client);
        pause_for_memory();
    }
}

// As often as it takes.
void ObjectServer::admit(const std::shared_ptr<Client>& client) {
    client->hidden.emplace(client->connection.fd());
    client->pid = sys::peer_credentials(client->connection.fd()).pid;
    client->process = watch(client->pid);
    {
        std::lock_guard lock(mutex_);
        clients_.emplace(client->number, client);
    }
    table_.add_client(client->number);
    readers_.run([this, client] { read(client); });
}

void ObjectServer::receive(const std::shared_ptr<Client>& client, ObjectFrame frame) {
    const FrameHead& head = frame.head;
    InputArchive body(frame.bytes);
    std::uint64_t ticket = 0;
    switch (head.kind) {
        case FrameKind::call:
        case FrameKind::invoke:
            return queue_call(client, std::move(frame));
        case FrameKind::pin:
            return reply(client, head, [&](OutputArchive&) {
                body(ticket);
                table_.pin(client->number, head.object, ticket);
            });
        case FrameKind::claim:
            body(ticket);
            // Nobody is told that it failed.
            return insist_on_memory([&] { table_.claim(client->number, head.object, ticket); });
        case FrameKind::release:
            return table_.release(client->number, head.object);
        case FrameKind::get:
            return reply(client, head, [&](OutputArchive& result) {
                std::string name, type;
                body(name, type);
                auto found = table_.get(client->number, name, type);
                result(found.number, found.exposure->functions);
            });
        case FrameKind::hello:
            return reply(client, head, [&](OutputArchive& result) {
                result(Welcome{kProtocol, name_.id, ::getpid(),
                               rules_.lost_after.value_or(Timeout::forever()).time()});
            });
        case FrameKind::beat:
            return tell(client, FrameKind::beat, 0, {});
        case FrameKind::cancel:
            return reply(client, head, [&](OutputArchive& result) {
                std::uint64_t request = 0;
                body(request);
                result(cancel(*client, request));
            });
        case FrameKind::resume:
            return resume(client, body);
        case FrameKind::stats:
        case FrameKind::trace:
            return answer_insight(client, head, body);
        default:
            throw SerializationError("this is no frame that a client sends");
    }
}

void ObjectServer::hand_on(const std::shared_ptr<Client>& client, std::uint64_t caller) noexcept {
    try {
        insist([&] { start_strand(client, caller); });
    } catch (const std::logic_error&) {  // the server has ended
    }
}

void ObjectServer::reply(const std::shared_ptr<Client>& client, const FrameHead& head,
                         const std::function<void(OutputArchive&)>& write) {
    Answer answer;
    try {
        OutputArchive archive(answer.bytes);
        write(archive);
    } catch (...) {
        refuse(std::current_exception(), answer);
    }
    tell(client, answer.kind, head.request, answer.bytes.bytes());
}

void ObjectServer::tell(const std::shared_ptr<Client>& client, FrameKind kind,
                        std::uint64_t request, std::span<const std::byte> body) noexcept {
    const bool needs_thread = insist_on_memory([&] {
        std::lock_guard lock(client->owing);
        if (!client->owed_has_thread && client->send_now(kind, request, body)) return false;
        if (client->owed.size() >= kMostUnanswered) {  // it never reads
            client->cut();
            return false;
        }
        client->owed.push_back({kind, request, {body.begin(), body.end()}});
        return !std::exchange(client->owed_has_thread, true);
    });
    if (!needs_thread) return;
    try {
        insist_on_memory([&] { callers_.run([client] { send_owed(client); }); });
    } catch (const std::logic_error&) {  // the server has ended
    } catch (const std::exception&) {    // no thread: then this one waits
        send_owed(client);
    }
}

void ObjectServer::send_owed(const std::shared_ptr<Client>& client) noexcept {
    for (;;) {
        Client::Owed next;
        {
            std::lock_guard lock(client->owing);
            if (client->owed.empty()) {
                client->owed_has_thread = false;
                return;
            }
            next = std::move(client->owed.front());
            client->owed.pop_front();
        }
        client->send(next.kind, next.request, next.body);
    }
}

// A call has closed descriptors of this process, or put others in their places (close_range(2),
// dup2(2)): nobody would be answered any more, and who waits would wait for ever. The end of a
// process that is the server's own tells all of them. In another program the server ends, and its
// clients find out by their beats.
void ObjectServer::lose_descriptors() noexcept {
    if (lost_descriptors_.exchange(true)) {
        // Another thread says so, and ends the process. A call that went on meanwhile, to its end,
        // would be none that had begun, and run again in the next process.
        while (!rules_.exposed_only) ::pause();
        return;
    }
    std::fprintf(stderr, "sidestep: the server of objects in process %d ends: %s\n", ::getpid(),
                 kDescriptorsLostNote);
    if (!rules_.exposed_only) ::_exit(kDescriptorsLost);
    ring();
}

void ObjectServer::ring() noexcept {
    const std::uint64_t one = 1;
    (void)!::write(bell_.get(), &one, sizeof one);
}

// What it holds goes: outside of the mutexes, since objects hold proxies. What runs for it goes on,
// and has the limits that it had.
void ObjectServer::forget(const std::shared_ptr<Client>& client) {
    {
        std::lock_guard lock(mutex_);
        client->gone = true;
        clients_.erase(client->number);
    }
    insist([&] { end_work({client}); });
    ObjectTable::Dropped all, dropped;
    insist([&] { all = table_.all(); });
    insist([&] { dropped = table_.remove_client(client->number); });
    {
        std::lock_guard lock(client->queueing);
        for (auto& [caller, strand] : client->strands) strand.calls.clear();
        for (auto& [request, call] : client->calls)
            if (!call->running) clock_.remove(call->due);
    }
    insist([&] { wake_waiting(); });
    for (auto& object : all) {
        if (!object->holds_for_clients()) continue;
        object->enter();
        try {
            object->client_gone(client->number);
        } catch (...) {  // of a user's type: the others are told all the same
        }
        object->leave();
    }
}

ObjectServer::Waiting::Waiting(ObjectServer& server, std::shared_ptr<Hosted> object)
    : server_(server) {
    std::lock_guard lock(server.mutex_);
    place_ = server.waiting_.insert(server.waiting_.end(), std::move(object));
}
ObjectServer::Waiting::~Waiting() {
    std::shared_ptr<Hosted> object;  // destroyed outside of the mutex
    std::lock_guard lock(server_.mutex_);
    object = std::move(*place_);
    server_.waiting_.erase(place_);
}

// What their calls wait for elsewhere, tasks in pools: first what has not begun there, or it would
// begin in the place of what has.
void ObjectServer::end_work(const std::vector<std::shared_ptr<Client>>& clients) {
    std::vector<std::shared_ptr<CallState>> all;
    for (auto& client : clients) {
        std::lock_guard lock(client->queueing);
        for (auto& [request, call] : client->calls) all.push_back(call);
    }
    for (bool running_too : {false, true})
        for (auto& call : all) call->end_work(running_too);
}

// Those that wait may do so in objects that the table does not have any more.
void ObjectServer::wake_waiting() {
    std::list<std::shared_ptr<Hosted>> waiting;
    {
        std::lock_guard lock(mutex_);
        waiting = waiting_;
    }
    for (auto& object : waiting) object->wake();
}

bool ObjectServer::has_left(const Client& client) const { return ending_ || client.gone; }

// What runs is finished, and answered; what waits is given up.
void ObjectServer::end_clients() {
    ending_ = true;
    clock_.stop();
    std::vector<std::shared_ptr<Client>> all, waiting;
    {
        std::lock_guard lock(mutex_);
        for (auto& [number, client] : clients_) all.push_back(client);
    }
    for (auto& client : all) {
        std::lock_guard lock(client->queueing);
        if (client->unanswered > 0) waiting.push_back(client);
    }
    end_work(all);
    wake_waiting();
    callers_.shutdown();
    trace_.end();
    for (auto& client : all) client->finish();
    // Over TCP, to close before all that a client sent is read would take the last answers from it:
    // who waits for some is to close first.
    const Deadline deadline = deadline_after(Timeout(std::chrono::seconds(1)));
    const bool is_tcp = std::holds_alternative<TcpAddress>(name_.address);
    auto has_gone = [](const auto& client) { return client->gone.load(); };
    while (is_tcp && !lost_descriptors_ && !std::all_of(waiting.begin(), waiting.end(), has_gone)) {
        if (wait({bell_.get()}, Timeout(*deadline)).empty()) break;
        silence(bell_);
    }
    for (auto& client : all) client->cut();
    readers_.shutdown();
    self_->gone = true;
}

// --- references within the server ------------------------------------------------------------

// Whose call this is: in the server itself, the client for whom it runs.
void ObjectServer::pin_here(std::uint64_t object, std::uint64_t ticket) {
    CurrentCall* call = current_or_none();
    table_.pin(call ? call->client->number : self_->number, object, ticket);
}
void ObjectServer::claim_here(std::uint64_t object, std::uint64_t ticket) {
    table_.claim(self_->number, object, ticket);
}
void ObjectServer::release_here(std::uint64_t object) { table_.release(self_->number, object); }
std::uint64_t ObjectServer::get_here(const std::string& name, const std::string& type) {
    return table_.get(self_->number, name, type).number;
}
std::uint64_t ObjectServer::host(Client& client, std::shared_ptr<Hosted> object) {
    return table_.add(client.number, std::move(object));
}

// --- the process -------------------------------------------------------------------------------

void serve_objects(ServerSetup setup, Connection owner) {
    leave_terminal_alone();
    if (setup.has_initializer) {
        const TaskEntry& entry = require_entry(setup.initializer, "the manager's initializer");
        InputArchive arguments(setup.initializer_state);
        HeapBuffer nowhere;
        OutputArchive result(nowhere);
        entry.run(arguments, result);
        (void)flush_printed();  // the first call may cost the process
    }
    Listener listener({.authkey = setup.authkey});
    const ParentFdMark hidden(listening_socket(listener));
    ObjectServer server(
        {.address = listener.address(), .authkey = setup.authkey, .pid = ::getpid()});
    owner.send(std::get<UnixAddress>(listener.address()));
    server.run(listener, owner);
}

void leave_terminal_alone() {
    (void)::signal(SIGINT, [](int) {});
    (void)::signal(SIGTTIN, SIG_IGN);
    (void)::signal(SIGTTOU, SIG_IGN);
}

}  // namespace sidestep::detail
