// A program that forgets init(): says on stdout what becomes of each start method.
#include <cstdio>
#include <exception>

#include <sidestep/init.hpp>

#include "start/launch.hpp"
#include "sys/sys.hpp"

using namespace sidestep;

namespace {

void leave_main(Fd) { leave_process(5); }
const BootEntry entry [[gnu::init_priority(200)]] (&leave_main);

void try_method(const char* name, StartMethod method) {
    try {
        auto from = make_launcher(method, "a test's child", 0);
        Launched child = from->launch(&leave_main);
        ExitStatus status = sys::wait_pidfd(child.pidfd.get(), true);
        std::printf("%s: %s\n", name, status.describe().c_str());
    } catch (const std::exception& error) {
        std::printf("%s: %s\n", name, error.what());
    }
}

}  // namespace

int main() {
    std::printf("initialized: %d\n", initialized());
    try_method("spawn", StartMethod::spawn);
    try_method("fork", StartMethod::fork);
    try_method("forkserver", StartMethod::forkserver);
}
