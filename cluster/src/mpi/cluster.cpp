// cluster(), and with it, in the same object file, what init() does besides: whoever links without
// calling cluster() gets neither, and no linker drops one of the two.
#include <sidestep/cluster.hpp>

#include <mpi.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "membership.hpp"
#include "mpi/mpi_transport.hpp"
#include "start/init_hook.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr unsigned kAbortSeconds = 3;

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
    // one that is through. A rank that exits without it, with 0 in all but the first, is no
    // trouble: its launcher waits for all of them, and has the first one's exit code.
    void leave() noexcept override {
#ifndef MPICH_VERSION
        MPI_Finalize();
#endif
    }
    [[noreturn]] void abort(int exit_code) noexcept override {
        ::signal(SIGALRM, SIG_DFL);  // without its launcher, MPI may wait for ever
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
