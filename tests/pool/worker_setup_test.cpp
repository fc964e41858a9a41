// What workers are given by PoolOptions and by the environment: how many they are, what they find
// when they begin, and how long they may take to begin.
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <string>

#include <sidestep/process.hpp>

#include "policy_support.hpp"

namespace mp = sidestep;
using Catch::Contains;
using test::get;
using test::methods;

namespace {

// A variable of this process's environment, put back at the end.
class Variable {
  public:
    Variable(std::string name, const char* value) : name_(std::move(name)) {
        if (const char* before = std::getenv(name_.c_str())) before_ = before;
        set(value);
    }
    ~Variable() {
        if (before_)
            setenv(name_.c_str(), before_->c_str(), 1);
        else
            unsetenv(name_.c_str());
    }
    Variable(const Variable&) = delete;
    Variable& operator=(const Variable&) = delete;
    void set(const char* value) { setenv(name_.c_str(), value, 1); }

  private:
    const std::string name_;
    std::optional<std::string> before_;
};

}  // namespace

TEST_CASE("SIDESTEP_PROCESSES says how many workers a pool has whose options do not",
          "[pool][worker_setup]") {
    Variable processes("SIDESTEP_PROCESSES", "3");
    CHECK(mp::Pool().processes() == 3);
    CHECK(mp::Pool({.processes = 1}).processes() == 1);
    processes.set("0");
    CHECK(mp::Pool().apply(test::own_pid) == getpid());
    processes.set("");
    CHECK(mp::Pool().processes() == mp::process_cpu_count());
}

TEST_CASE("a SIDESTEP_PROCESSES that is no number of workers is refused by name",
          "[pool][worker_setup]") {
    const char* text = GENERATE("two", "3x", "-1", " 2", "1025", "99999999999");
    Variable processes("SIDESTEP_PROCESSES", text);
    CHECK_THROWS_AS(mp::Pool(), std::invalid_argument);
    CHECK_THROWS_WITH(mp::Pool(), Contains("SIDESTEP_PROCESSES is \"" + std::string(text) + "\"") &&
                                      Contains("1 to 1024"));
    CHECK(mp::Pool({.processes = 1}).processes() == 1);  // nobody asked it
}
