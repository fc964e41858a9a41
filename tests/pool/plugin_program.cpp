// The program of plugin_test.cpp: a pool, and tasks of libraries that it loads.
//
// usage: plugin_program METHOD MODE LIBRARY...
//   before        before init(), in each process: PLUGINS_BEFORE names them
//   after         here only, once the pool is there
//   worker-loads  all of them here, in this order, and the last one in the worker
//   own-pool      here; each makes a pool of its own
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <sidestep/init.hpp>
#include <sidestep/pool.hpp>

namespace mp = sidestep;

namespace {

void* load(const std::string& path) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error(dlerror());
    return library;
}
void load_in_worker(const std::string& path) { load(path); }

template <class Function>
Function* find(void* library, const char* name) {
    void* symbol = dlsym(library, name);
    if (!symbol) throw std::runtime_error(dlerror());
    return reinterpret_cast<Function*>(symbol);
}

void submit(mp::Pool& pool, void* library) {
    for (const char* name : {"plugin_function", "plugin_lambda"}) {
        try {
            std::printf("%d\n", find<int(mp::Pool&, int)>(library, name)(pool, 5));
        } catch (const std::exception& error) {
            std::printf("%s\n", error.what());
        }
    }
}

void run(mp::StartMethod method, const std::string& mode, const std::vector<std::string>& paths) {
    if (mode == "own-pool") {
        for (const std::string& path : paths) {
            std::string result;
            find<void(mp::StartMethod, std::string&)>(load(path), "plugin_own_pool")(method,
                                                                                     result);
            std::printf("%s\n", result.c_str());
        }
        return;
    }
    mp::PoolOptions options = {.processes = 1, .start_method = method};
    if (mode == "worker-loads") options.initializer = mp::bind(load_in_worker, paths.back());
    mp::Pool pool(std::move(options));
    pool.submit(load_in_worker, "libm.so.6").get();  // the worker has begun
    std::vector<void*> libraries;
    for (const std::string& path : paths) libraries.push_back(load(path));
    if (mode == "worker-loads") libraries = {libraries.back()};
    for (void* library : libraries) submit(pool, library);
}

}  // namespace

int main(int argc, char** argv) {
    if (const char* paths = std::getenv("PLUGINS_BEFORE")) {
        std::istringstream lines(paths);
        for (std::string path; std::getline(lines, path);) load(path);
    }
    mp::init();
    if (argc < 3) return 2;
    try {
        run(mp::start_method_named(argv[1]), argv[2], {argv + 3, argv + argc});
    } catch (const std::exception& error) {
        std::printf("FAILED: %s\n", error.what());
        return 1;
    }
}
