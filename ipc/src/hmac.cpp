#include "hmac.hpp"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <stdexcept>

namespace sidestep {
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

}  // namespace

std::string_view mac_hash_name(MacHash hash) { return entry_of(hash).name; }

std::optional<MacHash> find_mac_hash(std::string_view name) {
    for (const Entry& entry : kHashes)
        if (entry.name == name) return entry.hash;
    return {};
}

std::string hmac(MacHash hash, std::string_view key, std::string_view message) {
    if (key.data() == nullptr) key = "";  // a null key means something else to OpenSSL
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    const auto* text = reinterpret_cast<const unsigned char*>(message.data());
    if (HMAC(entry_of(hash).algorithm(), key.data(), static_cast<int>(key.size()), text,
             message.size(), mac, &size) == nullptr)
        throw std::runtime_error(
            fmt::format("OpenSSL refuses HMAC-{} (FIPS rules?)", mac_hash_name(hash)));
    return std::string(reinterpret_cast<const char*>(mac), size);
}

bool equal_in_constant_time(std::string_view a, std::string_view b) {
    return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace sidestep
