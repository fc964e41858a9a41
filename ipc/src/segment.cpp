#include "segment.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <system_error>

#include "error.hpp"

namespace sidestep {

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
            bool too_large = error.code().value() == ENOMEM || error.code().value() == EFBIG;
            if (too_large && size / 2 >= least) continue;
            const char* limit = error.code().value() == EFBIG ? "RLIMIT_FSIZE, ulimit -f,"
                                                              : "RLIMIT_AS, ulimit -v,";
            throw_errno(error.code().value(),
                        fmt::format("{}: cannot reserve {} MiB of shared address space (is {} set "
                                    "too low?)",
                                    name, size >> 20, limit));
        }
    }
}

Segment Segment::attach(Fd fd, sys::Access access) {
    struct stat status = {};
    if (fstat(fd.get(), &status) < 0) throw_errno(errno, "fstat(segment)");
    Mapping mapping = sys::map_shared(fd.get(), static_cast<std::size_t>(status.st_size), access);
    sys::no_dump(mapping.bytes());
    return Segment(std::move(fd), std::move(mapping));
}

}  // namespace sidestep
