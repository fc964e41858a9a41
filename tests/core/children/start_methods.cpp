#include "start_methods.hpp"

#include <cstdio>
#include <cstdlib>
#include <exception>

#include <sidestep/pool.hpp>
#include <sidestep/process.hpp>

namespace {

void leave_with_count() { sidestep::exit_process(count_entries()); }

int by_process(sidestep::StartMethod method) {
    sidestep::Process child({.start_method = method}, leave_with_count);
    child.start();
    child.join();
    return *child.exitcode();
}

int by_pool(sidestep::StartMethod method) {
    sidestep::Pool pool({.processes = 1, .start_method = method});
    return pool.submit(count_entries).get();
}

void show(const char* what, const char* name, int (*count)(sidestep::StartMethod)) {
    std::printf("%s %s: ", what, name);
    try {
        std::printf("%d\n", count(sidestep::start_method_named(name)));
    } catch (const std::exception& error) {
        std::printf("%s\n", error.what());
    }
}

}  // namespace

int show_start_methods(int count, char** names) {
    std::printf("variable: %s\n", std::getenv("SIDESTEP_BOOT_FD") ? "set" : "unset");
    for (int i = 0; i < count; ++i) {
        show("process", names[i], by_process);
        show("pool", names[i], by_pool);
    }
    return 0;
}
