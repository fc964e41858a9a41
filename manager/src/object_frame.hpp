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
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <sidestep/connection.hpp>
#include <sidestep/task.hpp>

namespace sidestep::inline v0::detail {

enum class FrameKind : std::uint8_t { call, pin, claim, release, waits, value, error };

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

// How a client finds a server: in each proxy.
struct ServerName {
    Address address;
    std::string authkey;
    int pid = 0;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(address, authkey, pid);
    }
};

}  // namespace sidestep::detail
