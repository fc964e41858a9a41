// What tests of objects in other processes have in common.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <exception>
#include <string>
#include <utility>

#include <sidestep/connection.hpp>
#include <sidestep/manager.hpp>

#include "object_frame.hpp"

namespace test {

template <class F>
std::string text_of_error(F&& f) {
    try {
        std::forward<F>(f)();
    } catch (const std::exception& error) {
        return error.what();
    }
    return "nothing was thrown";
}

// As it goes over a stream.
inline std::string bytes_of(const sidestep::detail::ObjectFrame& frame) {
    auto [here, there] = sidestep::Pipe();
    here.send(frame);
    std::string bytes(65536, '\0');
    const ssize_t size = ::recv(there.fd(), bytes.data(), bytes.size(), 0);
    bytes.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
    return bytes;
}

// The key and the address of the server, as they are in each proxy.
inline sidestep::detail::ServerName server_of(const sidestep::EventProxy& proxy) {
    sidestep::detail::HeapBuffer buffer;
    sidestep::OutputArchive output(buffer);
    output(proxy);
    sidestep::InputArchive input(buffer.bytes());
    bool any = false;
    sidestep::detail::ServerName server;
    input(any, server);
    return server;
}

}  // namespace test
