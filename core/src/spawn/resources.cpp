#include "spawn/resources.hpp"

#include <fmt/format.h>

#include <cstdlib>

#include "sys/sys.hpp"

namespace sidestep::inline v0::spawn {
namespace {

using subprocess::Resource;

constexpr KnownResource kResources[] = {
    {Resource::address_space, RLIMIT_AS, "address_space"},
    {Resource::core_file, RLIMIT_CORE, "core_file"},
    {Resource::cpu_seconds, RLIMIT_CPU, "cpu_seconds"},
    {Resource::data, RLIMIT_DATA, "data"},
    {Resource::file_size, RLIMIT_FSIZE, "file_size"},
    {Resource::locked_memory, RLIMIT_MEMLOCK, "locked_memory"},
    {Resource::message_queues, RLIMIT_MSGQUEUE, "message_queues"},
    {Resource::nice, RLIMIT_NICE, "nice"},
    {Resource::open_files, RLIMIT_NOFILE, "open_files"},
    {Resource::processes, RLIMIT_NPROC, "processes"},
    {Resource::realtime_priority, RLIMIT_RTPRIO, "realtime_priority"},
    {Resource::realtime_microseconds, RLIMIT_RTTIME, "realtime_microseconds"},
    {Resource::resident, RLIMIT_RSS, "resident"},
    {Resource::pending_signals, RLIMIT_SIGPENDING, "pending_signals"},
    {Resource::stack, RLIMIT_STACK, "stack"},
};

}  // namespace

const KnownResource* find_resource(Resource resource) {
    for (const KnownResource& one : kResources)
        if (one.resource == resource) return &one;
    return nullptr;
}

std::string limit_text(std::uint64_t limit) {
    return limit == RLIM_INFINITY ? "unlimited" : std::to_string(limit);
}

std::string exceeded(const KnownResource& resource, std::uint64_t hard, std::string_view whose) {
    rlimit own;
    if (::getrlimit(resource.number, &own) != 0 || hard <= own.rlim_max) return {};
    // No privilege helps against this one.
    auto most = sys::read_file("/proc/sys/fs/nr_open");
    if (resource.resource == Resource::open_files && most &&
        hard > std::strtoull(most->c_str(), nullptr, 10))
        return fmt::format("above what the system lets any process have, fs.nr_open, {}",
                           std::strtoull(most->c_str(), nullptr, 10));
    return fmt::format("above {} hard limit, {}; that takes CAP_SYS_RESOURCE", whose,
                       limit_text(own.rlim_max));
}

}  // namespace sidestep::spawn
