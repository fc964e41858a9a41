// cluster(), and with it, in the same object file, what init() does besides: whoever links without
// calling cluster() gets neither, and no linker drops one of the two.
#include <sidestep/cluster.hpp>

#include <mpi.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "membership.hpp"
#include "mpi/mpi_transport.hpp"
#include "start/init_hook.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr unsigned kAbortSeconds = 3;

#ifdef MPICH_VERSION
// The last that MPI_Finalize() does. A rank that exits without it is taken for one that was killed,
// or not, whichever the launcher (Hydra) sees first: the end of this connection, or of the process.
// (PMI 1.1, the protocol between the two: Balaji et al., "PMI: A Scalable Parallel
// Process-Management Interface for Extreme-Scale Systems", EuroMPI 2010.)
void tell_launcher_of_end() noexcept {
    static constexpr std::string_view kEnd = "cmd=finalize\n";
    static constexpr int kMilliseconds = 2000;
    const char* text = std::getenv("PMI_FD");
    bool is_hydra = std::getenv("MPI_LOCALNRANKS");  // Slurm's speaks other versions, too
    int fd = text && is_hydra ? std::atoi(text) : -1;
    if (fd < 0 || ::send(fd, kEnd.data(), kEnd.size(), MSG_NOSIGNAL) < 0) return;
    pollfd answer{.fd = fd, .events = POLLIN, .revents = 0};
    char bytes[64];
    if (::poll(&answer, 1, kMilliseconds) == 1) (void)::recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
}
#endif

class Mpi final : public detail::JobLibrary {
  public:
    // "Open MPI v4.1.4, package: ..." up to the first comma or line.
    std::string name() const override {
        char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
        int size = 0;
        MPI_Get_library_version(text, &size);
        std::string whole(text, static_cast<std::size_t>(size));
        std::string line = whole.substr(0, whole.find_first_of(",\n"));
        for (char& c : line)
            if (c == '\t') c = ' ';
        return line;
    }

    std::unique_ptr<detail::Transport> join() override {
        int initialized = 0;
        MPI_Initialized(&initialized);
        if (initialized)
            throw std::runtime_error(
                "MPI was initialized before sidestep::init(): make init() the first statement of "
                "main(), it initializes MPI where the program was started by a launcher");
        int provided = 0;
        MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
        if (provided < MPI_THREAD_SERIALIZED)
            throw std::runtime_error(
                "this MPI does not let a thread of the library call it "
                "(MPI_THREAD_SERIALIZED): build it with threads");
        return std::make_unique<detail::MpiTransport>();
    }
    // All has been said and heard. MPICH 4.0 over UCX, between hosts, hangs in MPI_Finalize() about
    // every second time, whatever the program was: a rank that comes late waits for an answer from
    // one that is through. So there only the launcher is told.
    void leave() noexcept override {
#ifdef MPICH_VERSION
        tell_launcher_of_end();
#else
        MPI_Finalize();
#endif
    }
    [[noreturn]] void abort(int exit_code) noexcept override {
        // Without its launcher, MPI may wait for ever.
        sigset_t signals;
        sigemptyset(&signals);
        sigaddset(&signals, SIGALRM);
        ::signal(SIGALRM, SIG_DFL);
        ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
        ::alarm(kAbortSeconds);
        MPI_Abort(MPI_COMM_WORLD, exit_code);
        std::_Exit(exit_code);
    }
};

Mpi& mpi() {
    static auto* library = new Mpi;  // never destroyed: it is left by a hook at the end
    return *library;
}

[[maybe_unused]] const bool hooked = (set_init_hook([] { detail::join_job(mpi()); }), true);

}  // namespace

PoolOptions cluster(PoolOptions options) { return detail::with_hosts(std::move(options)); }

}  // namespace sidestep
