// An owner of an actor or a Manager, which is killed in the middle of something.
#pragma once

#include <catch2/catch.hpp>

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <optional>
#include <utility>
#include <vector>

#include <sidestep/actor.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/process.hpp>

#include "support.hpp"
#include "sys/fd.hpp"
#include "sys/sys.hpp"

namespace test {

namespace mp = sidestep;

struct Owned {
    int add(int n) { return sum += n; }
    int sum = 0;
};

enum class Held { actor, kept_actor, manager };

// Nobody here reaps it: a zombie is dead.
inline bool is_dead(int pid) {
    mp::Fd pidfd;
    const int error = mp::sys::find_process(pid, pidfd);
    return error == ESRCH || (error == 0 && mp::sys::has_ended(pidfd.get()));
}

// In a forked process: makes it, tells the other side of it, and does `die` when that is ready.
template <class Die>
[[noreturn]] void own(Held what, mp::Connection out, const Die& die) {
    std::optional<mp::Actor<Owned>> actor;
    std::optional<mp::Manager> manager;
    mp::Proxy<Owned> proxy;
    std::vector<int> pids;
    if (what == Held::manager) {
        manager.emplace(mp::ManagerOptions{.start_method = mp::StartMethod::fork});
        proxy = manager->make<Owned>();
        pids.push_back(manager->pid());
    } else {
        actor.emplace(mp::ActorOptions{.start_method = mp::StartMethod::fork,
                                       .max_restarts = what == Held::actor ? 0u : 1u});
        proxy = actor->proxy();
        pids.push_back(actor->pid());
    }
    for (const auto& child : mp::active_children()) pids.push_back(child.pid());
    out.send(pids);
    out.send(proxy);
    (void)out.recv<int>();
    die(proxy);
    ::_exit(0);
}

// False: it was not killed by what it did. Else its processes are gone, and another client knows.
template <class Die>
bool owner_dies(Held what, const Die& die) {
    auto [here, there] = mp::Pipe();
    std::fflush(stdout);  // or the owner's server writes it once more
    const int owner = ::fork();
    if (owner == 0) {
        here.close();
        own(what, std::move(there), die);
    }
    there.close();
    const auto pids = here.recv<std::vector<int>>();
    CHECK(pids.size() >= 2);
    const auto proxy = here.recv<mp::Proxy<Owned>>();
    here.send(1);
    int status = 0;
    REQUIRE(::waitpid(owner, &status, 0) == owner);
    for (int pid : pids) CHECK(eventually([&] { return is_dead(pid); }));
    CHECK_THROWS_AS(proxy.call<&Owned::add>(1), mp::ActorLost);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

}  // namespace test
