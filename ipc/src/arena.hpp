// Blocks of shared memory for what does not fit a slot: arguments and results.
//
// One process allocates and frees; its bookkeeping is private to it (I7), so that no other process
// can damage it and a dead one leaves nothing to repair. The others see offsets.
//
// Freed blocks are recycled last in, first out, by size class: fresh shared pages cost eight times
// what recycled ones do. Classes are a quarter of a power of two apart, so at most a fifth of a
// block is unused. Large blocks beyond kCacheLimit give their pages back when they are freed.
//
// Threads: the caller serialises.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "segment.hpp"

namespace sidestep {

// Where a block lies, and its size class, in one word: offset (a multiple of 256) | class. 0: none.
using BlockId = std::uint64_t;

// A std::bad_alloc that says which limit was hit.
class OutOfSharedMemory : public std::bad_alloc {
  public:
    explicit OutOfSharedMemory(const std::string& text) : text_(text) {}
    const char* what() const noexcept override { return text_.what(); }

  private:
    std::runtime_error text_;  // copies do not throw
};

class Arena {
  public:
    static constexpr std::size_t kGranule = 256;
    static constexpr std::size_t kLarge = std::size_t(1) << 20;
    static constexpr std::size_t kCacheLimit = std::size_t(512) << 20;

    // Uses the whole segment (at least kGranule bytes), which must outlive the arena. Large free
    // blocks keep up to `cache_limit` bytes of their pages.
    explicit Arena(const Segment& segment, std::size_t cache_limit = kCacheLimit);

    // A block of at least `size` bytes. Throws OutOfSharedMemory if
    // the segment is used up or the system has no memory.
    BlockId allocate(std::size_t size);
    void free(BlockId block);

    std::byte* data(BlockId block) const { return segment_->data() + offset(block); }
    std::size_t bytes_in_use() const { return in_use_; }

    static std::size_t offset(BlockId block) { return block & ~std::uint64_t(kGranule - 1); }
    static std::size_t capacity(BlockId block);
    // True if the block lies within a segment of that size: for ids that another process wrote.
    static bool is_valid(BlockId block, std::size_t segment_size);

  private:
    struct FreeBlock {
        std::uint64_t offset;
        bool resident;  // its pages were kept
    };
    BlockId recycle(std::size_t size_class, std::size_t size);

    const Segment* segment_;
    std::size_t cache_limit_;
    std::size_t top_ = kGranule;  // offset 0 stays unused: a block id of 0 means none
    std::size_t in_use_ = 0;
    std::size_t cached_ = 0;  // bytes of large free blocks that keep their pages
    std::vector<std::vector<FreeBlock>> free_;
};

}  // namespace sidestep
