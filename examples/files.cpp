// A job over many files: a progress bar while it runs, and at the end a list of what failed.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <vector>

#include <sidestep/pool.hpp>
#include <sidestep/progress.hpp>
namespace fs = std::filesystem;
namespace mp = sidestep;
using namespace std::chrono_literals;

long count_lines(const std::string& path) {
    std::ifstream file(path);
    if (!file) throw std::system_error(errno, std::generic_category(), "cannot read it");
    return std::count(std::istreambuf_iterator<char>(file), {}, '\n');
}

int main(int argc, char** argv) {
    mp::init();
    std::vector<std::string> paths;
    try {
        for (const fs::path& path : fs::directory_iterator(argc > 1 ? argv[1] : "."))
            if (!fs::is_directory(path)) paths.push_back(path.string());
    } catch (const fs::filesystem_error& e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 2;
    }
    std::sort(paths.begin(), paths.end());

    mp::Pool pool;
    long lines = 0;
    std::vector<std::string> errors;
    auto counts = pool.imap_unordered(count_lines, paths, {.task = {.timeout = 10s}});
    for (auto& item : mp::progress(std::move(counts).outcomes(), {.label = "files"})) {
        try {
            lines += item.value();
        } catch (const std::exception& e) {  // that file's alone: a crash and a timeout, too
            errors.push_back(paths[item.index()] + ": " + e.what());
        }
    }
    std::printf("%ld lines in %zu files\n", lines, paths.size() - errors.size());
    std::sort(errors.begin(), errors.end());
    for (const std::string& error : errors) std::printf("%s\n", error.c_str());
    return errors.empty() ? 0 : 1;
}
