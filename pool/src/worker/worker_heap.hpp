// The heap of a worker: what one task frees, the next one needs. By default the C library gives a
// large block back to the system at once, and asks for it again, page by page, for each task: with
// arguments and results of a megabyte that is most of the time.
#pragma once

namespace sidestep::inline v0 {

// From now on blocks up to 32 MiB come from the heap, and up to 64 MiB that are free at its end
// stay with this process: where the C library itself gets to when it sees a block of 32 MiB freed
// (M_MMAP_THRESHOLD in mallopt(3)). Environment variables that say otherwise win.
void keep_freed_memory() noexcept;
// Gives all of it back.
void give_back_freed_memory() noexcept;

}  // namespace sidestep
