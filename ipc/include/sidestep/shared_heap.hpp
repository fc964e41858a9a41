// SharedHeap: containers of Boost.Interprocess (vector, map, string, your own) in memory that
// processes share.
//
//     sidestep::SharedHeap heap(64 << 20);
//     using Allocator = sidestep::SharedHeap::Allocator<int>;
//     using Numbers = boost::interprocess::vector<int, Allocator>;
//     std::scoped_lock lock(heap.mutex());
//     Numbers& numbers = heap.find_or_construct<Numbers>("numbers", heap.allocator<int>());
//     numbers.push_back(1);            // over there: the same heap, the same name
//
// This header includes Boost.Interprocess: its users write its containers' types.
//
// Ownership:  a handle is a small value. The heap, with all that is in it, lives for as long as any
//             handle does. Objects with a name stay until destroy(); nothing is destroyed at the
//             end.
// Threads:    nothing locks by itself: hold mutex() for whatever touches the heap or what is in it.
//             (Boost's own mutex would hang after a kill.)
// Fork:       a forked child shares the heap.
// Peer death: who is killed while it changes the heap may leave it damaged: the next one learns it
//             from mutex().owner_died(), and from sane() whether the heap's own records are still
//             in order.
// Trust:      a process that writes over the heap can make whoever uses it next crash, or worse:
//             the heap's records and the containers in it are followed as they are. Who shares a
//             heap is trusted as a thread is; the lock alone survives anything.
// Errors:     boost::interprocess::bad_alloc, a std::exception, if the heap is full.
// Limits:     the size is fixed; memory is used as it is touched. Pointers inside must be offset
//             pointers, as Boost's containers and allocators have them.
#pragma once

#include <boost/interprocess/allocators/allocator.hpp>     // style-ok: users name its types
#include <boost/interprocess/managed_external_buffer.hpp>  // style-ok: users name its types
#include <cstddef>
#include <memory>
#include <utility>

#include <sidestep/lock.hpp>
#include <sidestep/value.hpp>

namespace sidestep::inline v0 {

class SharedHeap {
  public:
    using Manager = boost::interprocess::managed_external_buffer;
    template <class T>
    using Allocator = boost::interprocess::allocator<T, Manager::segment_manager>;

    explicit SharedHeap(std::size_t bytes)
        : memory_(bytes < kLeast ? kLeast : bytes),
          manager_(std::make_shared<Manager>(boost::interprocess::create_only, memory_.data(),
                                             memory_.size())) {}
    explicit SharedHeap(detail::Blank blank) noexcept : memory_(blank) {}

    RLock& mutex() const { return memory_.mutex(); }

    template <class T>
    Allocator<T> allocator() const {
        return Allocator<T>(manager().get_segment_manager());
    }
    // The T of that name; made from the arguments if there is none.
    template <class T, class... Args>
    T& find_or_construct(const char* name, Args&&... args) const {
        return *manager().find_or_construct<T>(name)(std::forward<Args>(args)...);
    }
    // Null if there is none.
    template <class T>
    T* find(const char* name) const {
        return manager().find<T>(name).first;
    }
    // False: there was none.
    template <class T>
    bool destroy(const char* name) const {
        return manager().destroy<T>(name);
    }

    void* allocate(std::size_t bytes) const { return manager().allocate(bytes); }
    void deallocate(void* block) const { manager().deallocate(block); }

    std::size_t size() const { return memory_.size(); }
    std::size_t free_bytes() const { return manager().get_free_memory(); }
    bool sane() const { return manager().check_sanity(); }

    friend bool operator==(const SharedHeap& a, const SharedHeap& b) {
        return a.memory_ == b.memory_;
    }
    void save(OutputArchive& archive) const { archive(memory_); }
    void load(InputArchive& archive) {
        archive(memory_);
        manager_ = std::make_shared<Manager>(boost::interprocess::open_only, memory_.data(),
                                             memory_.size());
    }

  private:
    static constexpr std::size_t kLeast = 4096;
    Manager& manager() const {
        if (!manager_) detail::throw_no_object("SharedHeap");
        return *manager_;
    }
    Array<std::byte> memory_;
    std::shared_ptr<Manager> manager_;
};

}  // namespace sidestep
