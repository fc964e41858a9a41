// What a child inherits of its parent's log, and how the library itself logs.
#pragma once

#include <fmt/format.h>

#include <cstdint>

#include <sidestep/logging.hpp>

namespace sidestep::inline v0 {

struct LogSettings {
    std::int32_t level = 0;
    std::int32_t default_level = 0;
    bool to_stderr = false;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(level, default_level, to_stderr);
    }
};
LogSettings log_settings();
void inherit_log_settings(const LogSettings& settings);

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
