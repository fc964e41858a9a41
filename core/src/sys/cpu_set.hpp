// A set of CPUs, as large as it has to be: a cpu_set_t ends at 1024, and there are larger machines.
#pragma once

#include <sched.h>

#include <climits>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace sidestep::inline v0::sys {

class CpuSet {
  public:
    // More than any kernel has; what is beyond is no CPU.
    static constexpr int kMost = 1 << 16;

    // sched_getaffinity(2): 0, or -1 and errno: EINVAL for a mask smaller than the kernel's.
    using Ask = int (*)(std::size_t bytes, cpu_set_t* mask);
    // Those that the calling thread may run on. Nothing: the kernel does not tell, or there is no
    // memory for so many.
    static std::optional<CpuSet> of_this_thread() noexcept;
    static std::optional<CpuSet> of_this_thread(Ask ask) noexcept;

    // Requires: 0 <= cpu < kMost.
    void add(int cpu);
    bool contains(int cpu) const;
    std::size_t count() const;
    // The nth, from 0 on. Requires: n < count().
    int nth(std::size_t n) const;
    // All of them, in order.
    std::vector<int> numbers() const;
    // The calling thread runs on these from here on. False, and errno: the kernel refuses that.
    [[nodiscard]] bool apply() const noexcept;
    // As sched_setaffinity(2) takes them; none: the set is empty.
    using Word = unsigned long;  // the kernel's, whichever byte comes first
    std::span<const Word> words() const { return words_; }

  private:
    static constexpr std::size_t kBits = sizeof(Word) * CHAR_BIT;

    std::vector<Word> words_;
};

}  // namespace sidestep::sys
