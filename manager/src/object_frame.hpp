// What a client and a server of objects send each other: the value of one Connection's message, so
// length-prefixed, typed, and behind the handshake.
//
// kind     | from   | request | caller | object | task | body
// ---------|--------|---------|--------|--------|------|---------------------------------------
// call     | client | number  | thread | or 0   | body | arguments; 0: of what makes an object
// pin      | client | number  | -      | object | -    | ticket: a reference goes on its way
// claim    | client | -       | -      | object | -    | ticket: it arrived; 0: one without
// release  | client | -       | -      | object | -    | -
// waits    | server | number  | -      | -      | -    | - (it has begun, and others may now)
// begins   | server | number  | thread | -      | -    | - (so do, or may have, all of its caller's
//          |        |         |        |        |      |   calls up to that one: their answers come
//          |        |         |        |        |      |   together)
// value    | server | number  | -      | -      | -    | result
// error    | server | number  | -      | -      | -    | exception
// failure  | server | number  | -      | -      | -    | what befell a task of a Pool there
// and of a ManagerServer, whose clients may be other programs:
// hello    | client | number  | -      | -      | -    | kProtocol; value: a Welcome
// get      | client | number  | -      | -      | -    | name, type; value: object, functions?
// invoke   | client | number  | thread | object | -    | the method's name, arguments
// beat     | both   | -       | -      | -      | -    | - (a server answers with one)
// of any server, for calls with limits:
// cancel   | client | number  | -      | -      | -    | the request that is to be taken back
// overdue  | server | number  | -      | -      | -    | - (its timeout has passed)
// of an actor, or a Manager's server:
// stats    | client | number  | -      | -      | -    | -; value: a ServerStats
// trace    | client | number  | -      | -      | -    | the file; empty: it is completed
// and of an actor, which may be started again (actor_keeper.hpp):
// resume   | client | -       | -      | -      | -    | its number for all its connections; how
//          |        |         |        |        |      | far it had come in the one before
// serves   | server | -       | -      | -      | -    | an ActorState
// lost     | server | number  | -      | -      | -    | a Casualty: the end of who had begun it
#pragma once

#include <chrono>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <sidestep/address.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/exit_status.hpp>
#include <sidestep/task.hpp>

namespace sidestep::inline v0::detail {

// Between programs of other builds: what changes the frames changes this.
constexpr std::uint32_t kProtocol = 4;

enum class FrameKind : std::uint8_t {
    call,
    pin,
    claim,
    release,
    waits,
    value,
    error,
    hello,
    get,
    invoke,
    beat,
    cancel,
    overdue,
    resume,
    serves,
    lost,
    stats,
    trace,
    failure,
    begins
};

struct FrameHead {
    FrameKind kind = FrameKind::call;
    std::uint64_t request = 0;
    std::uint64_t caller = 0;
    std::uint64_t object = 0;
    TaskId task = {};
    std::uint64_t timeout = 0;  // of a call, in nanoseconds; 0: none

    template <class Archive>
    void serialize(Archive& archive) {
        archive(kind, request, caller, object, task.where, task.signature);
        // Not of the others: what finds out that versions differ is the same in all.
        if (kind == FrameKind::call || kind == FrameKind::invoke) archive(timeout);
    }
};

// To send: bytes and descriptors are borrowed.
struct ObjectFrame {
    FrameHead head;
    std::span<const std::byte> body;
    std::span<const int> fds;
    // Received: owned.
    std::vector<std::byte> bytes;
    IncomingFds incoming;
    bool lacks_memory = false;  // for the bytes; it is off the connection all the same

    void save(OutputArchive& archive) const {
        archive(head);
        for (int fd : fds) (void)archive.fds()->put(fd);  // in order: their numbers are the same
        archive.write(body.data(), body.size());
    }
    void load(InputArchive& archive) {
        archive(head);
        auto rest = archive.view(archive.remaining());
        try {
            bytes.assign(rest.begin(), rest.end());
        } catch (const std::bad_alloc&) {
            lacks_memory = true;
        }
        if (auto* came = dynamic_cast<IncomingFds*>(archive.fds())) incoming = std::move(*came);
    }
};

// What a ManagerServer says of itself.
struct Welcome {
    std::uint32_t protocol = kProtocol;
    std::uint64_t server = 0;  // its ServerName::id
    int pid = 0;
    std::chrono::nanoseconds lost_after{};  // a client that is silent for so long is taken for dead

    template <class Archive>
    void serialize(Archive& archive) {
        archive(protocol, server, pid, lost_after);
    }
};

// With this code a server's process ends whose descriptors a call has closed or replaced.
constexpr int kDescriptorsLost = 113;
constexpr const char* kDescriptorsLostNote =
    "a call has closed its descriptors, or put others in their places (close_range(2), dup2(2)): "
    "calls are to close what they have opened, and nothing else";

// How one process of an actor ended.
struct Casualty {
    int pid = 0;
    int signal = 0, code = 0;  // one of them, or none: it is not known
    bool known = false, core_dumped = false;
    bool began = false;    // of a call: it had begun
    bool overdue = false;  // of a call: this end was made since it did not heed its timeout
    std::string note = {};

    template <class Archive>
    void serialize(Archive& archive) {
        archive(pid, signal, code, known, core_dumped, began, overdue, note);
    }
    static Casualty of(int pid, const ExitStatus& status) {
        return {pid,
                status.signal(),
                status.code(),
                status.signaled() || status.exited(),
                status.core_dumped(),
                false,
                false,
                status.exited() && status.code() == kDescriptorsLost ? kDescriptorsLostNote : ""};
    }
    ExitStatus status() const {
        if (!known) return ExitStatus::lost_status();
        return signal != 0 ? ExitStatus::from_signal(signal, core_dumped)
                           : ExitStatus::from_exit_code(code);
    }
};

// What a client learns of an actor each time that it connects.
struct ActorState {
    int pid = 0;
    std::uint32_t restarts = 0;
    bool over = false;   // it is not started again
    Casualty last = {};  // of the process before, if there was one

    template <class Archive>
    void serialize(Archive& archive) {
        archive(pid, restarts, over, last);
    }
};

// How a client finds a server: in each proxy.
struct ServerName {
    Address address;
    std::optional<std::string> authkey;
    int pid = 0;
    // Of a ManagerServer: random, so that one that is started at the same address is another one.
    std::uint64_t id = 0;
    bool is_manager_server = false;
    std::chrono::nanoseconds lost_after{};  // of this client's session
    // Of an actor: what it is called in messages; whether it is started again at its address; and
    // how many of its calls a process may have under way.
    std::string actor = {};
    bool restarts = false;
    std::uint64_t max_pending = 0;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(address, authkey, pid, id, is_manager_server, lost_after, actor, restarts,
                max_pending);
    }
    bool is_actor() const { return !actor.empty(); }
    bool encrypted() const {
        return is_manager_server && authkey && std::holds_alternative<TcpAddress>(address);
    }
    // One for each server.
    std::string key() const {
        return is_manager_server ? "#" + std::to_string(id) : to_string(address);
    }
};

}  // namespace sidestep::detail
