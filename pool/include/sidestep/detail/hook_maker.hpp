// What a WorkerHook is made by, and what it is made of. Internal.
#pragma once

#include <memory>
#include <utility>

#include <sidestep/detail/pool_task.hpp>
#include <sidestep/detail/sent_call.hpp>
#include <sidestep/worker_hook.hpp>

namespace sidestep::inline v0 {

template <class F>
struct detail::HookMaker {
    template <class Given>
    static std::shared_ptr<const SentCall> make(Given&& f) {
        return make_sent_call(std::forward<Given>(f));
    }
};

inline detail::TaskKind WorkerHook::kind() const {
    return {call_->id(), call_->entry(), call_->function()};
}
inline void WorkerHook::save(OutputArchive& archive) const { call_->save(archive); }

}  // namespace sidestep
