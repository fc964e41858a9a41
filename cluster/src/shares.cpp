#include "shares.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sidestep::inline v0::detail {
namespace {

std::size_t count_like(std::span<const Hello> ranks, const Hello& one, bool same_cpus) {
    return static_cast<std::size_t>(
        std::count_if(ranks.begin(), ranks.end(), [&](const Hello& other) {
            return other.host == one.host && (!same_cpus || other.affinity == one.affinity);
        }));
}

}  // namespace

std::vector<Hosts::Share> shares_of(std::span<const Hello> ranks,
                                    std::optional<unsigned> processes) {
    std::vector<Hosts::Share> shares;
    unsigned sum = 0;
    for (const Hello& rank : ranks) {
        auto sharers = static_cast<unsigned>(count_like(ranks, rank, true));
        unsigned cpus = std::max(1u, rank.cpus / sharers);
        if (shares.empty() && cpus > 1) --cpus;
        shares.push_back({rank.host, cpus});
        sum += cpus;
    }
    if (!processes) return shares;
    unsigned left = *processes;
    if (left > sum) {
        left -= sum;
        auto hosts = static_cast<unsigned>(shares.size());
        for (unsigned i = 0; i < hosts; ++i)
            shares[i].processes += left / hosts + (i < left % hosts ? 1 : 0);
        return shares;
    }
    for (Hosts::Share& share : shares) {
        share.processes = std::min(share.processes, left);
        left -= share.processes;
    }
    return shares;
}

std::string bound_too_tightly(std::span<const Hello> ranks) {
    for (const Hello& rank : ranks) {
        if (count_like(ranks, rank, false) > 1 || rank.cpus_bound_to >= rank.cpus_of_host) continue;
        return fmt::format(
            "the process on host {} may use {} of its {} CPUs, and so do its workers: the launcher "
            "has bound it. Start with mpirun --bind-to none, or srun -c {}",
            rank.host, rank.cpus_bound_to, rank.cpus_of_host, rank.cpus_of_host);
    }
    return {};
}

}  // namespace sidestep::detail
