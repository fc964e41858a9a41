"""Runs all benchmarks, ours and the peers' in turns, and writes docs/performance.md and its plots.

usage: tools/bench [--quick] [--rounds N] [--minutes M] [--only TOPIC...] [--render] [--out FILE]

  --quick     one short round, without the largest payloads: does it work?
  --rounds N  so many rounds (default 5); each runs every program once
  --minutes M no round is begun that would end later than so (default 24)
  --only T... these topics only: pool submit load payload queue start programs talk objects compute model
              idle; the others stay as the last run found them
  --render    write the page from the results of the last run, without running anything
  --out FILE  the page; default docs/performance.md, plots in plots/ beside it

A figure is the median of the rounds; a ratio the median of the ratios within a round. The raw
results are in BUILD/results.json.
"""
import argparse
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import time

import page
from results import Results, parse_google_benchmark
from tables import PYTHON_POOLS

HERE = pathlib.Path(__file__).resolve().parent
CPUS = len(os.sched_getaffinity(0))

# topic: our programs, and whether Python's pools do the same
TOPICS = {
    "pool": (["pool"], True),
    "submit": (["submit"], False),
    "load": (["load"], True),
    "payload": (["payload"], True),
    "queue": (["queue"], False),
    "start": (["start"], False),
    "programs": (["subprocess"], False),
    "talk": (["ipc", "connection"], False),
    "objects": (["manager"], False),
    "compute": (["compute"], False),
    "model": (["dispatch"], False),
    "idle": (["idle"], False),
}
# What a quick run leaves out.
SLOW = {"payload": "/(16777216|67108864|1073741824)/", "start": "/(1024|4096)/",
        "load": "/(100000|128|200)/", "submit": "million|/(1|4|8)/", "subprocess": "/1024|^start_rss|^parallel", "ipc": "^stall",
        "compute": "^wordcount/"}
TIMEOUT = 600


def run(command, environment=None):
    """Its output; it and all that it started are ended after TIMEOUT seconds."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True, env={**os.environ, **(environment or {})})
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise RuntimeError(f"did not end within {TIMEOUT} seconds") from error
        raise
    if process.returncode != 0:
        last = (err.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"exit status {process.returncode}: {last}")
    return out


class Runner:
    def __init__(self, build, quick, topics):
        self.build, self.quick, self.topics = build, quick, topics
        self.seconds = 0.01 if quick else 0.1
        self.left_out = {}

    def attempt(self, name, measure):
        """What measure() returns, or {}: what cannot be measured is left out, with the reason."""
        begin = time.monotonic()
        try:
            rows = measure()
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            self.left_out[name] = str(error)
            rows = {}
        print(f"  {name}: {len(rows)} rows, {time.monotonic() - begin:.0f} s", flush=True)
        return rows

    def ours(self, program):
        command = [str(self.build / "bench" / f"{program}_bench"), "--benchmark_format=json",
                   f"--benchmark_min_time={self.seconds}"]
        if self.quick and program in SLOW:
            command.append(f"--benchmark_filter=-{SLOW[program]}")
        rows, left_out = parse_google_benchmark(run(command))
        self.left_out.update({f"{program} {row}": why for row, why in left_out.items()})
        return rows

    def peer(self, name):
        topics = ",".join(t for t in self.topics if TOPICS[t][1])
        command = [sys.executable, str(HERE / "peers.py"), name, str(self.seconds), topics]
        if name == "mpi4py":
            command[1:1] = ["-m", "mpi4py.futures"]
            command[:0] = ["mpiexec", "--oversubscribe", "-n", str(CPUS + 1)]
        rows = json.loads(run(command, {
            "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1",
            # Open MPI on this machine alone, also in a container, where all are root.
            "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_btl": "self,vader", "OMPI_MCA_rmaps_base_oversubscribe": "1"}))
        if "missing" in rows:
            raise RuntimeError(rows["missing"])
        return {row: {"value": value} for row, value in rows.items()}

    def embedded_python(self):
        out = run([str(self.build / "examples" / "embedded_python"),
                   "100000" if self.quick else "400000"])
        found = re.findall(r"^(.*?) +\d+ primes in ([\d.]+) seconds", out, re.MULTILINE)
        return {name: {"value": float(seconds)} for name, seconds in found}

    def round(self):
        measured = {}
        for topic in self.topics:
            for program in TOPICS[topic][0]:
                measured[program] = self.attempt(program, lambda p=program: self.ours(p))
        if "compute" in self.topics:
            measured["python"] = self.attempt("python", self.embedded_python)
        peers = list(PYTHON_POOLS) if any(TOPICS[t][1] for t in self.topics) else []
        for name in peers + (["multiprocessing.Queue"] if "queue" in self.topics else []):
            measured[name] = self.attempt(name, lambda n=name: self.peer(n))
        return measured


def machine():
    distribution = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return {"cpus": CPUS, "text": f"{CPUS} CPUs, {platform.machine()}, Linux {platform.release()}, "
                                  f"{distribution}, load {os.getloadavg()[0]:.1f} at the start"}


def last_results(arguments):
    """What a run of some topics leaves as it was."""
    if arguments.only and arguments.results.exists():
        return json.loads(arguments.results.read_text())
    return {"rounds": [], "left_out": {}}


def merged(last, number, measured):
    """A round of the last run with what was measured anew."""
    old = last["rounds"][number] if number < len(last["rounds"]) else {}
    return {name: {**old.get(name, {}), **measured.get(name, {})} for name in {**old, **measured}}


def measure(arguments):
    last = last_results(arguments)
    runner = Runner(arguments.build, arguments.quick, arguments.only or list(TOPICS))
    data = {"machine": machine(), "rounds": list(last["rounds"]), "left_out": {}}
    begin, longest = time.monotonic(), 0.0
    for number in range(1 if arguments.quick else arguments.rounds):
        if time.monotonic() - begin + longest > arguments.minutes * 60:
            print(f"No time for another round: {number} in all", flush=True)
            break
        print(f"Round {number + 1}", flush=True)
        round_begin = time.monotonic()
        measured = runner.round()
        data["rounds"][number:number + 1] = [merged(last, number, measured)]
        data["left_out"] = {**{name: why for name, why in last["left_out"].items()
                               if name.split()[0] not in measured}, **runner.left_out}
        longest = max(longest, time.monotonic() - round_begin)
        arguments.results.write_text(json.dumps(data, indent=1))
    return data


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    root = HERE.parent
    for flag in ("--quick", "--render"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    for flag, kind, default in (("--rounds", int, 5), ("--minutes", float, 24),
                                ("--out", pathlib.Path, root / "docs/performance.md"),
                                ("--build", pathlib.Path, root / "build/bench"),
                                ("--results", pathlib.Path, None),
                                ("--template", pathlib.Path, HERE / "performance.md.in")):
        parser.add_argument(flag, type=kind, default=default, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=list(TOPICS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.results = arguments.results or arguments.build / "results.json"
    if arguments.rounds < 1:
        parser.error("--rounds takes a number from 1 on")
    return arguments


def main():
    arguments = parse_arguments()
    if arguments.render:
        if not arguments.results.exists():
            sys.exit(f"tools/bench: there is no {arguments.results}: run it without --render first")
        data = json.loads(arguments.results.read_text())
    else:
        data = measure(arguments)
    template = arguments.template.read_text()
    text = page.render(Results(data), template, arguments.out.resolve().parent / "plots")
    arguments.out.write_text(text)
    print(f"Wrote {arguments.out}")


if __name__ == "__main__":
    main()
