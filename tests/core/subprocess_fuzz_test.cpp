// Random combinations of options: each child must see exactly what it should, and nothing may be
// left. SIDESTEP_SEED repeats a run, SIDESTEP_CHILDREN sets its length (the stress suite: 10,000).
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <sstream>

#include <catch2/catch.hpp>
#include <sidestep/subprocess.hpp>

#include "subprocess_support.hpp"
#include "support.hpp"
#include "sys/sys.hpp"

namespace subprocess_fuzz_test {

namespace sp = sidestep::subprocess;
namespace spawn = sidestep::spawn;
namespace fs = std::filesystem;
using namespace std::chrono_literals;

namespace {

std::string target_of(int fd) { return fs::read_symlink(fmt::format("/proc/self/fd/{}", fd)); }

std::string probe() { return fs::read_symlink("/proc/self/exe").parent_path() / "probe_child"; }

// Whether a child may have another user, and still execute the probe.
bool ids_can_change() {
    if (geteuid() != 0) return false;
    try {
        return sp::call({probe()}, {.std_err = sp::DEVNULL, .user = 65534}) == 98;
    } catch (const sp::StartError&) {
        return false;
    }
}

// One random child, and the report that it should give.
class Child {
  public:
    Child(std::mt19937_64& random, const std::vector<sidestep::Fd>& files, bool with_ids)
        : random_(random), files_(files) {
        report_fd_ = 3 + pick(60);
        exit_code_ = pick(250);
        words_ = {probe(), std::to_string(report_fd_), std::to_string(exit_code_)};
        for (int i = pick(3); i > 0; --i) words_.push_back(std::string(std::size_t(pick(50)), 'w'));
        choose_streams();
        choose_descriptors();
        choose_attributes();
        if (with_ids && chance(3)) choose_ids();
    }

    // What is wrong, or nothing.
    std::string run() {
        sidestep::sys::Pipe report = sidestep::sys::make_pipe();
        options_.pass_fds.emplace_back(report.write_end.get(), report_fd_);
        bool kills = chance(10);
        options_.on_destroy = kills ? sp::OnDestroy::kill : sp::OnDestroy::wait;
        sp::Popen child(words_, options_);
        report.write_end.reset();
        if (kills && chance(2)) {
            child.kill();
            int code = child.wait();
            return code == -SIGKILL || code == exit_code_ ? "" : fmt::format("killed: {}", code);
        }
        expect_streams(child);
        std::string seen = test::read_all(report.read_end.get());
        if (child.std_in() || child.std_out() || child.std_err()) child.communicate();
        if (int code = child.wait(); code != exit_code_)
            return fmt::format("exit code {} instead of {}", code, exit_code_);
        return compare(seen);
    }

    std::string describe() const {
        std::string text;
        for (const auto& [key, value] : expected_) text += key + " " + value + "; ";
        return text;
    }

  private:
    int pick(int count) { return int(random_() % std::uint64_t(count)); }
    bool chance(int one_in) { return pick(one_in) == 0; }
    int random_file() { return files_[std::size_t(pick(int(files_.size())))].get(); }
    void expect(const std::string& key, const std::string& value) { expected_[key] = value; }
    void expect_fd(int fd, const std::string& target) { expect(fmt::format("fd {}", fd), target); }

    void choose_streams() {
        switch (pick(4)) {
            case 0:
                options_.std_in = sp::PIPE;
                break;
            case 1:
                options_.std_in = sp::DEVNULL;
                break;
            case 2:
                options_.std_in = random_file();
                break;
        }
        options_.std_out = chance(3)   ? sp::OutputRedirect(sp::PIPE)
                           : chance(2) ? sp::OutputRedirect(sp::DEVNULL)
                                       : sp::OutputRedirect(random_file());
        options_.std_err = chance(3)   ? sp::ErrorRedirect(sp::PIPE)
                           : chance(2) ? sp::ErrorRedirect(sp::STDOUT)
                                       : sp::ErrorRedirect(random_file());
    }

    // Known only once the pipes are there.
    void expect_streams(sp::Popen& child) {
        auto expected = [&](const sp::Redirect& stream, int fd, const auto& pipe) -> std::string {
            using Kind = sp::Redirect::Kind;
            switch (stream.kind()) {
                case Kind::inherit:
                    return target_of(fd);
                case Kind::pipe:
                    return target_of(pipe.fd());
                case Kind::devnull:
                    return "/dev/null";
                case Kind::fd:
                    return target_of(stream.fd());
                case Kind::stdout_:
                    return expected_["fd 1"];
            }
            return "";
        };
        expect_fd(0, expected(options_.std_in, 0, child.std_in()));
        expect_fd(1, expected(options_.std_out, 1, child.std_out()));
        expect_fd(2, expected(options_.std_err, 2, child.std_err()));
    }

    void choose_descriptors() {
        std::set<int> targets = {report_fd_};
        for (int i = pick(6); i > 0; --i) {
            int source = random_file();
            // Often the number of another file: chains and cycles of moves.
            int target = chance(3) ? source : chance(2) ? random_file() : 3 + pick(60);
            if (!targets.insert(target).second) continue;
            options_.pass_fds.emplace_back(source, target);
            expect_fd(target, target_of(source));
        }
        options_.close_fds = !chance(4);  // pass_fds sets it, and there always is one
        options_.die_with_parent = chance(5);
    }

    void choose_attributes() {
        const char* folders[] = {"/", "/usr", "/etc"};
        std::string folder = folders[pick(3)];
        if (chance(2)) options_.cwd = folder;
        expect("cwd", options_.cwd.empty() ? fs::current_path().string() : folder);
        mode_t mask = umask(0);
        umask(mask);
        if (chance(2)) options_.umask = mask = mode_t(pick(0777));
        expect("umask", fmt::format("{:o}", mask));
        options_.start_new_session = chance(4);
        if (!options_.start_new_session && chance(4)) options_.process_group = 0;
        bool leads = options_.start_new_session || options_.process_group;
        expect("leader", fmt::format("{} {}", int(leads), int(options_.start_new_session)));
        int level = getpriority(PRIO_PROCESS, 0);
        if (chance(3)) options_.nice = pick(4);
        expect("nice", std::to_string(std::min(19, level + options_.nice.value_or(0))));
        rlimit files;
        getrlimit(RLIMIT_NOFILE, &files);
        if (chance(3)) {
            files.rlim_cur = 100 + rlim_t(pick(100));
            files.rlim_max = files.rlim_cur + rlim_t(pick(2));
            options_.limits = {{sp::Resource::open_files, files.rlim_cur, files.rlim_max}};
        }
        expect("files", fmt::format("{} {}", files.rlim_cur, files.rlim_max));
        choose_environment();
        choose_signals();
        expect("uid", fmt::format("{} {}", getuid(), geteuid()));
        expect("gid", fmt::format("{} {}", getgid(), getegid()));
    }

    void choose_environment() {
        int kind = pick(3);
        if (kind == 1) options_.env = sp::Environment{{"SIDESTEP_MARKER", "replaced"}};
        if (kind == 2) options_.env = sp::Environment::extend({{"SIDESTEP_MARKER", "extended"}});
        const char* markers[] = {"-", "replaced", "extended"};
        expect("marker", markers[kind]);
        expect("parent", kind == 1 ? "no" : "yes");
    }

    void choose_signals() {
        std::uint64_t blocked = 0;
        if (chance(2)) {
            options_.blocked_signals.emplace();
            for (int i = pick(5); i > 0; --i) {
                int signal = 1 + pick(64);
                if (signal == SIGKILL || signal == SIGSTOP) continue;
                options_.blocked_signals->push_back(signal);
                blocked |= std::uint64_t{1} << (signal - 1);
            }
        }
        options_.restore_signals = chance(2);
        // The test ignores SIGPIPE, SIGXFSZ and SIGUSR2, and handles SIGUSR1.
        auto bit = [](int signal) { return std::uint64_t{1} << (signal - 1); };
        std::uint64_t ignored = bit(SIGUSR2);
        if (!options_.restore_signals) ignored |= bit(SIGPIPE) | bit(SIGXFSZ);
        expect("SigBlk:", fmt::format("{:016x}", blocked));
        expect("SigIgn:", fmt::format("{:016x}", ignored));
        expect("SigCgt:", fmt::format("{:016x}", 0));
    }

    void choose_ids() {
        if (chance(2)) {
            options_.user = 65534;
            expect("uid", "65534 65534");
        }
        if (chance(2)) {
            options_.group = 65533;
            expect("gid", "65533 65533");
        }
        if (!chance(2)) return;
        std::string list;
        options_.extra_groups.emplace();
        for (int i = pick(3); i > 0; --i) {
            options_.extra_groups->emplace_back(1000 - i);
            list += fmt::format("{}{}", list.empty() ? "" : " ", 1000 - i);
        }
        expect("groups", list);
    }

    std::string compare(const std::string& report) {
        std::map<std::string, std::string> seen;
        std::istringstream lines(report);
        std::vector<std::string> words;
        for (std::string line; std::getline(lines, line);) {
            std::size_t key = line.find_first_of(" \t");
            if (line.starts_with("fd ")) key = line.find(' ', 3);
            std::string value = key == std::string::npos ? "" : line.substr(key + 1);
            if (line.starts_with("word "))
                words.push_back(value);
            else
                seen[line.substr(0, key)] = value;
        }
        int lifelines = options_.die_with_parent ? 1 : 0;
        for (const auto& [key, value] : seen) {
            if (key.starts_with("fd ") && !expected_.contains(key) && lifelines-- <= 0)
                return fmt::format("{} -> {} is not the child's", key, value);
        }
        for (const auto& [key, value] : expected_)
            if (seen[key] != value)
                return fmt::format("{} is \"{}\", not \"{}\"", key, seen[key], value);
        if (!std::equal(words.begin(), words.end(), words_.begin() + 3, words_.end()))
            return "the words differ";
        return "";
    }

    std::mt19937_64& random_;
    const std::vector<sidestep::Fd>& files_;
    int report_fd_ = 0;
    int exit_code_ = 0;
    std::vector<std::string> words_;
    sp::Options options_;
    std::map<std::string, std::string> expected_;
};

// Some starts must fail, at the step that is at fault, and leave nothing.
std::string fail_to_start(std::mt19937_64& random) {
    std::pair<sp::Options, sp::StartStep> faults[] = {
        {{.executable = "/no/such"}, sp::StartStep::exec},
        {{.cwd = "/no/such"}, sp::StartStep::chdir},
        {{.std_in = 9999}, sp::StartStep::redirect},
        {{.pass_fds = {{9999, 5}}}, sp::StartStep::redirect},
        {{.process_group = 999999999}, sp::StartStep::setpgid},
        {{.preexec_fn = [] { throw 1; }}, sp::StartStep::preexec_fn},
    };
    auto& [options, step] = faults[random() % std::size(faults)];
    options.std_out = sp::PIPE;
    options.std_err = random() % 2 ? sp::ErrorRedirect(sp::PIPE) : sp::ErrorRedirect(sp::STDOUT);
    try {
        sp::Popen({"true"}, options);
    } catch (const sp::StartError& e) {
        return e.step() == step ? "" : fmt::format("failed at {}", to_string(e.step()));
    }
    return "started";
}

class Dispositions {
  public:
    Dispositions() {
        for (int signal : {SIGPIPE, SIGXFSZ, SIGUSR2}) set(signal, SIG_IGN);
        set(SIGUSR1, [](int) {});
        setenv("SIDESTEP_PARENT", "1", 1);
    }
    ~Dispositions() {
        for (auto& [signal, action] : former_) sigaction(signal, &action, nullptr);
        unsetenv("SIDESTEP_PARENT");
    }

  private:
    void set(int signal, void (*handler)(int)) {
        struct sigaction action = {};
        action.sa_handler = handler;
        sigaction(signal, &action, &former_[signal]);
    }
    std::map<int, struct sigaction> former_;
};

long setting(const char* name, long fallback) {
    const char* text = std::getenv(name);
    return text ? std::atol(text) : fallback;
}

}  // namespace

TEST_CASE("random options: each child sees exactly what it should", "[core][subprocess][fuzz]") {
    auto seed = std::uint64_t(setting("SIDESTEP_SEED", long(std::random_device{}())));
    long children = setting("SIDESTEP_CHILDREN", 300);
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    Dispositions dispositions;
    bool with_ids = ids_can_change();
    std::vector<sidestep::Fd> files;
    for (int i = 0; i < 12; ++i)
        files.push_back(sidestep::sys::memfd(fmt::format("file{}", i).c_str(), 0));
    test::Resources before = test::Resources::now();
    for (long i = 0; i < children; ++i) {
        test::UseInternals forced({.primitive = spawn::Primitive(random() % 4),
                                   .close_method = spawn::CloseMethod(random() % 3)});
        if (random() % 8 == 0) {
            INFO("child " << i);
            CHECK(fail_to_start(random) == "");
            continue;
        }
        Child child(random, files, with_ids);
        std::string wrong;
        try {
            wrong = child.run();
        } catch (const std::exception& e) {
            wrong = e.what();
        }
        if (!wrong.empty()) {
            CAPTURE(i, child.describe());
            FAIL_CHECK(wrong);
        }
        if (i % 100 == 0) CHECK(test::nothing_left_since(before));
    }
    CHECK(test::nothing_left_since(before));
}

}  // namespace subprocess_fuzz_test
