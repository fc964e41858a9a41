// The start and the end of a process, while this one holds so many MiB that it has touched.
//
//   process/METHOD/MIB   start() and join() of a Process of nothing  (good: spawn as fast as the
//                        floor; forkserver below 300 us; both flat)
//   popen/MIB            subprocess: start and wait of static_child (no C library)
//   floor_spawn/MIB      posix_spawn and waitpid of this program, which returns at once
//   floor_static/MIB     posix_spawn and waitpid of static_child: the floor of popen
//   floor_fork/MIB       fork, _exit, waitpid: what a copy of the page tables costs
#include <spawn.h>
#include <sys/mman.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>

#include <sidestep/process.hpp>
#include <sidestep/subprocess.hpp>

#include "common.hpp"

namespace {

// One block at a time: rows of the same size follow each other.
bool hold(benchmark::State& state) {
    static void* memory = nullptr;
    static std::size_t held = 0;
    auto bytes = static_cast<std::size_t>(state.range(0)) << 20;
    if (bytes == held) return true;
    if (held > 0) munmap(memory, held);
    held = 0;
    if (bytes == 0) return true;
    memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        state.SkipWithError("not enough memory");
        return false;
    }
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    std::memset(memory, 1, bytes);
    held = bytes;
    return true;
}

std::string own_path() { return std::filesystem::read_symlink("/proc/self/exe"); }
std::string static_child() {
    return std::filesystem::path(own_path()).parent_path() / "static_child";
}

constexpr const char* kReturnAtOnce = "--return-at-once";

void spawn_and_wait(benchmark::State& state, std::string program) {
    std::string word = kReturnAtOnce;
    char* argv[] = {program.data(), word.data(), nullptr};
    for (auto _ : state) {
        pid_t pid = 0;
        if (posix_spawn(&pid, program.c_str(), nullptr, nullptr, argv, environ) != 0)
            return state.SkipWithError(("cannot start " + program).c_str());
        waitpid(pid, nullptr, 0);
    }
}

void floor_spawn(benchmark::State& state) {
    if (hold(state)) spawn_and_wait(state, own_path());
}

void floor_static(benchmark::State& state) {
    if (hold(state)) spawn_and_wait(state, static_child());
}

void floor_fork(benchmark::State& state) {
    if (!hold(state)) return;
    for (auto _ : state) waitpid(bench::fork_child([] {}), nullptr, 0);
}

void popen_static(benchmark::State& state) {
    if (!hold(state)) return;
    std::string program = static_child();
    for (auto _ : state) sidestep::subprocess::Popen({program}).wait();
}

void process(benchmark::State& state, sidestep::StartMethod method) {
    if (!hold(state)) return;
    auto start_and_join = [method] {
        sidestep::Process child({.start_method = method}, [] {});
        child.start();
        child.join();
    };
    start_and_join();  // starts the fork server
    for (auto _ : state) start_and_join();
}

}  // namespace

int main(int argc, char** argv) {
    if (argc == 2 && std::string_view(argv[1]) == kReturnAtOnce) return 0;
    sidestep::init();
    using sidestep::StartMethod;
    for (int mib : {0, 64, 256, 1024, 4096}) {
        auto add = [mib](const char* name, auto function, auto... arguments) {
            benchmark::RegisterBenchmark(name, function, arguments...)
                ->Arg(mib)
                ->UseRealTime()
                ->Unit(benchmark::kMicrosecond);
        };
        add("floor_spawn", floor_spawn);
        add("floor_static", floor_static);
        add("floor_fork", floor_fork);
        add("popen", popen_static);
        add("process/spawn", process, StartMethod::spawn);
        add("process/forkserver", process, StartMethod::forkserver);
        add("process/fork", process, StartMethod::fork);
    }
    int status = bench::run_all(argc, argv);
    sidestep::stop_forkserver();
    return status;
}
