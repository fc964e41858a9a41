#include "sys/cpu_set.hpp"

#include <bit>
#include <cerrno>
#include <new>

namespace sidestep::inline v0::sys {

std::optional<CpuSet> CpuSet::of_this_thread() noexcept {
    return of_this_thread(
        [](std::size_t bytes, cpu_set_t* mask) { return ::sched_getaffinity(0, bytes, mask); });
}

// How large its masks are, the kernel says by refusing smaller ones.
std::optional<CpuSet> CpuSet::of_this_thread(Ask ask) noexcept try {
    CpuSet set;
    for (std::size_t bits = CPU_SETSIZE; bits <= kMost; bits *= 2) {
        set.words_.assign(bits / kBits, 0);
        auto* mask = reinterpret_cast<cpu_set_t*>(set.words_.data());
        if (ask(bits / CHAR_BIT, mask) == 0) {
            if (set.count() == 0) return {};
            return set;
        }
        if (errno != EINVAL) return {};
    }
    return {};
} catch (const std::bad_alloc&) {
    return {};
}

void CpuSet::add(int cpu) {
    const auto bit = static_cast<std::size_t>(cpu);
    if (words_.size() <= bit / kBits) words_.resize(bit / kBits + 1);
    words_[bit / kBits] |= Word(1) << (bit % kBits);
}

bool CpuSet::contains(int cpu) const {
    const auto bit = static_cast<std::size_t>(cpu);
    if (cpu < 0 || bit / kBits >= words_.size()) return false;
    return (words_[bit / kBits] >> (bit % kBits) & 1) != 0;
}

std::size_t CpuSet::count() const {
    std::size_t sum = 0;
    for (Word word : words_) sum += static_cast<std::size_t>(std::popcount(word));
    return sum;
}

int CpuSet::nth(std::size_t n) const {
    int cpu = 0;
    while (!contains(cpu) || n-- > 0) ++cpu;
    return cpu;
}

std::vector<int> CpuSet::numbers() const {
    std::vector<int> all;
    const auto end = static_cast<int>(words_.size() * kBits);
    for (int cpu = 0; cpu < end; ++cpu)
        if (contains(cpu)) all.push_back(cpu);
    return all;
}

bool CpuSet::apply() const noexcept {
    const auto* mask = reinterpret_cast<const cpu_set_t*>(words_.data());
    return ::sched_setaffinity(0, words_.size() * sizeof(Word), mask) == 0;
}

}  // namespace sidestep::sys
