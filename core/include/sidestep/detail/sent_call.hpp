// Calls that are sent to another process for what they do there. Internal.
#pragma once

#include <memory>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <sidestep/task.hpp>

namespace sidestep::inline v0::detail {

// A callable with its arguments, of any types, which is called for what it does: the target of a
// Process, the initializer and the finalizer of a pool, the action of a Barrier. It is sent by
// id() and save(), and made anew by its entry's load().
class SentCall {
  public:
    virtual ~SentCall() = default;
    virtual const TaskEntry& entry() const = 0;
    virtual const TaskId& id() const = 0;
    virtual const void* function() const = 0;  // for messages; null: it is no function pointer
    virtual void save(OutputArchive& archive) const = 0;
    // What it returns is dropped. Arguments are moved from: with any, it is called once.
    virtual void call() = 0;
};
// Throws SerializationError if it is no SentCall of this process: "the code of " whose...
std::unique_ptr<SentCall> load_sent_call(const TaskId& id, std::string_view whose,
                                         InputArchive& archive);

template <class F, class... Args>
class SentCallOf final : public SentCall {
    using Parts = CallParts<F, Args...>;

  public:
    explicit SentCallOf(Parts parts) : parts_(std::move(parts)) {}
    const TaskEntry& entry() const override { return kTaskEntry<SentCallOf>; }
    const TaskId& id() const override { return task_id<SentCallOf>(); }
    const void* function() const override { return function_address(parts_.f); }
    void save(OutputArchive& archive) const override { parts_.save(archive); }
    void call() override { (void)std::apply(parts_.f, std::move(parts_.args)); }

    static std::unique_ptr<SentCall> load(InputArchive& archive) {
        return std::make_unique<SentCallOf>(Parts::load(archive));
    }
    static void run(InputArchive& arguments, OutputArchive&) {
        SentCallOf made(Parts::load(arguments));
        arguments.expect_end();
        made.call();
    }

  private:
    Parts parts_;
};
template <class F, class... Args>
std::unique_ptr<SentCall> make_sent_call([[maybe_unused]] F&& f, [[maybe_unused]] Args&&... args) {
    using Callable = std::decay_t<F>;
    using Check = CallCheck<Callable, Stored<Args>...>;
    Check::check();
    constexpr bool kept = (std::is_constructible_v<Stored<Args>, Args> && ...);
    static_assert(kept || !Check::kFine,
                  "an argument is kept until the process starts, and this one can only be moved: "
                  "std::move() it into the call");
    if constexpr (Check::kFine && kept)
        return std::make_unique<SentCallOf<Callable, Stored<Args>...>>(
            CallParts<Callable, Stored<Args>...>{
                std::forward<F>(f), std::tuple<Stored<Args>...>(std::forward<Args>(args)...)});
}

}  // namespace sidestep::detail
