// Programs for the tests that need a process of their own. The first argument says which.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

#include "interrupt_program.hpp"
#include "pool_support.hpp"
#include "service_program.hpp"

namespace mp = sidestep;

namespace {

// A pool in a worker's start-up, and a start-up that fails.
struct BeforeMain {
    BeforeMain() {
        if (std::getenv("DIE_AT_START")) _exit(9);
        if (!std::getenv("POOL_BEFORE_MAIN")) return;
        try {
            mp::Pool pool({.processes = 1});
            std::puts("accepted");
        } catch (const std::logic_error& error) {
            std::printf("refused: %s\n", error.what());
        }
        std::fflush(stdout);
    }
} before_main;

int expect(bool condition, const char* what) {
    if (!condition) std::printf("FAILED: %s\n", what);
    return condition ? 0 : 1;
}

int use(mp::Pool& pool) {
    int failures = expect(pool.apply(test::add, 1, 2) == 3, "apply");
    std::vector<long> squares = pool.map(test::square, std::vector<long>{1, 2, 3});
    return failures + expect(squares == std::vector<long>{1, 4, 9}, "map");
}

int without_init(mp::StartMethod method) {
    try {
        mp::Pool pool({.processes = 1, .start_method = method});
        std::puts("accepted");
        return 1;
    } catch (const std::logic_error& error) {
        std::puts(error.what());
        return 0;
    }
}

int in_start_up(mp::StartMethod method) {
    setenv("POOL_BEFORE_MAIN", "1", 1);
    mp::Pool pool({.processes = 1, .start_method = method});
    return use(pool);
}

int crash_loop(mp::StartMethod method) {
    mp::Pool pool({.processes = 2, .start_method = method});
    int failures = use(pool);
    // From here on a worker dies before its main().
    setenv("DIE_AT_START", "1", 1);
    failures += expect(pool.apply(test::add, 1, 2) == 3, "with the workers it has");
    for (int pid : pool.worker_pids()) kill(pid, SIGKILL);
    bool broken = test::eventually([&] {
        try {
            mp::Future<int> f = pool.submit(test::add, 1, 2);
            return !f.wait_for(test::kPatience);
        } catch (const mp::BrokenPool&) {
            return true;
        }
    });
    failures += expect(broken, "breaks");
    try {
        pool.submit(test::add, 1, 2);
    } catch (const mp::BrokenPool& error) {
        std::puts(error.what());
    }
    pool.close();
    pool.join();
    return failures + expect(pool.worker_pids().empty(), "nobody left");
}

int crash_loop_at_once(mp::StartMethod method) {
    setenv("DIE_AT_START", "1", 1);
    mp::Pool pool({.processes = 2, .start_method = method});
    mp::Future<int> f;
    try {
        f = pool.submit(test::add, 1, 2);
    } catch (const mp::BrokenPool& error) {  // it may be known already
        std::puts(error.what());
        return 0;
    }
    if (expect(f.wait_for(test::kPatience), "an answer")) return 1;
    try {
        f.get();
    } catch (const mp::BrokenPool& error) {
        std::puts(error.what());
        return 0;
    }
    return 1;
}

std::size_t open_descriptors() { return test::Resources::now().fds.size(); }
bool clean_since(const test::Resources& before) { return test::nothing_left_since(before); }

// Raises the limit one by one until four workers start. Each failure must leave nothing.
template <class SetLimit>
int start_within(mp::StartMethod method, rlim_t from, rlim_t to, SetLimit set_limit) {
    int failed = 0, failures = 0;
    test::Resources before = test::Resources::now();
    for (rlim_t limit = from; limit <= to; ++limit) {
        set_limit(limit);
        try {
            mp::Pool pool({.processes = 4, .start_method = method});
            set_limit(to);
            failures += use(pool);
            std::printf("%d failed, then it started with %d\n", failed, static_cast<int>(limit));
            return failures + expect(failed > 0, "at least one failure");
        } catch (const std::system_error&) {
            ++failed;
        }
        set_limit(to);
        if (!clean_since(before)) {
            std::printf("limit %d left\n%s", static_cast<int>(limit),
                        test::Resources::now().leaked_since(before).c_str());
            return 1;
        }
    }
    return expect(false, "it never started");
}

int few_descriptors(mp::StartMethod method) {
    mp::Pool(mp::PoolOptions{.processes = 1, .start_method = method});  // what is opened once
    return start_within(method, open_descriptors(), 256, [](rlim_t limit) {
        rlimit r = {limit, 4096};
        setrlimit(RLIMIT_NOFILE, &r);
    });
}

int few_processes(mp::StartMethod method) {
    if (geteuid() == 0) {  // root has no such limit
        if (setgid(65534) < 0 || setuid(65534) < 0) return expect(false, "setuid");
        prctl(PR_SET_DUMPABLE, 1);
    } else {
        std::puts("skipped: the limit counts all processes of this user");
        return 0;
    }
    return start_within(method, 1, 64, [](rlim_t limit) {
        rlimit r = {limit, 4096};
        setrlimit(RLIMIT_NPROC, &r);
    });
}

int ignored_sigchld(mp::StartMethod method) {
    signal(SIGCHLD, SIG_IGN);
    test::SharedWords words(2);
    mp::Pool pool({.processes = 2, .start_method = method});
    int failures = use(pool);
    mp::Future<std::uint64_t> held = pool.submit(test::wait_at, words.path(), 0u, 1u);
    kill(static_cast<int>(test::await(words[0])), SIGKILL);
    failures += expect(held.wait_for(test::kPatience), "an answer");
    try {
        held.get();
        failures += expect(false, "lost");
    } catch (const mp::WorkerLost& error) {
        failures += expect(error.exit_status().lost() && !error.exit_status().success(), "lost");
        std::puts(error.what());
    }
    failures += use(pool);
    pool.terminate();
    return failures;
}

int stolen_statuses(mp::StartMethod method) {
    struct sigaction action = {};
    action.sa_handler = [](int) {
        while (waitpid(-1, nullptr, WNOHANG) > 0) {
        }
    };
    action.sa_flags = SA_RESTART;
    sigaction(SIGCHLD, &action, nullptr);
    mp::Pool pool({.processes = 2, .start_method = method});
    int failures = use(pool);
    for (int i = 0; i < 10; ++i) {
        mp::Future<int> lost = pool.submit(test::die, SIGKILL);
        failures += expect(lost.wait_for(test::kPatience), "an answer");
        failures += expect(lost.exception() != nullptr, "lost");
        failures += use(pool);
    }
    return failures;
}

int closed_stdio(mp::StartMethod method, int first, int last) {
    for (int fd = first; fd <= last; ++fd) close(fd);
    test::SharedWords words(2);
    mp::Pool pool({.processes = 2, .start_method = method});
    auto stdin_ends = [] {
        char c;
        return read(STDIN_FILENO, &c, 1) == 0;  // nobody's keyboard, and no file of the pool's
    };
    int failures = use(pool) + expect(pool.apply(stdin_ends), "stdin");
    mp::Future<int> lost = pool.submit(test::die, SIGKILL);  // a replacement finds the same
    failures += expect(lost.exception() != nullptr, "lost");
    for (int i = 0; i < 20; ++i) failures += use(pool);
    return failures;
}

// Prints the pids of its workers, all of them at work, and waits to be killed.
int wait_for_death(mp::StartMethod method) {
    test::SharedWords words(5);
    mp::Pool pool({.processes = 4, .start_method = method});
    auto spins = [](const std::string& path) {
        test::bump(path, 3);
        for (volatile int i = 0;;) i = i + 1;
    };
    for (std::size_t i : {0u, 1u, 2u}) pool.submit(test::wait_at, words.path(), i, 4u);
    pool.submit(spins, words.path());
    for (std::size_t i : {0u, 1u, 2u, 3u}) test::await(words[i]);
    std::string line;
    for (pid_t pid : test::children_of(getpid())) line += std::to_string(pid) + " ";
    std::puts(line.c_str());
    std::fflush(stdout);
    for (;;) pause();
}

int exit_with_pool(mp::StartMethod method) {
    static auto* pool = new mp::Pool({.processes = 2, .start_method = method});  // never deleted
    test::SharedWords words(2);
    pool->submit(test::wait_at, words.path(), 0u, 1u);
    test::await(words[0]);
    std::string line;
    for (pid_t pid : test::children_of(getpid())) line += std::to_string(pid) + " ";
    std::puts(line.c_str());
    std::fflush(stdout);
    std::exit(5);
}

int static_pool(mp::StartMethod method) {
    static mp::Pool pool({.processes = 2, .start_method = method});
    return use(pool);
}

// A pool that nobody ends: the process does.
int exit_with_global() {
    std::vector<long> items(10, 1);
    std::printf("%zu\n", mp::Pool::global().map(test::square, items).size());
    return 0;
}

// Closed, not joined, busy; the destructor of a static object waits for its task.
int exit_after_close(mp::StartMethod method) {
    static mp::Pool pool({.processes = 3, .start_method = method});
    pool.submit([] {
        (void)test::eventually([] { return false; }, std::chrono::milliseconds(50));
        std::puts("apple");
        std::fflush(stdout);
    });
    pool.shutdown({.wait = false});
    return 0;
}

int submit_at_exit(mp::StartMethod method) {
    static mp::Pool* pool = nullptr;
    std::atexit([] {
        try {
            pool->submit(test::add, 1, 2);
        } catch (const std::logic_error& error) {
            std::printf("refused: %s\n", error.what());
        }
    });
    pool = new mp::Pool({.processes = 2, .start_method = method});
    int failures = use(*pool);
    pool->shutdown();
    return failures;
}

// Ends the process that reads it back.
struct Exits {
    template <class Archive>
    void save(Archive& archive) const {
        archive(1);
    }
    template <class Archive>
    void load(Archive& archive) {
        int one;
        archive(one);
        std::puts("in get()");
        std::exit(7);
    }
};
int exit_in_get(mp::StartMethod method) {
    mp::Pool pool({.processes = 2, .start_method = method});
    pool.submit([] { return Exits(); }).get();
    return 1;
}

int use_global() {
    mp::Pool& pool = mp::Pool::global();
    int failures = use(pool) + expect(&mp::Pool::global() == &pool, "the same");
    std::vector<int> pids = pool.worker_pids();
    pid_t child = fork();
    if (child == 0) _exit(use(mp::Pool::global()) + (mp::Pool::global().worker_pids() == pids));
    int status = -1;
    waitpid(child, &status, 0);
    failures += expect(status == 0, "in a forked child");
    failures += use(mp::Pool::global());
    failures += expect(mp::Pool::global().worker_pids() == pids, "still the same");
    pool.close();
    failures += use(mp::Pool::global());
    failures += expect(mp::Pool::global().worker_pids() != pids, "a new one");
    mp::Pool::global().terminate();
    return failures + use(mp::Pool::global());
}

int global_in_callback() {
    test::SharedWords words(2);
    mp::Pool& pool = mp::Pool::global();
    std::atomic<int> answer{0};
    auto f = pool.submit(test::wait_at, words.path(), 0u, 1u);
    f.add_done_callback([&](const auto&) {
        try {
            answer = mp::Pool::global().apply(test::add, 1, 2);
        } catch (const std::exception& error) {
            std::puts(error.what());
            answer = -1;
        }
    });
    pool.close();
    words[1] = 1;
    (void)test::eventually([&] { return answer != 0; });
    return expect(answer == 3, "a new one");
}

int refused_threads() {
    mp::ThreadPool none({.threads = 2}), one({.threads = 4});
    one.submit([] {}).wait();
    int failures = 0;
    {
        test::AddressSpaceLimit limit(std::size_t(1) << 20);  // less than a stack
        try {
            none.submit([] {});
            failures += expect(false, "a thread without a stack");
        } catch (const std::system_error&) {
        }
        std::vector<mp::Future<int>> futures;
        for (int i = 0; i < 20; ++i) futures.push_back(one.submit([i] { return i; }));
        for (int i = 0; i < 20; ++i)
            failures += expect(futures[static_cast<std::size_t>(i)].get() == i, "its own result");
        failures += expect(one.threads() == 1, "one thread does the work");
    }
    return failures + expect(none.submit([] { return 7; }).get() == 7, "later there is one");
}

int run(const std::string& what, mp::StartMethod method) {
    if (what == "exit-with-global") return exit_with_global();
    if (what == "exit-after-close") return exit_after_close(method);
    if (what == "submit-at-exit") return submit_at_exit(method);
    if (what == "exit-in-get") return exit_in_get(method);
    if (what == "global") return use_global();
    if (what == "global-in-callback") return global_in_callback();
    if (what == "refused-threads") return refused_threads();
    if (what == "in-start-up") return in_start_up(method);
    if (what == "crash-loop") return crash_loop(method);
    if (what == "crash-loop-at-once") return crash_loop_at_once(method);
    if (what == "few-descriptors") return few_descriptors(method);
    if (what == "few-processes") return few_processes(method);
    if (what == "ignored-sigchld") return ignored_sigchld(method);
    if (what == "stolen-statuses") return stolen_statuses(method);
    if (what == "no-stdin") return closed_stdio(method, 0, 0);
    if (what == "no-stdio") return closed_stdio(method, 0, 2);
    if (what == "wait-for-death") return wait_for_death(method);
    if (what == "exit-with-pool") return exit_with_pool(method);
    if (what == "static-pool") return static_pool(method);
    if (auto code = test::run_interrupt_program(what, method)) return *code;
    if (auto code = test::run_output_program(what, method)) return *code;
    if (auto code = test::run_exit_program(what, method)) return *code;
    if (auto code = test::run_shortage_program(what, method)) return *code;
    if (auto code = test::run_service_program(what, method)) return *code;
    std::printf("no such program: %s\n", what.c_str());
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    std::string what = argc > 1 ? argv[1] : "";
    mp::StartMethod method = test::method_named(argc > 2 ? argv[2] : "spawn");
    if (what == "without-init") return without_init(method);
    mp::init();
    try {
        return run(what, method);
    } catch (const std::exception& error) {
        std::printf("FAILED: %s\n", error.what());
        return 3;
    }
}
