#include <sidestep/exit_status.hpp>

#include <fmt/format.h>

#include <cstring>

namespace sidestep::inline v0 {

std::string signal_name(int signal) {
    const char* name = sigabbrev_np(signal);
    return name ? fmt::format("SIG{}", name) : fmt::format("signal {}", signal);
}

std::string ExitStatus::describe() const {
    switch (kind_) {
        case Kind::running:
            return "is running";
        case Kind::exited:
            return fmt::format("exited with code {}", value_);
        case Kind::signaled:
            return fmt::format("died of signal {} ({}{})", value_, signal_name(value_),
                               core_dumped_ ? ", core dumped" : "");
        case Kind::lost:
            break;
    }
    return "ended; its exit status was taken by someone else (SIGCHLD ignored, or a foreign wait)";
}

}  // namespace sidestep
