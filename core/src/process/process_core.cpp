#include "process/process_core.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <stdexcept>

#include "process/log_settings.hpp"
#include "process/process_protocol.hpp"
#include "process/process_state.hpp"
#include "start/boot_failure.hpp"
#include "start/forkserver.hpp"
#include "start/start_defaults.hpp"
#include "sys/error.hpp"
#include "sys/log_line.hpp"
#include "travel/blob.hpp"

namespace sidestep::inline v0 {

namespace detail {
namespace {

std::string default_name(const std::vector<std::uint32_t>& path) {
    std::string name = "Process";
    for (std::size_t i = 0; i < path.size(); ++i)
        name += (i == 0 ? '-' : ':') + std::to_string(path[i]);
    return name;
}

// Empty if it has no name (removed, or out of reach): the child stays where it is.
std::string working_folder() {
    char path[PATH_MAX];
    return ::getcwd(path, sizeof path) ? path : "";
}

}  // namespace

ProcessCore::ProcessCore(std::unique_ptr<SentCall> task, ProcessOptions options)
    : name_(std::move(options.name)),
      authkey_(options.authkey ? std::move(*options.authkey) : identity().authkey),
      daemon_(options.daemon.value_or(identity().daemon)),
      own_group_(options.own_group),
      method_(options.start_method),
      path_(ProcessRegistry::next_path()),
      task_(std::move(task)) {
    if (name_.find('\0') != std::string::npos)
        throw std::invalid_argument("the name of a process contains a NUL");
    if (name_.empty()) name_ = default_name(path_);
}

bool ProcessCore::made_here() const { return creator_.same_process(); }

ProcessCore::Held::Held(ProcessCore& core) : core_(core) {
    if (core.made_here()) lock_ = std::unique_lock(core.mutex_);
}
ProcessCore::Held::~Held() {
    if (!lock_) return;
    bool ended = std::exchange(core_.unlogged_end_, false);
    ExitStatus status = core_.status_;
    lock_.unlock();
    if (!ended) return;
    try {
        log_line(LogLevel::debug, SourceLine::current(), "{} {}", core_.name_, status.describe());
    } catch (const std::exception&) {  // no memory for the description: the log lacks a line
    }
}

// --- starting ----------------------------------------------------------------------------------

void ProcessCore::start() {
    for (const auto& child : ProcessRegistry::children()) (void)child->still_runs();
    if (!made_here())
        throw std::logic_error(fmt::format(
            "the process \"{}\" cannot be started here: this is a forked copy of the process that "
            "made it",
            name_));
    std::unique_ptr<SentCall> done;  // destroyed without the lock: it is the application's
    StartMethod method = method_ ? *method_ : get_start_method();
    int pid = 0;
    {
        Held held(*this);
        check_open();
        if (stage_ != Stage::made)
            throw std::logic_error(
                fmt::format("the process \"{}\" cannot be started twice: make another one", name_));
        arm_exit_hooks();
        BlobBuffer buffer;
        BlobFds fds;
        write_setup(buffer, fds, method);
        Launched child = launch(method);
        try {
            send_blob(child.control.get(), buffer, fds);
            sys::set_nonblocking(child.control.get(), true);
            ProcessRegistry::add(shared_from_this());
        } catch (...) {
            discard(std::move(child));
            throw;
        }
        child_ = std::move(child);
        pid = pid_ = child_.pid;
        stage_ = Stage::running;
        done = std::move(task_);
    }
    log_line(LogLevel::debug, SourceLine::current(), "started {} (pid {}, {})", name_, pid,
             to_string(method));
}

void ProcessCore::write_setup(BlobBuffer& buffer, BlobFds& fds, StartMethod method) const {
    ProcessSetup setup;
    setup.name = name_;
    setup.daemon = daemon_;
    setup.authkey = authkey_;
    setup.path = path_;
    setup.parent_pid = ::getpid();
    setup.parent_name = identity().name;
    setup.start_method = static_cast<std::int32_t>(method);
    setup.executable = executable();
    setup.preload = preload_hook();
    if (method == StartMethod::forkserver) setup.folder = working_folder();
    setup.log = log_settings();
    setup.task = task_->id();
    OutputArchive archive(buffer, &fds);
    archive(setup);
    task_->save(archive);
}

Launched ProcessCore::launch(StartMethod method) {
    const char* purpose = "a process";
    LaunchOptions options{.own_group = own_group_, .dies_with_us = daemon_};
    switch (method) {
        case StartMethod::spawn:
            require_spawn(purpose);
            return make_spawner()->launch(&process_main, options);
        case StartMethod::forkserver:
            require_init(purpose);
            return launch_from_forkserver(&process_main, options);
        case StartMethod::fork:
            require_single_thread(purpose, 0);
            break;
        case StartMethod::fork_threaded:
            break;
    }
    InheritedTask inherited(task_);
    return make_forker()->launch(&process_main, options);
}

// --- states ------------------------------------------------------------------------------------

void ProcessCore::check_open() const {
    if (stage_ == Stage::closed)
        throw std::logic_error(fmt::format("the process object \"{}\" is closed", name_));
}

void ProcessCore::check_child(const char* verb) const {
    check_open();
    if (stage_ == Stage::made)
        throw std::logic_error(
            fmt::format("cannot {} the process \"{}\": it was not started", verb, name_));
    if (!made_here())
        throw std::logic_error(fmt::format(
            "cannot {} the process \"{}\": it is not a child of this process", verb, name_));
}

int ProcessCore::pid() {
    Held held(*this);
    return pid_;
}

int ProcessCore::sentinel() {
    Held held(*this);
    check_child("wait for");
    return child_.fd();
}

bool ProcessCore::started_here() {
    Held held(*this);
    return stage_ == Stage::running && made_here();
}

void ProcessCore::close() {
    Held held(*this);
    if (stage_ == Stage::running && reap_locked().running() && made_here())
        throw std::logic_error(fmt::format(
            "cannot close the process \"{}\" while it runs: call join() or terminate() first",
            name_));
    stage_ = Stage::closed;
    task_.reset();
    if (waiting_ == 0) child_ = {};
}

// --- the end -----------------------------------------------------------------------------------

ExitStatus ProcessCore::try_reap() {
    Held held(*this);
    check_open();
    return reap_locked();
}

bool ProcessCore::still_runs() {
    Held held(*this);
    return stage_ == Stage::running && reap_locked().running();
}

bool ProcessCore::is_alive() {
    Held held(*this);
    check_open();
    if (stage_ == Stage::made) return false;
    check_child("look at");
    return reap_locked().running();
}

ExitStatus ProcessCore::reap_locked() {
    if (stage_ != Stage::running || !made_here()) return status_;
    status_ = child_.reap();
    if (status_.running()) return status_;
    stage_ = Stage::ended;
    read_report();
    child_.control.reset();
    child_.lifeline.reset();
    ProcessRegistry::remove(this);
    unlogged_end_ = true;
    return status_;
}

ProcessCore::Waiting::~Waiting() {
    Held held(core_);
    if (--core_.waiting_ == 0 && core_.stage_ == Stage::closed) core_.child_ = {};
}

bool ProcessCore::wait_until(const sys::Deadline& deadline) {
    int pidfd;
    {
        Held held(*this);
        check_child("join");
        if (!reap_locked().running()) return true;
        pidfd = child_.fd();
        ++waiting_;
    }
    Waiting waiting(*this);
    if (!sys::wait_for_exit(pidfd, deadline)) return false;
    return !try_reap().running();
}

// A child that was killed may have written anything: a report that makes no sense is none. That of
// one that exited does, and if it cannot be read, rethrow() says so.
void ProcessCore::read_report() noexcept {
    try {
        if (auto reason = take_boot_failure(child_.control.get())) boot_failure_ = *reason;
    } catch (const std::bad_alloc&) {  // then it is not told why the child did not begin
    }
    for (int tries = 0; tries < 20; ++tries) try {
            while (auto report = Blob::receive(child_.control.get())) read_one(*report);
            return;
        } catch (const std::system_error& error) {
            int code = error.code().value();
            // That was all, and a grandchild holds the socket.
            if (code == EAGAIN || code == EWOULDBLOCK) return;
            report_error_ = std::current_exception();
            // What was not received for want of memory is there still.
        } catch (...) {
            report_error_ = std::current_exception();
        }
}

void ProcessCore::read_one(const Blob& report) {
    taken_over_ = true;
    if (report.bytes().empty())
        throw std::runtime_error("it had no memory to report it; its stderr may have more");
    InputArchive archive(report.bytes());
    std::uint32_t kind = 0;
    archive(kind);
    if (kind == static_cast<std::uint32_t>(ReportKind::threw)) thrown_ = load_exception(archive);
    report_error_ = nullptr;
}

void ProcessCore::rethrow() {
    std::exception_ptr thrown;
    {
        Held held(*this);
        check_child("look into");
        ExitStatus status = reap_locked();
        if (status.running())
            throw std::logic_error(
                fmt::format("cannot tell what the process \"{}\" threw while it runs: call join() "
                            "first",
                            name_));
        if (!thrown_ && report_error_ && status.exited() && status.code() != 0)
            throw std::runtime_error(
                fmt::format("the process \"{}\" {}; what it threw, if it did, cannot be told: {}",
                            name_, status.describe(), text_of(report_error_)));
        if (status.exited() && !taken_over_)
            throw std::runtime_error(fmt::format(
                "the process \"{}\" {} before it began: {}", name_, status.describe(),
                boot_failure_.empty() ? "the program that was started did not come as far as "
                                        "sidestep::init() (set_executable: is it this program?)"
                                      : boot_failure_));
        thrown = thrown_;
    }
    if (thrown) std::rethrow_exception(thrown);
}

void ProcessCore::send_signal(int signal) {
    Held held(*this);
    check_child("signal");
    if (!reap_locked().running()) return;
    // The group's number is reserved while the child is unreaped.
    if (own_group_ && ::kill(-child_.pid, signal) == 0) return;
    try {
        (void)child_.signal(signal);
    } catch (const std::system_error& error) {
        // We gave up the rights to it. The kernel ends it with its own, if it is bound to us.
        if (signal != SIGKILL || !child_.lifeline || error.code().value() != EPERM) throw;
        child_.lifeline.reset();
    }
}

void ProcessCore::end_with_owner(bool unwinding) {
    if (!started_here()) return;
    if (daemon_ || unwinding) {
        try {
            send_signal(SIGTERM);
        } catch (const std::system_error&) {  // not allowed: SIGKILL may be, in a way
        }
        if (wait_until(sys::Clock::now() + kGrace)) return;
        send_signal(SIGKILL);
    }
    (void)wait_until({});
}

}  // namespace detail
}  // namespace sidestep
