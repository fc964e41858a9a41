// How many CPUs the kernel lets this process's control groups use.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace sidestep::inline v0 {

// The least of all quotas that hold for this process: of its own group and of each group above it
// that can be seen, in cgroup v2 (cpu.max) and v1 (cpu.cfs_quota_us over cpu.cfs_period_us), both
// of which a system may have at once. A part of a CPU counts as one. Nothing: there is no quota.
//
// `root` is put in front of each path that is read: made-up systems, in tests.
std::optional<std::size_t> cpu_quota(const std::string& root = {});

}  // namespace sidestep
