// The death of workers: reaping them, what becomes of their tasks, and when the pool is broken
// since they die too often.
#pragma once

#include "life/crash_loop.hpp"
#include "nested/nested_desk.hpp"
#include "orphans.hpp"
#include "policy/pool_end.hpp"
#include "policy/pool_rooms.hpp"
#include "process_memory.hpp"
#include "supervise/event_loop.hpp"
#include "supervise/trouble.hpp"
#include "supervise/worker.hpp"
#include "supervise/worker_talk.hpp"
#include "sync/supervisor_role.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

// Only the kernel declares death; then what is done is drained, what was taken is lost, and what is
// ready is handed back.
class WorkerDeaths {
  public:
    struct Pool {  // all of it outlives this object
        PoolEnd& end;
        EventLoop& loop;
        Trouble& trouble;
        WorkerTalk& talk;
        ControlPage& page;
        CrashLoop& crash_loop POOL_GUARDED;
        const Workers& workers POOL_GUARDED;
        NestedDesk& nested;
    };
    WorkerDeaths(const PoolRooms& rooms, const Pool& pool) : rooms_(rooms), pool_(pool) {}

    void start() POOL_UNLOCKED;
    // Its pidfd says something: it may be dead.
    void look(Worker& worker) SUPERVISOR_ONLY POOL_UNLOCKED;
    // It can be ended by no means that we have, and nobody waits for it: the pool ends without it.
    void give_up(Worker& worker, Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    // A worker died, or could not be started, that did not begin anything.
    void note_death_without_progress(Worker& worker) POOL_LOCKED;
    // They die in a row, and nobody is left who works.
    bool is_crash_loop() const POOL_LOCKED;

    // What dead workers' tasks had left running is reaped when it has ended.
    void reap_orphans() SUPERVISOR_ONLY { orphans_.reap(); }
    void reap_orphans_at_end() SUPERVISOR_ONLY;
    sys::Deadline next_look() const SUPERVISOR_ONLY;

  private:
    void bury(Worker& worker, const ExitStatus& status, Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    void close(Worker& worker) SUPERVISOR_ONLY POOL_LOCKED;

    const PoolRooms rooms_;
    const Pool pool_;
    OomKills oom_kills_ POOL_GUARDED;
    Orphans orphans_ SUPERVISOR_OWNED;
};

}  // namespace sidestep::detail
