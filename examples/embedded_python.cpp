// CPython inside a C++ program. Its global lock lets one thread at a time run Python, however many
// there are; each worker process has an interpreter, and a lock, of its own.
//
// usage: embedded_python [UP_TO]   primes below UP_TO are counted, in Python (default 400000)
#include <pybind11/embed.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>
namespace mp = sidestep;
namespace py = pybind11;

constexpr const char* kSource = R"(
def primes(begin, end):
    return sum(all(n % d for d in range(2, int(n ** 0.5) + 1))
               for n in range(max(begin, 2), end))
)";

// Made in each process when it is first asked for, and kept. The isolated configuration installs
// no signal handlers and takes nothing from the environment; PYTHON, the program whose library is
// linked here, tells the interpreter where its modules are.
const py::object& python_primes() {
    static const py::object* function = [] {
        PyConfig config;
        PyConfig_InitIsolatedConfig(&config);
        PyConfig_SetBytesString(&config, &config.program_name, PYTHON);
        new py::scoped_interpreter(&config);
        py::exec(kSource);
        return new py::object(py::globals()["primes"]);
    }();
    return *function;
}

constexpr int kStep = 1000;  // numbers in one task: small, so that all end together
int primes(int begin) {
    const py::object& function = python_primes();
    py::gil_scoped_acquire lock;
    return function(begin, begin + kStep).cast<int>();
}

template <class AnyPool>
double seconds(const char* name, AnyPool& pool, const std::vector<int>& begins, double compared) {
    pool.map(primes, std::vector<int>(64, 0), {.chunksize = 1});  // everyone has an interpreter now
    auto begin = std::chrono::steady_clock::now();
    int sum = 0;
    for (int found : pool.map(primes, begins, {.chunksize = 1})) sum += found;
    std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    std::printf("%-12s %d primes in %.3f seconds: %.2f x\n", name, sum, time.count(),
                compared > 0 ? compared / time.count() : 1.0);
    return time.count();
}

int main(int argc, char** argv) {
    mp::init();  // first statement: workers take over here
    int up_to = argc > 1 ? std::atoi(argv[1]) : 400'000;
    std::vector<int> begins;
    for (int begin = 0; begin < up_to; begin += kStep) begins.push_back(begin);

    mp::Pool processes({.processes = 2});
    python_primes();
    py::gil_scoped_release others_may_have_the_lock;
    mp::ThreadPool one_thread({.threads = 1}), two_threads({.threads = 2});
    double alone = seconds("one thread", one_thread, begins, 0);
    seconds("two threads", two_threads, begins, alone);
    seconds("pool of two", processes, begins, alone);
}
