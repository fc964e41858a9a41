// HMAC over OpenSSL: the hashes of the handshake, by the names that go over the wire.
//
// Threads: thread-safe.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace sidestep::inline v0 {

enum class MacHash { md5, sha256, sha384, sha3_256, sha3_384 };

std::string_view mac_hash_name(MacHash hash);
std::optional<MacHash> find_mac_hash(std::string_view name);

// Throws std::bad_alloc, and std::invalid_argument if this OpenSSL does not offer the hash (MD5
// under FIPS rules): a phrase that goes behind the name of the peer who asks for it.
std::string hmac(MacHash hash, std::string_view key, std::string_view message);

// Compares in a time that depends on the lengths only.
bool equal_in_constant_time(std::string_view a, std::string_view b);

}  // namespace sidestep
