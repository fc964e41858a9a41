#include "link_registry.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <sidestep/actor_lost.hpp>
#include <sidestep/exit_hooks.hpp>

#include "object_server.hpp"

namespace sidestep::inline v0::detail {

LinkRegistry& link_registry() {
    static PerProcess<LinkRegistry> registry;
    return registry.get();
}

namespace {

constexpr std::chrono::milliseconds kBetweenAttempts{5};  // until another attempt

// With the registry's mutex held. Null: there is none that works.
std::shared_ptr<ServerLink> working_link(LinkSlot& slot) {
    std::shared_ptr<ServerLink> link = slot.link.lock();
    if (link && !link->broken()) return link;
    slot.lasting.reset();
    return nullptr;
}

// What calls threw whose futures were dropped is not lost in silence.
void report_at_exit() {
    std::vector<std::shared_ptr<ServerLink>> all;
    {
        LinkRegistry& known = link_registry();
        std::lock_guard lock(known.mutex);
        for (auto& [key, slot] : known.slots)
            if (auto link = slot->link.lock()) all.push_back(std::move(link));
    }
    for (auto& link : all) {
        link->send_at_exit();
        link->report_unseen();
    }
}

// Connects, says hello, and learns who is there. Throws what Client() throws, and Disconnected if
// it is another server than the one that is meant.
Connection open_session(ServerName& server, const Deadline& deadline) {
    ClientOptions options{.authkey = server.authkey, .encrypted = server.encrypted()};
    if (deadline) options.timeout = Timeout(*deadline);
    Connection connection = Client(server.address, options);
    connection.limit_silence(server.lost_after);
    HeapBuffer body;
    OutputArchive hello(body);
    hello(kProtocol);
    connection.send(ObjectFrame{{FrameKind::hello, 1, 0, 0, {}}, body.bytes(), {}, {}, {}});
    std::optional<Timeout> left;
    if (deadline) left = Timeout(*deadline);
    if (!connection.poll(left))
        throw std::system_error(ETIMEDOUT, std::generic_category(),
                                fmt::format("the server {} has taken the connection, but does not "
                                            "serve yet",
                                            to_string(server.address)));
    auto answer = connection.recv<ObjectFrame>(4096);
    Welcome welcome;
    InputArchive archive(answer.bytes);
    if (answer.head.kind == FrameKind::value) archive(welcome.protocol);
    if (answer.head.kind != FrameKind::value || welcome.protocol != kProtocol)
        throw SerializationError(fmt::format(
            "the server {} speaks version {} of the protocol, and this program {}: both need the "
            "same version of Sidestep",
            to_string(server.address), welcome.protocol, kProtocol));
    archive(welcome.server, welcome.pid, welcome.lost_after);
    if (server.id != 0 && server.id != welcome.server)
        throw std::runtime_error("another server is at its address now");
    server.id = welcome.server;
    server.pid = welcome.pid;
    // The session lasts as long as the less patient side says.
    if (welcome.lost_after.count() > 0)
        server.lost_after = std::min(server.lost_after, welcome.lost_after);
    connection.limit_silence(server.lost_after);
    return connection;
}

// For a proxy that has arrived.
Connection open(ServerName& server, const Deadline& deadline) {
    TaskError::Details details;
    details.pid = server.pid;
    try {
        if (server.is_manager_server) return open_session(server, deadline);
        if (!server.restarts) return Client(server.address, {.authkey = server.authkey});
        // The process that took the connection may die before it has answered: there is a next one,
        // or the keeper, which says that there is none.
        for (HandshakeFailures failures;; std::this_thread::sleep_for(kBetweenAttempts))
            if (auto connection = connect_to_actor(server, deadline, failures))
                return std::move(*connection);
    } catch (const std::exception& error) {  // nobody listens, or it dies during the handshake
        details.note = error.what();
    }
    if (server.is_manager_server)
        throw Disconnected(std::move(details), 0, "to be connected to", false,
                           to_string(server.address));
    throw ActorLost(std::move(details), 0, "to be connected to", false);
}

}  // namespace

// One that dies takes connections to its last moment: it is asked again.
bool has_ended(const ServerName& server) {
    constexpr std::chrono::seconds kPatience{2};
    constexpr std::chrono::milliseconds kPause{5};
    for (const Deadline deadline = deadline_after(Timeout(kPatience)); !is_over(deadline);) {
        try {
            ServerName found = server;
            found.id = 0;
            if (server.is_manager_server)
                (void)open_session(found, deadline);
            else
                (void)Client(server.address,
                             {.authkey = server.authkey, .timeout = Timeout(*deadline)});
            return found.id != 0 && found.id != server.id;  // another one, at its address
        } catch (const std::system_error& error) {
            const int code = error.code().value();
            if (code == ECONNREFUSED || code == ENOENT) return true;
        } catch (const std::exception&) {  // it ends, or has no time
        }
        std::this_thread::sleep_for(kPause);
    }
    return false;
}

std::shared_ptr<ServerLink> ServerLink::to(const ServerName& server) {
    LinkRegistry& known = link_registry();
    std::shared_ptr<LinkSlot> slot;
    {
        std::lock_guard lock(known.mutex);
        if (!std::exchange(known.reports_at_exit, true)) at_exit(&report_at_exit);
        std::erase_if(known.slots, [](const auto& other) {
            return other.second.use_count() == 1 && !working_link(*other.second);
        });
        auto& found = known.slots[server.key()];
        if (!found) found = std::make_shared<LinkSlot>();
        slot = found;
    }
    std::lock_guard making(slot->making);
    {
        std::lock_guard lock(known.mutex);
        if (auto link = working_link(*slot)) return link;
    }
    ObjectServer* local = ObjectServer::here(server);
    std::shared_ptr<ServerLink> link;
    if (local) {
        link = std::make_shared<ServerLink>(server, local);
    } else {
        ServerName named = server;
        Connection connection = open(named, {});
        link = std::make_shared<ServerLink>(std::move(named), std::move(connection));
        link->start_beating();
    }
    std::lock_guard lock(known.mutex);
    slot->lasting = link;
    slot->link = link;
    return link;
}

std::shared_ptr<ServerLink> ServerLink::connect(ServerName server, const Deadline& deadline) {
    Connection connection = open_session(server, deadline);
    // The short cut of the server's own process is for its own proxies: here it is a client.
    const bool is_here = ObjectServer::here(server) != nullptr;
    LinkRegistry& known = link_registry();
    std::shared_ptr<ServerLink> link;
    {
        std::lock_guard lock(known.mutex);
        if (!std::exchange(known.reports_at_exit, true)) at_exit(&report_at_exit);
        auto& slot = known.slots[server.key()];
        if (!slot) slot = std::make_shared<LinkSlot>();
        if (auto other = is_here ? nullptr : working_link(*slot)) return other;
        link = std::make_shared<ServerLink>(std::move(server), std::move(connection));
        if (!is_here) slot->link = link;
    }
    link->start_beating();
    return link;
}

void ServerLink::close_local(const ServerName& server) noexcept {
    LinkRegistry& known = link_registry();
    std::shared_ptr<ServerLink> link;
    {
        std::lock_guard lock(known.mutex);
        auto slot = known.slots.find(server.key());
        if (slot != known.slots.end()) link = slot->second->link.lock();
    }
    if (link) close(link);
}

void ServerLink::close(const std::shared_ptr<ServerLink>& link) noexcept {
    LinkRegistry& known = link_registry();
    {
        std::lock_guard lock(known.mutex);
        for (auto& [key, slot] : known.slots)  // not by its key, which takes memory to make
            if (slot->lasting == link) slot->lasting.reset();
    }
    link->end_session("closed here");  // a string without memory of its own
}

void ServerLink::end(const std::shared_ptr<ServerLink>& link, Process& process, Connection& control,
                     Timeout grace) noexcept {
    const Deadline until = deadline_after(grace);
    try {
        if (process.is_alive()) control.send_bytes("stop");
        // Or the server, which ends when all is answered, might wait for this process to read.
        (void)link->wait_until([&] { return link->broken_; }, until);
        if (!process.join_for(until ? Timeout(*until) : grace)) process.kill();
        process.join();
    } catch (...) {  // it is dead already
        process.kill();
    }
    close(link);
}

}  // namespace sidestep::detail
