// The program that loads it, and knows nothing of Sidestep: extension_host LIBRARY METHOD...
#include <dlfcn.h>

#include <cstdio>

int main(int argc, char** argv) {
    if (argc < 2) return 64;
    void* library = dlopen(argv[1], RTLD_NOW);
    auto* run =
        library ? reinterpret_cast<int (*)(int, char**)>(dlsym(library, "run_extension")) : nullptr;
    if (!run) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 65;
    }
    return run(argc - 2, argv + 2);
}
