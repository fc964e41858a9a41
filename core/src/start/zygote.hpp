// A zygote: a single-threaded process that forks children on request. They are children of the
// application (CLONE_PARENT), so that it waits for them itself and gets their exact status.
//
// Its children are of the user and groups that the application has when they start, and ignore the
// signals that it ignores then; the rest of their state is the zygote's own.
//
// Peer death: it ends when the application dies (lifeline, end of file on its socket), survives
//             SIGINT, and is reaped by ~Zygote. If it dies, launch() starts another one, or throws
//             if nothing says how: a fork of what this process was is not made again.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "start/launch.hpp"

namespace sidestep::inline v0 {

class Zygote final : public Launcher {
  public:
    // Forks this process as it is.
    static std::unique_ptr<Zygote> fork_here();
    // Takes over a child that runs zygote_main, or ends it if there is no memory for that.
    // `start_again` makes another one.
    static std::unique_ptr<Zygote> of(Launched child,
                                      std::function<Launched()> start_again = nullptr);
    ~Zygote() override;

    Launched launch(BootMain entry, const LaunchOptions& options) override;
    bool is_running() const;
    // The zygote itself.
    Launched& process() { return self_; }

  private:
    Zygote(Launched&& self, std::function<Launched()>&& start_again) noexcept
        : self_(std::move(self)), start_again_(std::move(start_again)) {}

    enum class Ready { answer, server_died, nothing };
    struct Answer {
        std::uint64_t number = 0;
        int pid = 0;
        int error = 0;
        Fd pidfd = {};
        bool closed = false;
    };
    Launched request_child(BootMain entry, const LaunchOptions& options);
    sys::ProcessHandle<Fd> receive_child(std::uint64_t number, sys::Deadline deadline);
    Ready await_answer(const sys::Deadline& deadline);
    Ready look_for_answer(const sys::Deadline& deadline);
    Answer receive_answer();
    Answer receive_without_pidfd();
    void settle(std::uint64_t number, int pid) noexcept;
    void settle_rest() noexcept;
    void end_server() noexcept;
    void kill_server() noexcept;

    Launched self_;
    bool server_died_ = false;
    std::uint64_t last_number_ = 0;  // of a request
    std::uint64_t settled_ = 0;      // up to here each child has an owner, or is gone
    const std::function<Launched()> start_again_;
};

// Throws a std::system_error that says how it ended. Its socket is closed: it is dead, or about to
// be. Without a reason, it is asked of the socket.
[[noreturn]] void throw_dead(const Launched& zygote, std::optional<std::string> reason = {});

// The zygote's loop.
void zygote_main(Fd control);

}  // namespace sidestep
