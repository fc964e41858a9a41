// Helpers of the tests of Process.
#pragma once

#include <catch2/catch.hpp>
#include <string>

#include <sidestep/process.hpp>

#include "support.hpp"

// Runs what follows in the test case once for each start method. The fork server that a run started
// is stopped at its end: it would count as a leak.
#define FOR_EACH_START_METHOD()                                                             \
    const auto method = GENERATE(sidestep::StartMethod::spawn, sidestep::StartMethod::fork, \
                                 sidestep::StartMethod::forkserver);                        \
    INFO("start method " << sidestep::to_string(method));                                   \
    test::StopForkServer stop_at_the_end

namespace test {

struct StopForkServer {
    StopForkServer() = default;
    ~StopForkServer() { sidestep::stop_forkserver(); }
    StopForkServer(const StopForkServer&) = delete;
    StopForkServer& operator=(const StopForkServer&) = delete;
};

// Sets the default start method for a scope.
class DefaultMethod {
  public:
    explicit DefaultMethod(sidestep::StartMethod method) : former_(sidestep::get_start_method()) {
        sidestep::force_start_method(method);
    }
    ~DefaultMethod() { sidestep::force_start_method(former_); }
    DefaultMethod(const DefaultMethod&) = delete;
    DefaultMethod& operator=(const DefaultMethod&) = delete;

  private:
    sidestep::StartMethod former_;
};

inline bool contains(const std::vector<sidestep::ChildProcess>& children,
                     const sidestep::ChildProcess& child) {
    return std::find(children.begin(), children.end(), child) != children.end();
}

}  // namespace test
