#include "membership.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <utility>

#include <sidestep/exit_hooks.hpp>
#include <sidestep/init.hpp>
#include <sidestep/start_method.hpp>

#include "agent.hpp"
#include "hub.hpp"
#include "start/hidden_variables.hpp"
#include "sys/fork_marker.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr const char* kOverride = "SIDESTEP_CLUSTER";
constexpr const char* kHostTimeout = "SIDESTEP_HOST_TIMEOUT";
constexpr std::string_view kLauncherVariables[] = {"OMPI_",  "PMIX_", "PMI_",  "PMI2_",  "SLURM_",
                                                   "I_MPI_", "FLUX_", "HYDI_", "HYDRA_", "MPIR_"};

// What agents say when they end is to be out before this process ends: it has the connection of the
// launcher's process that has died, and when that closes, MPICH's mpirun drops all.
constexpr auto kForAgents = std::chrono::seconds(1);

// Where each launcher says how many processes it started. Slurm last: it stands behind the others.
struct Variable {
    const char* size;
    const char* besides;  // has to be set, too; null: nothing
    const char* launcher;
};
constexpr Variable kVariables[] = {{"OMPI_COMM_WORLD_SIZE", nullptr, "Open MPI's mpirun"},
                                   {"PMI_SIZE", nullptr, "a launcher with PMI (MPICH's mpirun)"},
                                   {"FLUX_JOB_SIZE", "FLUX_TASK_RANK", "flux run"},
                                   {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun"}};

// The first process's; never destroyed: pools of static objects end late.
std::shared_ptr<Hub>& hub() {
    static auto* kept = new std::shared_ptr<Hub>;
    return *kept;
}
// The hub belongs to the process that joined.
const ForkMarker& joined_here() {
    static const ForkMarker marker;
    return marker;
}

[[noreturn]] void give_up(const std::string& why) {
    std::fprintf(stderr, "sidestep: %s\n", why.c_str());
    std::fflush(nullptr);
    std::_Exit(1);
}

std::atomic<bool> interrupted = false;

[[noreturn]] void serve(JobLibrary& library, std::unique_ptr<Transport> transport, pid_t launcher) {
    // Ctrl-C is for the first process, which ends this, or goes on; some launchers tell all of it.
    // It is not ignored: what workers start would have that from here.
    ::signal(SIGINT, [](int) { interrupted = true; });
    int exit_code = 1;
    try {
        exit_code =
            Agent(*transport, {.interrupt = &interrupted, .launcher = launcher}).run(introduce());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sidestep: the agent on host %s cannot go on: %s\n",
                     this_task::host().c_str(), error.what());
        library.abort(1);
    }
    transport.reset();
    stop_forkserver();
    if (exit_code != 0) library.abort(exit_code);
    library.leave();
    exit_process(exit_code);
}

// How long a host may be silent, in seconds.
HubTimes hub_times() {
    HubTimes times;
    const char* text = std::getenv(kHostTimeout);
    if (!text || *text == '\0') return times;
    unsigned seconds = 0;
    auto [end, error] = std::from_chars(text, text + std::strlen(text), seconds);
    if (error != std::errc() || *end != '\0' || seconds == 0)
        throw std::invalid_argument(
            fmt::format("{}={}: it is a number of seconds, from 1 on", kHostTimeout, text));
    times.lost = std::chrono::seconds(seconds);
    times.ping = std::min(times.ping, times.lost / 4);  // or one that lives would be silent
    return times;
}

void lead(JobLibrary& library, std::unique_ptr<Transport> transport, pid_t launcher) {
    std::shared_ptr<Hub> made;
    try {
        // Pools are not asked first: nobody would see what the program says of it.
        auto end_program = [&library] {
            std::this_thread::sleep_for(kForAgents);
            library.abort(1);
        };
        HubLauncher watched{.has_ended = [launcher] { return ::getppid() != launcher; },
                            .gone = end_program};
        made = std::make_shared<Hub>(std::move(transport), hub_times(), std::move(watched));
        made->welcome(introduce());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sidestep: %s\n", error.what());
        library.abort(1);
    }
    if (std::string warning = made->warning(); !warning.empty())
        std::fprintf(stderr, "sidestep: %s\n", warning.c_str());
    made->start();
    hub() = std::move(made);
    (void)joined_here();
    // After all that users' hooks do, and after the end of global().
    at_exit(
        [&library] {
            bool in_order = hub()->stop();
            if (!in_order) library.abort(1);
            library.leave();
        },
        INT_MIN);
}

}  // namespace

std::optional<Launch> find_launch(const std::function<const char*(const char*)>& get) {
    if (const char* wanted = get(kOverride)) {
        if (std::strcmp(wanted, "local") == 0) return {};
        if (*wanted != '\0' && std::strcmp(wanted, "auto") != 0)
            throw std::invalid_argument(fmt::format(
                "{}={}: it is local (this machine alone, whatever started the program) or auto",
                kOverride, wanted));
    }
    for (const Variable& variable : kVariables) {
        const char* text = get(variable.size);
        if (!text || (variable.besides && !get(variable.besides))) continue;
        int size = 0;
        auto [end, error] = std::from_chars(text, text + std::strlen(text), size);
        if (error != std::errc() || *end != '\0' || size <= 1) continue;
        return Launch{variable.launcher, size};
    }
    return {};
}

void join_job(JobLibrary& library) {
    const pid_t launcher = ::getppid();
    std::optional<Launch> launch;
    try {
        launch = find_launch([](const char* name) { return std::getenv(name); });
        if (!launch) return;
        hide_variables(kLauncherVariables);
        start_forkserver();  // before the library has threads, and memory that must not be forked
    } catch (const std::exception& error) {
        give_up(error.what());
    }
    std::unique_ptr<Transport> transport;
    try {
        transport = library.join();
    } catch (const std::exception& error) {
        give_up(error.what());
    }
    // Each of them would take itself for the first one, and the program would run so many times.
    if (transport->size() != launch->size)
        give_up(fmt::format(
            "{} started {} processes, and {} sees {} of them: they do not belong together. Start "
            "the "
            "program with the mpirun of the MPI that it is linked with, or srun --mpi=pmix (Open "
            "MPI), --mpi=pmi2 (MPICH)",
            launch->launcher, launch->size, library.name(), transport->size()));
    if (transport->rank() > 0) serve(library, std::move(transport), launcher);
    lead(library, std::move(transport), launcher);
}

PoolOptions with_hosts(PoolOptions options) {
    options.hosts = nullptr;
    if (!hub() || !joined_here().same_process()) return options;
    options.start_method = StartMethod::forkserver;  // it was there before MPI: see join_job()
    options.hosts = hub();
    return options;
}

}  // namespace sidestep::detail
