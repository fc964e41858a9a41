// What a child inherits of its parent's log.
#pragma once

#include <cstdint>

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

}  // namespace sidestep
