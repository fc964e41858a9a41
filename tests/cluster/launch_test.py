"""Runs programs under an MPI's launcher on three hosts (hosts.py), and looks at what they say and leave.

launch_test.py openmpi|mpich PROGRAM EXAMPLE OTHER_MPIS_PROGRAM [PATTERN]: all rows, or those with it in
their name. Ends with "N passed, N failed". Exit status 77: it cannot be tested here, and why is said.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import hosts

# Open MPI 4.1 notices a host that was cut off after 480 s unless it is told otherwise.
KEEPALIVE = ["--mca", "oob_tcp_keepalive_time", "4", "--mca", "oob_tcp_keepalive_intvl", "1", "--mca",
             "oob_tcp_keepalive_probes", "3"]
mpi = sys.argv[1]
program, example, foreign = [os.path.abspath(path) for path in sys.argv[2:5]]
three = None  # hosts.Hosts


class Failed(Exception):
    pass


def check(holds, what, process=None):
    if not holds:
        raise Failed(f"{what}{'' if process is None else seen(process)}")


def seen(process):
    return f"\n  exit code {process.returncode}\n  stdout: {process.out}\n  stderr: {process.err[-3000:]}"


def finish(process):
    """Waits for its end (it is under `timeout`); nothing may be left on any host."""
    process.out, process.err = process.communicate()
    process.hung = time.monotonic() >= process.limit
    process.left = three.left_after(5)
    check(not process.left, f"left on the hosts: {process.left}", process)
    return process


def launched(*words, **more):
    return finish(three.launch(mpi, *words, **more))


def passes(process, text):
    check(not process.hung, "it hung", process)
    check(process.returncode == 0 and process.out == text, f"expected {text!r}", process)


def fails(process, *texts):
    # (By its exit code a launcher that hung is not to be known: where `timeout` has to kill it, that is
    # 137, as if a process of the job had been killed.)
    check(not process.hung, "it hung", process)
    check(process.returncode != 0, "it did not fail", process)
    for text in texts:
        check(text in process.err + process.out, f"expected {text!r}", process)
    check("complete" not in process.out, "a part was taken for the whole", process)


def begin_busy(what="busy", **more):
    """All workers of all hosts run something that does not end."""
    process = three.launch(mpi, program, what, **more)
    line = process.stdout.readline()
    if line.split() != [*hosts.NAMES, "busy"]:
        finish(process)
        raise Failed(f"expected to be busy, not {line!r}{seen(process)}")
    return process


def agent_on(name):
    return hosts.agent_on(three, name, program)


# --- what runs as on one machine ---------------------------------------------------------------

def row_tour_by_itself():
    process = subprocess.run([example], capture_output=True, text=True, timeout=30)
    check(re.fullmatch(r"\d+ workers on 1 hosts\n1 hosts took part\n1048576\n3 values, 1 lost\n",
                       process.stdout), f"{process}")


def row_by_itself_it_does_not_touch_mpi():
    for what, text in {"no_cluster": "17", "with_cluster": "1"}.items():
        process = subprocess.run([program, what], capture_output=True, text=True, timeout=30)
        check(process.stdout == f"{text} not initialized, not initialized\n", f"{process}")


def row_under_a_launcher_init_initializes_mpi():
    for what, text in {"no_cluster": "17", "with_cluster": "3"}.items():
        passes(launched(program, what), f"{text} initialized, initialized\n")


def row_tour():
    # Its 10,000 tiny tasks may be done before a host that is late has one, but not each time.
    for _ in range(3):
        process = launched(example)
        check(process.returncode == 0, "the tour", process)
        if re.fullmatch(hosts.TOUR, process.out):
            return
    raise Failed(f"the tour{seen(process)}")


def row_workers_are_where_they_should_be():
    passes(launched(program, "hosts"), "host0 1\nhost1 1\nhost2 1\n")


def row_one_process_is_no_job():
    passes(launched(program, "hosts", hosts=["host0"]), "host0 1\n")


def row_local_by_environment():
    process = three.launch(mpi, program, "hosts", hosts=["host0", "host1"],
                           environment={"SIDESTEP_CLUSTER": "local"})
    finish(process)
    check(sorted(process.out.split("\n")) == ["", "host0 1", "host1 1"], "each by itself", process)


def row_launchers_variables_are_kept_from_workers():
    passes(launched(program, "environment"), "0 variables\n")


def row_large_payloads_both_ways():
    passes(launched(program, "payloads"), "equal\n")


def row_long_messages_both_ways():
    passes(launched(program, "long_messages"), "all there\n")


def row_several_pools():
    passes(launched(program, "several"), "2000 3000\n" * 3)


# --- the failure table -------------------------------------------------------------------------

def row_worker_dies():
    passes(launched(program, "crash"), "1 lost, 1 again, 2000\n")


def row_agent_is_killed():
    process = begin_busy()
    os.kill(agent_on("host1"), signal.SIGKILL)
    fails(finish(process))


def row_all_of_a_host_is_killed():
    process = begin_busy()
    for pid in three.on("host2"):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    fails(finish(process))


def row_launchers_daemon_is_killed():
    # MPICH's launcher does not notice. The agent does, and with it the job ends.
    process = begin_busy()
    daemon = next(pid for pid, comm in three.on("host1").items() if comm in ("orted", "hydra_pmi_proxy"))
    os.kill(daemon, signal.SIGKILL)
    fails(finish(process))


def row_launchers_daemon_is_killed_beside_the_first_process():
    # Nor of this one. The first process looks, tells the agents, and ends; theirs notice that.
    process = begin_busy()
    daemons = [pid for pid, comm in three.on("host0").items() if comm == "hydra_pmi_proxy"]
    if not daemons:  # Open MPI's launcher is its daemon here
        three.end_all()
        finish(process)
        return
    os.kill(daemons[0], signal.SIGKILL)
    fails(finish(process), "the launcher's process on host host0, where the program runs, has ended")


def row_launcher_is_killed():
    process = begin_busy()
    launcher = next(pid for pid, comm in three.on("host0").items() if comm.startswith("mpi"))
    os.kill(launcher, signal.SIGKILL)
    fails(finish(process))


def row_first_process_is_killed():
    process = begin_busy()
    os.kill(agent_on("host0"), signal.SIGKILL)
    fails(finish(process))


def cut_off(silence, options=()):
    """host1 is cut off from a job; what silence the pool takes for its loss, in seconds."""
    process = begin_busy(options=options, environment={"SIDESTEP_HOST_TIMEOUT": str(silence)})
    three.cut_off("host1")
    try:
        process.wait()  # for the launcher alone: what is on the lost host has its pipes, too
        process.hung = time.monotonic() >= process.limit
        # There, nobody ends the agent but itself. (Its launcher's daemon may stay.)
        end = time.monotonic() + 25
        while (left := three.workers(os.path.basename(program))) and time.monotonic() < end:
            time.sleep(0.05)
        check(not left, f"left on the hosts: {left}")
        three.end_all()
        process.out, process.err = process.communicate()
    finally:
        three.join_again("host1")
    return process


def row_host_is_cut_off():
    # The pool finds out. Open MPI's launcher has told its daemon there of the end, and waits for it until
    # TCP gives up.
    three.retransmit(4)
    try:
        fails(cut_off(2), "lost host1")
    finally:
        three.retransmit(15)


def row_host_is_cut_off_and_the_launcher_notices():
    # Open MPI's does, and ends all: if nothing is under way to that host, since only then a keepalive is
    # sent. MPICH's does not.
    if mpi == "openmpi":
        three.retransmit(4)
        try:
            fails(cut_off(20, KEEPALIVE), "communication with a remote daemon")
        finally:
            three.retransmit(15)


def signalled(number, what="busy"):
    process = begin_busy(what)
    launcher = next(pid for pid, comm in three.on("host0").items() if comm.startswith("mpi"))
    os.kill(launcher, number)
    return finish(process)


def ends_by_signal(process):
    # MPICH's launcher forgets at times what the processes died of: it says 0.
    check(not process.hung, "it hung", process)
    check(mpi == "mpich" or process.returncode != 0, "it did not fail", process)
    check("complete" not in process.out, "a part was taken for the whole", process)


def row_interrupted():
    ends_by_signal(signalled(signal.SIGINT))


def row_interrupt_is_for_the_first_process():
    process = signalled(signal.SIGINT, "guarded")
    ends_by_signal(process)
    # Open MPI's launcher ends all of them itself.
    check(mpi == "openmpi" or "1 cancelled" in process.out, "nothing was cancelled", process)


def row_terminated():
    ends_by_signal(signalled(signal.SIGTERM))


def row_exit_without_an_end():
    passes(launched(program, "leaves"), "leaving\n")


def row_uncaught_exception():
    fails(launched(program, "throws"), "nobody catches this")


def row_another_build_on_one_host():
    three.inside("host1", "mount", "--bind", example, program)
    try:
        process = launched(program, "hosts")
    finally:
        three.inside("host1", "umount", program)
    fails(process, "the program on host host1 is another build", "start the same file on all hosts")


def row_bound_to_one_cpu():
    if os.cpu_count() == 1:
        return
    process = launched(program, "hosts", bind="core")
    passes(process, "host0 1\nhost1 1\nhost2 1\n")
    check("may use 1 of its" in process.err and "--bind-to none" in process.err, "no warning", process)


def row_launcher_of_another_mpi():
    if not os.path.exists(foreign):
        return
    fails(launched(foreign, "hosts"), "do not belong together")


def main():
    global three
    launcher = f"mpirun.{mpi}"
    if not shutil.which(launcher):
        print(f"skipped: {launcher} is not installed")
        return 77
    wanted = sys.argv[5] if len(sys.argv) > 5 else ""
    rows = [(name, row) for name, row in globals().items()
            if name.startswith("row_") and re.search(wanted, name)]
    failed = 0
    try:
        with hosts.Hosts() as three:
            for name, row in rows:
                begin = time.monotonic()
                try:
                    row()
                    result = "ok"
                except (Failed, OSError, LookupError, StopIteration, subprocess.SubprocessError) as error:
                    failed += 1
                    result = f"FAILED: {error!r}" if not isinstance(error, Failed) else f"FAILED: {error}"
                    three.end_all()
                print(f"{mpi} {name[4:].replace('_', ' ')}: {result} "
                      f"({time.monotonic() - begin:.1f} s)", flush=True)
    except hosts.NotHere as why:
        print(f"skipped: {why}")
        return 77
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
