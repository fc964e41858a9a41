// Options of a Pool and of its map functions.
#pragma once

#include <cstddef>

#include <sidestep/start_method.hpp>

namespace sidestep {

struct PoolOptions {
    // Worker processes, 1 to 1024. 0: one for each CPU that this process may use (affinity mask and
    // cgroup quota).
    unsigned processes = 0;

    // How workers are started; see start_method.hpp.
    StartMethod start_method = StartMethod::spawn;

    // Shared address space for arguments that are in flight, and for the results of one worker that
    // are not dropped yet, in bytes. It is reserved, not used: pages come on first touch. Where
    // RLIMIT_AS is lower, as much as fits.
    std::size_t arena_bytes = std::size_t(16) << 30;
};

struct MapOptions {
    // Items in one task. 0: chosen from the measured time of an item, smaller towards the end.
    std::size_t chunksize = 0;

    // imap only: the most items that are pulled from the input and not yet taken from the stream;
    // at least one chunk is. 0: a few chunks for each worker.
    std::size_t window = 0;
};

}  // namespace sidestep
