#include "process_memory.hpp"

#include <fmt/format.h>

#include <fstream>
#include <string>

#include "sys.hpp"

namespace sidestep {
namespace {

struct Pages {
    std::size_t size = 0, resident = 0, shared = 0;
};

Pages read_statm(int pid) {
    Pages pages;
    std::ifstream(fmt::format("/proc/{}/statm", pid)) >> pages.size >> pages.resident >>
        pages.shared;
    return pages;
}

// The number behind a word at the beginning of a line.
std::size_t number_after(const std::string& path, const std::string& word) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);)
        if (line.starts_with(word)) return std::stoull(line.substr(word.size()));
    return 0;
}

}  // namespace

std::size_t private_memory(int pid) {
    Pages pages = read_statm(pid);
    return (pages.resident - std::min(pages.shared, pages.resident)) * sys::page_size();
}

std::size_t resident_memory(int pid) { return read_statm(pid).resident * sys::page_size(); }

std::size_t proportional_memory(int pid) {
    return number_after(fmt::format("/proc/{}/smaps_rollup", pid), "Pss:") * 1024;
}

std::uint64_t oom_kills() { return number_after("/proc/vmstat", "oom_kill "); }

}  // namespace sidestep
