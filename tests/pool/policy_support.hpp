// Helpers of the tests of what a pool does around its tasks: callbacks, limits, retries, workers.
#pragma once

#include <chrono>
#include <stdexcept>
#include <string>

#include <catch2/catch.hpp>

#include "pool_support.hpp"

namespace test {

// get() that fails loudly instead of hanging.
template <class T>
T get(const sidestep::Future<T>& future) {
    if (!future.wait_for(kPatience)) throw std::runtime_error("it hangs: " + future.describe());
    return future.get();
}

// The error with which the future fails, which has to be an E.
template <class E, class T>
E error_of(const sidestep::Future<T>& future) {
    try {
        get(future);
    } catch (const E& error) {
        return error;
    }
    throw std::runtime_error("there was no error: " + future.describe());
}

// What this process writes to stderr while the object lives.
class CapturedStderr {
  public:
    CapturedStderr();
    ~CapturedStderr();
    CapturedStderr(const CapturedStderr&) = delete;
    CapturedStderr& operator=(const CapturedStderr&) = delete;
    std::string text() const;

  private:
    int file_;
    int before_;
};

// Processor time that this process has taken.
std::chrono::nanoseconds processor_time();
// The same of another process, in clock ticks.
std::uint64_t processor_ticks(pid_t pid);
// The supervisor sleeps: this process takes next to no processor time for a while. Tries again for
// a minute, since something may be going on still.
bool becomes_quiet();

// The words that a task finds behind a path, as the tasks below use them.
enum Word : std::size_t { kTell, kGate, kCount, kExtra, kWords = 16 };

// Tells its pid, waits for the gate, and heeds no request to stop: SIGTERM is ignored.
int ignore_sigterm(const std::string& path);
// Tells its pid, then works until it is asked to stop; adds 100 to kCount when it was.
int until_asked(const std::string& path);
// Tells its pid and computes for ever, without a look at the time.
int spin(const std::string& path);
// Counts itself in kCount and throws std::domain_error until that is `failures`; its attempt.
unsigned fail_first(const std::string& path, std::uint64_t failures);
// Counts itself in kCount; the first `crashes` runs are killed. Its attempt.
unsigned crash_first(const std::string& path, std::uint64_t crashes);

// Of the environment of the process that asks, now; "(none)" if it is not there.
std::string variable(const std::string& name);
// Of that which its program was started with: libraries read it before anything of ours runs.
std::string variable_at_start(const std::string& name);

}  // namespace test
