"""The job server of the examples on three hosts (tests/cluster/hosts.py): a worker's host is lost in the
middle of a job, and clients come back that were killed or cut off.

job_server_test.py EXAMPLE. Exit status 77: it cannot be tested here, and why is said.
"""
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "cluster"))
import hosts  # noqa: E402

PORT = "4711"
PATIENCE = 60
example = os.path.abspath(sys.argv[1])
three = None  # hosts.Hosts
started = []


def start(host, *words):
    """The example on this host, as a Popen."""
    pid = str(three.holders[hosts.NAMES.index(host)].pid)
    process = subprocess.Popen(
        ["nsenter", "-t", pid, "--net", "--uts", "--ipc", "--mount", "--", example, *words],
        env=dict(os.environ, JOB_KEY="secret", TMPDIR=str(three.folder / "tmp")),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started.append(process)
    return process


def ask(host, *jobs):
    return start(host, "ask", hosts.address("host0"), PORT, *jobs)


def path(name):
    """On each host another file."""
    return three.folder / "tmp" / name


def lines(host, name):
    try:
        return three.inside(host, "cat", str(path(name))).stdout.splitlines()
    except subprocess.CalledProcessError:
        return []


def eventually(holds, what):
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not so after {PATIENCE} s: {what}")
        time.sleep(0.02)


def job(name, gate):
    """Says that it began, and where it ran, when its host has the gate."""
    return (f"echo {name} >> {path('begun')}; until [ -e {path(gate)} ]; do sleep 0.02; done; "
            f"echo {name} by $(hostname)")


def says(client, text):
    out, err = client.communicate(timeout=PATIENCE)
    assert (client.returncode, out) == (0, text), f"{client.returncode}: {out!r}, {err!r}"


def a_host_is_lost_in_the_middle_of_a_job():
    client = ask("host0", job("one", "gate"), job("two", "gate"))
    eventually(lambda: len(lines("host1", "begun")) == len(lines("host2", "begun")) == 1, "both run")
    three.cut_off("host1")
    three.inside("host2", "touch", str(path("gate")))
    says(client, "one by host2\ntwo by host2\n")
    lost = lines("host1", "begun")
    assert sorted(lines("host2", "begun")) == ["one", "two"], lost
    three.join_again("host1")
    three.inside("host1", "touch", str(path("gate")))
    # It comes back by itself: two that wait for each other's hosts need both.
    meet = [f"until [ -e {path('met')} ]; do sleep 0.02; done; hostname # {i}" for i in (1, 2)]
    both = ask("host0", *(f"touch {path('here')}; {one}" for one in meet))
    eventually(lambda: all(three_has(host, "here") for host in ("host1", "host2")), "both run again")
    for host in ("host1", "host2"):
        three.inside(host, "touch", str(path("met")))
    out, err = both.communicate(timeout=PATIENCE)
    assert sorted(out.split()) == ["host1", "host2"], f"{out!r}, {err!r}"


def three_has(host, name):
    try:
        three.inside(host, "test", "-e", str(path(name)))
        return True
    except subprocess.CalledProcessError:
        return False


def a_client_that_was_killed_comes_back():
    one = job("killed", "later")
    first = ask("host1", one)
    begun = lambda: [h for h in ("host1", "host2") if "killed" in lines(h, "begun")]  # noqa: E731
    eventually(begun, "it runs")
    first.kill()
    first.wait()
    second = ask("host2", one)
    host = begun()[0]
    three.inside(host, "touch", str(path("later")))
    says(second, f"killed by {host}\n")
    says(ask("host1", one), f"killed by {host}\n")
    assert sum(lines(h, "begun").count("killed") for h in ("host1", "host2")) == 1, "it ran again"


def a_client_that_was_cut_off_comes_back():
    """The worker on its host is lost with it: the job may run once more, but not be lost."""
    client = ask("host1", job("cut", "at_last"))
    eventually(lambda: any("cut" in lines(h, "begun") for h in ("host1", "host2")), "it runs")
    three.cut_off("host1")
    eventually(lambda: client.stderr.readline() != "", "the client finds out")
    three.join_again("host1")
    for host in ("host1", "host2"):
        three.inside(host, "touch", str(path("at_last")))
    out, _ = client.communicate(timeout=PATIENCE)
    assert out in ("cut by host1\n", "cut by host2\n"), out


def main():
    global three
    try:
        with hosts.Hosts() as three:
            start("host0", "serve", hosts.address("host0"), PORT)
            for host in ("host1", "host2"):
                start(host, "work", hosts.address("host0"), PORT, hosts.address(host), "1")
            for row in (a_host_is_lost_in_the_middle_of_a_job, a_client_that_was_killed_comes_back,
                        a_client_that_was_cut_off_comes_back):
                begin = time.monotonic()
                row()
                print(f"{row.__name__.replace('_', ' ')}: ok ({time.monotonic() - begin:.1f} s)",
                      flush=True)
    except hosts.NotHere as why:
        print(f"skipped: {why}")
        return 77
    finally:
        for process in started:
            process.kill()
            process.communicate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
