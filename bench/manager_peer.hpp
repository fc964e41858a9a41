// What manager_bench measures ours beside, each built in where Debian's package is found. The
// server of a peer is this program once more, with "--serve NAME": it writes its address in a line,
// and serves until it is ended.
#pragma once

#include <sidestep/subprocess.hpp>

#include <cstdio>
#include <string>

namespace bench {

// A server's process, until the end of this object.
class PeerServer {
  public:
    explicit PeerServer(const std::string& name)
        : process_({"/proc/self/exe", "--serve", name},
                   {.std_out = sidestep::subprocess::PIPE, .die_with_parent = true}) {
        address_ = process_.std_out().read_line().value_or("");
    }
    ~PeerServer() {
        process_.kill();
        process_.wait();
    }
    PeerServer(const PeerServer&) = delete;
    PeerServer& operator=(const PeerServer&) = delete;
    const std::string& address() const { return address_; }

  private:
    sidestep::subprocess::Popen process_;
    std::string address_;
};

inline void say_address(const std::string& address) {
    std::printf("%s\n", address.c_str());
    std::fflush(stdout);
}

// Rows connection, bare_tcp, bare_tls and connection_payload: the floors.
void register_manager_floors();
// Rows capnp/..., over a Unix socket of an abstract name: no file is left.
void register_capnp();
[[noreturn]] void serve_capnp();
// Rows grpc/..., over the same.
void register_grpc();
[[noreturn]] void serve_grpc();
// Rows caf/..., over TCP on loopback: CAF has nothing else.
void register_caf();
[[noreturn]] void serve_caf();

}  // namespace bench
