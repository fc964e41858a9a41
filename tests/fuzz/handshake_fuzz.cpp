// Handshakes with a peer that says anything, and with an honest one over a wire that lies.
//
// Holds: who does not know the key is never authenticated, however the bytes are cut; and if any
// byte between two honest sides is changed, at least one of them fails.
#include "connection/handshake.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "memory.hpp"

using namespace sidestep;
using State = Handshake::State;

namespace {

using Bytes = std::string;

void feed(Handshake& handshake, std::string_view bytes) {
    while (!bytes.empty() && !handshake.over()) {
        std::span<std::byte> room = handshake.wanted();
        if (room.empty() || room.size() > Handshake::kMaxMessage) std::abort();
        std::size_t size = std::min(room.size(), bytes.size());
        std::memcpy(room.data(), bytes.data(), size);
        handshake.received(size);
        bytes.remove_prefix(size);
    }
}

// Says `bytes` in pieces of `piece`, and listens to nothing.
void against_a_stranger(Handshake::Side side, const Credentials& credentials,
                        std::string_view bytes, std::size_t piece) {
    Handshake handshake(side, credentials);
    while (!bytes.empty() && !handshake.over()) {
        std::size_t size = std::min(bytes.size(), piece);
        feed(handshake, bytes.substr(0, size));
        bytes.remove_prefix(size);
        if (handshake.take_output().size() > 2 * Handshake::kMaxMessage) std::abort();
    }
    if (handshake.state() == State::authenticated) std::abort();
}

// What the fuzzer says is laid over the conversation (xor); zeros change nothing.
void over_a_bad_wire(const Credentials& credentials, std::string_view noise) {
    Handshake listener(Handshake::Side::listener, credentials);
    Handshake client(Handshake::Side::client, credentials);
    bool changed = false;
    auto carry = [&](Handshake& from, Handshake& to) {
        Bytes bytes = from.take_output();
        for (char& c : bytes) {
            if (noise.empty()) break;
            changed = changed || noise[0] != 0;
            c = static_cast<char>(c ^ noise[0]);
            noise.remove_prefix(1);
        }
        feed(to, bytes);
    };
    for (int i = 0; i < 8; ++i) {
        carry(listener, client);
        carry(client, listener);
    }
    bool both = listener.state() == State::authenticated && client.state() == State::authenticated;
    if (both == changed) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    if (size < 1) return 0;
    std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
    Credentials credentials = {"a key that the fuzzer does not know", MacHash::sha256,
                               (data[0] & 1) != 0};
    std::size_t piece = 1 + data[0] / 4u;
    fuzz::begin();
    against_a_stranger(Handshake::Side::listener, credentials, bytes, piece);
    against_a_stranger(Handshake::Side::client, credentials, bytes, piece);
    over_a_bad_wire(credentials, bytes);
    fuzz::end(0, 0, 256 << 10);  // whatever is said: before the key, nothing grows
    return 0;
}
