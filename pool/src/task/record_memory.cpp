#include "task/record_memory.hpp"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#include <mutex>
#include <new>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#define SIDESTEP_RECORDS_BY_MALLOC 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIDESTEP_RECORDS_BY_MALLOC 1
#endif
#endif

namespace sidestep::inline v0::detail {

#ifdef SIDESTEP_RECORDS_BY_MALLOC

template <std::size_t kBytes>
void* Records<kBytes>::allocate() {
    return ::operator new(kBytes);
}
template <std::size_t kBytes>
void Records<kBytes>::free(void* record) noexcept {
    ::operator delete(record);
}
template <std::size_t kBytes>
void Records<kBytes>::trim() noexcept {}

#else

namespace {

constexpr std::size_t kHead = 64;  // of a slab
constexpr std::size_t kSlab = 256 * 1024;
constexpr std::uint32_t kBatch = 64;  // so many go from a thread to the others at a time

// A record that is free: one of a list.
struct Node {
    Node* next;
    Node* next_batch;     // of the first of a batch
    std::uint32_t count;  // of that: how many it has
};
static_assert(sizeof(Node) <= JobMemory::kRecord);

// At the begin of a slab, whose address is a multiple of its size.
struct Slab {
    std::uint32_t free = 0;  // while trim() counts them
    Slab* next = nullptr;    // of those that go
};
static_assert(sizeof(Slab) <= kHead);

struct Batch {
    Node* first = nullptr;
    std::uint32_t count = 0;

    void push(void* record) { first = new (record) Node{first, nullptr, ++count}; }
    Node* pop() {
        Node* node = std::exchange(first, first->next);
        --count;
        return node;
    }
};

Slab* slab_of(void* record) {
    return reinterpret_cast<Slab*>(reinterpret_cast<std::uintptr_t>(record) & ~(kSlab - 1));
}

// Twice as much is mapped, and what is not aligned goes.
std::byte* map_slab() {
    void* mapped =
        ::mmap(nullptr, 2 * kSlab, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    auto* begin = static_cast<std::byte*>(mapped);
    auto over = reinterpret_cast<std::uintptr_t>(begin) % kSlab;
    std::size_t before = over ? kSlab - over : 0;
    if (before) (void)::munmap(begin, before);
    (void)::munmap(begin + before + kSlab, kSlab - before);
    new (begin + before) Slab;
    return begin + before;
}

// All threads' records.
template <std::size_t kSize>
class Depot {
    static_assert(kSize % kHead == 0);

  public:
    void put(Batch batch) noexcept {
        if (!batch.first) return;
        batch.first->count = batch.count;
        std::lock_guard lock(mutex_);
        batch.first->next_batch = std::exchange(batches_, batch.first);
    }
    // One at least.
    Batch take() {
        std::lock_guard lock(mutex_);
        if (Node* first = batches_) {
            batches_ = first->next_batch;
            return {first, first->count};
        }
        if (static_cast<std::size_t>(end_ - next_) < kSize) {
            next_ = map_slab();
            end_ = next_ + kSlab;
            next_ += kHead;
        }
        Batch batch;
        while (batch.count < kBatch && static_cast<std::size_t>(end_ - next_) >= kSize)
            batch.push(std::exchange(next_, next_ + kSize));
        return batch;
    }
    void trim() noexcept {
        std::lock_guard only_one(trimming_);  // it counts in the slabs
        Node* batches;
        {
            std::lock_guard lock(mutex_);
            batches = std::exchange(batches_, nullptr);
        }
        for_each_of(batches, [](Node* record) { slab_of(record)->free = 0; });
        const auto all = static_cast<std::uint32_t>((kSlab - kHead) / kSize);
        Slab* gone = nullptr;
        for_each_of(batches, [&](Node* record) {
            Slab* slab = slab_of(record);
            if (++slab->free == all) slab->next = std::exchange(gone, slab);
        });
        Batch kept;
        for_each_of(batches, [&](Node* record) {
            if (slab_of(record)->free == all) return;
            kept.push(record);
            if (kept.count == kBatch) put(std::exchange(kept, {}));
        });
        put(kept);
        while (gone) (void)::munmap(std::exchange(gone, gone->next), kSlab);
    }
    void lock() {
        trimming_.lock();
        mutex_.lock();
    }
    void unlock() {
        mutex_.unlock();
        trimming_.unlock();
    }

  private:
    // f may put the record into another list.
    template <class F>
    static void for_each_of(Node* batches, F f) {
        while (batches) {
            Node* node = std::exchange(batches, batches->next_batch);
            while (node) f(std::exchange(node, node->next));
        }
    }

    std::mutex trimming_;  // before mutex_
    std::mutex mutex_;
    // Guarded by it.
    Node* batches_ = nullptr;
    std::byte* next_ = nullptr;  // what was never used of the last slab
    std::byte* end_ = nullptr;
};

// Never destroyed: static objects may hold futures.
template <std::size_t kSize>
Depot<kSize>& depot() {
    static Depot<kSize>* const all = [] {
        static auto* fresh = new Depot<kSize>;
        (void)::pthread_atfork([] { fresh->lock(); }, [] { fresh->unlock(); },
                               [] { fresh->unlock(); });
        return fresh;
    }();
    return *all;
}

// What a thread has at hand: two batches, so that one that takes and gives by turns never goes to
// the others. Without a constructor, and a destructor of its own: to look at it is one load.
struct AtHand {
    Batch now, next;
    std::uint32_t most;  // that a batch holds; 0: the thread has none yet, or it ends
};
template <std::size_t kSize>
constinit thread_local AtHand records_here{};

// The thread has records from now on, until it ends.
template <std::size_t kSize>
void begin_thread() {
    struct GiveBack {
        ~GiveBack() {
            records_here<kSize>.most = 0;
            depot<kSize>().put(std::exchange(records_here<kSize>.now, {}));
            depot<kSize>().put(std::exchange(records_here<kSize>.next, {}));
        }
    };
    thread_local bool begun = false;
    if (std::exchange(begun, true)) return;
    thread_local GiveBack at_end;
    records_here<kSize>.most = kBatch;
}

template <std::size_t kSize>
[[gnu::noinline]] void* take_more() {
    begin_thread<kSize>();
    std::swap(records_here<kSize>.now, records_here<kSize>.next);
    if (!records_here<kSize>.now.first) records_here<kSize>.now = depot<kSize>().take();
    return records_here<kSize>.now.pop();
}
template <std::size_t kSize>
[[gnu::noinline]] void give_away(void* record) noexcept {
    begin_thread<kSize>();
    if (records_here<kSize>.now.count >= records_here<kSize>.most)
        depot<kSize>().put(
            std::exchange(records_here<kSize>.next, std::exchange(records_here<kSize>.now, {})));
    records_here<kSize>.now.push(record);
    if (records_here<kSize>.most == 0)
        depot<kSize>().put(std::exchange(records_here<kSize>.now, {}));
}

}  // namespace

template <std::size_t kBytes>
void* Records<kBytes>::allocate() {
    AtHand& here = records_here<kBytes>;
    return here.now.first ? here.now.pop() : take_more<kBytes>();
}

template <std::size_t kBytes>
void Records<kBytes>::free(void* record) noexcept {
    AtHand& here = records_here<kBytes>;
    if (here.now.count < here.most)
        here.now.push(record);
    else
        give_away<kBytes>(record);
}

template <std::size_t kBytes>
void Records<kBytes>::trim() noexcept {
    depot<kBytes>().trim();
}

#endif

template class Records<192>;
template class Records<128>;

}  // namespace sidestep::detail
