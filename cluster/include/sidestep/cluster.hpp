// cluster(): the same Pool over several hosts, by MPI.
//
//     int main() {
//         sidestep::init();  // in all processes of the job but the first it does not return
//         sidestep::Pool pool(sidestep::cluster());
//         auto results = pool.map(work, items);  // on all hosts of the job
//     }
//
// Link with pkg-config sidestep-openmpi or sidestep-mpich (CMake: sidestep::openmpi,
// sidestep::mpich), and start the program by the mpirun of that MPI, or by srun:
//
//     mpirun --hostfile hosts --map-by ppr:1:node --bind-to none ./program
//     srun -N 8 --ntasks-per-node=1 -c 32 -K --mpi=pmix ./program
//
// Started by itself, the program does not touch MPI, and the pool has this machine's workers. (That
// it is linked with MPI, a dozen libraries, makes its start about 2 ms longer.)
// docs/guide/cluster.md takes you from an installation to two real hosts.
//
// How:  the launcher starts the program on each host. In the first process init() returns; the
//      others become agents, one for each host, which run worker processes, as a pool on one
//      machine does: a task that crashes costs a worker process, and not the job. A pool has a
//      worker for each CPU that the processes may use (processes = n: n in all, this host's
//      first); processes of one host that may use the same CPUs share them, and this one leaves
//      one to the program.
// The same:  all that a Pool does: maps and streams, timeouts, memory limits, retries,
//      priorities, keys, cancelling, captured output, initializers (in each worker of each host).
//      Where a task ran tell this_task::host() in it, and TaskError::host(). Pool::hosts() has the
//      hosts and their workers, stats().hosts what each has done, a trace a track for each.
// Not the same:  shared memory, locks, queues and other handles exist on one host; a task or hook
//      with one is refused by submit() (std::invalid_argument). resize() is refused. To cancel a
//      task that another host has is always possible, and running() says true of it, begun or not:
//      the host has a few milliseconds of work ahead. stats() and trace() tell of each other host
//      as a whole. What a task there submits to this_task::pool() runs there, with what
//      PoolOptions::task says, and the first process hears nothing of it: a way out when that has
//      too much to do (docs/guide/cluster.md). So nobody there can ask a Retry::when: with one in
//      PoolOptions::task, such tasks are run once. Workers of such a pool are started by the fork
//      server.
// Threads: as a pool. One more thread calls MPI, and no other does: a program that wants MPI for
//      itself cannot have it (MPI_Init() fails after init()).
// Fork: a forked copy has no hosts: cluster(), and options that were made by it before the fork,
//      give it this machine's workers.
// Peer death: a worker's costs its task (WorkerLost, or a retry), whatever its host. That of a
//      process of the job, of its host or of the launcher: MPI ends the whole job, with an exit
//      code that is not 0, and nothing is left. If it does not (a host that was cut off; srun
//      without -K), tasks fail with HostLost after 30 seconds of silence (SIDESTEP_HOST_TIMEOUT, in
//      the environment of the first process, in seconds); retries run elsewhere, and when the
//      program ends, the job is aborted, exit code 1. So no result of a part is ever taken for the
//      whole. Hosts cannot be added. An agent ends with the launcher's process on its host, and
//      after the same time of silence: raise it to look at the first process in a debugger.
// Ctrl-C: mpirun of Open MPI ends the job at once. That of MPICH, and srun, pass it on: the first
//      process does what it does on one machine (InterruptGuard), and the agents wait for that.
// Trust: none of its own: whoever may start processes in the job, or write to its network, is
//      trusted.
// Errors: said on stderr, and the job ends: another build of the program on some host, which is
//      named; processes that are no job for this MPI (the mpirun of another one). A process that is
//      bound to a part of its host's CPUs is warned of.
// Environment:  the launcher's variables are kept from workers. (Not from a child that you start by
//      subprocess: if it uses MPI, give it an environment without them.) `SIDESTEP_CLUSTER=local`:
//      this machine alone, whatever started the program.
#pragma once

#include <sidestep/pool_options.hpp>

namespace sidestep::inline v0 {

// Options for a Pool whose workers are on all hosts of this job. Several pools may share them, one
// after the other and at once. Requires: init() has returned.
PoolOptions cluster(PoolOptions options = {});

}  // namespace sidestep
