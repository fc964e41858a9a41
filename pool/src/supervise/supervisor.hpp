// The supervisor: the one thread of a pool that starts, reaps and replaces workers and enforces
// policies. It sleeps on their pidfds, their control sockets and their bells, and takes results out
// of the lanes when nobody else does.
#pragma once

#include "policy/limits.hpp"
#include "policy/pool_end.hpp"
#include "policy/pool_rooms.hpp"
#include "service_thread.hpp"
#include "supervise/event_loop.hpp"
#include "supervise/fleet.hpp"
#include "supervise/housekeeper.hpp"
#include "supervise/trouble.hpp"
#include "supervise/worker_deaths.hpp"
#include "sync/supervisor_role.hpp"
#include "sys/parent_fd.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

class Supervisor {
  public:
    struct Pool {  // all of it outlives this object
        EventLoop& loop;
        Trouble& trouble;
        Fleet& fleet;
        WorkerDeaths& deaths;
        Housekeeper& housekeeper;
        Limits& limits;
        PoolEnd& end;
        ControlPage& page;
    };
    Supervisor(const PoolRooms& rooms, const Pool& pool);

    // What it sleeps in. Before the workers are started, which are added to that, and after the
    // launcher is made: a template that is forked there has none of it.
    void open() SUPERVISOR_ONLY;
    void start();  // the thread
    // It looks at what is due. Never waits.
    void kick() noexcept;
    bool is_done() const POOL_LOCKED { return done_; }
    ServiceThread& thread() { return thread_; }

  private:
    void run() POOL_UNLOCKED;
    void do_what_is_due() SUPERVISOR_ONLY POOL_UNLOCKED;
    void weather_trouble() noexcept SUPERVISOR_ONLY POOL_UNLOCKED;
    int next_timeout() SUPERVISOR_ONLY POOL_LOCKED;
    template <class Step>
    void attempt(Step step) noexcept SUPERVISOR_ONLY {
        pool_.trouble.attempt(step);
    }

    const PoolRooms rooms_;
    const Pool pool_;
    ServiceThread thread_;
    ParentFd bell_;  // the application's own: no worker has it
    bool done_ POOL_GUARDED = false;
};

}  // namespace sidestep::detail
