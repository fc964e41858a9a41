// How the library itself logs.
#pragma once

#include <fmt/format.h>

#include <utility>

#include <sidestep/logging.hpp>

namespace sidestep::inline v0 {

// Formats only what will be written. Never throws: a log that fails must not fail a process.
template <class... Args>
void log_line(LogLevel level, SourceLine where, fmt::format_string<Args...> format,
              Args&&... args) noexcept {
    try {
        Logger& logger = get_logger();
        if (logger.is_enabled(level))
            logger.log(level, fmt::format(format, std::forward<Args>(args)...), where);
    } catch (...) {
    }
}

}  // namespace sidestep
