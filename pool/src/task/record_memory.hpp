// Memory for the records of tasks: kept over bursts, and given back when pools have nothing to do.
//
// A program that submits a hundred thousand tasks, gets their results, and does so again would have
// its pages taken and given back by malloc each time, which costs more than the tasks. So records
// come from slabs of their own, and each thread has some at hand (magazines: Bonwick and Adams,
// "Magazines and Vmem", USENIX 2001).
//
// Threads: thread-safe; a record may be freed by another thread. In a forked child what was free is
// free. With AddressSanitizer each record is malloc's, so that it sees who uses one that is gone.
#pragma once

#include <cstddef>

namespace sidestep::inline v0::detail {

template <std::size_t kBytes>
class Records {
  public:
    static constexpr std::size_t kRecord = kBytes;

    // Aligned to 64 bytes. Throws std::bad_alloc.
    static void* allocate();
    static void free(void* record) noexcept;
    // Slabs of which nothing is used go back to the system. Takes a millisecond for some ten
    // thousand records.
    static void trim() noexcept;
};

using RecordMemory = Records<192>;  // three cache lines: a Pool's tasks
using JobMemory = Records<128>;     // two: a ThreadPool's
extern template class Records<192>;
extern template class Records<128>;

}  // namespace sidestep::detail
