#include "connection/tls.hpp"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <map>
#include <new>
#include <stdexcept>
#include <system_error>

#include "sys/error.hpp"
#include "sys/per_process.hpp"
#include "sys/sys_socket.hpp"

namespace sidestep::inline v0 {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kIdentity = "sidestep-1"sv;  // says which derivation
const unsigned char* identity_bytes() {
    return reinterpret_cast<const unsigned char*>(kIdentity.data());
}
constexpr std::string_view kSalt = "sidestep authkey 1"sv;
constexpr unsigned char kCipher[] = {0x13,
                                     0x01};  // TLS_AES_128_GCM_SHA256, whose hash fits the key
constexpr const char* kCipherName = "TLS_AES_128_GCM_SHA256";

// What OpenSSL says of its last error. For this library's own trouble.
[[noreturn]] void throw_openssl(const char* what) {
    unsigned long error = ERR_get_error();
    ERR_clear_error();
    if (ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE) throw std::bad_alloc();
    const char* text = ERR_reason_error_string(error);
    throw std::runtime_error(fmt::format("OpenSSL: {}: {}", what, text ? text : "unknown error"));
}

struct KnownKeys {
    std::mutex mutex;
    std::map<std::string, TlsKey> keys;  // guarded by mutex
};
PerProcess<KnownKeys> known_keys;
constexpr std::size_t kMostKnownKeys = 64;

}  // namespace

TlsKey TlsKey::of(const std::string& authkey) {
    KnownKeys& known = known_keys.get();
    std::lock_guard lock(known.mutex);
    auto found = known.keys.find(authkey);
    if (found != known.keys.end()) return found->second;
    TlsKey key;
    constexpr std::uint64_t kCost = 1 << 15, kBlock = 8, kParallel = 1;
    constexpr std::uint64_t kMemory = 64 << 20;
    if (EVP_PBE_scrypt(authkey.data(), authkey.size(),
                       reinterpret_cast<const unsigned char*>(kSalt.data()), kSalt.size(), kCost,
                       kBlock, kParallel, kMemory, key.bytes_, kSize) != 1)
        throw_openssl("scrypt of the authkey");
    if (known.keys.size() >= kMostKnownKeys) known.keys.clear();
    known.keys.emplace(authkey, key);
    return key;
}

namespace detail {

// How OpenSSL reads and writes the socket: it neither waits, nor raises SIGPIPE.
struct TlsIo {
    static TlsStream::Io& of(BIO* bio) { return *static_cast<TlsStream::Io*>(BIO_get_data(bio)); }

    static int result(BIO* bio, ssize_t size) {
        if (size >= 0) return static_cast<int>(size);
        if (errno == EAGAIN || errno == EWOULDBLOCK) return -1;
        of(bio).error = errno;
        BIO_clear_retry_flags(bio);
        return -1;
    }
    static int write(BIO* bio, const char* bytes, int size) {
        BIO_set_retry_write(bio);
        ssize_t sent;
        do
            sent = ::send(of(bio).socket, bytes, static_cast<std::size_t>(size),
                          MSG_NOSIGNAL | MSG_DONTWAIT);
        while (sent < 0 && errno == EINTR);
        return result(bio, sent);
    }
    static int read(BIO* bio, char* bytes, int size) {
        BIO_set_retry_read(bio);
        ssize_t got;
        do got = ::recv(of(bio).socket, bytes, static_cast<std::size_t>(size), MSG_DONTWAIT);
        while (got < 0 && errno == EINTR);
        if (got == 0) {
            of(bio).at_end = true;
            BIO_clear_retry_flags(bio);
        }
        return result(bio, got);
    }
    static long control(BIO* bio, int command, long, void*) {
        if (command == BIO_CTRL_EOF) return of(bio).at_end ? 1 : 0;
        return command == BIO_CTRL_FLUSH ? 1 : 0;
    }
    static const BIO_METHOD* method() {
        static BIO_METHOD* const made = [] {
            BIO_METHOD* fresh =
                BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "sidestep");
            if (!fresh) throw std::bad_alloc();
            BIO_meth_set_write(fresh, write);
            BIO_meth_set_read(fresh, read);
            BIO_meth_set_ctrl(fresh, control);
            BIO_meth_set_create(fresh, [](BIO* bio) {
                BIO_set_init(bio, 1);
                return 1;
            });
            return fresh;
        }();
        return made;
    }

    // The session that both sides resume, without ever having had it: the key in OpenSSL's terms.
    static SSL_SESSION* session(SSL* ssl) {
        const auto* stream = static_cast<const TlsStream*>(SSL_get_app_data(ssl));
        const SSL_CIPHER* cipher = SSL_CIPHER_find(ssl, kCipher);
        SSL_SESSION* made = SSL_SESSION_new();
        if (!made || !cipher ||
            SSL_SESSION_set1_master_key(made, stream->key_->bytes().data(), TlsKey::kSize) != 1 ||
            SSL_SESSION_set1_id_context(made, identity_bytes(),
                                        static_cast<unsigned>(kIdentity.size())) != 1 ||
            SSL_SESSION_set_cipher(made, cipher) != 1 ||
            SSL_SESSION_set_protocol_version(made, TLS1_3_VERSION) != 1) {
            SSL_SESSION_free(made);
            return nullptr;
        }
        return made;
    }
    static int use_key(SSL* ssl, const EVP_MD* wanted, const unsigned char** identity,
                       std::size_t* size, SSL_SESSION** made) {
        *made = nullptr;
        if (wanted && EVP_MD_type(wanted) != NID_sha256) return 1;  // not with this key
        *identity = identity_bytes();
        *size = kIdentity.size();
        *made = session(ssl);
        return *made ? 1 : 0;
    }
    static int find_key(SSL* ssl, const unsigned char* identity, std::size_t size,
                        SSL_SESSION** made) {
        const bool known =
            std::string_view(reinterpret_cast<const char*>(identity), size) == kIdentity;
        *made = known ? session(ssl) : nullptr;
        return known && !*made ? 0 : 1;
    }
};

namespace {

using Context = std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)>;

Context make_context(TlsStream::Side side) {
    const bool listens = side == TlsStream::Side::listener;
    Context context(SSL_CTX_new(listens ? TLS_server_method() : TLS_client_method()), SSL_CTX_free);
    if (!context) throw_openssl("TLS");
    SSL_CTX* raw = context.get();
    SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(raw, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    // All that has come is read at once, not the head of a record and then the rest.
    SSL_CTX_set_read_ahead(raw, 1);
    SSL_CTX_set_options(raw, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    if (SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(raw, kCipherName) != 1 || SSL_CTX_set_num_tickets(raw, 0) != 1 ||
        SSL_CTX_set_session_id_context(raw, identity_bytes(),
                                       static_cast<unsigned>(kIdentity.size())) != 1)
        throw_openssl("TLS 1.3");
    SSL_CTX_set_max_early_data(raw, 0);
    if (listens)
        SSL_CTX_set_psk_find_session_callback(raw, TlsIo::find_key);
    else
        SSL_CTX_set_psk_use_session_callback(raw, TlsIo::use_key);
    return context;
}

// Thread-safe, once made; to make one takes longer than a handshake.
SSL_CTX* context_of(TlsStream::Side side) {
    struct Contexts {
        Context listener = make_context(TlsStream::Side::listener);
        Context client = make_context(TlsStream::Side::client);
    };
    static PerProcess<Contexts> contexts;
    Contexts& here = contexts.get();
    return (side == TlsStream::Side::listener ? here.listener : here.client).get();
}

}  // namespace

TlsStream::TlsStream(Side side, const TlsKey& key)
    : side_(side), key_(&key), ssl_(nullptr, SSL_free) {
    ERR_clear_error();
    ssl_.reset(SSL_new(context_of(side)));
    BIO* bio = ssl_ ? BIO_new(TlsIo::method()) : nullptr;
    if (!bio) throw_openssl("TLS");
    BIO_set_data(bio, &io_);
    SSL_set_bio(ssl_.get(), bio, bio);
    SSL_set_app_data(ssl_.get(), this);
    if (side == Side::listener)
        SSL_set_accept_state(ssl_.get());
    else
        SSL_set_connect_state(ssl_.get());
}

TlsStream::~TlsStream() {
    // A forked child's copy may be half changed by a thread of its parent: it is left as it is.
    if (!process_.same_process()) (void)ssl_.release();
}

TlsStream::Progress TlsStream::advance(int socket) {
    std::lock_guard lock(mutex_);
    io_ = {socket, false, 0};
    ERR_clear_error();
    const int result = SSL_do_handshake(ssl_.get());
    if (result == 1) {
        // Nobody has a certificate, so there is no other way; this is for the day when one is
        // added.
        if (SSL_session_reused(ssl_.get()) == 1) return Progress::done;
        reason_ = "did not prove that it knows the authkey";
        return Progress::failed;
    }
    const int why = SSL_get_error(ssl_.get(), result);
    if (why == SSL_ERROR_WANT_READ) return Progress::goes_on;
    if (why == SSL_ERROR_WANT_WRITE) {
        reason_ = "does not read what it is sent";
        return Progress::failed;
    }
    const unsigned long error = ERR_peek_error();
    if (ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE) throw_openssl("handshake");
    const char* text = error != 0 ? ERR_reason_error_string(error) : nullptr;
    if (io_.at_end)
        reason_ = "closed the connection during the handshake";
    else if (io_.error != 0)
        reason_ =
            fmt::format("broke off the handshake: {}", std::generic_category().message(io_.error));
    else
        reason_ = fmt::format(
            "does not know the authkey, or does not speak TLS 1.3 with a key that is derived from "
            "it ({})",
            text ? text : "no reason given");
    ERR_clear_error();
    return Progress::failed;
}

void TlsStream::expect_own() const {
    if (!process_.same_process())
        throw_errno(EBADF,
                    "an encrypted connection belongs to the process that made it: a forked child "
                    "has to connect by itself");
}

// With the mutex held, behind a call that failed.
void TlsStream::throw_broken(const char* what) const {
    ERR_clear_error();
    if (io_.error != 0) throw_errno(io_.error, what);
    if (io_.at_end)
        throw_errno(ECONNRESET, fmt::format("{}: the stream was cut off, without the other side's "
                                            "goodbye",
                                            what));
    throw_errno(EBADMSG, fmt::format("{}: something came that the other side did not send", what));
}

namespace {
void wait_for_peer(int socket, short event, const std::optional<Timeout>& silence) {
    if (!sys::wait_ready(socket, event, deadline_after(silence)))
        throw_errno(ETIMEDOUT, fmt::format("the other side has been silent for {} ms",
                                           silence->count() / 1'000'000));
}
}  // namespace

std::size_t TlsStream::send_some(int socket, std::span<const std::byte> head,
                                 std::span<const std::byte> body,
                                 const std::optional<Timeout>& silence) {
    expect_own();
    std::span<const std::byte> bytes = head.empty() ? body : head;
    if (bytes.empty()) return 0;
    for (;;) {
        short event = POLLOUT;
        {
            std::lock_guard lock(mutex_);
            io_ = {socket, false, 0};
            ERR_clear_error();
            std::size_t sent = 0;
            const int result = SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &sent);
            if (result == 1) return sent;
            const int why = SSL_get_error(ssl_.get(), result);
            if (why == SSL_ERROR_WANT_READ)
                event = POLLIN;
            else if (why != SSL_ERROR_WANT_WRITE)
                throw_broken("send");
        }
        wait_for_peer(socket, event, silence);
    }
}

std::size_t TlsStream::receive_some(int socket, std::span<std::byte> buffer,
                                    const std::optional<Timeout>& silence) {
    expect_own();
    for (;;) {
        short event = POLLIN;
        {
            std::lock_guard lock(mutex_);
            io_ = {socket, false, 0};
            ERR_clear_error();
            std::size_t got = 0;
            const int result = SSL_read_ex(ssl_.get(), buffer.data(), buffer.size(), &got);
            if (result == 1) return got;
            const int why = SSL_get_error(ssl_.get(), result);
            if (why == SSL_ERROR_ZERO_RETURN) return 0;
            if (why == SSL_ERROR_WANT_WRITE)
                event = POLLOUT;
            else if (why != SSL_ERROR_WANT_READ)
                throw_broken("recv");
        }
        wait_for_peer(socket, event, silence);
    }
}

bool TlsStream::pending() const noexcept {
    if (!process_.same_process()) return false;
    std::lock_guard lock(mutex_);
    return SSL_has_pending(ssl_.get()) == 1;
}

void TlsStream::say_goodbye(int socket) noexcept {
    if (!process_.same_process()) return;
    std::lock_guard lock(mutex_);
    if (SSL_in_init(ssl_.get()) != 0) return;
    io_ = {socket, false, 0};
    ERR_clear_error();
    (void)SSL_shutdown(ssl_.get());
    ERR_clear_error();
}

}  // namespace detail
}  // namespace sidestep
