#include "memory/arena.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>

#include "sys/error.hpp"

namespace sidestep::inline v0 {
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

// More than what was in use at a time is taken without a look for what could be joined: up to an
// eighth, and so much where that is little.
constexpr std::size_t kLittle = std::size_t(2) << 20;

std::size_t class_for(std::size_t size) {
    if (size <= 1024) return size == 0 ? 0 : (size - 1) / Arena::kGranule;
    auto doubling = static_cast<std::size_t>(std::bit_width(size - 1)) - 1;  // 2^d < size
    std::size_t quarter = (std::size_t(1) << doubling) / 4;
    std::size_t step = (size - 1 - (std::size_t(1) << doubling)) / quarter;
    return (doubling - 9) * 4 + step;
}

}  // namespace

Arena::Arena(const Segment& segment, std::size_t cache_limit)
    : segment_(&segment), cache_limit_(cache_limit), classes_(kClasses) {
    SIDESTEP_ASSERT(segment.size() >= kGranule);
}

std::size_t Arena::capacity(BlockId block) { return kSizes[(block & (kGranule - 1)) % kClasses]; }

bool Arena::is_valid(BlockId block, std::size_t segment_size) {
    std::size_t begin = offset(block), size = capacity(block);
    return block != 0 && (block & (kGranule - 1)) < kClasses && size <= segment_size &&
           begin <= segment_size - size;
}

void Arena::throw_used_up(std::size_t wanted) const {
    std::size_t left = segment_->size() - in_use_;
    throw OutOfSharedMemory(fmt::format(
        "the shared memory reserved for arguments or results is used up: {} of {} bytes are in "
        "use{}, and {} bytes more are wanted; take results sooner (drop or get() the futures), "
        "have fewer tasks in flight, pass large data by handle, or raise PoolOptions::arena_bytes",
        in_use_, segment_->size(), wanted <= left ? " (the rest lies in pieces between them)" : "",
        wanted));
}

void Arena::populate(std::size_t at, std::size_t size) {
    if (!sys::populate({segment_->data() + at, size}))
        throw OutOfSharedMemory("out of memory: the system has no pages left for shared memory");
}

BlockId Arena::hand_out(std::size_t at, std::size_t size_class) {
    in_use_ += kSizes[size_class];
    most_in_use_ = std::max(most_in_use_, in_use_);
    marks_[at / kGranule] = static_cast<std::uint8_t>(size_class + 1);
    return at | size_class;
}

BlockId Arena::allocate(std::size_t wanted) {
    std::size_t size_class = class_for(wanted);
    if (wanted > segment_->size() || size_class >= kClasses) throw_used_up(wanted);
    std::vector<FreeBlock>& list = classes_[size_class].free;
    if (list.empty()) return cut(size_class, wanted);
    FreeBlock block = list.back();
    if (std::size_t size = kSizes[size_class]; size >= kLarge) {
        if (block.resident)
            cached_ -= size;
        else
            populate(block.offset, size);
    }
    list.pop_back();
    return hand_out(block.offset, size_class);
}

void Arena::free(BlockId block) noexcept {
    SIDESTEP_ASSERT(is_in_use(block));
    std::size_t size = capacity(block);
    bool keep = size < kLarge || cached_ + size <= cache_limit_;
    if (!keep) sys::discard(segment_->fd().get(), offset(block), size);
    if (keep && size >= kLarge) cached_ += size;
    in_use_ -= size;
    marks_[offset(block) / kGranule] = 0;
    classes_[block & (kGranule - 1)].free.push_back({offset(block), keep});
}

// --- what has no class -------------------------------------------------------------------------

// A block of a class of which none is free.
BlockId Arena::cut(std::size_t size_class, std::size_t wanted) {
    SizeClass& its = classes_[size_class];
    std::size_t size = kSizes[size_class];
    if (its.free.capacity() <= its.blocks)
        its.free.reserve(std::max<std::size_t>(2 * its.blocks, 16));
    auto span = find_span(size);
    std::size_t allowed = most_in_use_ + std::max(most_in_use_ / 8, kLittle);
    if (span == spans_.end() && listed() > 0 &&
        (size > segment_->size() - tail() || tail() + size > allowed)) {
        join_free();
        span = find_span(size);
    }
    std::size_t at = span == spans_.end() ? tail() : span->first;
    if (size > segment_->size() - at) throw_used_up(wanted);
    if (size >= kLarge) populate(at, size);
    if (span == spans_.end())
        extend_to(at + size);
    else
        cut_span(span, size);
    ++its.blocks;
    return hand_out(at, size_class);
}

// The smallest that will do, and of equal ones the first.
Arena::Spans::iterator Arena::find_span(std::size_t size) {
    auto entry = sizes_.lower_bound({size, 0});
    return entry == sizes_.end() ? spans_.end() : spans_.find(entry->second);
}

// Where the memory begins that is followed by nothing in use.
std::size_t Arena::tail() const {
    if (spans_.empty()) return top_;
    const auto& [at, span] = *std::prev(spans_.end());
    return at + span.size == top_ ? at : top_;
}

// What is used ends there, and takes the last span along.
void Arena::extend_to(std::size_t end) {
    if (marks_.size() < end / kGranule)  // by doubling
        marks_.resize(
            std::max(end / kGranule, std::min(2 * marks_.size(), segment_->size() / kGranule)));
    if (std::size_t at = tail(); at < top_) {
        cached_ -= spans_.rbegin()->second.resident;
        in_spans_ -= top_ - at;
        sizes_.erase({top_ - at, at});
        spans_.erase(at);
    }
    top_ = end;
}

void Arena::cut_span(Spans::iterator span, std::size_t size) {
    std::size_t at = span->first, rest = span->second.size - size;
    auto entry = sizes_.extract({span->second.size, at});
    auto node = spans_.extract(span);
    std::size_t resident = std::min(node.mapped().resident, rest);
    cached_ -= node.mapped().resident - resident;
    in_spans_ -= size;
    if (rest > 0) {
        node.key() = at + size;
        node.mapped() = {rest, resident};
        entry.value() = {rest, at + size};
        spans_.insert(std::move(node));
        sizes_.insert(std::move(entry));
    }
}

void Arena::resize_span(Spans::iterator span, std::size_t size) noexcept {
    auto entry = sizes_.extract({span->second.size, span->first});
    entry.value().first = span->second.size = size;
    sizes_.insert(std::move(entry));
}

// Joins it with those that adjoin. Allocates nothing.
void Arena::add_span(Spans::node_type span, Sizes::node_type entry) noexcept {
    std::size_t at = span.key(), size = span.mapped().size;
    in_spans_ += size;
    cached_ += span.mapped().resident;
    auto next = spans_.lower_bound(at);
    if (next != spans_.end() && at + size == next->first) {
        span.mapped().size = size += next->second.size;
        span.mapped().resident += next->second.resident;
        sizes_.erase({next->second.size, next->first});
        next = spans_.erase(next);
    }
    if (next != spans_.begin()) {
        auto before = std::prev(next);
        if (before->first + before->second.size == at) {
            before->second.resident += span.mapped().resident;
            return resize_span(before, before->second.size + size);
        }
    }
    entry.value() = {size, at};
    spans_.insert(next, std::move(span));
    sizes_.insert(std::move(entry));
}

// All free blocks give up their class.
void Arena::join_free() {
    for (std::size_t size_class = 0; size_class < kClasses; ++size_class) {
        SizeClass& its = classes_[size_class];
        std::size_t size = kSizes[size_class];
        while (!its.free.empty()) {
            FreeBlock block = its.free.back();
            Spans span;
            Sizes entry;
            span.emplace(block.offset, Span{size, block.resident ? size : 0});
            entry.emplace(size, block.offset);
            its.free.pop_back();
            --its.blocks;
            if (size >= kLarge && block.resident) cached_ -= size;  // counted with the span
            add_span(span.extract(span.begin()), entry.extract(entry.begin()));
        }
    }
    drop_pages_over_limit();
}

void Arena::drop_pages_over_limit() {
    for (auto entry = sizes_.rbegin(); entry != sizes_.rend() && cached_ > cache_limit_; ++entry) {
        Span& span = spans_.find(entry->second)->second;
        if (span.resident == 0) continue;
        sys::discard(segment_->fd().get(), entry->second, span.size);
        cached_ -= std::exchange(span.resident, 0);
    }
}

// --- pages that nobody needs -------------------------------------------------------------------

void Arena::give_back_pages() {
    Free free = take_free();
    free.discard(*segment_);
    put_back(std::move(free));
}

Arena::Free Arena::take_free() noexcept {
    try {
        join_free();
    } catch (const std::bad_alloc&) {  // some keep their class, and their pages
    }
    Free free;
    free.spans_.swap(spans_);
    free.sizes_.swap(sizes_);
    away_ += std::exchange(in_spans_, 0);
    for (const auto& [at, span] : free.spans_) cached_ -= span.resident;
    return free;
}

void Arena::put_back(Free free) noexcept {
    while (!free.spans_.empty()) {
        auto span = free.spans_.extract(free.spans_.begin());
        auto entry = free.sizes_.extract({span.mapped().size, span.key()});
        away_ -= span.mapped().size;
        add_span(std::move(span), std::move(entry));
    }
    if (std::size_t at = tail(); at < top_ && spans_.rbegin()->second.resident == 0) {
        in_spans_ -= top_ - at;
        sizes_.erase({top_ - at, at});
        spans_.erase(at);
        top_ = at;
    }
    most_in_use_ = in_use_;
}

bool Arena::Free::has_pages() const {
    return std::any_of(spans_.begin(), spans_.end(),
                       [](const auto& entry) { return entry.second.resident > 0; });
}

void Arena::Free::discard(const Segment& segment) noexcept {
    for (auto& [at, span] : spans_)
        if (std::exchange(span.resident, 0) > 0) sys::discard(segment.fd().get(), at, span.size);
}

}  // namespace sidestep
