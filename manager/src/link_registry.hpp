// The links of this process, one for each server.
//
// Threads: as its fields say.
// Fork:    a forked child has a registry of its own.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "server_link.hpp"
#include "sys/per_process.hpp"

namespace sidestep::inline v0::detail {

// The link to one server. Made with its own mutex: while one server does not answer, the others do.
struct LinkSlot {
    std::mutex making;
    // Guarded by the registry's mutex. It stays: a worker's next task has the same proxies. But a
    // session that this process began with connect() ends with the last who has it.
    std::shared_ptr<ServerLink> lasting;
    std::weak_ptr<ServerLink> link;
};
struct LinkRegistry {
    std::mutex mutex;
    std::map<std::string, std::shared_ptr<LinkSlot>>
        slots;  // guarded by mutex; by ServerName::key()
    bool reports_at_exit = false;
};
LinkRegistry& link_registry();

// Nobody is at the server's address any more, or another one is. Two seconds at most; false, too,
// if that leaves it open.
bool has_ended(const ServerName& server);

}  // namespace sidestep::detail
