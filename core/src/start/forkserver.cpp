// A zygote that was spawned, and is started again when it died.
#include "start/forkserver.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <system_error>

#include <sidestep/remote_error.hpp>
#include <sidestep/start_method.hpp>

#include "start/boot_failure.hpp"
#include "start/start_defaults.hpp"
#include "start/zygote.hpp"
#include "sys/error.hpp"
#include "sys/log_line.hpp"
#include "sys/per_process.hpp"
#include "sys/sys.hpp"
#include "travel/blob.hpp"

namespace sidestep::inline v0 {
namespace {

struct ForkServer {
    std::mutex mutex;
    std::unique_ptr<Zygote> zygote;  // guarded by mutex
};
PerProcess<ForkServer> servers;
const BootEntry kForkServerEntry [[gnu::init_priority(200)]] (&forkserver_main);

void send_preload(const Launched& server) {
    ModuleAddress at = preload_hook();
    BlobBuffer buffer;
    OutputArchive archive(buffer);
    archive(at.module, at.offset);
    send_blob(server.control.get(), buffer, {});
}

// Waits until it has run the preload hook; throws what that threw.
void await_ready(const Launched& server) {
    pollfd entries[2] = {{server.control.get(), POLLIN, 0}, {server.fd(), POLLIN, 0}};
    while (poll(entries, 2, -1) < 0)
        if (errno != EINTR) throw_errno(errno, "poll(fork server)");
    std::optional<Blob> answer;
    auto reason = take_boot_failure(server.control.get());
    if (!reason && entries[0].revents) answer = Blob::receive(server.control.get());
    if (!answer) throw_dead(server, reason.value_or("while it started; its stderr may say more"));
    if (answer->bytes().empty()) return;
    InputArchive archive(answer->bytes());
    std::rethrow_exception(detail::load_exception(archive));
}

std::unique_ptr<Zygote> start_server() {
    auto starter = make_server_starter("the fork server", 0);
    // From here on ~Zygote reaps it.
    auto zygote = Zygote::of(starter->launch(&forkserver_main));
    send_preload(zygote->process());
    await_ready(zygote->process());
    log_line(LogLevel::debug, SourceLine::current(), "started the fork server (pid {})",
             zygote->process().pid);
    return zygote;
}

// `server` is locked.
Zygote& running(ForkServer& server) {
    if (server.zygote && !server.zygote->is_running()) server.zygote.reset();
    if (!server.zygote) server.zygote = start_server();
    return *server.zygote;
}

void run_preload(const ModuleAddress& where) {
    if (where.module == 0) return;
    const void* hook = resolve(where, Contents::code, 1);
    if (!hook)
        throw std::runtime_error(
            fmt::format("the preload function is not in the fork server (process {}): {}",
                        ::getpid(), why_unresolved(where)));
    reinterpret_cast<void (*)()>(const_cast<void*>(hook))();
    if (sys::thread_count() != 1)  // unknown is no
        throw std::logic_error(
            "the preload function left a thread running (or there is no /proc to tell): the fork "
            "server cannot fork safely then; join the thread, or start it in the children");
}

}  // namespace

void start_forkserver() {
    ForkServer& server = servers.get();
    std::lock_guard lock(server.mutex);
    (void)running(server);
}

void stop_forkserver() {
    ForkServer* server = servers.find();
    if (!server) return;
    std::lock_guard lock(server->mutex);
    server->zygote.reset();
}

int forkserver_pid() {
    ForkServer& server = servers.get();
    std::lock_guard lock(server.mutex);
    return server.zygote && server.zygote->is_running() ? server.zygote->process().pid : 0;
}

Launched launch_from_forkserver(BootMain entry, const LaunchOptions& options) {
    ForkServer& server = servers.get();
    std::lock_guard lock(server.mutex);
    try {
        return running(server).launch(entry, options);
    } catch (const std::system_error&) {
        // It died between two looks: once more, with another one.
        if (!server.zygote || server.zygote->is_running()) throw;
    }
    return running(server).launch(entry, options);
}

void forkserver_main(Fd control) {
    BlobBuffer answer;
    try {
        auto request = Blob::receive(control.get());
        if (!request) leave_process(1);
        ModuleAddress preload;
        InputArchive archive(request->bytes());
        archive(preload.module, preload.offset);
        run_preload(preload);
    } catch (...) {
        OutputArchive archive(answer);
        detail::save_current_exception(archive, "  in the preload function of the fork server\n");
    }
    bool ready = answer.size() == 0;
    send_blob(control.get(), answer, {});
    if (!ready) leave_process(1);
    zygote_main(std::move(control));
}

}  // namespace sidestep
