// Loads libcheck.so, which has all of the library and all tasks in it, from the folder that
// CHECK_FOLDER names: this program itself has nothing of either.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>

int main(int argc, char** argv) {
    const char* folder = std::getenv("CHECK_FOLDER");
    void* library = dlopen((std::string(folder ? folder : ".") + "/libcheck.so").c_str(), RTLD_NOW);
    auto init = library ? reinterpret_cast<void (*)()>(dlsym(library, "check_init")) : nullptr;
    auto all =
        library ? reinterpret_cast<int (*)(const char*)>(dlsym(library, "check_all")) : nullptr;
    if (!init || !all) {
        std::printf("%s\n", dlerror());
        return 2;
    }
    init();
    return argc == 2 ? all(argv[1]) : 2;
}
