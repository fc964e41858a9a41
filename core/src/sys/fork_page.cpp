#include "sys/fork_page.hpp"

#include <pthread.h>
#include <sys/mman.h>

#include <new>

namespace sidestep::inline v0 {
namespace {

// Where the kernel says that it wipes none.
ForkPage ordinary;
std::atomic<ForkPage*> page_in_use{nullptr};
// Of who forks. (The same value from every thread.)
std::atomic<ForkGeneration> forked_generation{ForkGeneration::none};

ForkGeneration generation_now() noexcept {
    const ForkPage* page = page_in_use.load(std::memory_order_acquire);
    return page ? page->generation.load(std::memory_order_relaxed) : ForkGeneration::none;
}
void note_generation() noexcept { forked_generation = generation_now(); }
// Once: if the kernel has emptied the page, another handler may have marked it for the child.
void empty_in_child() noexcept {
    if (generation_now() == forked_generation) wipe_fork_page();
}

void* map_wiped() noexcept {
    void* page = ::mmap(nullptr, sizeof(ForkPage), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return nullptr;
    if (::madvise(page, sizeof(ForkPage), MADV_WIPEONFORK) == 0) return page;
    ::munmap(page, sizeof(ForkPage));
    return nullptr;
}

ForkPage& make_page() noexcept {
    void* wiped = map_wiped();
    ForkPage* made = wiped ? new (wiped) ForkPage : &ordinary;
    // Also where the kernel wipes: an emulator says yes to MADV_WIPEONFORK, and does nothing
    // (qemu-user). The handlers are there before the page is there for others: no fork is missed.
    (void)::pthread_atfork(&note_generation, nullptr, &empty_in_child);
    ForkPage* known = nullptr;
    if (page_in_use.compare_exchange_strong(known, made)) return *made;
    if (wiped) ::munmap(wiped, sizeof(ForkPage));  // another thread was faster
    return *known;
}

}  // namespace

ForkPage& fork_page() noexcept {
    ForkPage* page = page_in_use.load(std::memory_order_acquire);
    return page ? *page : make_page();
}

void wipe_fork_page() noexcept {
    ForkPage* page = page_in_use.load(std::memory_order_acquire);
    if (!page) return;
    page->generation.store(ForkGeneration::none, std::memory_order_relaxed);
    page->owner.store(0, std::memory_order_relaxed);
    page->proc.store(0, std::memory_order_relaxed);
}

}  // namespace sidestep
