// Helpers of the subprocess tests: what a child sees of itself.
#pragma once

#include <bitset>
#include <set>
#include <string>

#include <sidestep/subprocess.hpp>

#include "spawn_description.hpp"

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

}  // namespace test
