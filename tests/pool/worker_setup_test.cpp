// What workers are given by PoolOptions and by the environment: how many they are, what they find
// when they begin, and how long they may take to begin.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include <sidestep/process.hpp>

#include "policy_support.hpp"

namespace fs = std::filesystem;
namespace mp = sidestep;
using namespace std::chrono_literals;
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

// --- start_timeout -----------------------------------------------------------------------------

namespace {

void never_end() {
    for (;;) pause();
}

// The text of the BrokenPool that the first task gets.
std::string why_broken(const mp::PoolOptions& options) {
    mp::Pool pool(options);
    try {
        get(pool.submit(test::add, 1, 2));
    } catch (const mp::BrokenPool& error) {
        return error.what();
    }
    return "it is not broken";
}

class Folder {
  public:
    Folder() {
        if (!mkdtemp(path_.data())) throw std::runtime_error("mkdtemp " + path_);
    }
    ~Folder() { fs::remove_all(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    const std::string& path() const { return path_; }

  private:
    std::string path_ = (fs::temp_directory_path() / "sidestep-setup-XXXXXX").string();
};

// A program that never comes to init().
class Sleeper {
  public:
    Sleeper() {
        std::ofstream(path_) << "#!/bin/sh\nexec sleep 10000\n";
        fs::permissions(path_, fs::perms::owner_all);
        mp::set_executable(path_);
    }
    ~Sleeper() { mp::set_executable(""); }
    Sleeper(const Sleeper&) = delete;
    Sleeper& operator=(const Sleeper&) = delete;

  private:
    Folder folder_;
    const std::string path_ = folder_.path() + "/sleeper";
};

}  // namespace

TEST_CASE("an initializer that does not end within start_timeout breaks the pool, which says so",
          "[pool][worker_setup][start_timeout]") {
    auto method = GENERATE(from_range(methods()));
    std::string why;
    // A machine with much to do may be that late: then the worker is not yet there.
    for (auto timeout = 100ms; timeout < 60s && !Contains("initializer").match(why); timeout *= 4)
        why = why_broken({.processes = 2,
                          .start_method = method,
                          .initializer = never_end,
                          .start_timeout = timeout});
    CHECK_THAT(why, Contains("the initializer of worker") && Contains("start_timeout") &&
                        Contains("look at what it waits for"));
}

TEST_CASE("a program that never comes to init() breaks the pool after start_timeout",
          "[pool][worker_setup][start_timeout]") {
    Sleeper sleeper;
    CHECK_THAT(why_broken({.processes = 2, .start_timeout = 50ms}),
               Contains("had not come to sidestep::init() 50 ms after its start") &&
                   Contains("PoolOptions::start_timeout"));
    // Before there is a pool: its fork server is such a program.
    CHECK_THROWS_WITH(
        mp::Pool(
            {.processes = 1, .start_method = mp::StartMethod::forkserver, .start_timeout = 50ms}),
        Contains("the fork server does not answer") && Contains("init()"));
    CHECK(test::eventually([] { return test::children_of(getpid()).empty(); }));
}

TEST_CASE("a worker that is ready in time stays for as long as it likes",
          "[pool][worker_setup][start_timeout]") {
    auto method = GENERATE(from_range(methods()));
    auto timeout = GENERATE(mp::Timeout(60s), mp::Timeout::forever());
    mp::Pool pool({.processes = 1, .start_method = method, .start_timeout = timeout});
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
    CHECK_THROWS_WITH(mp::Pool({.processes = 1, .start_timeout = -1ms}),
                      Contains("start_timeout is negative"));
}
