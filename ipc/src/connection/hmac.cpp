#include "connection/hmac.hpp"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <new>
#include <stdexcept>

namespace sidestep::inline v0 {
namespace {

struct Entry {
    MacHash hash;
    std::string_view name;
    const EVP_MD* (*algorithm)();
};
constexpr Entry kHashes[] = {
    {MacHash::md5, "md5", EVP_md5},
    {MacHash::sha256, "sha256", EVP_sha256},
    {MacHash::sha384, "sha384", EVP_sha384},
    {MacHash::sha3_256, "sha3_256", EVP_sha3_256},
    {MacHash::sha3_384, "sha3_384", EVP_sha3_384},
};

const Entry& entry_of(MacHash hash) { return kHashes[static_cast<std::size_t>(hash)]; }

// OpenSSL has said why, unless it had no memory even for that.
[[noreturn]] void throw_refused(MacHash hash) {
    std::string reasons;
    bool no_memory = true;
    while (unsigned long error = ERR_get_error()) {
        no_memory = ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE;
        if (no_memory) break;
        const char* text = ERR_reason_error_string(error);
        reasons += fmt::format("{}{}", reasons.empty() ? "" : ", ", text ? text : "unknown");
    }
    ERR_clear_error();
    if (no_memory) throw std::bad_alloc();
    throw std::invalid_argument(fmt::format(
        "wants HMAC-{0}, which OpenSSL does not offer here ({1}); set Digest to another hash",
        mac_hash_name(hash), reasons));
}

}  // namespace

std::string_view mac_hash_name(MacHash hash) { return entry_of(hash).name; }

std::optional<MacHash> find_mac_hash(std::string_view name) {
    for (const Entry& entry : kHashes)
        if (entry.name == name) return entry.hash;
    return {};
}

std::string hmac(MacHash hash, std::string_view key, std::string_view message) {
    if (key.data() == nullptr) key = "";  // a null key means something else to OpenSSL
    ERR_clear_error();
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    const auto* text = reinterpret_cast<const unsigned char*>(message.data());
    if (HMAC(entry_of(hash).algorithm(), key.data(), static_cast<int>(key.size()), text,
             message.size(), mac, &size) == nullptr)
        throw_refused(hash);
    return std::string(reinterpret_cast<const char*>(mac), size);
}

bool equal_in_constant_time(std::string_view a, std::string_view b) {
    return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace sidestep
