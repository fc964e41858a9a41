// What a pool costs that waits for work, looked at for three seconds.
//
//   pool   of two workers, after they have worked. Counters:
//     wakeups_per_s   context switches of the process that has the most (good: 2 or less)
//     cpu_us_per_s    CPU time of all of them
//     worker_pss      bytes of a worker, what it shares with others divided among them
//     worker_private  bytes of a worker that are its own
#include <dirent.h>

#include <fstream>
#include <string>

#include <sidestep/pool.hpp>

#include "common.hpp"

namespace mp = sidestep;

namespace {

constexpr std::chrono::seconds kWindow{3};

int same(int x) { return x; }

// The number behind a word at the beginning of a line; 0 if there is none.
double number_after(const std::string& path, const std::string& word) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);)
        if (line.starts_with(word)) return std::stod(line.substr(word.size()));
    return 0;
}

std::vector<std::string> threads_of(int pid) {
    std::string folder = "/proc/" + std::to_string(pid) + "/task";
    std::vector<std::string> paths;
    if (DIR* tasks = opendir(folder.c_str())) {
        while (dirent* entry = readdir(tasks))
            if (entry->d_name[0] != '.') paths.push_back(folder + "/" + entry->d_name);
        closedir(tasks);
    }
    return paths;
}

struct Usage {
    double switches = 0, cpu_ns = 0;
};
Usage usage_of(int pid) {
    Usage sum;
    for (const std::string& path : threads_of(pid)) {
        sum.switches += number_after(path + "/status", "voluntary_ctxt_switches:");
        double ns = 0;
        std::ifstream(path + "/schedstat") >> ns;
        sum.cpu_ns += ns;
    }
    return sum;
}

void idle_pool(benchmark::State& state) {
    mp::Pool pool({.processes = 2});
    std::vector<int> items(100'000, 1);
    (void)pool.map(same, items);
    std::vector<int> pids = pool.worker_pids();
    int worker = pids.front();
    pids.push_back(getpid());
    double most = 0, cpu_ns = 0;
    for (auto _ : state) {
        bench::pause_us(100'000);  // until all of them sleep
        std::vector<Usage> before;
        for (int pid : pids) before.push_back(usage_of(pid));
        auto begin = bench::Clock::now();
        std::this_thread::sleep_for(kWindow);
        double window = bench::seconds(bench::Clock::now() - begin);
        for (std::size_t i = 0; i < pids.size(); ++i) {
            Usage now = usage_of(pids[i]);
            most = std::max(most, (now.switches - before[i].switches) / window);
            cpu_ns += (now.cpu_ns - before[i].cpu_ns) / window;
        }
        state.SetIterationTime(window);
    }
    std::string memory = "/proc/" + std::to_string(worker) + "/smaps_rollup";
    state.counters["wakeups_per_s"] = most;
    state.counters["cpu_us_per_s"] = cpu_ns / 1000 / static_cast<double>(state.iterations());
    state.counters["worker_pss"] = number_after(memory, "Pss:") * 1024;
    state.counters["worker_private"] =
        (number_after(memory, "Private_Clean:") + number_after(memory, "Private_Dirty:")) * 1024;
}
BENCHMARK(idle_pool)->Name("pool")->UseManualTime()->Iterations(1);

}  // namespace

int main(int argc, char** argv) {
    mp::init();
    return bench::run_all(argc, argv);
}
