// The jobs of compute_bench.cpp over OpenMP. Built where the compiler has it.
#include "common.hpp"
#include "compute.hpp"

namespace {

template <std::uint64_t (*kPiece)(int)>
void openmp(benchmark::State& state, int pieces) {
    for (auto _ : state) {
        std::uint64_t sum = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : sum)
        for (int i = 0; i < pieces; ++i) sum += kPiece(i);
        benchmark::DoNotOptimize(sum);
    }
}

void add(const char* name, void (*function)(benchmark::State&, int), int pieces) {
    benchmark::RegisterBenchmark(name, function, pieces)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
}

const bool added = [] {
    add("monte_carlo/openmp", openmp<bench::throw_darts>, bench::kThrowers);
    add("mandelbrot/openmp", openmp<bench::mandelbrot_row>, bench::kRows);
    return true;
}();

}  // namespace
