// Between the addresses of the API and those of the kernel.
//
// Errors: std::invalid_argument for an address that cannot be; std::system_error for a host name
//         that cannot be resolved.
#pragma once

#include <vector>

#include <sidestep/address.hpp>

#include "sys/sys_socket.hpp"

namespace sidestep::inline v0 {

enum class AddressUse { listen, connect };

// In the order in which to try them: a host may have several. Never empty.
std::vector<sys::SocketAddress> resolve(const Address& address, AddressUse use);

Address from_kernel(const sys::SocketAddress& address);

}  // namespace sidestep
