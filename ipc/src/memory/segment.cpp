#include "memory/segment.hpp"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <string>
#include <system_error>

#include "sys/error.hpp"

namespace sidestep::inline v0 {
namespace {

std::optional<std::size_t> limit_of(decltype(RLIMIT_AS) which) {
    struct rlimit limit = {};
    if (::getrlimit(which, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) return {};
    return limit.rlim_cur;
}

std::optional<std::size_t> used_address_space() {
    auto pages = sys::read_file("/proc/self/statm");
    std::size_t count = 0;
    if (!pages || std::sscanf(pages->c_str(), "%zu", &count) != 1) return {};
    return count * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

// What stood in the way, if it is known.
std::string limit_hint(int error) {
    auto files = limit_of(RLIMIT_FSIZE), memory = limit_of(RLIMIT_AS);
    if (error == EFBIG && files)
        return fmt::format(" (RLIMIT_FSIZE, ulimit -f, is {} MiB)", *files >> 20);
    if (error == ENOMEM && memory)
        return fmt::format(" (RLIMIT_AS, ulimit -v, is {} MiB)", *memory >> 20);
    return {};
}

}  // namespace

Segment Segment::create(const char* name, std::size_t size) {
    Fd fd = sys::memfd(name, size);
    Mapping mapping = sys::map_shared(fd.get(), size, sys::Access::read_write);
    sys::no_dump(mapping.bytes());
    return Segment(std::move(fd), std::move(mapping));
}

Segment Segment::reserve(const char* name, std::size_t wanted, std::size_t least) {
    for (std::size_t size = wanted;; size /= 2) {
        try {
            return create(name, size);
        } catch (const std::system_error& error) {
            int code = error.code().value();
            if (code != ENOMEM && code != EFBIG) throw;  // of no size
            if (size / 2 >= least) continue;
            throw_errno(code, fmt::format("{}: cannot reserve {} MiB of shared address space{}",
                                          name, size >> 20, limit_hint(code)));
        }
    }
}

std::size_t Segment::fitting(std::size_t wanted, std::size_t least, std::size_t count) {
    std::optional<std::size_t> limit = limit_of(RLIMIT_AS);
    if (!limit) return wanted;
    // Half of what is left is for the application, threads' stacks, and what is made later.
    std::size_t used = std::min(used_address_space().value_or(*limit / 2), *limit);
    std::size_t share = (*limit - used) / 2 / count;
    std::size_t size = wanted;
    while (size > share && size / 2 >= least) size /= 2;
    return size;
}

Segment Segment::attach(Fd fd, sys::Access access) {
    struct stat status = {};
    if (fstat(fd.get(), &status) < 0) throw_errno(errno, "fstat(segment)");
    Mapping mapping = sys::map_shared(fd.get(), static_cast<std::size_t>(status.st_size), access);
    sys::no_dump(mapping.bytes());
    return Segment(std::move(fd), std::move(mapping));
}

}  // namespace sidestep
