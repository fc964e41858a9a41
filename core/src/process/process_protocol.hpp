// What a Process and its parent tell each other, in blobs over the control socket: the parent sends
// the setup, followed by the task's callable and arguments; the child reports that it has taken
// over and, if it throws, what.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <sidestep/archive.hpp>
#include <sidestep/process.hpp>
#include <sidestep/task.hpp>

#include "process/log_settings.hpp"
#include "start/boot.hpp"
#include "start/launch.hpp"

namespace sidestep::inline v0 {

struct ProcessSetup {
    std::string name;
    bool daemon = false;
    std::string authkey;
    std::vector<std::uint32_t> path;
    std::int32_t parent_pid = 0;
    std::string parent_name;
    std::int32_t start_method = 0;
    std::string executable;
    ModuleAddress preload;  // of the fork server; module 0: none
    std::string folder;     // to change to; empty: it is there already
    LogSettings log;
    detail::TaskId task;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(name, daemon, authkey, path, parent_pid, parent_name, start_method, executable,
                preload.module, preload.offset, folder, log, task.where, task.signature);
    }
};

// A report begins with its kind; an exception follows as detail::save_current_exception writes it.
enum class ReportKind : std::uint32_t { taken_over = 1, threw = 2 };

// A child's life, from boot() on.
void process_main(Fd control);
// While a process is forked: the child has a copy of the task that it was sent, and destroys it
// when it has its own. (It would hold copies of the descriptors in it.)
class InheritedTask {
  public:
    explicit InheritedTask(std::unique_ptr<detail::SentCall>& task) noexcept;
    ~InheritedTask();
    InheritedTask(const InheritedTask&) = delete;
    InheritedTask& operator=(const InheritedTask&) = delete;
};

// Writes the exception that is being handled to stderr, under a head line.
void print_current_exception(const std::string& head) noexcept;

}  // namespace sidestep
