// A callable that travels to the workers of a pool: an initializer or a finalizer.
#pragma once

#include <concepts>
#include <memory>
#include <type_traits>

#include <sidestep/pool_task.hpp>

namespace sidestep::inline v0 {

// Made from what can be a task without arguments: a function, a captureless lambda, a functor with
// `serialize`, bind(f, args...). What it returns is dropped.
class WorkerHook {
  public:
    WorkerHook() = default;

    template <class F>
    requires(!std::same_as<std::decay_t<F>, WorkerHook> && std::invocable<std::decay_t<F>&>)
        WorkerHook(
            F&& f)  // NOLINT: implicit, so that PoolOptions{.initializer = f} reads as it should
        : kind_(make_kind(std::forward<F>(f))),
          save_([f = std::decay_t<F>(f)](OutputArchive& archive) {
              detail::save_callable<std::decay_t<F>>(archive, f);
          }) {}

    explicit operator bool() const { return static_cast<bool>(kind_); }

    // Internal.
    const detail::TaskKind& kind() const { return *kind_; }
    void save(OutputArchive& archive) const { save_(archive); }

  private:
    template <class F>
    struct Body {
        static void run(InputArchive& arguments, OutputArchive&) {
            F f = detail::load_callable<F>(arguments);
            arguments.expect_end();
            (void)f();
        }
    };
    template <class F>
    static std::shared_ptr<const detail::TaskKind> make_kind(F&& f) {
        using Callable = std::decay_t<F>;
        detail::check_callable<Callable>();
        return std::make_shared<detail::TaskKind>(detail::task_kind<Body<Callable>>(f));
    }

    std::shared_ptr<const detail::TaskKind> kind_;
    std::function<void(OutputArchive&)> save_;
};

}  // namespace sidestep
