#include "worker/worker_settings.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "checked_options.hpp"
#include "spawn/resources.hpp"
#include "sys/cpu_set.hpp"
#include "sys/error.hpp"
#include "sys/hints.hpp"
#include "worker/inner_threads.hpp"

namespace sidestep::inline v0::detail {
namespace {

using subprocess::Resource;
using subprocess::ResourceLimit;

// "{index}" or "{index%4}" in a text.
struct IndexMark {
    std::size_t begin = 0, length = 0;
    unsigned modulus = 0;  // 0: none
};
std::optional<IndexMark> next_mark(std::string_view text, std::size_t from) {
    constexpr std::string_view kIndex = "{index";
    for (std::size_t at; (at = text.find(kIndex, from)) != std::string_view::npos; from = at + 1) {
        const char* const end = text.data() + text.size();
        const char* next = text.data() + at + kIndex.size();
        unsigned modulus = 0;
        if (next != end && *next == '%') {
            auto [rest, error] = std::from_chars(next + 1, end, modulus);
            if (error != std::errc() || modulus == 0) continue;
            next = rest;
        }
        if (next != end && *next == '}')
            return IndexMark{at, static_cast<std::size_t>(next + 1 - text.data()) - at, modulus};
    }
    return {};
}

bool has_nul(const std::string& text) { return text.find('\0') != std::string::npos; }

void set_variable(const std::string& name, const std::string& value) {
    if (::setenv(name.c_str(), value.c_str(), 1) < 0)
        throw_errno(errno, fmt::format("PoolOptions::env: setenv({})", name));
}

void set_cpus(const std::vector<int>& cpus) {
    sys::CpuSet set;
    for (int cpu : cpus) set.add(cpu);
    if (set.apply()) return;
    const int error = errno;
    throw_errno(error, fmt::format("PoolOptions::cpus {{{}}}{}: sched_setaffinity",
                                   fmt::join(cpus, ", "), sys::affinity_hint(error)));
}

void set_limit(Resource which, std::uint64_t soft, std::uint64_t hard) {
    const spawn::KnownResource* resource = spawn::find_resource(which);
    const rlimit limit = {soft, hard};
    if (!resource || ::setrlimit(resource->number, &limit) == 0) return;
    const int error = errno;
    std::string why = error == EPERM ? spawn::exceeded(*resource, hard, "this process's") : "";
    throw_errno(error, fmt::format("PoolOptions::limits: {} {} (hard: {}){}{}: setrlimit",
                                   resource->name, soft, hard, why.empty() ? "" : ", ", why));
}

}  // namespace

std::string with_index(std::string text, unsigned index) {
    std::size_t from = 0;
    while (const auto mark = next_mark(text, from)) {
        const std::string number =
            std::to_string(mark->modulus > 0 ? index % mark->modulus : index);
        text.replace(mark->begin, mark->length, number);
        from = mark->begin + number.size();
    }
    return text;
}

std::vector<std::pair<std::string, std::string>> added_environment(const PoolOptions& options,
                                                                   std::optional<unsigned> index) {
    auto added = inner_thread_variables(*options.inner_threads);
    if (options.env.contains(kOpenMpThreads)) added.clear();  // it speaks for all
    std::erase_if(added, [&](const auto& entry) { return options.env.contains(entry.first); });
    for (const auto& [name, value] : options.env)
        if (index)
            added.emplace_back(name, with_index(value, *index));
        else if (!next_mark(value, 0))
            added.emplace_back(name, value);
    return added;
}

WorkerSettings::WorkerSettings(const PoolOptions& options)
    : env_(options.env), cwd_(options.cwd), cpus_(options.cpus) {
    for (const ResourceLimit& limit : options.limits)
        limits_.push_back({static_cast<std::uint32_t>(limit.resource), limit.soft,
                           limit.hard.value_or(limit.soft)});
}

void WorkerSettings::put_into(PoolOptions& options) const {
    options.env = env_;
    options.cwd = cwd_;
    options.cpus = cpus_;
    options.limits.clear();
    for (const Limit& limit : limits_)
        options.limits.push_back({static_cast<Resource>(limit.resource), limit.soft, limit.hard});
}

void WorkerSettings::check(const PoolOptions& options) {
    for (const auto& [name, value] : options.env)
        if (name.empty() || name.find('=') != std::string::npos || has_nul(name) || has_nul(value))
            refuse_option(fmt::format(
                "env: \"{}\" cannot be set; a name is not empty and has no '=', and neither name "
                "nor value has a NUL",
                name.c_str()));
    if (has_nul(options.cwd)) refuse_option("cwd has a NUL: no folder has");
    if (!options.cpus.empty() && options.pin_workers)
        refuse_option("pin_workers and cpus are both set; cpus says which ones, pin_workers any");
    for (const std::vector<int>& set : options.cpus) {
        if (set.empty())
            refuse_option("cpus has an empty set; name the CPUs of each worker, {{0, 1}, {2, 3}}");
        for (int cpu : set)
            if (cpu < 0 || cpu >= sys::CpuSet::kMost)
                refuse_option(fmt::format("cpus: there is no CPU {}", cpu));
    }
    for (const ResourceLimit& limit : options.limits) {
        if (!spawn::find_resource(limit.resource)) refuse_option("limits: no such Resource");
        if (limit.hard && limit.soft > *limit.hard)
            refuse_option(fmt::format("limits: the soft limit {} is above the hard limit {}",
                                      limit.soft, *limit.hard));
    }
}

void WorkerSettings::apply(unsigned index) const {
    for (const auto& [name, value] : env_) set_variable(name, with_index(value, index));
    if (!cwd_.empty()) {
        const std::string folder = with_index(cwd_, index);
        if (::chdir(folder.c_str()) < 0)
            throw_errno(errno, fmt::format("PoolOptions::cwd: chdir(\"{}\")", folder));
    }
    if (!cpus_.empty()) set_cpus(cpus_[index % cpus_.size()]);
    for (const Limit& limit : limits_)
        set_limit(static_cast<Resource>(limit.resource), limit.soft, limit.hard);
}

}  // namespace sidestep::detail
