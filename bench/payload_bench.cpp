// What it costs to give a task data, by value and by handle.
//
//   memcpy/BYTES         one copy into memory that is already there: bytes/s
//   floor_send/BYTES     two processes that hand so much over through a buffer that both have
//   mapped,
//                        one copy in and one out
//   floor_echo/BYTES     the same there and back
//   send/BYTES           a vector<double> as an argument: two copies, and new memory for the vector
//   receive/BYTES        the same as a result, of a worker that has the vector already
//   echo/BYTES           there and back: four copies          (good: 70 % of the floor)
//   empty                a task that gets an int: what BYTES of 0 would cost
//   handle/BYTES         an Array of so many bytes as an argument; "over_empty_us" is beside the
//                        empty task, in turns                 (good: the same for all, below 1 us)
//
// One worker. Before it is timed, each row runs once: the first task after one of a GiB gives that
// one's memory back to the system. A row for which there is not enough memory says so.
#include <cstring>
#include <fstream>
#include <numeric>
#include <string>

#include <sidestep/pool.hpp>
#include <sidestep/value.hpp>

#include "common.hpp"
#include "floor.hpp"

namespace mp = sidestep;

namespace {

using Values = std::vector<double>;
int same(int x) { return x; }
double first(const Values& values) { return values.front(); }
const Values& kept(std::size_t size) {
    static Values values;
    values.resize(size, 1.5);
    return values;
}
Values echo(Values values) { return values; }
double first_of_array(const mp::Array<double>& values) { return values[0]; }

mp::Pool& pool() {
    static mp::Pool* instance = new mp::Pool({.processes = 1});
    return *instance;
}

// Free, or to be had from caches: "MemAvailable" (proc(5)). 0: it is not said.
std::int64_t available_bytes() {
    std::ifstream meminfo("/proc/meminfo");
    for (std::string line; std::getline(meminfo, line);)
        if (line.starts_with("MemAvailable:")) return std::stoll(line.substr(13)) * 1024;
    return 0;
}

// An echo has it six times: twice in each process, and twice on the way.
bool fits(benchmark::State& state) {
    if (available_bytes() > 8 * state.range(0)) return true;
    state.SkipWithError("not enough free memory");
    return false;
}

void set_bytes(benchmark::State& state) {
    state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * state.range(0));
}

std::size_t count(const benchmark::State& state) {
    return static_cast<std::size_t>(state.range(0)) / sizeof(double);
}

void one_memcpy(benchmark::State& state) {
    if (!fits(state)) return;
    auto size = static_cast<std::size_t>(state.range(0));
    std::vector<char> from(size, 'x'), to(size);
    for (auto _ : state) {
        std::memcpy(to.data(), from.data(), size);
        benchmark::DoNotOptimize(to.data());
        benchmark::ClobberMemory();
    }
    set_bytes(state);
}

void hand_over(benchmark::State& state, int times) {
    if (!fits(state)) return;
    bench::HandOver floor(static_cast<std::size_t>(state.range(0)));
    floor.run();  // the memory is there
    for (auto _ : state)
        for (int i = 0; i < times; ++i) floor.run();
    set_bytes(state);
}

void send(benchmark::State& state) {
    if (!fits(state)) return;
    Values data(count(state), 1.5);
    pool().apply(first, data);
    for (auto _ : state) benchmark::DoNotOptimize(pool().apply(first, data));
    set_bytes(state);
}

void receive(benchmark::State& state) {
    if (!fits(state)) return;
    pool().apply(kept, count(state));
    for (auto _ : state) benchmark::DoNotOptimize(pool().apply(kept, count(state)).data());
    set_bytes(state);
}

void echo_back(benchmark::State& state) {
    if (!fits(state)) return;
    Values data(count(state), 1.5);
    pool().apply(echo, data);
    for (auto _ : state) benchmark::DoNotOptimize(pool().apply(echo, data).data());
    set_bytes(state);
}

void empty(benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(pool().apply(same, 1));
}

void handle(benchmark::State& state) {
    if (!fits(state)) return;
    mp::Array<double> array(count(state), 1.5);
    std::vector<double> over;
    for (auto _ : state) {
        double nothing = bench::timed([] { benchmark::DoNotOptimize(pool().apply(same, 1)); });
        double mine =
            bench::timed([&] { benchmark::DoNotOptimize(pool().apply(first_of_array, array)); });
        over.push_back(mine - nothing);
        state.SetIterationTime(mine);
    }
    state.counters["over_empty_us"] = bench::median(over) * 1e6;
}

void sizes(benchmark::internal::Benchmark* row) {
    for (int bits : {3, 10, 16, 20, 24, 26, 30}) row->Arg(std::int64_t(1) << bits);
    row->UseRealTime();
}
BENCHMARK(one_memcpy)->Name("memcpy")->Apply(sizes);
BENCHMARK_CAPTURE(hand_over, send, 1)->Name("floor_send")->Apply(sizes);
BENCHMARK_CAPTURE(hand_over, echo, 2)->Name("floor_echo")->Apply(sizes);
BENCHMARK(send)->Apply(sizes);
BENCHMARK(receive)->Apply(sizes);
BENCHMARK(echo_back)->Name("echo")->Apply(sizes);
BENCHMARK(empty)->UseRealTime();
BENCHMARK(handle)->Arg(8)->Arg(1 << 20)->Arg(1 << 30)->UseManualTime();

}  // namespace

int main(int argc, char** argv) {
    mp::init();
    pool().apply(same, 1);  // the worker is there before the first row
    return bench::run_all(argc, argv);
}
