#include "spawn/resources.hpp"

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

}  // namespace sidestep::spawn
