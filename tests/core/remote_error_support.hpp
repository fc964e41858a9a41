// Sends exceptions across: save where they are caught, load, throw again.
#pragma once

#include <exception>
#include <functional>
#include <string>

#include <sidestep/remote_error.hpp>

#include "archive_support.hpp"

namespace test {

// The bytes of what throw_it() throws.
template <class Throw>
Bytes saved_exception(Throw throw_it, const std::string& where = "  in worker 1\n") {
    sidestep::detail::HeapBuffer buffer;
    sidestep::OutputArchive archive(buffer);
    try {
        throw_it();
    } catch (...) {
        sidestep::detail::save_current_exception(archive, where);
    }
    return {buffer.bytes().begin(), buffer.bytes().end()};
}

inline std::exception_ptr loaded_exception(std::span<const std::byte> bytes) {
    sidestep::InputArchive archive(bytes);
    std::exception_ptr error = sidestep::detail::load_exception(archive);
    archive.expect_end();
    return error;
}

// What arrives on the other side of one crossing, or of several. (Not a template: it would
// instantiate itself without end.)
inline std::exception_ptr crossed(const std::function<void()>& throw_it, int times = 1) {
    std::exception_ptr error = loaded_exception(saved_exception(throw_it));
    for (int i = 1; i < times; ++i)
        error = loaded_exception(saved_exception([&] { std::rethrow_exception(error); }));
    return error;
}

// Calls check(e) with what is caught as exactly an E: as no class derived from E that is thrown by
// users. False if it is caught as something else.
template <class E, class Check>
bool arrives_as(const std::exception_ptr& error, Check check) {
    try {
        std::rethrow_exception(error);
    } catch (const E& e) {
        check(e);
        return true;
    } catch (...) {
        return false;
    }
}
template <class E>
bool arrives_as(const std::exception_ptr& error) {
    return arrives_as<E>(error, [](const E&) {});
}

inline std::string message_of(const std::exception_ptr& error) {
    std::string text;
    arrives_as<std::exception>(error, [&](const std::exception& e) { text = e.what(); });
    return text;
}

}  // namespace test
