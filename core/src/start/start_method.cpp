#include <sidestep/start_method.hpp>

#include <fmt/format.h>

#include <atomic>
#include <stdexcept>
#include <string>

#include "start/start_defaults.hpp"
#include "sys/kept_value.hpp"

namespace sidestep::inline v0 {
namespace {

// Relaxed everywhere: each setting stands alone.
constexpr int kUnsettled = -1;
std::atomic<int> default_method{kUnsettled};
KeptValue<ModuleAddress> preload;
KeptValue<std::string> program;

constexpr StartMethod kAll[] = {StartMethod::spawn, StartMethod::fork, StartMethod::fork_threaded,
                                StartMethod::forkserver};

}  // namespace

std::string_view to_string(StartMethod method) {
    switch (method) {
        case StartMethod::spawn:
            return "spawn";
        case StartMethod::fork:
            return "fork";
        case StartMethod::fork_threaded:
            return "fork_threaded";
        case StartMethod::forkserver:
            return "forkserver";
    }
    throw std::invalid_argument("no start method has this number");
}

StartMethod start_method_named(std::string_view name) {
    for (StartMethod method : kAll)
        if (to_string(method) == name) return method;
    throw std::invalid_argument(fmt::format(
        "\"{}\" is no start method: use spawn, fork, fork_threaded or forkserver", name));
}

std::vector<StartMethod> get_all_start_methods() {
    return {StartMethod::spawn, StartMethod::fork, StartMethod::forkserver};
}

StartMethod get_start_method() {
    int settled = kUnsettled;
    if (default_method.compare_exchange_strong(settled, static_cast<int>(StartMethod::spawn)))
        return StartMethod::spawn;
    return static_cast<StartMethod>(settled);
}

void set_start_method(StartMethod method) {
    int settled = kUnsettled;
    if (!default_method.compare_exchange_strong(settled, static_cast<int>(method)))
        throw std::logic_error(fmt::format(
            "the default start method is settled already ({}): call set_start_method once, before "
            "any process is made, or name the method in ProcessOptions",
            to_string(static_cast<StartMethod>(settled))));
}

void force_start_method(StartMethod method) { default_method = static_cast<int>(method); }

void set_executable(const std::filesystem::path& path) {
    if (path.native().find('\0') != std::string::npos)
        throw std::invalid_argument("set_executable: the path contains a NUL");
    program.set(path.native());
}

std::filesystem::path get_executable() { return executable(); }

std::string executable() {
    const std::string* path = program.get();
    return path ? *path : std::string();
}

void set_forkserver_preload(void (*hook)()) {
    preload.set(hook ? locate(reinterpret_cast<const void*>(hook)) : ModuleAddress{});
}

ModuleAddress preload_hook() {
    const ModuleAddress* hook = preload.get();
    return hook ? *hook : ModuleAddress{};
}

void inherit_start_defaults(StartMethod method, const std::string& path,
                            const ModuleAddress& hook) {
    force_start_method(method);
    if (path != executable()) program.set(path);
    if (hook != preload_hook()) preload.set(hook);
}

}  // namespace sidestep
