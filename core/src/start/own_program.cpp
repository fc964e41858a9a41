#include "start/own_program.hpp"

#include <fmt/format.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <sstream>
#include <stdexcept>
#include <string>

#include "sys/kept_value.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr const char* kSelf = "/proc/self/exe";

std::string read_link(const char* path) {
    char target[PATH_MAX];
    ssize_t size = ::readlink(path, target, sizeof target);
    return size > 0 ? std::string(target, static_cast<std::size_t>(size)) : std::string();
}

// The file that is mapped at an address. (A line is "begin-end flags offset device inode path".)
std::string file_mapped_at(std::uintptr_t address) {
    std::istringstream lines(sys::read_file("/proc/thread-self/maps").value_or(""));
    for (std::string line; std::getline(lines, line);) {
        std::uintptr_t begin = 0, end = 0;
        int path = 0;
        if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %*s %n", &begin, &end,
                        &path) >= 2 &&
            address >= begin && address < end)
            return path > 0 ? line.substr(static_cast<std::size_t>(path)) : std::string();
    }
    return {};
}

ProgramTraces look_around() {
    ProgramTraces traces;
    traces.executed = read_link("/proc/thread-self/exe");  // tools do not think of this one
    traces.claimed = read_link(kSelf);
    traces.program = file_mapped_at(::getauxval(AT_PHDR));
    if (auto* name = reinterpret_cast<const char*>(::getauxval(AT_EXECFN))) traces.exec_name = name;
    std::istringstream words(sys::read_file("/proc/self/cmdline").value_or(""));
    for (std::string word; std::getline(words, word, '\0');) traces.command_line.push_back(word);
    return traces;
}

bool is_loader(const std::string& path) {
    std::string name = path.substr(path.rfind('/') + 1);
    return name.starts_with("ld-") || name.starts_with("ld.so") || name.starts_with("ld64.so");
}

[[noreturn]] void throw_unknown(const std::string& what) {
    throw std::runtime_error(fmt::format(
        "cannot start this program again: {}; name its file with set_executable()", what));
}

std::string checked(const std::string& path) {
    if (::access(path.c_str(), X_OK) != 0)
        throw_unknown(
            fmt::format("it runs under {}, and its own file \"{}\" is gone, or cannot be "
                        "executed",
                        read_link("/proc/thread-self/exe"), path));
    return path;
}

// No /proc: it was called as this, from a folder that has not changed, one hopes.
OwnProgram by_name(const ProgramTraces& traces) {
    std::string path = traces.exec_name;
    char folder[PATH_MAX];
    if (!path.starts_with('/') && ::getcwd(folder, sizeof folder)) path = folder + ("/" + path);
    if (traces.exec_name.empty() || ::access(path.c_str(), X_OK) != 0)
        throw_unknown(
            fmt::format("/proc is not mounted, and \"{}\", as it was called, is no "
                        "program here",
                        traces.exec_name));
    return {path, {traces.exec_name}};
}

// "ld.so --library-path there ./program arguments": all that stands before the program's own
// arguments is said again.
OwnProgram by_loader(const ProgramTraces& traces) {
    const std::vector<std::string>& words = traces.command_line;
    auto program = std::find(words.begin() + !words.empty(), words.end(), traces.exec_name);
    if (program == words.end()) return {checked(traces.program), {traces.program}};
    OwnProgram own{kSelf, {words.begin(), program}};
    own.arguments.push_back(checked(traces.program));
    return own;
}

}  // namespace

OwnProgram own_program_from(const ProgramTraces& traces) {
    if (traces.executed.empty()) return by_name(traces);
    std::string called = traces.command_line.empty() ? "" : traces.command_line[0];
    bool itself = traces.program.empty() || traces.program == traces.executed;
    if (itself) return {kSelf, {called.empty() ? "sidestep-worker" : called}};
    if (is_loader(traces.executed) && traces.claimed == traces.executed) return by_loader(traces);
    return {checked(traces.program), {called.empty() ? traces.program : called}};
}

OwnProgram own_program() {
    static KeptValue<OwnProgram> known;
    const OwnProgram* own = known.get();
    // /proc may be out of sight since then (chroot).
    if (own && (own->executable != kSelf || ::access(kSelf, F_OK) == 0)) return *own;
    OwnProgram fresh = own_program_from(look_around());
    (void)known.set_first(fresh);
    return fresh;
}

}  // namespace sidestep
