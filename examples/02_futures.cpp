// Futures: results, errors by type, a crash that costs one task.
#include <csignal>
#include <cstdio>
#include <stdexcept>

#include <sidestep/pool.hpp>
namespace mp = sidestep;

int divide(int a, int b) {
    if (b == 0) throw std::domain_error("division by zero");
    return a / b;
}
int crash(int) {
    std::raise(SIGSEGV);
    return 0;
}

int main() {
    mp::init();
    mp::Pool pool({.processes = 2});

    mp::Future<int> six = pool.submit(divide, 42, 7);
    std::printf("%d\n", six.get());  // 6

    try {
        pool.submit(divide, 1, 0).get();
    } catch (const std::domain_error& e) {  // the standard type crosses the process boundary
        std::printf("domain_error: %s\n", e.what());
        std::printf("in worker: %s\n", mp::remote_traceback(e).c_str());
    }

    mp::Future<int> lost = pool.submit(crash, 1);
    mp::Future<int> fine = pool.submit(divide, 9, 3);
    try {
        lost.get();
    } catch (const mp::WorkerLost& e) {  // this task alone; the pool replaces the worker
        std::printf("lost: %s (signal %d)\n", e.what(), e.exit_status().signal());
    }
    std::printf("%d\n", fine.get());  // 3
}
