#include "sys/cpu_quota.hpp"

#include <algorithm>
#include <cstdio>
#include <sstream>
#include <string_view>
#include <vector>

#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

// One hierarchy of groups that knows quotas, as far as this process sees it.
struct Hierarchy {
    bool v2 = false;
    std::string group;  // of this process, from the hierarchy's root (/proc/self/cgroup)
};
struct Mount {
    bool v2 = false;
    std::string top;     // the group that is mounted
    std::string folder;  // where it is
};

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> parts;
    for (std::size_t begin = 0; begin <= text.size();) {
        std::size_t end = std::min(text.find(separator, begin), text.size());
        parts.emplace_back(text.substr(begin, end - begin));
        begin = end + 1;
    }
    return parts;
}

bool names_cpu(std::string_view controllers) {
    std::vector<std::string> names = split(controllers, ',');
    return std::find(names.begin(), names.end(), "cpu") != names.end();
}

// Lines of "number:controllers:group"; v2's has no controllers (cgroups(7)).
std::vector<Hierarchy> read_hierarchies(const std::string& root) {
    std::vector<Hierarchy> found;
    std::istringstream lines(sys::read_file((root + "/proc/self/cgroup").c_str()).value_or(""));
    for (std::string line; std::getline(lines, line);) {
        std::size_t first = line.find(':');
        std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) continue;
        std::string controllers = line.substr(first + 1, second - first - 1);
        bool v2 = controllers.empty();
        if (v2 || names_cpu(controllers)) found.push_back({v2, line.substr(second + 1)});
    }
    return found;
}

// Spaces and the like are written as \040 (proc(5)).
std::string unescaped(const std::string& text) {
    std::string plain;
    for (std::size_t i = 0; i < text.size(); ++i) {
        unsigned code = 0;
        if (text[i] == '\\' && std::sscanf(text.c_str() + i + 1, "%3o", &code) == 1) {
            plain += static_cast<char>(code);
            i += 3;
        } else {
            plain += text[i];
        }
    }
    return plain;
}

// "id parent device TOP FOLDER options... - TYPE source SUPER-OPTIONS" (proc(5), mountinfo).
std::vector<Mount> read_mounts(const std::string& root) {
    std::vector<Mount> found;
    std::istringstream lines(sys::read_file((root + "/proc/self/mountinfo").c_str()).value_or(""));
    for (std::string line; std::getline(lines, line);) {
        std::size_t separator = line.find(" - ");
        if (separator == std::string::npos) continue;
        std::vector<std::string> before = split(line.substr(0, separator), ' ');
        std::vector<std::string> after = split(line.substr(separator + 3), ' ');
        if (before.size() < 5 || after.size() < 3) continue;
        bool v2 = after[0] == "cgroup2";
        if (!v2 && (after[0] != "cgroup" || !names_cpu(after[2]))) continue;
        found.push_back({v2, unescaped(before[3]), unescaped(before[4])});
    }
    return found;
}

// Paths are strings here: while it is changed, a std::filesystem::path of libstdc++ 12 is not one
// if there is no memory, and to destroy it crashes. Slashes are single, and none is at the end.
std::string tidy(const std::string& path) {
    std::string plain;
    for (char c : path)
        if (c != '/' || !plain.ends_with('/')) plain += c;
    if (plain.ends_with('/')) plain.pop_back();
    return plain;
}

// The group's folder below the mount; the mount's own where the group is not in what is mounted: a
// container that sees its group only, under a name of the system outside.
std::string folder_of(const Mount& mount, const std::string& group) {
    std::string below = group;
    if (mount.top != "/") {
        bool inside = group.starts_with(mount.top) &&
                      (group.size() == mount.top.size() || group[mount.top.size()] == '/');
        below = inside ? group.substr(mount.top.size()) : "";
    }
    bool outside = below.starts_with("/..");  // of this cgroup namespace
    return tidy(outside ? mount.folder : mount.folder + "/" + below);
}

std::optional<long long> read_number(const std::string& file) {
    long long number = 0;
    auto text = sys::read_file(file.c_str());
    if (!text || std::sscanf(text->c_str(), "%lld", &number) != 1) return {};
    return number;
}

std::optional<std::size_t> quota_in(const std::string& folder, bool v2) {
    long long quota = -1, period = 0;
    if (v2) {
        auto text = sys::read_file((folder + "/cpu.max").c_str());  // "max 100000": no quota
        if (!text || std::sscanf(text->c_str(), "%lld %lld", &quota, &period) != 2) return {};
    } else {
        quota = read_number(folder + "/cpu.cfs_quota_us").value_or(-1);  // -1: no quota
        period = read_number(folder + "/cpu.cfs_period_us").value_or(0);
    }
    if (quota <= 0 || period <= 0) return {};
    return static_cast<std::size_t>(quota / period + (quota % period != 0));
}

// From the process's group up to the one that is mounted.
std::optional<std::size_t> least_quota(const std::string& root, const Mount& mount,
                                       const std::string& group) {
    const std::size_t top = tidy(mount.folder).size();
    std::optional<std::size_t> least;
    for (std::string at = folder_of(mount, group);; at.resize(at.rfind('/'))) {
        auto quota = quota_in(root + at, mount.v2);
        if (quota && (!least || *quota < *least)) least = quota;
        if (at.size() <= top) return least;
    }
}

}  // namespace

std::optional<std::size_t> cpu_quota(const std::string& root) {
    std::vector<Hierarchy> hierarchies = read_hierarchies(root);
    std::vector<Mount> mounts = read_mounts(root);
    if (mounts.empty())  // where they usually are
        mounts = {{true, "/", "/sys/fs/cgroup"},
                  {true, "/", "/sys/fs/cgroup/unified"},
                  {false, "/", "/sys/fs/cgroup/cpu"},
                  {false, "/", "/sys/fs/cgroup/cpu,cpuacct"}};
    if (hierarchies.empty()) hierarchies = {{true, "/"}, {false, "/"}};
    std::optional<std::size_t> least;
    for (const Hierarchy& hierarchy : hierarchies)
        for (const Mount& mount : mounts) {
            if (mount.v2 != hierarchy.v2) continue;
            auto quota = least_quota(root, mount, hierarchy.group);
            if (quota && (!least || *quota < *least)) least = quota;
        }
    return least;
}

}  // namespace sidestep
