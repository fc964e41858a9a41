// How long a client goes on connecting to an actor that is started again, when no process there
// comes to the end of a handshake.
#pragma once

#include <chrono>
#include <exception>
#include <optional>

namespace sidestep::inline v0::detail {

// A process that took a connection may die before it has answered, and has a successor. When none
// has answered for long, it is none of that, and who waits is told what it was.
class HandshakeFailures {
  public:
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::seconds kMost{30};  // as ClientOptions::timeout
    explicit HandshakeFailures(std::chrono::nanoseconds most = kMost) : most_(most) {}

    // In a handler of what it failed of: throws that again if each has failed for so long.
    void add() {
        const auto now = Clock::now();
        if (!since_) since_ = now;
        if (now - *since_ < most_) return;
        since_.reset();
        std::rethrow_exception(std::current_exception());
    }
    void clear() { since_.reset(); }

  private:
    const std::chrono::nanoseconds most_;
    std::optional<Clock::time_point> since_;
};

}  // namespace sidestep::detail
