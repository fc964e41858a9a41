#include "start/boot_failure.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>

namespace sidestep::inline v0 {
namespace {

struct BootFailure {
    static constexpr std::uint64_t kMagic = 0x6c6961666f6f7462;
    std::uint64_t magic = kMagic;
    char text[504] = {};
};

// Of the thread that boots; atomic, since it is looked at by whoever forks.
std::atomic<int> reporter{-1};

}  // namespace

void begin_boot(int control) noexcept {
    end_boot();  // a forked child starts with a copy of its parent's
    reporter = ::fcntl(control, F_DUPFD_CLOEXEC, 3);  // none is free: stderr alone is told
}

void end_boot() noexcept {
    int fd = reporter.exchange(-1);
    if (fd >= 0) ::close(fd);
}

void report_boot_failure(const char* text) noexcept {
    if (reporter < 0) return;
    BootFailure failure;
    std::strncpy(failure.text, text, sizeof failure.text - 1);
    (void)::send(reporter, &failure, sizeof failure, MSG_NOSIGNAL | MSG_DONTWAIT);
    end_boot();
}

std::optional<std::string> take_boot_failure(int control) {
    BootFailure failure;
    failure.magic = 0;
    ssize_t size = -1;
    // ECONNRESET comes once, and first: the child died with something unread.
    int resets = 0;
    do size = ::recv(control, &failure, sizeof failure, MSG_PEEK | MSG_DONTWAIT);
    while (size < 0 && (errno == EINTR || (errno == ECONNRESET && resets++ == 0)));
    if (size != sizeof failure || failure.magic != BootFailure::kMagic) return {};
    std::string text(failure.text, ::strnlen(failure.text, sizeof failure.text));
    (void)::recv(control, &failure, sizeof failure, MSG_DONTWAIT);
    return text;
}

}  // namespace sidestep
