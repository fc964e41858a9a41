// What Listener and Client share: options to credentials, and a handshake's bytes to its socket.
#pragma once

#include <string>

#include <sidestep/listener.hpp>

#include "connection/handshake.hpp"

namespace sidestep::inline v0 {

Credentials make_credentials(const std::string& authkey, Digest digest, bool legacy_md5);

// Moves what can be moved without waiting: sends what the handshake has to say, gives it what has
// come. True: it goes on. False: it is over. A connection that breaks fails the handshake; nothing
// is thrown for what a peer does. Trouble of our own (no memory, no buffers) is thrown: it says
// nothing about the peer, and the handshake is lost with it.
bool advance(int socket, Handshake& handshake);

// Without a key, only the kernel can say who is there: throws AuthenticationError unless a peer on
// this Unix socket is of our own user, or root.
void expect_own_user(int socket, const std::string& who, const char* remedy);
bool is_own_user(int socket);

// No delay for small messages, and notice of a peer whose machine is gone.
void set_tcp_options(int socket) noexcept;

}  // namespace sidestep
