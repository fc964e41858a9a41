#include <sidestep/address.hpp>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>

#include <cctype>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <system_error>

#include "connection/socket_address.hpp"
#include "sys/error.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr std::size_t kPathOffset = offsetof(sockaddr_un, sun_path);
constexpr std::size_t kLongestPath = sizeof(sockaddr_un::sun_path) - 1;

std::string printable_name(const std::string& name) {
    std::string text;
    for (char c : name)
        text += std::isprint(static_cast<unsigned char>(c))
                    ? std::string(1, c)
                    : fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    return text;
}

void validate(const UnixAddress& address) {
    if (address.path.size() > kLongestPath)
        throw std::invalid_argument(
            fmt::format("the socket address {} has {} bytes, and {} fit; use a shorter path, or an "
                        "abstract name",
                        to_string(address), address.path.size(), kLongestPath));
    if (address.is_abstract) return;
    if (address.path.find('\0') != std::string::npos)
        throw std::invalid_argument(
            fmt::format("the socket path {} has a NUL in it; UnixAddress::abstract(name) makes an "
                        "abstract name",
                        to_string(address)));
    if (address.path.starts_with("\\\\"))
        throw std::invalid_argument(fmt::format(
            "{} names a Windows pipe; there are Unix and TCP addresses here", address.path));
}

sys::SocketAddress to_kernel(const UnixAddress& address, AddressUse use) {
    validate(address);
    if (address.path.empty() && use == AddressUse::connect)
        throw std::invalid_argument(
            "cannot connect to an empty path; ask the listener's address()");
    sockaddr_un plain = {};
    plain.sun_family = AF_UNIX;
    // "\0name" for an abstract one; the family alone asks the kernel to pick a name (unix(7)).
    std::size_t lead = address.is_abstract ? 1 : 0;
    std::memcpy(plain.sun_path + lead, address.path.data(), address.path.size());
    sys::SocketAddress result;
    std::memcpy(&result.storage, &plain, sizeof plain);
    std::size_t size = address.path.empty()
                           ? kPathOffset
                           : kPathOffset + address.path.size() + 1;  // the NUL, in front or behind
    result.size = static_cast<socklen_t>(size);
    return result;
}

std::vector<sys::SocketAddress> to_kernel(const TcpAddress& address, AddressUse use) {
    if (address.host.empty() && use == AddressUse::connect)
        throw std::invalid_argument("cannot connect to a TCP address without a host");
    addrinfo hints = {};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV | (use == AddressUse::listen ? AI_PASSIVE : 0);
    addrinfo* list = nullptr;
    std::string port = fmt::format("{}", address.port);
    int error = ::getaddrinfo(address.host.empty() ? nullptr : address.host.c_str(), port.c_str(),
                              &hints, &list);
    if (error != 0)
        throw std::system_error(
            error == EAI_SYSTEM ? errno : EADDRNOTAVAIL, std::generic_category(),
            fmt::format("cannot resolve the host {}: {}", address.host, ::gai_strerror(error)));
    std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, ::freeaddrinfo);
    std::vector<sys::SocketAddress> result;
    for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
        sys::SocketAddress one;
        std::memcpy(&one.storage, entry->ai_addr, entry->ai_addrlen);
        one.size = entry->ai_addrlen;
        result.push_back(one);
    }
    return result;
}

}  // namespace

std::string to_string(const Address& address) {
    if (const auto* local = std::get_if<UnixAddress>(&address))
        return (local->is_abstract ? "@" : "") + printable_name(local->path);
    const auto& tcp = std::get<TcpAddress>(address);
    bool is_v6 = tcp.host.find(':') != std::string::npos;
    return fmt::format("{}{}{}:{}", is_v6 ? "[" : "", tcp.host, is_v6 ? "]" : "", tcp.port);
}

std::vector<sys::SocketAddress> resolve(const Address& address, AddressUse use) {
    if (const auto* local = std::get_if<UnixAddress>(&address)) return {to_kernel(*local, use)};
    return to_kernel(std::get<TcpAddress>(address), use);
}

Address from_kernel(const sys::SocketAddress& address) {
    char text[INET6_ADDRSTRLEN] = {};
    if (address.storage.ss_family == AF_INET) {
        sockaddr_in plain;
        std::memcpy(&plain, &address.storage, sizeof plain);
        ::inet_ntop(AF_INET, &plain.sin_addr, text, sizeof text);
        return TcpAddress{text, ntohs(plain.sin_port)};
    }
    if (address.storage.ss_family == AF_INET6) {
        sockaddr_in6 plain;
        std::memcpy(&plain, &address.storage, sizeof plain);
        ::inet_ntop(AF_INET6, &plain.sin6_addr, text, sizeof text);
        return TcpAddress{text, ntohs(plain.sin6_port)};
    }
    sockaddr_un plain;
    std::memcpy(&plain, &address.storage, sizeof plain);
    if (address.size <= kPathOffset) return UnixAddress{};
    std::size_t size = address.size - kPathOffset;
    if (plain.sun_path[0] == '\0')
        return UnixAddress::abstract(std::string(plain.sun_path + 1, size - 1));
    return UnixAddress{std::string(plain.sun_path, ::strnlen(plain.sun_path, size))};
}

}  // namespace sidestep
