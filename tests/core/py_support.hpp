// Helpers of the tests that carry CPython's test_subprocess over (tags [py:Class.test_name]).
#pragma once

#include <array>
#include <cerrno>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include <sidestep/subprocess.hpp>

#include "support.hpp"
#include "sys/fd.hpp"

namespace py {

namespace fs = std::filesystem;
namespace sp = sidestep::subprocess;
using sidestep::Fd;
using namespace std::chrono_literals;
using test::eventually;

// Programs next to this one. The child of tests/support/child.cpp, which tells what it sees:
inline const std::string kChild = fs::read_symlink("/proc/self/exe").parent_path() / "test_child";
// and the one of children/py_parent.cpp, which starts children itself.
inline const std::string kParent = fs::read_symlink("/proc/self/exe").parent_path() / "py_parent";
inline const sp::Args kMissing = {"no-such-program", "argument"};
inline constexpr int kNotPossible = 77;  // py_parent: this machine does not allow the test

// More than a pipe can hold, whoever enlarged it.
inline constexpr std::size_t kMoreThanAPipe = 4 * 1024 * 1024 + 1;

bool is_root();
bool contains(std::string_view text, std::string_view part);
bool contains_all(std::string_view text, std::initializer_list<std::string_view> parts);

// The exception of type Error that `call` throws; nothing if it throws none. Others pass.
template <class Error, class Call>
std::optional<Error> thrown(Call&& call) {
    try {
        call();
    } catch (const Error& error) {
        return error;
    }
    return {};
}
// Its message; "(nothing thrown)" if it throws none.
template <class Error, class Call>
std::string message_of(Call&& call) {
    auto error = thrown<Error>(call);
    return error ? error->what() : "(nothing thrown)";
}
// The errno with which starting fails; 0 if it does not.
template <class Call>
int start_errno(Call&& call) {
    auto error = thrown<sp::StartError>(call);
    return error ? error->code().value() : 0;
}

// Starting fails because no folder of PATH has the program; EACCES if one may not be searched.
template <class Call>
bool finds_no_program(Call&& call) {
    int error = start_errno(call);
    return error == ENOENT || error == EACCES;
}

// --- files and descriptors ---------------------------------------------------------------------

// A file without a name that holds `text`, positioned at its start.
Fd file_with(std::string_view text);
// Everything in a file, wherever it is positioned.
std::string contents(int fd);
bool is_open(int fd);
bool is_inheritable(int fd);
void set_inheritable(int fd, bool on);
std::set<int> parse_fds(std::string_view comma_separated);
// What `child fds` sees when it is started so.
std::set<int> fds_in_child(sp::Options options);

// "name=value" lines.
using Values = std::map<std::string, std::string>;
Values parse_values(std::string_view lines);

class TemporaryFolder {
  public:
    TemporaryFolder();
    ~TemporaryFolder();
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    const fs::path& path() const { return path_; }
    // Writes an executable /bin/sh script into it.
    fs::path script(const std::string& name, const std::string& text) const;

  private:
    fs::path path_;
};

// Makes `folder` the working directory while it lives.
class WorkingDirectory {
  public:
    explicit WorkingDirectory(const fs::path& folder) : before_(fs::current_path()) {
        fs::current_path(folder);
    }
    ~WorkingDirectory() { fs::current_path(before_); }
    WorkingDirectory(const WorkingDirectory&) = delete;
    WorkingDirectory& operator=(const WorkingDirectory&) = delete;

  private:
    fs::path before_;
};

// Puts this process' own 0, 1 and 2 back as they were. No Catch2 macro while one is alive: a
// report would go to the wrong place.
class SavedStdio {
  public:
    SavedStdio();
    ~SavedStdio();
    SavedStdio(const SavedStdio&) = delete;
    SavedStdio& operator=(const SavedStdio&) = delete;
    // A copy of the stream as it was.
    int saved(int fd) const { return saved_[static_cast<std::size_t>(fd)]; }

  private:
    std::array<int, 3> saved_ = {-1, -1, -1};
    std::array<bool, 3> inheritable_ = {};
};

// Keeps a child waiting: it reads from `fd()` (as descriptor 3: pass()) until open() is called.
class Gate {
  public:
    Gate();
    int fd() const { return child_end_.get(); }
    std::vector<sp::PassFd> pass() const { return {{fd(), 3}}; }
    void open() { our_end_.reset(); }

  private:
    Fd child_end_;
    Fd our_end_;
};

// --- processes and signals ---------------------------------------------------------------------

// Has ended, but has not been reaped. (Looks without reaping.)
bool is_zombie(int pid);
// Is no child of this process (any more).
bool is_reaped(int pid);
// Does not run: it is gone, or is a zombie of someone else.
bool is_dead(int pid);
// True once thread `tid` of this process sleeps in the kernel.
bool is_asleep(int tid);
// The same of the first thread of process `pid`.
bool process_sleeps(int pid);
int this_thread_id();

// Handles `signal` by counting while it lives; system calls are interrupted (no SA_RESTART).
class CountedSignal {
  public:
    explicit CountedSignal(int signal);
    ~CountedSignal();
    CountedSignal(const CountedSignal&) = delete;
    CountedSignal& operator=(const CountedSignal&) = delete;
    int count() const;

  private:
    struct Saved;
    int signal_;
    std::unique_ptr<Saved> saved_;
};

// Ignores `signal` while it lives.
class IgnoredSignal {
  public:
    explicit IgnoredSignal(int signal);
    ~IgnoredSignal();
    IgnoredSignal(const IgnoredSignal&) = delete;
    IgnoredSignal& operator=(const IgnoredSignal&) = delete;

  private:
    struct Saved;
    int signal_;
    std::unique_ptr<Saved> saved_;
};

// Sets the soft limit of open files while it lives.
class FdLimit {
  public:
    explicit FdLimit(std::size_t limit);
    ~FdLimit();
    FdLimit(const FdLimit&) = delete;
    FdLimit& operator=(const FdLimit&) = delete;

  private:
    std::size_t before_;
};

}  // namespace py
