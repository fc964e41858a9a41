// How many there may be, what each costs, and what is said when the system has no more.
#include <catch2/catch.hpp>

#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include <sidestep/actor.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/start_method.hpp>

#include "manager_support.hpp"
#include "sandbox.hpp"
#include "support.hpp"

namespace many_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using test::text_of_error;

namespace {

class Worker {
  public:
    int add(int n) { return sum_ += n; }
    void die() { ::kill(::getpid(), SIGKILL); }

  private:
    int sum_ = 0;
};

// In kilobytes; 0: it is not there.
std::size_t number_in(const std::string& path, const std::string& name) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);)
        if (line.starts_with(name)) return std::stoul(line.substr(name.size()));
    return 0;
}
std::size_t open_files() {
    std::filesystem::directory_iterator all("/proc/self/fd");
    return std::size_t(std::distance(begin(all), end(all)));
}

// As many of these as this machine and its limits have room for.
int as_many_as_fit(int wanted) {
#ifdef TEST_SANITIZED
    return std::min(wanted, 10);
#endif
    constexpr std::size_t kActorKilobytes = 6 << 10;
    rlimit files = {};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &files) == 0);
    files.rlim_cur = files.rlim_max;
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &files) == 0);
    const auto by_files = files.rlim_cur == RLIM_INFINITY ? 1u << 20 : files.rlim_cur / 6;
    const auto by_memory = number_in("/proc/meminfo", "MemAvailable:") / kActorKilobytes;
    return int(std::min<std::size_t>({std::size_t(wanted), by_files, by_memory}));
}

// No descriptor is to be had but for so many more, while it lives.
class FewDescriptors {
  public:
    explicit FewDescriptors(int more) {
        REQUIRE(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
        const int next = ::dup(0);
        REQUIRE(next >= 0);
        ::close(next);
        rlimit few = before_;
        few.rlim_cur = static_cast<rlim_t>(next + more);
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
    }
    ~FewDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

  private:
    rlimit before_ = {};
};

// So many live at once; what each costs is what the header says.
void have_actors(int wanted) {
    const int many = as_many_as_fit(wanted);
    if (many < wanted) WARN("here there is room for " << many << " actors only");
    [[maybe_unused]] const std::size_t files = open_files(),
                                       memory = number_in("/proc/self/status", "VmRSS:");
    std::deque<mp::Actor<Worker>> actors;
    for (int i = 0; i < many; ++i)
        actors.emplace_back(mp::ActorOptions{.start_method = mp::StartMethod::forkserver});
    std::vector<mp::Future<int>> sums;
    for (int i = 0; i < many; ++i) sums.push_back(actors[std::size_t(i)].submit<&Worker::add>(i));
    for (int i = 0; i < many; ++i) CHECK(sums[std::size_t(i)].get() == i);
    const auto each = std::size_t(many);
    CHECK((open_files() - files) / each <= 5);
#ifndef TEST_SANITIZED  // which takes memory of its own
    const std::size_t rss = number_in("/proc/self/status", "VmRSS:");
    CHECK((rss - std::min(rss, memory)) / each <= 64);  // kilobytes
    const std::string one = "/proc/" + std::to_string(actors.front().pid()) + "/smaps_rollup";
    CHECK(number_in(one, "Pss:") <= 4096);
    CHECK(number_in(one, "Private_Dirty:") <= 4096);
#endif
    actors.clear();
    mp::stop_forkserver();
}

}  // namespace

TEST_CASE("a hundred actors live at once, and cost what the header says",
          "[manager][actor][many]") {
    have_actors(100);
}
// About a minute, in a test of its own.
TEST_CASE("a thousand actors live at once, and cost what the header says", "[.thousand]") {
    have_actors(1000);
}

TEST_CASE("an actor for which there are no descriptors is not made, and nothing is left of it",
          "[manager][actor][shortage]") {
    // At each step on the way there may be too few.
    bool made = false;
    int refused = 0;
    for (int more = 0; !made && more < 40; ++more) {
        FewDescriptors few(more);
        try {
            mp::Actor<Worker> actor({.start_method = mp::StartMethod::spawn});
            made = actor.call<&Worker::add>(1) == 1;
        } catch (const std::exception& error) {
            CAPTURE(more);
            // Or it was made, and has too few of its own: the limit is its, too.
            CHECK_THAT(error.what(),
                       Contains("Too many open files") ||
                           Contains("cannot be reached (any more) in many_test::Worker::add"));
            ++refused;
        }
    }
    CHECK(made);
    CHECK(refused >= 3);
}

TEST_CASE("an actor for which there is no process is not made, and says what is lacking",
          "[manager][actor][shortage]") {
    const int status = test::where_refused(
        {{SYS_clone, EAGAIN}, {SYS_clone3, EAGAIN}, {SYS_fork, EAGAIN}, {SYS_vfork, EAGAIN}}, [] {
            try {
                mp::Actor<Worker> actor({.start_method = mp::StartMethod::fork});
            } catch (const std::system_error& error) {
                const std::string text = error.what();
                if (error.code().value() != EAGAIN) return 2;
                return text.find("ulimit -u") == text.npos ? 3 : 0;
            }
            return 1;
        });
    CHECK(status == 0);
}

}  // namespace many_test
