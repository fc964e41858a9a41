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
// value    | server | number  | -      | -      | -    | result
// error    | server | number  | -      | -      | -    | exception
// and of a ManagerServer, whose clients may be other programs:
// hello    | client | number  | -      | -      | -    | kProtocol; value: a Welcome
// get      | client | number  | -      | -      | -    | name, type; value: object, functions?
// invoke   | client | number  | thread | object | -    | the method's name, arguments
// beat     | both   | -       | -      | -      | -    | - (a server answers with one)
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <sidestep/address.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/task.hpp>

namespace sidestep::inline v0::detail {

// Between programs of other builds: what changes the frames changes this.
constexpr std::uint32_t kProtocol = 1;

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
    beat
};

struct FrameHead {
    FrameKind kind = FrameKind::call;
    std::uint64_t request = 0;
    std::uint64_t caller = 0;
    std::uint64_t object = 0;
    TaskId task = {};

    template <class Archive>
    void serialize(Archive& archive) {
        archive(kind, request, caller, object, task.where, task.signature);
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

    void save(OutputArchive& archive) const {
        archive(head);
        for (int fd : fds) (void)archive.fds()->put(fd);  // in order: their numbers are the same
        archive.write(body.data(), body.size());
    }
    void load(InputArchive& archive) {
        archive(head);
        auto rest = archive.view(archive.remaining());
        bytes.assign(rest.begin(), rest.end());
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

// How a client finds a server: in each proxy.
struct ServerName {
    Address address;
    std::optional<std::string> authkey;
    int pid = 0;
    // Of a ManagerServer: random, so that one that is started at the same address is another one.
    std::uint64_t id = 0;
    bool is_manager_server = false;
    std::chrono::nanoseconds lost_after{};  // of this client's session

    template <class Archive>
    void serialize(Archive& archive) {
        archive(address, authkey, pid, id, is_manager_server, lost_after);
    }
    bool encrypted() const {
        return is_manager_server && authkey && std::holds_alternative<TcpAddress>(address);
    }
    // One for each server.
    std::string key() const {
        return is_manager_server ? "#" + std::to_string(id) : to_string(address);
    }
};

}  // namespace sidestep::detail
