// The process of an actor, as templates see it. Internal: see actor.hpp.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include <sidestep/connection.hpp>
#include <sidestep/detail/hosted.hpp>
#include <sidestep/value.hpp>

namespace sidestep::inline v0::detail {

// What an actor's process is told when it starts.
struct ActorSetup {
    std::string name, authkey;
    unsigned max_restarts = 0;
    std::chrono::nanoseconds within{};
    unsigned checkpoint_every = 0, readers = 1;
    std::uint64_t max_pending = 0;
    std::chrono::nanoseconds timeout_grace{};
    std::int32_t start_method = 0;  // what the owner said: the default of the object's process

    template <class Archive>
    void serialize(Archive& archive) {
        archive(name, authkey, max_restarts, within, checkpoint_every, readers, max_pending,
                timeout_grace, start_method);
    }
};

// What the owner may ask at any time. Each by itself: nothing hangs on both.
struct ActorNumbers {
    std::atomic<std::int32_t> pid{0};  // 0: it is over
    std::atomic<std::uint32_t> restarts{0};
};

// What the object needs of its process.
class ActorHost {
  public:
    virtual ~ActorHost() = default;
    virtual unsigned readers() const = 0;
    // 0: there are none.
    virtual unsigned checkpoint_every() const = 0;
    virtual void save(std::span<const std::byte> state) = 0;
    virtual std::optional<std::vector<std::byte>> last_state() const = 0;
};

template <class T>
class HostedActor final : public Hosted {
  public:
    template <class... Args>
    explicit HostedActor(ActorHost& host, Args&&... args)
        : Hosted(hosted_type<T>(), host.readers()),
          host_(host),
          value_(std::forward<Args>(args)...) {
        if constexpr (Travels<T>) {
            auto state = host_.last_state();
            if (!state) return;
            InputArchive archive(*state);
            archive(value_);
            archive.expect_end();
        }
    }
    void* object() override { return &value_; }
    const char* type_name() const override { return typeid(T).name(); }
    bool holds_for_clients() const override {
        return requires(T & value) { value.client_gone(std::uint64_t(0)); };
    }
    void client_gone(std::uint64_t client) override {
        if constexpr (requires { value_.client_gone(client); }) value_.client_gone(client);
    }
    void settle() override {
        if constexpr (Travels<T>) {
            const unsigned every = host_.checkpoint_every();
            if (every == 0 || ++calls_ < every) return;
            HeapBuffer state;
            OutputArchive archive(state);
            archive(value_);
            host_.save(state.bytes());
            calls_ = 0;
        }
    }

  private:
    ActorHost& host_;
    T value_;
    unsigned calls_ = 0;  // since the last checkpoint
};

using MakeActor = std::function<std::shared_ptr<Hosted>(ActorHost&)>;
// The function of the actor's process: tells the owner where it listens, then serves until that
// ends. make() is called in each process that has the object.
void run_actor(const ActorSetup& setup, Connection owner, RawValue<ActorNumbers> numbers,
               const MakeActor& make);

template <class T, class... Args>
struct ActorMain {
    static void run(ActorSetup setup, Connection owner, RawValue<ActorNumbers> numbers,
                    Args... args) {
        run_actor(setup, std::move(owner), numbers, [&](ActorHost& host) {
            return std::make_shared<HostedActor<T>>(host, std::move(args)...);
        });
    }
};

}  // namespace sidestep::detail
