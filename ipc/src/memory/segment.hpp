// A piece of shared memory without a name: a sealed memfd and its mapping.
//
// Ownership:  the memory lives as long as some process maps it or holds its descriptor, and
//             vanishes with the last: nothing is left after kill -9 of everybody.
// Size:       reserved sparse; pages appear on first touch. A segment is made as large as it may
//             ever get, so that it grows without remapping and without moving pointers.
// Fork:       a forked child has the mapping too, unless dont_fork() was called on it.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "sys/fd.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {

class Segment {
  public:
    Segment() = default;
    // Creates `size` bytes of zeros, mapped for reading and writing.
    static Segment create(const char* name, std::size_t size);
    // As large as the address space allows, at most `wanted` bytes: halves until it fits
    // (RLIMIT_AS, RLIMIT_FSIZE, vm.overcommit_memory=2). Throws below `least`.
    static Segment reserve(const char* name, std::size_t wanted, std::size_t least);
    // The size that is halved until `count` segments of it fit together into half of the address
    // space that RLIMIT_AS leaves; at least `least`, which may not fit. For who makes several: one
    // after the other, the first would leave nothing for the last.
    static std::size_t fitting(std::size_t wanted, std::size_t least, std::size_t count);
    // Maps someone else's. The size is the file's own: it is sealed.
    static Segment attach(Fd fd, sys::Access access);

    std::byte* data() const { return mapping_.data(); }
    std::size_t size() const { return mapping_.size(); }
    std::span<std::byte> bytes() const { return mapping_.bytes(); }
    const Fd& fd() const { return fd_; }
    // The mapping keeps the memory: for one that has many segments and sends none of them again.
    void close_descriptor() { fd_.reset(); }

    // An object at the start of the segment or at an offset.
    template <class T>
    T* at(std::size_t offset = 0) const {
        return reinterpret_cast<T*>(data() + offset);
    }

  private:
    Segment(Fd fd, Mapping mapping) : fd_(std::move(fd)), mapping_(std::move(mapping)) {}
    Fd fd_;
    Mapping mapping_;
};

}  // namespace sidestep
