// PoolOptions::inner_threads: how many threads the libraries in a worker are told to take.
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "policy_support.hpp"

namespace inner_threads_test {

namespace mp = sidestep;
using test::get;
using test::methods;
using test::variable;
using test::variable_at_start;

namespace {

const std::vector<std::string> kNames{
    "OMP_NUM_THREADS",  "OPENBLAS_NUM_THREADS",   "GOTO_NUM_THREADS",    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS"};

std::string seen_by_initializer;
void remember() { seen_by_initializer = variable("OMP_NUM_THREADS"); }
std::string remembered() { return seen_by_initializer; }

// The environment of a user who has set none of them, or one.
class Environment {
  public:
    explicit Environment(const std::string& set = "", const std::string& to = "") {
        for (const std::string& name : kNames) {
            const char* value = std::getenv(name.c_str());
            former_.push_back(value ? std::optional<std::string>(value) : std::nullopt);
            unsetenv(name.c_str());
        }
        if (!set.empty()) setenv(set.c_str(), to.c_str(), 1);
    }
    ~Environment() {
        for (std::size_t i = 0; i < kNames.size(); ++i)
            if (former_[i])
                setenv(kNames[i].c_str(), former_[i]->c_str(), 1);
            else
                unsetenv(kNames[i].c_str());
    }
    Environment(const Environment&) = delete;
    Environment& operator=(const Environment&) = delete;

  private:
    std::vector<std::optional<std::string>> former_;
};

std::string default_share(unsigned processes) {
    mp::Pool pool({.processes = processes});
    return get(pool.submit(variable, "OMP_NUM_THREADS"));
}

}  // namespace

TEST_CASE("a worker's libraries are told how many threads to take, and this process is left alone",
          "[pool][inner_threads]") {
    auto method = GENERATE(from_range(methods()));
    Environment clean;
    mp::Pool pool(
        {.processes = 1, .start_method = method, .initializer = remember, .inner_threads = 3});
    for (const std::string& name : kNames) {
        INFO(name);
        CHECK(get(pool.submit(variable, name)) == "3");
        CHECK(variable(name) == "(none)");
        bool afresh = method != mp::StartMethod::fork;
        CHECK(get(pool.submit(variable_at_start, name)) == (afresh ? "3" : "(none)"));
    }
    CHECK(get(pool.submit(remembered)) == "3");
    auto lost = pool.submit(test::die, SIGKILL);
    CHECK_THROWS_AS(get(lost), mp::WorkerLost);
    CHECK(get(pool.submit(variable, "MKL_NUM_THREADS")) == "3");  // of the worker in its place
}

TEST_CASE("without a word each worker takes its share of the CPUs", "[pool][inner_threads]") {
    Environment clean;
    int cpus = std::stoi(default_share(1));
    CHECK(cpus >= 1);
    CHECK(default_share(2) == std::to_string(std::max(1, cpus / 2)));
    CHECK(default_share(static_cast<unsigned>(cpus) + 1) == "1");
    mp::Pool pinned({.processes = 1, .pin_workers = true});
    CHECK(get(pinned.submit(variable, "OMP_NUM_THREADS")) == "1");
}

TEST_CASE("what the user has set himself stays; OMP_NUM_THREADS speaks for all",
          "[pool][inner_threads]") {
    auto method = GENERATE(from_range(methods()));
    {
        Environment own("MKL_NUM_THREADS", "7");
        mp::Pool pool({.processes = 1, .start_method = method, .inner_threads = 3});
        CHECK(get(pool.submit(variable, "MKL_NUM_THREADS")) == "7");
        CHECK(get(pool.submit(variable, "OMP_NUM_THREADS")) == "3");
    }
    Environment own("OMP_NUM_THREADS", "5");
    mp::Pool pool({.processes = 1, .start_method = method, .inner_threads = 3});
    CHECK(get(pool.submit(variable, "OMP_NUM_THREADS")) == "5");
    CHECK(get(pool.submit(variable, "OPENBLAS_NUM_THREADS")) == "(none)");
}

TEST_CASE("inner_threads = 0 leaves libraries alone, and more than 65536 is refused",
          "[pool][inner_threads]") {
    auto method = GENERATE(from_range(methods()));
    Environment clean;
    {
        mp::Pool pool({.processes = 1, .start_method = method, .inner_threads = 0});
        for (const std::string& name : kNames) CHECK(get(pool.submit(variable, name)) == "(none)");
    }
    CHECK_THROWS_AS(mp::Pool({.processes = 1, .start_method = method, .inner_threads = 65537}),
                    std::invalid_argument);
    mp::Pool most({.processes = 1, .start_method = method, .inner_threads = 65536});
    CHECK(get(most.submit(variable, "OMP_NUM_THREADS")) == "65536");
}

}  // namespace inner_threads_test
