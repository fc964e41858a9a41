#include "arena.hpp"

#include <array>
#include <bit>

#include "error.hpp"

namespace sidestep {
namespace {

// 256, 512, 768, 1024, then four steps to each doubling.
constexpr std::size_t kClasses = 128;
constexpr std::array<std::size_t, kClasses> kSizes = [] {
    std::array<std::size_t, kClasses> sizes{};
    for (std::size_t i = 0; i < 4; ++i) sizes[i] = Arena::kGranule * (i + 1);
    for (std::size_t i = 4; i < kClasses; ++i)
        sizes[i] = (std::size_t(1) << (i / 4 + 9)) / 4 * (i % 4 + 5);
    return sizes;
}();
static_assert(kSizes[3] == 1024 && kSizes[4] == 1280 && kSizes[7] == 2048 && kSizes[11] == 4096);

std::size_t class_for(std::size_t size) {
    if (size <= 1024) return size == 0 ? 0 : (size - 1) / Arena::kGranule;
    auto doubling = static_cast<std::size_t>(std::bit_width(size - 1)) - 1;  // 2^d < size
    std::size_t quarter = (std::size_t(1) << doubling) / 4;
    std::size_t step = (size - 1 - (std::size_t(1) << doubling)) / quarter;
    return (doubling - 9) * 4 + step;
}

}  // namespace

Arena::Arena(const Segment& segment, std::size_t cache_limit)
    : segment_(&segment), cache_limit_(cache_limit), free_(kClasses) {
    SIDESTEP_ASSERT(segment.size() >= kGranule);
}

std::size_t Arena::capacity(BlockId block) { return kSizes[(block & (kGranule - 1)) % kClasses]; }

bool Arena::is_valid(BlockId block, std::size_t segment_size) {
    std::size_t begin = offset(block), size = capacity(block);
    return block != 0 && (block & (kGranule - 1)) < kClasses && size <= segment_size &&
           begin <= segment_size - size;
}

BlockId Arena::recycle(std::size_t size_class, std::size_t size) {
    std::vector<FreeBlock>& list = free_[size_class];
    if (list.empty()) return 0;
    FreeBlock block = list.back();
    if (size >= kLarge && !block.resident &&
        !sys::populate({segment_->data() + block.offset, size}))
        throw OutOfSharedMemory("out of memory: the system has no pages left for shared memory");
    list.pop_back();
    if (size >= kLarge && block.resident) cached_ -= size;
    return block.offset | size_class;
}

BlockId Arena::allocate(std::size_t wanted) {
    constexpr const char* kUsedUp =
        "the shared memory reserved for arguments or results is used up: take results sooner "
        "(drop or get() the futures), or pass large data by handle";
    std::size_t size_class = class_for(wanted);
    if (wanted > segment_->size() || size_class >= kClasses) throw OutOfSharedMemory(kUsedUp);
    std::size_t size = kSizes[size_class];
    BlockId block = recycle(size_class, size);
    if (block == 0) {
        if (size > segment_->size() - top_) throw OutOfSharedMemory(kUsedUp);
        if (size >= kLarge && !sys::populate({segment_->data() + top_, size}))
            throw OutOfSharedMemory(
                "out of memory: the system has no pages left for shared memory");
        block = top_ | size_class;
        top_ += size;
    }
    in_use_ += size;
    return block;
}

void Arena::free(BlockId block) {
    SIDESTEP_ASSERT(is_valid(block, segment_->size()) && offset(block) < top_);
    std::size_t size = capacity(block);
    bool keep = size < kLarge || cached_ + size <= cache_limit_;
    if (!keep) sys::discard(segment_->fd().get(), offset(block), size);
    if (keep && size >= kLarge) cached_ += size;
    in_use_ -= size;
    free_[block & (kGranule - 1)].push_back({offset(block), keep});
}

}  // namespace sidestep
