// What tests of objects in other processes have in common.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <utility>

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
