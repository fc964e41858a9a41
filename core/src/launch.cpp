#include "launch.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <stdexcept>

#include <sidestep/init.hpp>

#include "error.hpp"
#include "sys.hpp"
#include "zygote.hpp"

namespace sidestep {
namespace {

void require_init(const char* purpose) {
    if (initialized()) return;
    throw std::logic_error(fmt::format(
        "{} cannot be started: sidestep::init() was not called. Make it the first statement of "
        "main(); workers are this program started again, and take over there. (Objects that start "
        "workers cannot be created before main() begins, in a worker neither.)",
        purpose));
}

void require_single_thread(const char* purpose, std::size_t own_threads) {
    std::size_t threads = sys::thread_count();
    if (threads <= 1 + own_threads) return;
    throw std::logic_error(fmt::format(
        "{} cannot be forked: this process has {} other threads, and a lock that one of them holds "
        "would stay locked in the child for ever. Use StartMethod::spawn or forkserver, create it "
        "before the threads, or take the risk by name with StartMethod::fork_threaded",
        purpose, threads - 1 - own_threads));
}

}  // namespace

std::unique_ptr<Launcher> make_launcher(StartMethod method, const char* purpose,
                                        std::size_t own_threads) {
    switch (method) {
        case StartMethod::spawn:
            require_init(purpose);
            break;
        case StartMethod::fork:
            require_single_thread(purpose, own_threads);
            [[fallthrough]];
        case StartMethod::fork_threaded:
            return Zygote::fork_here();
        case StartMethod::forkserver:
            require_init(purpose);
            break;
    }
    throw std::logic_error("spawn is pending");
}

}  // namespace sidestep
