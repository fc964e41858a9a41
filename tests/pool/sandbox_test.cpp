// Pools where a sandbox, a container or a limit leaves less than they would like.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>

#include <catch2/catch.hpp>

#include "pool_support.hpp"
#include "sandbox.hpp"

namespace sandbox_test {

using namespace sidestep;

namespace {

constexpr std::size_t kMiB = std::size_t(1) << 20;

int works(StartMethod method) {
    Pool pool({.processes = 3, .start_method = method});
    if (pool.map(test::square, test::numbers(0L, 100L)).at(99) != 99 * 99) return 1;
    std::string large(8 * kMiB, 'y');
    if (pool.submit([](const std::string& text) { return text + text; }, large).get().size() !=
        16 * kMiB)
        return 2;
    try {
        pool.submit([] { ::raise(SIGKILL); }).get();
        return 3;
    } catch (const WorkerLost&) {
    }
    return pool.submit(test::square, 5L).get() == 25 ? 0 : 4;
}

const StartMethod kMethods[] = {StartMethod::spawn, StartMethod::fork, StartMethod::forkserver};

}  // namespace

#ifndef TEST_SANITIZED  // they use more memory than any of these limits

namespace {

// Until it is killed. (Not dumpable: nobody but root may look into it.)
std::size_t grow(std::size_t bytes, bool dumpable) {
    if (!dumpable) prctl(PR_SET_DUMPABLE, 0);
    std::string much(bytes, 'x');
    if (bytes > 100 * kMiB) pause();
    return much.size();
}

// Without the right to trace others, as in most containers: root may look into everybody.
void drop_rights() {
    if (geteuid() != 0) return;
    if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
        throw std::runtime_error("setresuid");
    prctl(PR_SET_DUMPABLE, 1);
}

// 0: a small task lives, a large one is killed.
int keeps_limit(StartMethod method, bool dumpable) {
    Pool pool({.processes = 1, .start_method = method});
    TaskOptions limited{.memory_limit = 60 * kMiB};
    if (pool.submit(limited, grow, kMiB, dumpable).get() != kMiB) return 1;
    auto large = pool.submit(limited, grow, 200 * kMiB, dumpable);
    if (!large.wait_for(test::kPatience)) return 2;
    try {
        (void)large.get();
        return 3;
    } catch (const OutOfMemory& error) {
        return error.used() > 60 * kMiB ? 0 : 4;
    }
}

}  // namespace

TEST_CASE("a memory limit is kept of a worker that may not be looked into", "[pool][sandbox]") {
    for (StartMethod method : kMethods) {
        CAPTURE(test::name_of(method));
        CHECK(test::in_sandbox([&] {
                  drop_rights();
                  return keeps_limit(method, false);
              }) == 0);
    }
    // What it shares with its parent is not its own: no innocent is killed.
    CHECK(test::in_sandbox([] {
              drop_rights();
              std::string heap(100 * kMiB, 'h');
              return keeps_limit(StartMethod::fork, false) + (heap.back() == 'h' ? 0 : 10);
          }) == 0);
}

TEST_CASE("a pool fits into the address space there is", "[pool][sandbox]") {
    for (std::size_t limit : {480u, 520u, 560u, 600u, 640u})
        for (StartMethod method : kMethods) {
            CAPTURE(limit, test::name_of(method));
            CHECK(test::in_sandbox([&] {
                      rlimit bytes = {limit * kMiB, limit * kMiB};
                      if (setrlimit(RLIMIT_AS, &bytes) != 0) return 97;
                      return works(method);
                  }) == 0);
        }
}

#endif

TEST_CASE("a memory limit that nobody can watch fails its task, and says why", "[pool][sandbox]") {
    auto fails_clearly = [] {
        Pool pool({.processes = 1, .start_method = StartMethod::fork});
        auto task = pool.submit({.memory_limit = 1000 * kMiB}, [] { pause(); });
        if (!task.wait_for(test::kPatience)) return 1;
        try {
            task.get();
            return 2;
        } catch (const OutOfMemory& error) {
            bool clear = error.used() == 0 && std::strstr(error.what(), "/proc/") != nullptr &&
                         std::strstr(error.what(), "cannot be read") != nullptr;
            return clear ? 0 : 3;
        }
    };
    CHECK(test::without_proc(fails_clearly) == 0);
    // The same number out there is somebody else's.
    CHECK(test::in_foreign_proc(fails_clearly) == 0);
}

TEST_CASE("what cannot be read is not told as a number", "[pool][sandbox]") {
    CHECK(test::in_foreign_proc([] {
              Pool pool({.processes = 1, .start_method = StartMethod::fork});
              if (pool.submit(test::square, 3L).get() != 9) return 1;
              WorkerStats worker = pool.stats().workers.at(0);
              if (worker.pid == 0 || worker.resident || worker.proportional) return 2;
              return pool.stats().describe().find('?') != std::string::npos ? 0 : 3;
          }) == 0);
    CHECK(test::without_proc([] {
              try {
                  Pool pool({.processes = 1,
                             .start_method = StartMethod::fork,
                             .max_memory_growth = kMiB});
                  return 1;
              } catch (const std::runtime_error& error) {
                  return std::strstr(error.what(), "max_memory_growth") ? 0 : 2;
              }
          }) == 0);
}

TEST_CASE("why its workers cannot start stands in the reason of a broken pool", "[pool][sandbox]") {
    // Nothing is left by which a worker could die with its parent.
    auto refused = [](int command) {
        return test::Refusal{SYS_fcntl, EPERM, 1, static_cast<std::uint32_t>(command)};
    };
    CHECK(test::where_refused(
              {refused(F_SETSIG), refused(F_SETOWN), {SYS_prctl, EPERM, 0, PR_SET_PDEATHSIG}}, [] {
                  try {
                      Pool pool({.processes = 1});
                      (void)pool.submit(test::square, 3L).get();
                      return 1;
                  } catch (const BrokenPool& error) {
                      return std::strstr(error.what(), "PR_SET_PDEATHSIG") ? 0 : 2;
                  }
              }) == 0);
}

TEST_CASE("a setting of workers that a sandbox refuses is not blamed on what was asked for",
          "[pool][sandbox]") {
    for (StartMethod method : kMethods)
        for (int error : {EPERM, ENOMEM}) {
            CAPTURE(error, test::name_of(method));
            CHECK(test::where_refused({{SYS_sched_setaffinity, error}}, [&] {
                      try {
                          Pool pool({.processes = 1, .start_method = method, .cpus = {{0}}});
                          (void)pool.submit(test::square, 3L).get();
                          return 1;
                      } catch (const BrokenPool& broken) {
                          const std::string why = broken.what();
                          auto says = [&](const char* text) {
                              return why.find(text) != std::string::npos;
                          };
                          if (!says("PoolOptions::cpus {0}")) return 2;
                          if (says("there is none of them")) return 3;
                          return says("refused by the sandbox") == (error == EPERM) ? 0 : 4;
                      }
                  }) == 0);
        }
}

TEST_CASE("pools work where newer calls are refused", "[pool][sandbox]") {
    for (int error : {ENOSYS, EPERM})
        for (StartMethod method : kMethods) {
            CAPTURE(error, test::name_of(method));
            CHECK(test::where_refused({{SYS_pidfd_open, error},
                                       {SYS_pidfd_send_signal, error},
                                       {SYS_close_range, error},
                                       {449, error},  // futex_waitv
                                       {SYS_clone3, ENOSYS}},
                                      [&] { return works(method); }) == 0);
        }
}

}  // namespace sandbox_test
