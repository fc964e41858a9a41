// Where a Listener listens and a Client connects: UnixAddress and TcpAddress.
//
// Threads: values; as thread-safe as a std::string.
// Errors:  addresses are validated where they are used: std::invalid_argument names what is wrong
//          (a NUL in a path, a path of more than 107 bytes, a host without a name).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

namespace sidestep::inline v0 {

// A socket on this machine. Descriptors and connections travel over these, and only these.
//
// A path names a file, which the Listener creates and removes; the file's permissions say who may
// connect, and its folder's who may put one there first. An abstract name is no file and vanishes
// with its last socket, even after kill -9; it has no permissions, and belongs to whoever takes it
// first. Without an authkey, Listener and Client look at the other side's user: see listener.hpp.
// An empty path asks the Listener for a fresh abstract name. (In Python's notation an abstract
// name begins with '\0'.)
struct UnixAddress {
    std::string path = {};
    bool is_abstract = false;

    static UnixAddress abstract(std::string name) { return {std::move(name), true}; }
    bool operator==(const UnixAddress&) const = default;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(path, is_abstract);
    }
};

// A host (name, IPv4 or IPv6 address) and a port; the Listener picks a free one for port 0.
// A Listener on "" takes connections over every interface, to IPv4 addresses; on "::", to IPv6 and
// IPv4 addresses (to IPv6 alone if the system says so: net.ipv6.bindv6only).
struct TcpAddress {
    std::string host = "127.0.0.1";
    std::uint16_t port = 0;

    bool operator==(const TcpAddress&) const = default;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(host, port);
    }
};

using Address = std::variant<UnixAddress, TcpAddress>;

// "127.0.0.1:4711", "[::1]:4711", "/run/me/socket" or "@name" for an abstract one.
std::string to_string(const Address& address);

}  // namespace sidestep
