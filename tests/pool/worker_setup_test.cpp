// What workers are given by PoolOptions and by the environment: how many they are, what they find
// when they begin, and how long they may take to begin.
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <sidestep/process.hpp>

#include "policy_support.hpp"
#include "variable.hpp"

namespace worker_setup_test {

namespace fs = std::filesystem;
namespace mp = sidestep;
using namespace std::chrono_literals;
using Catch::Contains;
using test::get;
using test::methods;
using test::variable;
using test::Variable;
using test::variable_at_start;

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

// --- env, cwd, cpus, limits --------------------------------------------------------------------

namespace {

struct Found {
    int index = -1;
    std::string gpu, text, folder;
    std::vector<int> cpus;
    std::uint64_t files = 0, hard_files = 0;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(index, gpu, text, folder, cpus, files, hard_files);
    }
};
Found look() {
    Found found{.index = mp::this_worker::index(),
                .gpu = variable("SIDESTEP_TEST_GPU"),
                .text = variable("SIDESTEP_TEST_TEXT"),
                .folder = fs::current_path().string(),
                .cpus = {}};
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
        if (CPU_ISSET(cpu, &set)) found.cpus.push_back(cpu);
    rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    found.files = files.rlim_cur;
    found.hard_files = files.rlim_max;
    return found;
}
Found seen_by_initializer;
void remember() { seen_by_initializer = look(); }
Found remembered() { return seen_by_initializer; }

}  // namespace

TEST_CASE("each worker has the environment, folder, CPUs and limits that the options say",
          "[pool][worker_setup][env]") {
    auto method = GENERATE(from_range(methods()));
    Folder folder;
    for (const char* each : {"0", "1"}) fs::create_directory(folder.path() + "/" + each);
    const Found here = look();
    Variable inherited("SIDESTEP_TEST_TEXT", "the parent's");
    mp::Pool pool({.processes = 2,
                   .start_method = method,
                   .initializer = remember,
                   .env = {{"SIDESTEP_TEST_GPU", "{index}"},
                           {"SIDESTEP_TEST_ROUND", "{index%1}{index%2}{index%0}{index%}"},
                           {"SIDESTEP_TEST_TEXT", R"({"a": {index}, "b": "{index}{}"})"}},
                   .cwd = folder.path() + "/{index}",
                   .cpus = {{here.cpus.front()}, {here.cpus.back()}},
                   .limits = {{mp::subprocess::Resource::open_files, 200, 300}}});
    auto check = [&](const Found& found) {
        const std::string number = std::to_string(found.index);
        CHECK(found.gpu == number);
        CHECK(found.text == R"({"a": )" + number + R"(, "b": ")" + number + R"({}"})");
        CHECK(found.folder == fs::canonical(folder.path() + "/" + number));
        CHECK(found.cpus == std::vector{found.index == 0 ? here.cpus.front() : here.cpus.back()});
        CHECK(found.files == 200);
        CHECK(found.hard_files == 300);
    };
    std::set<int> seen;
    for (std::uint64_t key = 1; key < 9; ++key) {
        CHECK(get(pool.submit({.key = key}, variable, "SIDESTEP_TEST_ROUND")) ==
              "0" + std::to_string(get(pool.submit({.key = key}, look)).index) +
                  "{index%0}{index%}");
        seen.insert(get(pool.submit({.key = key}, look)).index);
        check(get(pool.submit({.key = key}, look)));
        check(get(pool.submit({.key = key}, remembered)));
    }
    CHECK(seen.size() == 2);
    if (method == mp::StartMethod::spawn)
        CHECK(get(pool.submit(variable_at_start, "SIDESTEP_TEST_GPU")) != "(none)");
    // One that comes in the place of another has the same.
    CHECK_THROWS_AS(get(pool.submit({.key = 1}, test::die, SIGKILL)), mp::WorkerLost);
    check(get(pool.submit({.key = 1}, look)));
    // This process is as it was.
    CHECK(variable("SIDESTEP_TEST_GPU") == "(none)");
    CHECK(variable("SIDESTEP_TEST_TEXT") == "the parent's");
    CHECK(fs::current_path() == here.folder);
    CHECK(look().cpus == here.cpus);
    CHECK(look().files == here.files);
}

TEST_CASE("sets of CPUs go round, and say how many threads libraries take",
          "[pool][worker_setup][env]") {
    auto method = GENERATE(from_range(methods()));
    const std::vector<int> all = look().cpus;
    Variable none("OMP_NUM_THREADS", "1");
    unsetenv("OMP_NUM_THREADS");
    mp::Pool pool({.processes = 3, .start_method = method, .cpus = {all}});
    for (std::uint64_t key = 1; key < 9; ++key) {
        CHECK(get(pool.submit({.key = key}, look)).cpus == all);
        CHECK(get(pool.submit({.key = key}, variable, "OMP_NUM_THREADS")) ==
              std::to_string(all.size()));
    }
    // What env says wins.
    mp::Pool told({.processes = 1,
                   .start_method = method,
                   .env = {{"OMP_NUM_THREADS", "5"}},
                   .inner_threads = 7});
    CHECK(get(told.submit(variable, "OMP_NUM_THREADS")) == "5");
    CHECK(get(told.submit(variable, "MKL_NUM_THREADS")) == variable("MKL_NUM_THREADS"));
}

TEST_CASE("what a worker cannot be given breaks the pool, which says what",
          "[pool][worker_setup][env]") {
    auto method = GENERATE(from_range(methods()));
    mp::PoolOptions options{.processes = 2, .start_method = method, .initializer = remember};
    mp::PoolOptions folder = options, cpus = options, limits = options;
    folder.cwd = "/no/such/folder/{index}";
    CHECK_THAT(why_broken(folder), Contains("could not be set up: PoolOptions::cwd") &&
                                       Contains("/no/such/folder/") &&
                                       Contains("No such file or directory"));
    cpus.cpus = {{1023}};
    CHECK_THAT(why_broken(cpus), Contains("PoolOptions::cpus {1023}: there is none of them"));
    limits.limits = {{mp::subprocess::Resource::open_files, std::uint64_t(1) << 40}};
    CHECK_THAT(why_broken(limits),
               Contains("PoolOptions::limits: open_files 1099511627776") && Contains("fs.nr_open"));
}

TEST_CASE("settings of workers that make no sense are refused by name",
          "[pool][worker_setup][env]") {
    using mp::subprocess::Resource;
    auto refused = [](mp::PoolOptions options, const std::string& why) {
        INFO(why);
        options.processes = 1;
        CHECK_THROWS_AS(mp::Pool(options), std::invalid_argument);
        CHECK_THROWS_WITH(mp::Pool(options), Contains("PoolOptions::" + why));
    };
    refused({.env = {{"", "x"}}}, "env: \"\" cannot be set");
    refused({.env = {{"A=B", "x"}}}, "env: \"A=B\" cannot be set");
    refused({.env = {{"A", std::string("x\0y", 3)}}}, "env: \"A\" cannot be set");
    refused({.cwd = std::string("/\0", 2)}, "cwd has a NUL");
    refused({.cpus = {{}}}, "cpus has an empty set");
    refused({.cpus = {{-1}}}, "cpus: there is no CPU -1");
    refused({.cpus = {{1 << 16}}}, "cpus: there is no CPU 65536");
    refused({.pin_workers = true, .cpus = {{0}}}, "pin_workers and cpus are both set");
    refused({.limits = {{Resource::open_files, 2, 1}}}, "limits: the soft limit 2 is above");
    refused({.limits = {{static_cast<Resource>(99), 1}}}, "limits: no such Resource");
}

}  // namespace worker_setup_test
