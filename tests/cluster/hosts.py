"""Three hosts on one machine, for tests of what runs under an MPI launcher.

Each has a network, a name, System V IPC, /dev/shm and a folder for temporary files of its own, so that
nothing passes by sharing memory; they are joined by a bridge. No daemon is needed: the launchers enter
a host by a command that they are given in place of ssh. Needs to be root (CAP_SYS_ADMIN, CAP_NET_ADMIN).

What is started here is ended here, by its pid: a launcher that hangs survives its `timeout`.
"""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

NAMES = ["host0", "host1", "host2"]  # the launcher runs on the first
NAMESPACES = ["--net", "--uts", "--ipc", "--mount"]
TOOLS = ["ip", "unshare", "nsenter", "timeout"]
# What examples/11_cluster.cpp says on them.
TOUR = r"\d+ workers on 3 hosts\n3 hosts took part\n1048576\n3 values, 1 lost\n"

ENTER = """#!/bin/sh
# In place of ssh: host, then the command's words. Options come before the host.
while [ "${1#-}" != "$1" ]; do shift; done
pid=$(cat "%(folder)s/pid-$1") || exit 1
shift
exec nsenter -t "$pid" --net --uts --ipc --mount -- sh -c "$*"
"""

INSIDE = """
hostname %(name)s
mount -t tmpfs tmpfs /dev/shm
mount -t sysfs sysfs /sys  # which network devices there are
mount -t tmpfs tmpfs %(folder)s/tmp
mount --bind %(folder)s/etc-hosts /etc/hosts
echo ready
exec sleep infinity
"""


# Whoever refuses is there.
KNOCK = """
import errno, socket, sys
knocking = socket.socket()
knocking.settimeout(1)
sys.exit(knocking.connect_ex((sys.argv[1], 9)) not in (0, errno.ECONNREFUSED))
"""


def address(name):
    return f"10.77.0.{NAMES.index(name) + 1}"


def agent_on(three, name, program):
    """The pid of the one that has no parent of its own name: the others are its workers."""
    known = three.on(name)
    ours = {pid for pid, comm in known.items() if comm == os.path.basename(program)[:15]}
    for pid in ours:
        with open(f"/proc/{pid}/stat") as stat:
            if int(stat.read().rsplit(")", 1)[1].split()[1]) not in ours:
                return pid
    raise LookupError(f"there is no agent on {name}: {known}")


class NotHere(Exception):
    """Hosts cannot be made here, and why."""


def run(*words, **more):
    return subprocess.run(words, check=True, capture_output=True, text=True, **more)


class Hosts:
    def __enter__(self):
        missing = [tool for tool in TOOLS if not shutil.which(tool)]
        if missing:
            raise NotHere(f"{' and '.join(missing)} missing (Debian: iproute2, util-linux)")
        if os.geteuid() != 0:
            raise NotHere("this user may not make namespaces: root may")
        # Short: Open MPI has sockets there.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sidestep-hosts-"))
        self.holders = []
        self.spaces = {}
        try:
            self.make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def make(self):
        (self.folder / "tmp").mkdir()
        lines = ["127.0.0.1 localhost"]
        lines += [f"{address(name)} {name}" for name in NAMES]
        (self.folder / "etc-hosts").write_text("\n".join(lines) + "\n")
        enter = self.folder / "enter"
        enter.write_text(ENTER % {"folder": self.folder})
        enter.chmod(0o755)
        for name in NAMES:
            self.hold(name)
        try:
            self.connect()
        except subprocess.CalledProcessError as error:
            raise NotHere(f"no network between namespaces: {' '.join(error.cmd)}: {error.stderr}")

    def hold(self, name):
        script = INSIDE % {"name": name, "folder": self.folder}
        holder = subprocess.Popen(["unshare", *NAMESPACES, "sh", "-ec", script], text=True,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE)
        self.holders.append(holder)
        if holder.stdout.readline() != "ready\n":
            raise NotHere(f"no namespaces: {holder.stderr.read().strip()}")
        (self.folder / f"pid-{name}").write_text(f"{holder.pid}\n")
        self.spaces[name] = os.readlink(f"/proc/{holder.pid}/ns/uts")

    def inside(self, name, *words, **more):
        pid = self.holders[NAMES.index(name)].pid
        return run("nsenter", "-t", str(pid), "--net", "--uts", "--ipc", "--mount", "--", *words,
                   **more)

    def connect(self):
        self.inside(NAMES[0], "ip", "link", "add", "bridge", "type", "bridge")
        for i, name in enumerate(NAMES):
            self.inside(name, "ip", "link", "set", "lo", "up")
            self.inside(NAMES[0], "ip", "link", "add", f"to{i}", "type", "veth", "peer", "name",
                        "eth0", "netns", str(self.holders[i].pid))
            self.inside(NAMES[0], "ip", "link", "set", f"to{i}", "master", "bridge", "up")
            self.inside(name, "ip", "addr", "add", f"{address(name)}/24", "dev", "eth0")
            self.inside(name, "ip", "link", "set", "eth0", "up")
        self.inside(NAMES[0], "ip", "link", "set", "bridge", "up")
        self.wait_for_network()

    def wait_for_network(self):
        """A link that was set up carries nothing for up to a second, and who asks is told that there is
        no such host: a launcher's daemon ends, and its launcher waits for it for ever."""
        end = time.monotonic() + 10
        ways = [(name, address(other)) for name in NAMES for other in NAMES if name != other]
        while ways and time.monotonic() < end:
            ways = [way for way in ways if not self.reaches(*way)]
        if ways:
            raise NotHere(f"no network between namespaces: {ways[0][0]} does not reach {ways[0][1]}")

    def reaches(self, name, where):
        try:
            self.inside(name, sys.executable, "-c", KNOCK, where)
            return True
        except subprocess.CalledProcessError:
            return False

    def cut_off(self, name):
        """From now on nothing passes between this host and the others."""
        self.inside(NAMES[0], "ip", "link", "set", f"to{NAMES.index(name)}", "down")

    def retransmit(self, times):
        """How often TCP sends again what is not acknowledged, before it gives up: 15 times take a quarter
        of an hour."""
        for name in NAMES:
            self.inside(name, "sh", "-c", f"echo {times} > /proc/sys/net/ipv4/tcp_retries2")

    def join_again(self, name):
        self.inside(NAMES[0], "ip", "link", "set", f"to{NAMES.index(name)}", "up")
        self.wait_for_network()

    def launch(self, mpi, *words, hosts=NAMES, seconds=40, environment=None, options=(),
               bind="none"):
        """Starts a program, a process on each of these hosts ("host1:3": three there); its launcher as
        a Popen, with the time at which it has hung."""
        enter = str(self.folder / "enter")
        if mpi == "openmpi":
            launcher = ["mpirun.openmpi", "--mca", "plm_rsh_agent", enter, "--mca",
                        "plm_rsh_no_tree_spawn", "1", "--mca", "btl", "tcp,self", "--mca",
                        "btl_tcp_if_include", "10.77.0.0/24", "--mca", "oob_tcp_if_include",
                        "10.77.0.0/24", "--mca", "orte_tmpdir_base", str(self.folder / "tmp"),
                        "--bind-to", bind, *options, "--host", ",".join(hosts)]
        else:
            launcher = ["mpirun.mpich", "-launcher", "ssh", "-launcher-exec", enter, "-bind-to",
                        bind, *options, "-hosts", ",".join(hosts), "-n",
                        str(sum(int((host + ":1").split(":")[1]) for host in hosts))]
        pid = self.holders[0].pid
        variables = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1",
                         OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", TMPDIR=str(self.folder / "tmp"),
                         UCX_TLS="tcp,self", UCX_NET_DEVICES="eth0", **(environment or {}))
        limit = time.monotonic() + seconds
        process = subprocess.Popen(
            ["nsenter", "-t", str(pid), "--net", "--uts", "--ipc", "--mount", "--", "timeout", "-k",
             "2", str(seconds), *launcher, *words],
            env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace")
        process.limit = limit
        return process

    def processes(self):
        """pid: what it is called, of all on these hosts."""
        found = {}
        holders = {holder.pid for holder in self.holders}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in holders:
                continue
            try:
                if os.readlink(entry / "ns/uts") in self.spaces.values():
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
            except OSError:
                pass
        return found

    def workers(self, program):
        return [pid for pid, name in self.processes().items() if name == program[:15]]

    def on(self, name):
        """pid: what it is called, of those on this host."""
        found = {}
        for pid, comm in self.processes().items():
            try:
                if os.readlink(f"/proc/{pid}/ns/uts") == self.spaces[name]:
                    found[pid] = comm
            except OSError:
                pass
        return found

    def left_after(self, seconds):
        """What is still there after so long, at most; it is ended."""
        end = time.monotonic() + seconds
        while self.processes() and time.monotonic() < end:
            time.sleep(0.02)
        left = self.processes()
        self.end_all()
        return left

    def end_all(self):
        end = time.monotonic() + 30
        while left := self.processes():
            if time.monotonic() > end:
                raise RuntimeError(f"not to be ended: {left}")
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)

    def __exit__(self, *_):
        self.end_all()
        for holder in self.holders:
            holder.kill()
            holder.wait()
            holder.stdout.close()
            holder.stderr.close()
        self.remove_folder()

    def remove_folder(self):
        """Again, where a process that is about to end has put something there meanwhile."""
        end = time.monotonic() + 30
        while self.folder.exists():
            try:
                shutil.rmtree(self.folder)
            except FileNotFoundError:
                pass
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)


if __name__ == "__main__":
    # hosts.py MPI PROGRAM...: runs a program on the three hosts, to look at it.
    with Hosts() as three:
        process = three.launch(sys.argv[1], *sys.argv[2:])
        print(*process.communicate(), sep="")
        sys.exit(process.returncode)
