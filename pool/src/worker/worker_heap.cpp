#include "worker/worker_heap.hpp"

#include <malloc.h>

#include <cstdlib>
#include <initializer_list>

namespace sidestep::inline v0 {

void keep_freed_memory() noexcept {
    static constexpr int kLargestBlock = 32 << 20;
    for (const char* name : {"GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"})
        if (std::getenv(name)) return;
    (void)::mallopt(M_MMAP_THRESHOLD, kLargestBlock);
    (void)::mallopt(M_TRIM_THRESHOLD, 2 * kLargestBlock);
}

void give_back_freed_memory() noexcept { (void)::malloc_trim(0); }

}  // namespace sidestep
