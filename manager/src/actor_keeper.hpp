// The processes of an actor.
//
// One that is not started again has one: it has the object, and serves it. Else that one is a
// keeper: it has the listening socket, the constructor's arguments and the board, runs no code of
// the object's, and forks the process that has the object; again when that has died. So the owner
// needs no thread for it, by each start method, all processes begin with the same memory, and
// whoever connects meanwhile waits at the socket. When it is not started again any more, the keeper
// itself answers all calls: how the last one ended.
//
// Peer death: keeper and object end with their parents, by their lifelines.
#pragma once

#include <cstddef>
#include <vector>

#include <sidestep/address.hpp>
#include <sidestep/detail/actor_host.hpp>

#include "object_frame.hpp"

namespace sidestep::inline v0::detail {

// The first that the owner hears.
struct ActorBegun {
    UnixAddress address = {};
    bool serves = false;
    std::vector<std::byte> thrown = {};  // by the constructor; empty: it threw nothing
    Casualty end = {};                   // it died, and threw nothing

    template <class Archive>
    void serialize(Archive& archive) {
        archive(address, serves, thrown, end);
    }
};

ServerName actor_server(const ActorSetup& setup, const Address& address, int pid);

}  // namespace sidestep::detail
