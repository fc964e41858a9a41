// A Process from the inside of the child.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>

#include <sidestep/process.hpp>
#include <sidestep/remote_error.hpp>

#include "process/log_settings.hpp"
#include "process/process_protocol.hpp"
#include "process/process_state.hpp"
#include "start/boot_failure.hpp"
#include "start/start_defaults.hpp"
#include "sys/error.hpp"
#include "sys/log_line.hpp"
#include "sys/sys.hpp"
#include "travel/blob.hpp"

namespace sidestep::inline v0 {
namespace {

// What the arguments are decoded from.
std::optional<Blob> received;
const BootEntry kProcessEntry [[gnu::init_priority(200)]] (&process_main);
// Of the thread that forks; in the child, its only one.
thread_local std::unique_ptr<detail::SentCall>* inherited_task = nullptr;

void settle_in(const ProcessSetup& setup) {
    set_identity(
        {setup.name, setup.daemon, setup.authkey, setup.path, setup.parent_pid, setup.parent_name});
    inherit_start_defaults(static_cast<StartMethod>(setup.start_method), setup.executable,
                           setup.preload);
    inherit_log_settings(setup.log);
    if (!setup.folder.empty() && ::chdir(setup.folder.c_str()) < 0)
        throw_errno(errno, fmt::format("chdir({}), the parent's working folder", setup.folder));
    arm_exit_hooks();
}

void report(const Fd& control, ReportKind kind, const std::string& where) {
    BlobBuffer buffer;
    OutputArchive archive(buffer);
    archive(static_cast<std::uint32_t>(kind));
    if (kind == ReportKind::threw) detail::save_current_exception(archive, where);
    send_blob(control.get(), buffer, {});
}

// Without memory for more, the parent is told that there is something to be told.
void report_unreported(const Fd& control) noexcept {
    try {
        BlobBuffer nothing;
        send_blob(control.get(), nothing, {});
    } catch (...) {  // the parent has the exit code, and stderr the rest
    }
}

void report_exception(const Fd& control) noexcept {
    const std::string& name = identity().name;
    try {
        print_current_exception(
            fmt::format("Process {} (pid {}) ended by an exception:", name, ::getpid()));
        report(control, ReportKind::threw, fmt::format("  in process {} ({})\n", name, ::getpid()));
    } catch (...) {
        report_unreported(control);
    }
}

// The function has called pthread_exit(): its thread is that of the process. What unwinds it must
// not be left, so this does not return.
[[noreturn]] void end_with_thread(const Fd& control) noexcept {
    try {
        throw std::runtime_error("the process's function has ended its thread (pthread_exit)");
    } catch (...) {
        report_exception(control);
    }
    leave_process(1);
}

void run_task(const detail::TaskId& id, InputArchive& arguments) {
    auto task = detail::load_sent_call(id, "the process's task", arguments);
    arguments.expect_end();
    // It has arguments of its own now: what they were decoded from can go, and so can the task that
    // a forked child has inherited.
    received.reset();
    if (inherited_task) std::exchange(inherited_task, nullptr)->reset();
    task->call();
}

std::string describe(const std::exception_ptr& thrown) {
    std::string text;
    try {
        std::rethrow_exception(thrown);
    } catch (const std::exception& error) {
        text = remote_traceback(error);
    } catch (...) {
    }
    return text;
}

}  // namespace

InheritedTask::InheritedTask(std::unique_ptr<detail::SentCall>& task) noexcept {
    inherited_task = &task;
}
InheritedTask::~InheritedTask() { inherited_task = nullptr; }

void print_current_exception(const std::string& head) noexcept {
    try {
        detail::HeapBuffer buffer;
        OutputArchive output(buffer);
        detail::save_current_exception(output, {});
        InputArchive input(buffer.bytes());
        std::string text = head + "\n" + describe(detail::load_exception(input));
        std::fflush(stdout);  // in order, where both go to one place
        std::fputs(text.c_str(), stderr);
    } catch (...) {  // nobody left to tell
    }
}

void process_main(Fd control) {
    int exit_code = 1;
    try {
        received = Blob::receive(control.get());
        if (!received) leave_process(1);  // the parent died while it was telling us
        InputArchive arguments(received->bytes(), &*received);
        ProcessSetup setup;
        arguments(setup);
        settle_in(setup);
        end_boot();
        report(control, ReportKind::taken_over, {});
        log_line(LogLevel::info, SourceLine::current(), "child process calling its function");
        run_task(setup.task, arguments);
        exit_code = 0;
    } catch (...) {
        end_boot();
        if (!std::current_exception()) end_with_thread(control);
        report_exception(control);
    }
    log_line(LogLevel::info, SourceLine::current(), "process exiting with exit code {}", exit_code);
    leave_process(exit_code);
}

}  // namespace sidestep
