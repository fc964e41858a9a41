// Tasks that are asked back from another host. The host is made up: it has what it is given, and
// answers when the test says so.
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>
#include <sidestep/pool.hpp>

#include "lanes/host_lane.hpp"
#include "pool_support.hpp"

namespace recall_test {

namespace mp = sidestep;
namespace detail = sidestep::detail;
using test::SharedWords;

namespace {

// What the pool has said of each task, by its number: how often it was asked back.
struct MadeUpHost {
    std::mutex mutex;
    std::map<std::uint64_t, int> tasks;
    std::shared_ptr<detail::HostListener> pool;
    std::uint32_t lane = 0;

    std::size_t count() {
        std::lock_guard lock(mutex);
        return tasks.size();
    }
    std::size_t asked_back() {
        std::lock_guard lock(mutex);
        std::size_t n = 0;
        for (auto& [number, times] : tasks) n += times > 0;
        return n;
    }
    // None of them was begun.
    void give_all_back() {
        std::vector<detail::HostEvent> events;
        {
            std::lock_guard lock(mutex);
            for (auto& [number, times] : std::exchange(tasks, {}))
                events.emplace_back(detail::HostCancelled{number});
        }
        pool->hosts_told(lane, std::move(events));
    }
};

class MadeUpLane final : public detail::HostLane {
  public:
    explicit MadeUpLane(std::shared_ptr<MadeUpHost> host) : host_(std::move(host)) {}
    void start(const detail::HostOrder& order) override {
        std::lock_guard lock(host_->mutex);
        host_->tasks.emplace(order.number, 0);
    }
    void cancel(std::uint64_t number, Cancel) override {
        std::lock_guard lock(host_->mutex);
        ++host_->tasks[number];
    }
    void close() noexcept override { end(); }
    void terminate() noexcept override { end(); }

  private:
    // The pool's mutex is held. It refers to this host, so this lets go of it.
    void end() {
        std::thread([pool = std::exchange(host_->pool, nullptr), lane = host_->lane] {
            if (pool) pool->hosts_told(lane, {detail::HostClosed{}});
        }).detach();
    }
    std::shared_ptr<MadeUpHost> host_;
};

class MadeUpHosts final : public detail::Hosts {
  public:
    explicit MadeUpHosts(std::shared_ptr<MadeUpHost> host) : host_(std::move(host)) {}
    std::vector<Share> share_out(std::optional<unsigned>) const override {
        return {{"here", 1}, {"there", 1}};
    }
    std::unique_ptr<detail::HostLane> open(
        std::size_t, const mp::PoolOptions&, unsigned, std::uint32_t lane,
        std::shared_ptr<detail::HostListener> listener) override {
        host_->lane = lane;
        host_->pool = std::move(listener);
        return std::make_unique<MadeUpLane>(host_);
    }

  private:
    std::shared_ptr<MadeUpHost> host_;
};

}  // namespace

TEST_CASE("A task that was cancelled on a host that is stuck does not run elsewhere", "[cluster]") {
    SharedWords words(3);
    auto host = std::make_shared<MadeUpHost>();
    mp::PoolOptions options{.processes = 2};
    options.hosts = std::make_shared<MadeUpHosts>(host);
    mp::Pool pool(std::move(options));
    auto gate = pool.submit({.key = 2}, test::wait_at, words.path(), 0, 1);  // here
    test::await(words[0]);
    std::vector<mp::Future<std::uint64_t>> kept, cancelled;
    while (host->count() < 1) kept.push_back(pool.submit(test::bump, words.path(), 2));
    while (host->count() < 4) cancelled.push_back(pool.submit(test::bump, words.path(), 2));
    for (auto& future : cancelled) (void)future.cancel();
    CHECK(host->asked_back() == 3);
    // Now this host's worker becomes idle, and the other stands still for longer than it may.
    words[1] = 1;
    gate.get();
    REQUIRE(test::eventually([&] { return host->asked_back() == 4; }));
    host->give_all_back();
    for (auto& future : cancelled) CHECK_THROWS_AS(future.get(), mp::CancelledError);
    for (auto& future : kept) CHECK_NOTHROW(future.get());
    CHECK(words[2] == kept.size());
}

}  // namespace recall_test
