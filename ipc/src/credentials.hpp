// What Listener and Client share: options to credentials, and a handshake's bytes to its socket.
#pragma once

#include <string>

#include <sidestep/listener.hpp>

#include "handshake.hpp"

namespace sidestep {

Credentials make_credentials(const std::string& authkey, Digest digest, bool legacy_md5);

// Moves what can be moved without waiting: sends what the handshake has to say, gives it what has
// come. True: it goes on. False: it is over. A broken socket fails the handshake; nothing is
// thrown for what a peer does.
bool advance(int socket, Handshake& handshake);

// No delay for small messages, and notice of a peer whose machine is gone.
void set_tcp_options(int socket) noexcept;

}  // namespace sidestep
