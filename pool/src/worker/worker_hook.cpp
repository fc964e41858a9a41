#include <sidestep/detail/hook_maker.hpp>

#include <cstddef>
#include <span>
#include <utility>

namespace sidestep::inline v0 {
namespace {

// A call that is passed on to the workers as it came: the bytes are read there, so that code of
// theirs that throws or crashes does so in a worker, not in the agent that serves its whole host.
class ArrivedCall final : public detail::SentCall {
  public:
    ArrivedCall(const detail::TaskId& id, std::vector<std::uint8_t> arguments)
        : id_(id),
          entry_(detail::require_entry(id, "the initializer or finalizer")),
          arguments_(std::move(arguments)) {}

    const detail::TaskEntry& entry() const override { return entry_; }
    const detail::TaskId& id() const override { return id_; }
    const void* function() const override { return nullptr; }
    void save(OutputArchive& archive) const override {
        archive.write(arguments_.data(), arguments_.size());
    }
    void call() override {
        InputArchive arguments(std::as_bytes(std::span(arguments_)));
        detail::HeapBuffer nothing;
        OutputArchive result(nothing);
        entry_.run(arguments, result);
    }

  private:
    const detail::TaskId id_;
    const detail::TaskEntry& entry_;
    const std::vector<std::uint8_t> arguments_;
};

}  // namespace

WorkerHook WorkerHook::sent(const detail::TaskId& id, std::vector<std::uint8_t> arguments) {
    WorkerHook hook;
    hook.call_ = std::make_shared<ArrivedCall>(id, std::move(arguments));
    return hook;
}

}  // namespace sidestep
