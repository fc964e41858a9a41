// TLS 1.3 over a stream socket, with a key that both sides derive from their authkey (an external
// PSK, with ephemeral (EC)DHE beside it): no certificates, nothing to set up.
//
// A handshake proves both sides: it ends with an error unless both have the key, since neither has
// anything else to show. What is sent afterwards is encrypted, and cannot be changed, left out,
// repeated or cut short unnoticed. Who records a handshake can try weak keys at home, each of
// which costs a scrypt.
//
// Threads:    one thread may send while another receives.
// Fork:       it belongs to the process that made it: two that go on with the same keys and
//             counters would give both away. In a forked child all calls throw (EBADF).
// Errors:     std::system_error: EBADMSG for what is no record of this session (altered, injected,
//             no TLS), ECONNRESET where the stream ends without a goodbye.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include <sidestep/connection.hpp>
#include <sidestep/timeout.hpp>

#include "sys/fork_marker.hpp"

struct ssl_st;
struct ssl_ctx_st;

namespace sidestep::inline v0 {

// The key for an authkey: by scrypt (about 60 ms and 32 MiB), once for each process and authkey.
class TlsKey {
  public:
    static constexpr std::size_t kSize = 32;
    static TlsKey of(const std::string& authkey);
    std::span<const unsigned char, kSize> bytes() const { return bytes_; }

  private:
    unsigned char bytes_[kSize] = {};
};

namespace detail {

class TlsStream {
  public:
    enum class Side { listener, client };
    enum class Progress { goes_on, done, failed };

    // The key must outlive the handshake.
    TlsStream(Side side, const TlsKey& key);
    ~TlsStream();
    TlsStream(const TlsStream&) = delete;
    TlsStream& operator=(const TlsStream&) = delete;

    // --- the handshake: never waits -----------------------------------------------------------
    // goes_on: more has to come from the peer.
    Progress advance(int socket);
    // Why it failed: a phrase that goes behind the peer's name.
    const std::string& reason() const { return reason_; }

    // --- then ---------------------------------------------------------------------------------
    // Sends at least one byte of `head` followed by `body`. With a limit on silence, ETIMEDOUT if
    // nothing is taken for so long.
    std::size_t send_some(int socket, std::span<const std::byte> head,
                          std::span<const std::byte> body, const std::optional<Timeout>& silence);
    // Receives at least one byte; 0: the other side said goodbye. ETIMEDOUT, as above.
    std::size_t receive_some(int socket, std::span<std::byte> buffer,
                             const std::optional<Timeout>& silence);
    // Throws (EBADF) in a forked child.
    void expect_own() const;
    // Something was read already, a part of a record at least: the socket need not be readable.
    bool pending() const noexcept;
    // Tells the other side that no more comes, if that needs no waiting.
    void say_goodbye(int socket) noexcept;

  private:
    struct Io {  // of the call that is under way
        int socket = -1;
        bool at_end = false;
        int error = 0;
    };
    friend struct TlsIo;
    [[noreturn]] void throw_broken(const char* what) const;

    const ForkMarker process_;
    const Side side_;
    const TlsKey* key_;
    std::string reason_;

    mutable std::mutex mutex_;  // held for a call of OpenSSL, never while waiting
    // Guarded by mutex_.
    Io io_;
    std::unique_ptr<ssl_st, void (*)(ssl_st*)> ssl_;
};

}  // namespace detail
}  // namespace sidestep
