#include "process_memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <new>
#include <string>
#include <utility>

#include "sys/own_proc.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

struct Pages {
    std::size_t resident = 0, shared = 0;
};

std::optional<Pages> read_statm(int pid) {
    if (!proc_is_ours()) return {};
    auto text = sys::read_file(fmt::format("/proc/{}/statm", pid).c_str());
    Pages pages;
    if (!text || std::sscanf(text->c_str(), "%*u %zu %zu", &pages.resident, &pages.shared) != 2)
        return {};
    return pages;
}

// The number behind a word at the beginning of a line.
std::optional<std::uint64_t> number_after(const std::string& path, const std::string& word) {
    auto text = sys::read_file(path.c_str());
    if (!text) return {};
    std::size_t at = text->starts_with(word) ? 0 : text->find("\n" + word);
    if (at == std::string::npos) return {};
    unsigned long long number = 0;
    const char* behind = text->c_str() + text->find(word, at) + word.size();
    if (std::sscanf(behind, "%llu", &number) != 1) return {};
    return number;
}

}  // namespace

std::optional<std::size_t> private_memory(int pid) {
    auto pages = read_statm(pid);
    if (!pages) return {};
    return (pages->resident - std::min(pages->shared, pages->resident)) * sys::page_size();
}

std::optional<std::size_t> resident_memory(int pid) {
    auto pages = read_statm(pid);
    if (!pages) return {};
    return pages->resident * sys::page_size();
}

std::optional<std::size_t> proportional_memory(int pid) {
    if (!proc_is_ours()) return {};
    auto kib = number_after(fmt::format("/proc/{}/smaps_rollup", pid), "Pss:");
    if (!kib) return {};
    return *kib * 1024;
}

std::optional<std::uint64_t> oom_kills() { return number_after("/proc/vmstat", "oom_kill "); }

bool OomKills::rose() noexcept {
    try {
        auto kills = oom_kills();
        if (!kills) return false;  // what was seen before still tells, another time
        auto before = std::exchange(seen_, kills);
        return before && *before < *kills;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

}  // namespace sidestep
