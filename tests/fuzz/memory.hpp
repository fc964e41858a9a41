// What a fuzzed call may allocate: a multiple of its input, and a little.
//
// Threads: those of one process together; a fuzzer has one.
#pragma once

#include <sanitizer/allocator_interface.h>

#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace fuzz {

// The bytes that were allocated and not freed since the last begin(), and the most of them.
inline std::atomic<long long> live{0}, peak{0};

inline void note_malloc(const volatile void*, std::size_t size) {
    long long now = live += static_cast<long long>(size);
    if (now > peak) peak = now;
}
inline void note_free(const volatile void* memory) {
    if (memory != nullptr)
        live -=
            static_cast<long long>(__sanitizer_get_allocated_size(const_cast<const void*>(memory)));
}

inline void begin() {
    static const int installed = __sanitizer_install_malloc_and_free_hooks(note_malloc, note_free);
    if (installed == 0) std::abort();  // nothing would be measured
    live = peak = 0;
}

// Ends the program if an input of so many bytes took more than `factor` times that, and `more`.
inline void end(std::size_t input, long long factor, long long more) {
    long long allowed = factor * static_cast<long long>(input) + more;
    if (peak <= allowed) return;
    std::fprintf(stderr, "%zu bytes took %lld, and %lld are allowed\n", input, peak.load(),
                 allowed);
    std::abort();
}

}  // namespace fuzz
