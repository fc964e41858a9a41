// How a process finds its place in a job, in init().
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <sidestep/pool_options.hpp>

#include "transport.hpp"

namespace sidestep::inline v0::detail {

// What a launcher's variables say of this process.
struct Launch {
    std::string launcher;  // for messages
    int size = 0;          // processes in the job
};
// Nothing: no launcher started it, or it is alone, or SIDESTEP_CLUSTER=local. `get`: std::getenv.
// Throws std::invalid_argument for a SIDESTEP_CLUSTER that is none.
std::optional<Launch> find_launch(const std::function<const char*(const char*)>& get);

// One of the libraries that start a job.
class JobLibrary {
  public:
    virtual std::string name() const = 0;  // for messages: "Open MPI 4.1.4"
    // Joins the job. Called once, by the thread that calls init().
    virtual std::unique_ptr<Transport> join() = 0;
    // Leaves it, when the transport is gone; or ends all of it.
    virtual void leave() noexcept = 0;
    [[noreturn]] virtual void abort(int exit_code) noexcept = 0;

  protected:
    ~JobLibrary() = default;
};

// init()'s part: in the first process it returns, in all others it ends the process when the first
// one has ended. Without a launcher it does nothing.
void join_job(JobLibrary& library);
// cluster()'s: the hosts of the job, or none.
PoolOptions with_hosts(PoolOptions options);

}  // namespace sidestep::detail
