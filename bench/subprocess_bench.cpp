// Starting and reading programs, each beside its floor, taken in turns: a busy machine slows both.
// The counter "x_floor" is the floor's time divided by ours (medians): 1 is as fast, more is
// faster.
//
//   start/true        Popen + wait of /bin/true; floor: posix_spawn + waitpid   (good: 1.0)
//   start/static      the same with a static program that does nothing          (good: 1.3)
//   start/fork        the same static program by the fork path (preexec_fn)
//   clone/static      clone(VM, VFORK, PIDFD) + exec + poll + waitid, and nothing else: what is the
//                     most that start/static can be, while a child has a pidfd
//   start_rss/MiB     start/static while this process has touched so much memory: time is flat
//   run/true          run({"/bin/true"}); floor: posix_spawn + waitpid
//   run_python/true   run({"/bin/true"}); floor: Python's subprocess.run        (good: 1.2)
//   run_python/static the same with the static program
//   capture/MiB       run() with capture_output of `head -c`; floor: a loop of read(2) of 64 KiB
//                     from the same child, keeping nothing                      (good: 0.8)
//   capture_warm      the same, into memory that was touched and freed just before
//   capture_string    as capture; floor: that loop, appending to a std::string
//   capture_fresh     as capture; floor: that loop, reading straight into new memory of the right
//                     size: the least that keeping the output can cost
//   parallel/xargs    examples/parallel true, 1000 lines; floor: xargs -P       (good: 1.0)
//   parallel/gnu      the same with 100 lines; floor: GNU parallel              (good: 5)
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/subprocess.hpp>

namespace sp = sidestep::subprocess;
using Clock = std::chrono::steady_clock;
using namespace std::string_literals;

namespace {

std::filesystem::path here() {
    return std::filesystem::read_symlink("/proc/self/exe").parent_path();
}

double timed(const std::function<void()>& work) {
    auto begin = Clock::now();
    work();
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double>& values) {
    auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

// Ours and the floor in turns; the time that is shown is ours.
void compare(
    benchmark::State& state, const std::function<void()>& ours,
    const std::function<double()>& floor_seconds, const std::function<void()>& prepare = [] {}) {
    std::vector<double> our_times, floor_times;
    for (auto _ : state) {
        floor_times.push_back(floor_seconds());
        prepare();
        our_times.push_back(timed(ours));
        state.SetIterationTime(our_times.back());
    }
    double our_median = median(our_times);
    state.counters["x_floor"] = median(floor_times) / our_median;
    state.counters["median_us"] = our_median * 1e6;
}

pid_t spawn(const std::vector<std::string>& words, int out = -1) {
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    if (out >= 0) posix_spawn_file_actions_adddup2(&actions, out, 1);
    pid_t pid;
    int error = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) throw std::runtime_error("posix_spawn " + words[0] + ": " + strerror(error));
    return pid;
}

void posix_spawn_and_wait(const std::string& program) {
    pid_t pid = spawn({program});
    waitpid(pid, nullptr, 0);
}

std::string static_child() { return here() / "static_child"; }

void start(benchmark::State& state, const std::string& program, const sp::Options& options) {
    compare(
        state, [&] { sp::Popen({program}, options).wait(); },
        [&] { return timed([&] { posix_spawn_and_wait(program); }); });
}

void start_rss(benchmark::State& state) {
    auto bytes = static_cast<std::size_t>(state.range(0)) << 20;
    void* memory = nullptr;
    if (bytes > 0) {
        memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return state.SkipWithError("not enough memory");
        madvise(memory, bytes, MADV_NOHUGEPAGE);
        std::memset(memory, 1, bytes);
    }
    start(state, static_child(), {});
    if (memory) munmap(memory, bytes);
}

void run_true(benchmark::State& state) {
    compare(
        state, [] { sp::run({"/bin/true"}); },
        [] { return timed([] { posix_spawn_and_wait("/bin/true"); }); });
}

void run_python(benchmark::State& state, const std::string& program) {
    constexpr int kRuns = 100;
    const std::string script =
        "import subprocess, time\n"
        "t = time.perf_counter()\n"
        "for i in range(" +
        std::to_string(kRuns) + "): subprocess.run(['" + program +
        "'])\n"
        "print(time.perf_counter() - t)";
    auto python = [&] { return std::stod(sp::check_output({"python3", "-c", script})); };
    try {
        python();
    } catch (const sp::StartError&) {
        return state.SkipWithError("python3 is not installed");
    }
    auto ours = [&] {
        for (int i = 0; i < kRuns; ++i) sp::run({program});
    };
    compare(state, ours, python);
}

// clone() and what a pidfd costs. (No handlers to be cleared, no signals to be blocked here.)
void clone_and_wait(char* const* argv) {
    alignas(16) static char stack[16 * 1024];
    int pidfd = -1;
    auto child = [](void* words) {
        auto* command = static_cast<char* const*>(words);
        execve(command[0], command, environ);
        return 127;
    };
    int flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD;
    if (clone(child, stack + sizeof stack, flags, const_cast<char**>(argv), &pidfd) < 0)
        throw std::runtime_error("clone");
    pollfd entry = {pidfd, POLLIN, 0};
    poll(&entry, 1, -1);
    siginfo_t info;
    waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &info, WEXITED);
    close(pidfd);
}

void clone_static(benchmark::State& state) {
    std::string program = static_child();
    char* argv[] = {program.data(), nullptr};
    compare(
        state, [&] { clone_and_wait(argv); },
        [&] { return timed([&] { posix_spawn_and_wait(program); }); });
}

// What read(2) does without us: read_all(fd) reads to the end.
template <class ReadAll>
double read_loop(const std::vector<std::string>& words, ReadAll read_all) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
    return timed([&] {
        pid_t pid = spawn(words, fds[1]);
        close(fds[1]);
        read_all(fds[0]);
        close(fds[0]);
        waitpid(pid, nullptr, 0);
    });
}

enum class Keep { nothing, string, fresh_memory };

double bare_read_loop(const std::vector<std::string>& words, Keep keep, std::size_t bytes) {
    std::vector<char> space(65536);
    return read_loop(words, [&](int fd) {
        std::string kept;
        std::unique_ptr<char[]> fresh;
        if (keep == Keep::fresh_memory) fresh.reset(new char[bytes]);
        char* at = fresh ? fresh.get() : space.data();
        std::size_t room = fresh ? bytes : space.size();
        for (ssize_t n; room > 0 && (n = read(fd, at, std::min(room, space.size()))) > 0;) {
            if (keep == Keep::string) kept.append(at, static_cast<std::size_t>(n));
            if (!fresh) continue;
            at += n;
            room -= static_cast<std::size_t>(n);
        }
        benchmark::ClobberMemory();
    });
}

// Memory that lay idle for seconds may have gone back to a virtual machine's host: to touch it
// again costs more than all that is measured here. It goes in rounds of two seconds (the kernel's
// page_reporting.c), so it is held until the round is over that the memory freed before has begun.
void warm_up_memory(std::size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return;
    madvise(memory, bytes, MADV_HUGEPAGE);
    std::memset(memory, 1, bytes);
    std::this_thread::sleep_for(std::chrono::milliseconds(2500));
    munmap(memory, bytes);
}

void capture(benchmark::State& state, Keep keep, bool warm) {
    std::vector<std::string> words = {"head", "-c", std::to_string(state.range(0)) + "M",
                                      "/dev/zero"};
    auto ours = [&] {
        if (sp::check_output(words).size() >> 20 != static_cast<std::size_t>(state.range(0)))
            state.SkipWithError("output is missing");
    };
    auto bytes = static_cast<std::size_t>(state.range(0)) << 20;
    compare(
        state, ours, [&] { return bare_read_loop(words, keep, bytes); },
        [&] {
            if (warm) warm_up_memory(bytes + bytes / 16);
        });
    state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * (state.range(0) << 20));
}

void parallel(benchmark::State& state, const std::string& other, int lines) {
    std::string jobs = std::to_string(std::max(1u, std::thread::hardware_concurrency()));
    std::string input;
    for (int i = 0; i < lines; ++i) input += "x\n";
    std::string ours = here().parent_path() / "examples" / "parallel";
    std::vector<std::string> theirs = {other};
    if (other == "xargs") theirs.insert(theirs.end(), {"-n", "1", "-P", jobs, "true"});
    if (other == "parallel") theirs.insert(theirs.end(), {"--will-cite", "-k", "-j", jobs, "true"});
    auto run = [&](const sp::Args& args) { sp::run(args, {.input = input, .check = true}); };
    try {
        sp::run({other, "--version"}, {.std_out = sp::DEVNULL, .std_err = sp::DEVNULL});
    } catch (const sp::StartError&) {
        return state.SkipWithError((other + " is not installed").c_str());
    }
    compare(
        state,
        [&] {
            run({ours, "-j", jobs, "true"});
        },
        [&] { return timed([&] { run(theirs); }); });
    state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * lines);
}

}  // namespace

int main(int argc, char** argv) {
    auto add = [](const char* name, auto function, auto... arguments) {
        return benchmark::RegisterBenchmark(name, function, arguments...)
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
    };
    sp::Options forked;
    forked.preexec_fn = [] {};
    add("start/true", start, "/bin/true"s, sp::Options());
    add("start/static", start, static_child(), sp::Options());
    add("start/fork", start, static_child(), forked);
    add("clone/static", clone_static);
    add("start_rss", start_rss)->Arg(0)->Arg(256)->Arg(1024)->Arg(4096);
    add("run/true", run_true);
    add("run_python/true", run_python, "/bin/true"s);
    add("run_python/static", run_python, static_child());
    add("capture", capture, Keep::nothing, false)->Arg(1)->Unit(benchmark::kMillisecond);
    auto capture_large = [&](const char* name, Keep keep, bool warm) {
        add(name, capture, keep, warm)->Arg(1024)->Unit(benchmark::kMillisecond)->Iterations(5);
    };
    capture_large("capture", Keep::nothing, false);
    capture_large("capture_warm", Keep::nothing, true);
    capture_large("capture_string", Keep::string, false);
    capture_large("capture_fresh", Keep::fresh_memory, false);
    add("parallel/xargs", parallel, "xargs"s, 1000)->Unit(benchmark::kMillisecond);
    add("parallel/gnu", parallel, "parallel"s, 100)->Unit(benchmark::kMillisecond);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
}
