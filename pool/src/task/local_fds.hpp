// The descriptors of a task that runs in the process that submitted it.
#pragma once

#include <cstdint>

#include <sidestep/archive.hpp>
#include <sidestep/detail/pool_task.hpp>

#include "sys/fd.hpp"

namespace sidestep::inline v0::detail {

class LocalFds final : public FdSource {
  public:
    explicit LocalFds(const TaskDescriptors& fds) : fds_(&fds) {}
    int get(std::uint64_t number) override { return Fd::duplicate_of(find(number)).release(); }

  private:
    int find(std::uint64_t number) const {
        for (const auto& each : fds_->lasting)
            if (number == (TaskDescriptors::kLasting | each.identity)) return each.fd;
        if (number < fds_->numbers.size()) return fds_->numbers[number];
        throw SerializationError("the task's arguments name a descriptor that did not come");
    }

    const TaskDescriptors* fds_;
};

}  // namespace sidestep::detail
