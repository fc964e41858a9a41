// The CPUs that this process may use: the part of sys.hpp that asks several places.
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <new>
#include <set>
#include <string>

#include "sys/cpu_quota.hpp"
#include "sys/cpu_set.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::sys {

std::size_t usable_cpus() {
    const auto set = CpuSet::of_this_thread();
    const std::size_t cpus =
        set ? set->count() : static_cast<std::size_t>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
    return std::min(cpus, cpu_quota().value_or(cpus));
}

std::size_t usable_cores(const std::string& root) {
    const auto set = CpuSet::of_this_thread();
    if (!set) return usable_cpus();
    std::set<std::string> cores;
    for (int cpu : set->numbers()) {
        // Which CPUs share its core; the former name is that of kernels before 5.2.
        const std::string topology =
            root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
        std::string siblings;
        for (const char* file : {"core_cpus_list", "thread_siblings_list"})
            if (std::getline(std::ifstream(topology + file), siblings)) break;
        cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
    }
    return std::max<std::size_t>(1, std::min(cores.size(), usable_cpus()));
}

int nth_cpu(std::size_t n) {
    const auto set = CpuSet::of_this_thread();
    return set ? set->nth(n % set->count()) : -1;
}

OnCpu::OnCpu(std::size_t n) noexcept : before_(CpuSet::of_this_thread()) {
    if (!before_) return;
    try {
        CpuSet one;
        one.add(before_->nth(n % before_->count()));
        moved_ = one.apply();
    } catch (const std::bad_alloc&) {
    }
}

OnCpu::~OnCpu() {
    if (moved_) (void)before_->apply();
}

}  // namespace sidestep::sys
