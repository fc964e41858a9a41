#include "work.hpp"

#include <atomic>

namespace bench {

double threads_take(const std::vector<std::uint64_t>& steps, unsigned threads) {
    constexpr std::size_t kGrains = 1000;
    std::size_t grain = steps.size() / kGrains + 1;
    std::atomic<std::size_t> next{0};
    return timed([&] {
        std::vector<std::jthread> workers;
        for (unsigned i = 0; i < threads; ++i)
            workers.emplace_back([&] {
                for (std::size_t at; (at = next.fetch_add(grain)) < steps.size();)
                    for (std::size_t end = std::min(at + grain, steps.size()); at < end; ++at)
                        churn(steps[at]);
            });
    });
}

}  // namespace bench
