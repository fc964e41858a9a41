// Blocks of shared memory for what does not fit a slot: arguments and results.
//
// One process allocates and frees; its bookkeeping is private to it (I7), so that no other process
// can damage it and a dead one leaves nothing to repair. The others see offsets.
//
// Freed blocks are recycled last in, first out, by size class: fresh shared pages cost eight times
// what recycled ones do. Classes are a quarter of a power of two apart, so at most a fifth of a
// block is unused. Large blocks beyond kCacheLimit give their pages back when they are freed.
//
// Blocks of one size do not help those of another. So before more than an eighth (or 2 MiB) over
// the most that was ever in use at a time would be taken, what is free is joined where it adjoins,
// to spans, and cut anew: the smallest span that will do. Each block that is freed is joined at
// most once before it is cut again, so that costs a search in a tree for a block, if sizes differ,
// and nothing if they do not. give_back_pages() does the same, and leaves nothing but what is in
// use.
//
// Threads: the caller serialises.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "memory/segment.hpp"

namespace sidestep::inline v0 {

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

    // Uses the whole segment (at least kGranule bytes), which must outlive the arena. Free memory
    // keeps up to `cache_limit` bytes of its pages (of small blocks: once they were joined).
    explicit Arena(const Segment& segment, std::size_t cache_limit = kCacheLimit);

    // A block of at least `size` bytes. Throws OutOfSharedMemory if
    // the segment is used up or the system has no memory.
    BlockId allocate(std::size_t size);
    void free(BlockId block) noexcept;

    std::byte* data(BlockId block) const { return segment_->data() + offset(block); }
    std::size_t bytes_in_use() const { return in_use_; }
    // What was handed out and not freed: for ids that another process wrote.
    bool is_in_use(BlockId block) const {
        std::size_t granule = offset(block) / kGranule;
        return granule < marks_.size() && marks_[granule] == (block & (kGranule - 1)) + 1;
    }

    // The pages of all that is free go back to the system.
    void give_back_pages();
    // The same in steps, for who cannot hold a lock while pages are freed, which takes long: what
    // is free is nobody's until it is put back.
    class Free;
    Free take_free() noexcept;
    void put_back(Free free) noexcept;

    static std::size_t offset(BlockId block) { return block & ~std::uint64_t(kGranule - 1); }
    static std::size_t capacity(BlockId block);
    // True if the block lies within a segment of that size: for ids that another process wrote.
    static bool is_valid(BlockId block, std::size_t segment_size);

  private:
    struct FreeBlock {
        std::uint64_t offset;
        bool resident;  // its pages were kept
    };
    struct SizeClass {
        std::vector<FreeBlock> free;  // has room for all of them: free() allocates nothing
        std::size_t blocks = 0;       // in use, or free
    };
    // Free memory that belongs to no class. resident: so many bytes of it may have pages.
    struct Span {
        std::size_t size;
        std::size_t resident;
    };
    using Spans = std::map<std::size_t, Span>;  // by offset
    using Sizes = std::set<std::pair<std::size_t, std::size_t>>;

    BlockId hand_out(std::size_t at, std::size_t size_class);
    BlockId cut(std::size_t size_class, std::size_t wanted);
    Spans::iterator find_span(std::size_t size);
    void cut_span(Spans::iterator span, std::size_t size);
    std::size_t tail() const;
    void extend_to(std::size_t end);
    void join_free();
    void add_span(Spans::node_type span, Sizes::node_type entry) noexcept;
    void resize_span(Spans::iterator span, std::size_t size) noexcept;
    void drop_pages_over_limit();
    std::size_t listed() const { return top_ - kGranule - in_use_ - in_spans_ - away_; }
    void populate(std::size_t at, std::size_t size);
    [[noreturn]] void throw_used_up(std::size_t wanted) const;

    const Segment* segment_;
    std::size_t cache_limit_;
    std::size_t top_ = kGranule;  // offset 0 stays unused: a block id of 0 means none
    std::size_t in_use_ = 0;
    std::size_t most_in_use_ = 0;  // since nothing was free the last time
    std::size_t cached_ = 0;    // bytes of large free blocks, and of spans, that keep their pages
    std::size_t in_spans_ = 0;  // bytes
    std::size_t away_ = 0;      // bytes between take_free() and put_back()
    std::vector<SizeClass> classes_;
    std::vector<std::uint8_t> marks_;  // by granule: of a block in use that begins there, class + 1
    Spans spans_;
    Sizes sizes_;  // {size, offset} of each
};

// What is free, out of its arena.
class Arena::Free {
  public:
    bool has_pages() const;
    void discard(const Segment& segment) noexcept;

  private:
    friend class Arena;
    Spans spans_;
    Sizes sizes_;
};

}  // namespace sidestep
