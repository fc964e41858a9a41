// A callable that travels to the workers of a pool: an initializer or a finalizer.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <sidestep/detail/travel.hpp>

namespace sidestep::inline v0 {

namespace detail {
class SentCall;
struct TaskId;
struct TaskKind;
// Incomplete here: a file that makes a WorkerHook includes <sidestep/pool.hpp> or manager.hpp, too.
template <class F>
struct HookMaker;
}  // namespace detail

// Made from what can be a task without arguments: a function, a captureless lambda, a functor with
// `serialize`, bind(f, args...). What it returns is dropped.
class WorkerHook {
  public:
    WorkerHook() = default;

    template <class F>
    requires(!std::same_as<std::decay_t<F>, WorkerHook> && std::invocable<std::decay_t<F>&>)
        WorkerHook(
            F&& f)  // NOLINT: implicit, so that PoolOptions{.initializer = f} reads as it should
        : call_(detail::HookMaker<std::decay_t<F>>::make(std::forward<F>(f))) {}

    explicit operator bool() const { return call_ != nullptr; }

    // Internal.
    detail::TaskKind kind() const;
    void save(OutputArchive& archive) const;
    // One that came from another host. Throws SerializationError if this program has no such code.
    static WorkerHook sent(const detail::TaskId& id, std::vector<std::uint8_t> arguments);

  private:
    std::shared_ptr<const detail::SentCall> call_;
};

}  // namespace sidestep
