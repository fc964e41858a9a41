#include "fork_marker.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <new>

#include "error.hpp"

namespace sidestep {
namespace {

std::atomic<std::uint64_t>* map_page() {
    void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) throw_errno(errno, "mmap(fork marker)");
    if (::madvise(page, 4096, MADV_WIPEONFORK) < 0) throw_errno(errno, "madvise(MADV_WIPEONFORK)");
    return new (page) std::atomic<std::uint64_t>(0);
}

}  // namespace

ForkMarker::ForkMarker() {
    static std::atomic<std::uint64_t>* const page = map_page();
    // The process's own number marks the page: after a fork the page is zero, and the first marker
    // that the child makes writes the child's. (The same value from every thread.)
    page_ = page;
    generation_ = page->load(std::memory_order_relaxed);
    if (generation_ != 0) return;
    generation_ = static_cast<std::uint64_t>(::getpid());
    page->store(generation_, std::memory_order_relaxed);
}

}  // namespace sidestep
