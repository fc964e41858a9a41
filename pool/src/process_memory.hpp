// What a process uses, in bytes, from /proc; 0 if it has ended, and nothing if the kernel does not
// tell: no /proc, that of another pid namespace, or a process that may not be looked into.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace sidestep::inline v0 {

// Resident, without what it shares with others: cheap, and not exact.
std::optional<std::size_t> private_memory(int pid);
// The resident set, shared pages and all: never less than the proportional share.
std::optional<std::size_t> resident_memory(int pid);
// The proportional share (PSS): a page that n processes map counts one n-th. Takes the kernel up to
// milliseconds for a large process. Not told of one that may not be traced (not dumpable, another
// user's), which the others are.
std::optional<std::size_t> proportional_memory(int pid);

// How often the kernel's OOM killer has struck on this machine, since it started.
std::optional<std::uint64_t> oom_kills();

// Whether it has since it was last asked. Threads: the caller serialises.
class OomKills {
  public:
    void start() { seen_ = oom_kills(); }
    bool rose() noexcept;

  private:
    std::optional<std::uint64_t> seen_;
};

}  // namespace sidestep
