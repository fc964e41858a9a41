#include "messages.hpp"

#include <fmt/format.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include <sidestep/detail/hook_maker.hpp>
#include <sidestep/this_task.hpp>

#include "sys/cpu_set.hpp"
#include "sys/sys.hpp"
#include "travel/module_id.hpp"

namespace sidestep::inline v0::detail {
namespace {

// The program, which comes first, and what has a copy of this library in it.
std::string own_build() {
    struct Search {
        std::string text;
        bool first = true;
    } search;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* data) {
            auto& found = *static_cast<Search*>(data);
            if (found.first || has_this_library(*info))
                found.text += fmt::format("{}{:016x}", found.first ? "" : " ", module_id(*info));
            found.first = false;
            return 0;
        },
        &search);
    return search.text;
}

void add_affinity(Hello& hello) {
    hello.cpus_of_host = static_cast<std::uint32_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
    hello.cpus_bound_to = hello.cpus_of_host;
    const auto set = sys::CpuSet::of_this_thread();
    if (!set) return;  // as far as anybody knows, it is not bound
    hello.cpus_bound_to = static_cast<std::uint32_t>(set->count());
    hello.affinity = fmt::format("{}", fmt::join(set->numbers(), " "));
}

}  // namespace

Hello introduce() {
    Hello hello;
    hello.host = this_task::host();
    hello.program = own_build();
    hello.cpus = static_cast<std::uint32_t>(sys::usable_cpus());
    add_affinity(hello);
    hello.pid = ::getpid();
    return hello;
}

WiredHook wired(const WorkerHook& hook) {
    WiredHook wire;
    if (!hook) return wire;
    wire.given = true;
    wire.id = hook.kind().id;
    HeapBuffer buffer;
    OutputArchive archive(buffer);
    hook.save(archive);
    auto* begin = reinterpret_cast<const std::uint8_t*>(buffer.begin());
    wire.arguments.assign(begin, begin + buffer.size());
    return wire;
}

WorkerHook unwired(WiredHook hook) {
    return hook.given ? WorkerHook::sent(hook.id, std::move(hook.arguments)) : WorkerHook();
}

MessageKind kind_of(InputArchive& archive) {
    std::uint8_t kind = 0;
    archive(kind);
    if (kind < static_cast<std::uint8_t>(MessageKind::hello) ||
        kind > static_cast<std::uint8_t>(MessageKind::resigned))
        throw SerializationError(
            fmt::format("a message between hosts is of no known kind ({})", kind));
    return static_cast<MessageKind>(kind);
}

}  // namespace sidestep::detail
