// What a process knows about itself and its children.
//
// Threads: thread-safe. Fork: a forked child has no children, and its parent's identity until
//          process_main() gives it its own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <sidestep/process.hpp>

namespace sidestep::inline v0 {

struct Identity {
    std::string name = "MainProcess";
    bool daemon = false;
    std::string authkey;
    std::vector<std::uint32_t> path;  // the N-th child of the M-th child...
    int parent_pid = 0;               // 0: no child of ours
    std::string parent_name;
};

// Valid for ever (a KeptValue).
const Identity& identity();
void set_identity(Identity identity);

class ProcessRegistry {
  public:
    // The path of the next child.
    static std::vector<std::uint32_t> next_path();
    // Children that were started and not reaped.
    static void add(const std::shared_ptr<detail::ProcessCore>& child);
    static void remove(const detail::ProcessCore* child) noexcept;
    static std::vector<std::shared_ptr<detail::ProcessCore>> children();
    // The child at this place of the list, or at the last if there are fewer: `place` says at
    // which. Null: there is none. Allocates nothing.
    static std::shared_ptr<detail::ProcessCore> child_at(std::size_t limit,
                                                         std::size_t& place) noexcept;
    static ChildProcess handle(std::shared_ptr<detail::ProcessCore> child) {
        return ChildProcess(std::move(child));
    }
};

// Ends the daemonic children, waits for the others, and stops the fork server.
void end_children() noexcept;
// Sees to it that run_exit_hooks() is called by std::exit() and at the end of main().
void arm_exit_hooks();

}  // namespace sidestep
