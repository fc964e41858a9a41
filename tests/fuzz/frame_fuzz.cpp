// Frames from a peer that says anything: the receiving half of a Connection.
//
// Holds: only the documented exceptions leave it, no more bytes come out than went in, and after a
// frame that is refused nothing is received any more. A length alone takes 16 MiB at most.
#include <sidestep/connection.hpp>

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <system_error>

#include "memory.hpp"

using namespace sidestep;

namespace {

std::size_t receive_one(Connection& connection, unsigned how) {
    std::byte buffer[64];
    switch (how % 4) {
        case 0:
            return connection.recv_bytes(1 << 20).size();
        case 1:
            try {
                return connection.recv_bytes_into(buffer);
            } catch (const BufferTooShort& error) {
                return error.message().size();
            }
        case 2:
            try {
                (void)connection.recv<std::vector<std::string>>(1 << 20);
            } catch (const SerializationError&) {
            }
            return 0;
        default:
            return connection.recv_bytes().size();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    if (size < 2 || size > 100000) return 0;
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) std::abort();
    fuzz::begin();
    Connection connection(fds[0]);
    unsigned how = data[0], step = data[1];
    std::size_t wire = size - 2, received = 0;
    if (write(fds[1], data + 2, wire) != static_cast<ssize_t>(wire)) std::abort();
    close(fds[1]);
    try {
        for (;; how += step) received += receive_one(connection, how);
    } catch (const EndOfStream&) {
    } catch (const std::system_error&) {
        if (connection.readable()) std::abort();
    }
    if (received > wire) std::abort();
    fuzz::end(size, 20, 18 << 20);
    return 0;
}
