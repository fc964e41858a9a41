// A kind of pool for the contracts of tests/pool/both_pools.hpp: nearly all of its tasks run on
// another host.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sidestep/this_task.hpp>

#include "pool_support.hpp"
#include "thread_job.hpp"

namespace test {

// The hosts of a job, of which this one has a worker that takes a second to start: so tasks go to
// the others, if there is room. (A pool that has no worker here is one without workers.)
class OthersFirst final : public detail::Hosts {
  public:
    explicit OthersFirst(std::shared_ptr<detail::Hosts> all) : all_(std::move(all)) {}
    std::vector<Share> share_out(std::optional<unsigned> processes) const override {
        return all_->share_out(processes);
    }
    std::unique_ptr<detail::HostLane> open(
        std::size_t host, const sidestep::PoolOptions& options, unsigned processes,
        std::uint32_t lane, std::shared_ptr<detail::HostListener> listener) override {
        sidestep::PoolOptions theirs = options;
        theirs.initializer = {};
        theirs.leave_grace = sidestep::PoolOptions().leave_grace;
        return all_->open(host, theirs, processes, lane, std::move(listener));
    }
    static sidestep::PoolOptions options(const ThreadJob& job) {
        auto takes_time = [] {
            sidestep::this_task::sleep_for(std::chrono::seconds(1));  // style-ok: or until killed
        };
        sidestep::PoolOptions options =
            job.options({.initializer = sidestep::bind(takes_time), .leave_grace = {}});
        options.hosts = std::make_shared<OthersFirst>(std::move(options.hosts));
        return options;
    }

  private:
    const std::shared_ptr<detail::Hosts> all_;
};

// Two workers on a host of another name, and after a second one on this.
struct AnotherHost {
    ThreadJob job{1};
    sidestep::Pool pool{OthersFirst::options(job)};
};

}  // namespace test
