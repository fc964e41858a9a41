// Helpers of the subprocess tests: what a child sees of itself.
#pragma once

#include <bitset>
#include <functional>
#include <set>
#include <string>

#include <sidestep/subprocess.hpp>

#include "spawn/spawn_description.hpp"

namespace test {

// Forces a way to start children, for a scope and its thread.
class UseInternals {
  public:
    explicit UseInternals(sidestep::spawn::Internals internals)
        : former_(sidestep::spawn::set_internals(internals)) {}
    ~UseInternals() { sidestep::spawn::set_internals(former_); }
    UseInternals(const UseInternals&) = delete;
    UseInternals& operator=(const UseInternals&) = delete;

  private:
    sidestep::spawn::Internals former_;
};

std::string read_all(int fd);

// The numbers of the descriptors that a child has.
std::set<int> fds_of_child(sidestep::subprocess::Options options);

struct Signals {
    std::bitset<65> blocked, ignored, caught;  // by signal number
};
Signals signals_of_child(sidestep::subprocess::Options options);

// Runs `body` in a fork of this process and returns its result; 99 for an exception, -N for death
// by signal N. No Catch2 macro may be used there.
int in_fork(const std::function<int()>& body);

// A file with this text and mode in the temporary folder, removed at the end.
class TemporaryFile {
  public:
    TemporaryFile(const std::string& text, int mode);
    ~TemporaryFile();
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

// Whether a process of this pid is there and is no zombie.
bool is_running(int pid);

}  // namespace test
