// Quotas of control groups, read from made-up systems.
#include "sys/cpu_quota.hpp"

#include <filesystem>
#include <fstream>

#include <catch2/catch.hpp>
#include <sidestep/process.hpp>

#include "start/own_program.hpp"
#include "support.hpp"
#include "sys/sys.hpp"

namespace cpu_quota_test {

namespace fs = std::filesystem;
using sidestep::cpu_quota;

namespace {

// A folder that stands for "/", gone with this object.
class System {
  public:
    System() : root_((fs::temp_directory_path() / "sidestep-system-XXXXXX").string()) {
        if (!mkdtemp(root_.data())) throw std::runtime_error("mkdtemp");
    }
    ~System() { fs::remove_all(root_); }
    System(const System&) = delete;
    System& operator=(const System&) = delete;

    System& write(const std::string& path, const std::string& text) {
        fs::create_directories(fs::path(root_ + path).parent_path());
        std::ofstream(root_ + path) << text;
        return *this;
    }
    std::optional<std::size_t> quota() const { return cpu_quota(root_); }
    std::size_t cores() const { return sidestep::sys::usable_cores(root_); }

  private:
    std::string root_;
};

const std::string kV2 = "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
const std::string kV1 =
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

}  // namespace

TEST_CASE("the quota of the group, and of each group above it, counts", "[core][cpu_quota]") {
    System system;
    system.write("/proc/self/cgroup", "0::/user.slice/job.scope\n")
        .write("/proc/self/mountinfo", kV2)
        .write("/sys/fs/cgroup/user.slice/job.scope/cpu.max", "350000 100000\n");
    CHECK(system.quota() == 4u);
    system.write("/sys/fs/cgroup/user.slice/cpu.max", "200000 100000\n");
    CHECK(system.quota() == 2u);
    system.write("/sys/fs/cgroup/cpu.max", "max 100000\n");
    CHECK(system.quota() == 2u);
    system.write("/sys/fs/cgroup/user.slice/job.scope/cpu.max", "1000 100000\n");
    CHECK(system.quota() == 1u);  // a part of one
    system.write("/sys/fs/cgroup/user.slice/cpu.max", "max 100000\n")
        .write("/sys/fs/cgroup/user.slice/job.scope/cpu.max", "max 100000\n");
    CHECK_FALSE(system.quota());
}

TEST_CASE("quotas of cgroup v1 count, alone and beside v2", "[core][cpu_quota]") {
    System system;
    std::string group = "/sys/fs/cgroup/cpu,cpuacct/batch/job/";
    system.write("/proc/self/cgroup", "4:memory:/other\n3:cpu,cpuacct:/batch/job\n0::/\n")
        .write("/proc/self/mountinfo", kV1)
        .write(group + "cpu.cfs_quota_us", "-1\n")
        .write(group + "cpu.cfs_period_us", "100000\n");
    CHECK_FALSE(system.quota());
    system.write("/sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_quota_us", "250000\n")
        .write("/sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_period_us", "100000\n");
    CHECK(system.quota() == 3u);
    system.write(group + "cpu.cfs_quota_us", "200000\n");
    CHECK(system.quota() == 2u);
    system
        .write("/proc/self/mountinfo",
               kV1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
        .write("/sys/fs/cgroup/unified/cpu.max", "100000 100000\n");
    CHECK(system.quota() == 1u);
}

TEST_CASE("a container that sees a part of the groups finds its own there", "[core][cpu_quota]") {
    SECTION("its group is mounted, and named as outside") {
        System system;
        system.write("/proc/self/cgroup", "3:cpu:/docker/abc/inner\n")
            .write("/proc/self/mountinfo",
                   "9 8 0:1 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n")
            .write("/sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "100000")
            .write("/sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "50000");
        CHECK(system.quota() == 2u);
    }
    SECTION("its group is mounted as if it were the top one") {
        System system;
        system.write("/proc/self/cgroup", "0::/docker/abc\n")
            .write("/proc/self/mountinfo", kV2)
            .write("/sys/fs/cgroup/cpu.max", "150000 100000");
        CHECK(system.quota() == 2u);
    }
    SECTION("another group is mounted, or it is outside of the namespace") {
        for (const char* line : {"0::/docker/abcdef\n", "0::/../other\n"}) {
            System system;
            system.write("/proc/self/cgroup", line)
                .write("/proc/self/mountinfo", "9 8 0:1 /docker/abc /groups rw - cgroup2 none rw\n")
                .write("/groups/cpu.max", "300000 100000");
            CHECK(system.quota() == 3u);
        }
    }
}

TEST_CASE("quotas are found where mounts are unusual or not told", "[core][cpu_quota]") {
    System spaces;
    spaces.write("/proc/self/cgroup", "0::/a\n")
        .write("/proc/self/mountinfo", "9 8 0:1 / /my\\040groups rw - cgroup2 none rw\n")
        .write("/my groups/a/cpu.max", "200000 100000");
    CHECK(spaces.quota() == 2u);
    System silent;
    CHECK_FALSE(silent.quota());
    silent.write("/sys/fs/cgroup/cpu.max", "500000 100000");
    CHECK(silent.quota() == 5u);
    System nonsense;
    nonsense.write("/proc/self/cgroup", "no colon\n:\n0::\n")
        .write("/proc/self/mountinfo", "- \n" + kV2 + "1 2 - cgroup2\n")
        .write("/sys/fs/cgroup/cpu.max", "many 0\n");
    CHECK_FALSE(nonsense.quota());
}

TEST_CASE("hardware threads of one core count once, and what is not known is a core",
          "[core][physical_cpus]") {
    const std::size_t cpus = sidestep::sys::usable_cpus();
    System unknown, shared, former, alone;
    CHECK(unknown.cores() == cpus);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        const std::string path = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
        shared.write(path + "core_cpus_list", "0-1023\n");
        former.write(path + "thread_siblings_list", "0-1023\n");
        alone.write(path + "core_cpus_list", std::to_string(cpu) + "\n");
    }
    CHECK(shared.cores() == 1);
    CHECK(former.cores() == 1);
    CHECK(alone.cores() == cpus);
    CHECK(sidestep::physical_cpus() >= 1);
    CHECK(sidestep::physical_cpus() <= sidestep::process_cpu_count());
}

TEST_CASE("what starts this program again depends on what runs it", "[core][own_program]") {
    using sidestep::own_program_from;
    const std::string self = "/proc/self/exe", sh = fs::canonical("/bin/sh").string();
    const std::string loader = "/usr/lib64/ld-linux-x86-64.so.2";
    auto itself = own_program_from({sh, sh, sh, "./sh", {"./sh", "-c"}});
    CHECK(itself.executable == self);
    CHECK(itself.arguments == std::vector<std::string>{"./sh"});
    auto removed = own_program_from({"/a (deleted)", "/a (deleted)", "/a (deleted)", "/a", {}});
    CHECK(removed.executable == self);
    CHECK(removed.arguments.size() == 1);
    // The loader gets its own options again, and the program's path whatever the folder.
    auto loaded = own_program_from(
        {loader, loader, sh, "./sh", {"ld.so", "--library-path", "/x", "./sh", "./sh"}});
    CHECK(loaded.executable == self);
    CHECK(loaded.arguments == std::vector<std::string>{"ld.so", "--library-path", "/x", sh});
    // A tool that claims that the program was executed.
    auto tool = own_program_from({"/usr/libexec/valgrind/memcheck", sh, sh, "./sh", {"./sh"}});
    CHECK(tool.executable == sh);
    CHECK(tool.arguments == std::vector<std::string>{"./sh"});
    // No /proc.
    CHECK(own_program_from({"", "", "", sh, {}}).executable == sh);
    for (const sidestep::ProgramTraces& lost :
         {sidestep::ProgramTraces{loader, loader, "/gone (deleted)", "./gone", {"ld.so", "./gone"}},
          sidestep::ProgramTraces{"", "", "", "/nowhere/at/all", {}}})
        CHECK_THROWS_WITH(own_program_from(lost), Catch::Contains("set_executable()"));
}

}  // namespace cpu_quota_test
