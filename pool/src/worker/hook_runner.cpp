#include "worker/hook_runner.hpp"

#include <cstdio>
#include <exception>

#include <sidestep/archive.hpp>
#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/task.hpp>

#include "memory/arena.hpp"
#include "worker/inner_threads.hpp"
#include "worker/worker_settings.hpp"

namespace sidestep::inline v0::detail {

HookRunner::HookRunner(const WorkerSetup& setup, std::span<const std::byte> arguments, TaskFds& fds)
    : arguments_(arguments),
      fds_(fds),
      settings_(setup.settings),
      initializer_(setup.initializer),
      finalizer_(setup.finalizer),
      inner_threads_(setup.inner_threads),
      index_(setup.index) {}

void HookRunner::set_up() {
    if (settings_.size > 0) {
        InputArchive input(arguments_.subspan(Arena::offset(settings_.block), settings_.size));
        WorkerSettings settings;
        input(settings);
        settings.apply(index_);
    }
    set_inner_threads(inner_threads_);
}

void HookRunner::run(const HookSetup& hook) {
    const TaskEntry& entry =
        require_entry({{hook.module, hook.offset}, hook.signature}, "the initializer or finalizer");
    InputArchive input(arguments_.subspan(Arena::offset(hook.block), hook.size), &fds_);
    HeapBuffer nothing;
    OutputArchive output(nothing);
    entry.run(input, output);
}

void HookRunner::initialize() {
    const HookSetup& hook = initializer_;
    if (hook.fds || hook.lasting_fds) fds_.await(kInitializerFds, hook.fds, hook.lasting_fds);
    if (hook.fds) fds_.open(kInitializerFds, hook.fds);
    run(hook);
}

void HookRunner::finalize() {
    try {
        if (finalizer_.fds) fds_.open(kFinalizerFds, finalizer_.fds);
        if (finalizer_.given) run(finalizer_);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sidestep: the finalizer of worker %u threw %s\n", index_,
                     error.what());
    } catch (...) {
        pass_on_forced_unwind();
        std::fprintf(stderr, "sidestep: the finalizer of worker %u threw\n", index_);
    }
}

}  // namespace sidestep::detail
