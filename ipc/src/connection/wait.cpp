#include <sidestep/wait.hpp>

#include <fmt/format.h>
#include <poll.h>

#include <cerrno>
#include <stdexcept>

#include "sys/error.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {

std::vector<Waitable> wait(std::span<const Waitable> things, std::optional<Timeout> timeout) {
    sys::Deadline deadline = detail::deadline_after(timeout);
    std::vector<pollfd> entries;
    entries.reserve(things.size());
    for (const Waitable& thing : things) {
        if (thing.fd() < 0)
            throw std::invalid_argument(fmt::format(
                "wait: {} is not a descriptor; wait on something that is open", thing.fd()));
        if (thing.buffered()) deadline = sys::Clock::now();
        entries.push_back({.fd = thing.fd(), .events = POLLIN, .revents = 0});
    }
    for (;;) {
        int count = ::poll(entries.data(), entries.size(), sys::poll_timeout(deadline));
        if (count < 0 && errno != EINTR) throw_errno(errno, "poll");
        if (count > 0 || (deadline && sys::Clock::now() >= *deadline)) break;
    }
    std::vector<Waitable> ready;
    for (std::size_t i = 0; i < entries.size(); ++i) {
        if ((entries[i].revents & POLLNVAL) != 0)
            throw_errno(EBADF, fmt::format("wait: fd {} is not open", entries[i].fd));
        if (entries[i].revents != 0 || things[i].buffered()) ready.push_back(things[i]);
    }
    return ready;
}

}  // namespace sidestep
