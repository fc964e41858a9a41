// The CPUs that this process may use: the part of sys.hpp that asks several places.
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>

#include "sys/cpu_quota.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::sys {

std::size_t usable_cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    std::size_t cpus = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        cpus = static_cast<std::size_t>(std::max(1, CPU_COUNT(&set)));
    else
        cpus = static_cast<std::size_t>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
    return std::min(cpus, cpu_quota().value_or(cpus));
}

std::size_t usable_cores(const std::string& root) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) < 0) return usable_cpus();
    std::set<std::string> cores;
    for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &set)) continue;
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
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) < 0) return -1;
    std::size_t cpu = 0;
    for (n %= static_cast<std::size_t>(CPU_COUNT(&set)); !CPU_ISSET(cpu, &set) || n-- > 0;) ++cpu;
    return static_cast<int>(cpu);
}

OnCpu::OnCpu(std::size_t n) {
    int cpu = nth_cpu(n);
    if (cpu < 0 || sched_getaffinity(0, sizeof before_, &before_) < 0) return;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(cpu), &one);
    moved_ = sched_setaffinity(0, sizeof one, &one) == 0;
}

OnCpu::~OnCpu() {
    if (moved_) (void)sched_setaffinity(0, sizeof before_, &before_);
}

}  // namespace sidestep::sys
