"""The tables of docs/performance.md: which rows stand in them, beside which floor and peers, and
what is aimed at."""
from dataclasses import dataclass, field

PYTHON_POOLS = ("multiprocessing.Pool", "ProcessPoolExecutor", "loky", "billiard", "pebble",
                "mpi4py")
SIZES = {8: "8 B", 1 << 10: "1 KiB", 1 << 16: "64 KiB", 1 << 20: "1 MiB", 1 << 24: "16 MiB",
         1 << 26: "64 MiB", 1 << 30: "1 GiB"}
OURS, FLOOR = "Sidestep", "floor"


@dataclass
class Row:
    what: str
    key: str
    unit: str  # "s", "ms", "us", "count", "B of memory": less is better; else more is
    floor: str = ""
    # Which row of each of the table's peers: a row that all of them have, or {peer: key}.
    peer: object = ""
    peer_scale: float = 1.0  # by which a peer's value is multiplied to be of our kind
    # {peer: key of a ratio that was measured in turns, inside of a round}
    in_turns: dict = field(default_factory=dict)
    # Whether it has counters p10 and p90: quantiles of the rounds inside of one of ours.
    quantiles: bool = False
    # {column: limit}: of the value itself (OURS), the share of the floor, or a peer's ratio.
    goals: dict = field(default_factory=dict)

    def peer_key(self, peer):
        if isinstance(self.peer, dict):
            return self.peer.get(peer)
        return f"{peer}/{self.peer}" if self.peer else None


@dataclass
class Table:
    rows: list
    peers: tuple = ()


def five():
    """What the page begins with."""
    all_peers = {name: f"{name}/all" for name in PYTHON_POOLS}
    yield Row("200,000 empty tasks submitted, then all results got", "submit/all/pool/2", "tasks/s",
              peer=all_peers, in_turns={"oneTBB": "submit/all/pool/2:x_tbb"}, quantiles=True)
    yield Row("a task and its result, hot", "pool/round_trip/hot", "s", "", "round_trip")
    yield Row("map over ten million ints", "pool/map/10000000", "items/s", "", "map")
    yield Row("tasks of 10 us: work, of the CPUs' time", "load/length/submit/10:efficiency", "share",
              peer="length/10", peer_scale=10e-6 / 2)
    yield Row("a pool of two: start, a task, end", "pool/pool_start/forkserver", "s", "", "start")


def submitted():
    """As most programs write it: everything is submitted, then everything is got."""
    names = {"pool": "Pool", "threads": "ThreadPool"}
    for pool, name in names.items():
        for n in (1, 2, 4, 8):
            row = f"submit/all/{pool}/{n}"
            yield Row(f"{name} of {n}: 200,000 held", row, "tasks/s",
                      in_turns={"oneTBB": f"{row}:x_tbb"}, quantiles=True,
                      goals={"oneTBB": 0.7} if n == 2 else
                      {OURS: 4e6 if pool == "pool" else 5e6})
        row = f"submit/million/{pool}"
        yield Row(f"{name} of 2: a million held", row, "tasks/s",
                  in_turns={"oneTBB": f"{row}:x_tbb"}, quantiles=True, goals={OURS: 4e6})
        for n in (16, 512):
            yield Row(f"{name} of 2: {n} in flight", f"submit/in_flight/{pool}/{n}", "tasks/s",
                      quantiles=True, goals={OURS: 4e6})
        yield Row(f"{name} of 2: eight threads submit", f"submit/from_threads/{pool}/8", "tasks/s",
                  quantiles=True)
        for when in ("waiting", "done"):
            yield Row(f"{name}: memory for a future, its task is {when}",
                      f"submit/bytes/{pool}:{when}", "B of memory",
                      goals={OURS: 200 if pool == "pool" else 150} if when == "done" else {})


def small_tasks():
    in_flight = {1: "1 in flight", 16: "16 in flight", 512: "512 in flight"}
    for n, name in in_flight.items():
        goals = {OURS: 4e6, "multiprocessing.Pool": 60, "ProcessPoolExecutor": 200, "loky": 200}
        yield Row(f"empty tasks one by one, {name}", f"pool/one_by_one/{n}", "tasks/s",
                  "pool/floor_bare_ring" if n > 1 else "", f"one_by_one/{n}",
                  goals=goals if n == 512 else {})
    for n in (100, 10_000):
        yield Row(f"empty tasks, {n} at once", f"pool/batch/{n}", "tasks/s",
                  "pool/floor_bare_ring")
    yield Row("round trip, hot", "pool/round_trip/hot", "s", "pool/floor_ping_pong/spin",
              "round_trip", goals={OURS: 0.35e-6})
    yield Row("round trip, parked", "pool/round_trip/parked", "s", "pool/floor_ping_pong/futex",
              "round_trip", goals={FLOOR: 1 / 1.2})
    yield Row("round trip, parked, on two CPUs", "pool/round_trip_apart/parked", "s",
              "pool/floor_ping_pong_apart/futex", goals={FLOOR: 1 / 1.1})
    best = {name: 10 for name in PYTHON_POOLS}
    yield Row("map over 10^7 ints", "pool/map/10000000", "items/s", "", "map",
              goals={OURS: 400e6, **best})
    yield Row("map over 10^6 structs, by cereal", "pool/map_cereal/1000000", "items/s", "", "map",
              goals={OURS: 100e6})
    yield Row("imap over 10^6 ints, item by item in a loop", "pool/imap/1000000", "items/s", "",
              goals={OURS: 100e6})
    for method in ("spawn", "forkserver"):
        yield Row(f"pool of two: start, task, end ({method})", f"pool/pool_start/{method}", "s", "",
                  "start", goals={OURS: 2e-3} if method == "forkserver" else {})


def policies():
    yield Row("SIGKILL of a worker until its task's future throws", "pool/kill_to_error", "s",
              goals={OURS: 1e-3})
    yield Row("from a task's deadline until its future throws", "pool/latency_timeout", "s",
              goals={OURS: 5e-3})
    ends = {"heeded": "it heeds the request",
            "spawn": "it does not, and is replaced (spawn)",
            "forkserver": "the same (forkserver)"}
    for row, what in ends.items():
        yield Row(f"cancel() of a running task until its worker takes the next; {what}",
                  f"pool/latency_cancel/{row}", "s", goals={OURS: 10e-3})
    for method in ("spawn", "forkserver"):
        yield Row(f"200 workers: start, 1000 tasks, end ({method})", f"pool/start_200/{method}",
                  "s")


def load(cpus):
    lengths = {1: "1 us", 10: "10 us", 100: "100 us", 1000: "1 ms", 10_000: "10 ms",
               100_000: "100 ms"}
    goals = {10: 0.85, 1000: 0.99}
    for us, name in lengths.items():
        yield Row(f"{name}, submitted", f"load/length/submit/{us}:efficiency", "share",
                  peer=f"length/{us}" if us >= 10 else "", peer_scale=us * 1e-6 / cpus,
                  goals={OURS: goals[us]} if us in goals else {})
    for us in (1, 10, 1000):
        yield Row(f"{lengths[us]}, by map", f"load/length/map/{us}:efficiency", "share")
    for us in (1, 10, 1000):
        yield Row(f"{lengths[us]}, over a ThreadPool", f"load/length/threads/{us}:efficiency",
                  "share")
    yield Row("uneven (Pareto), submitted", "load/pareto/submit:efficiency", "share", peer="pareto")
    yield Row("uneven (Pareto), by map", "load/pareto/map:efficiency", "share", peer="pareto")
    yield Row("uneven (Pareto), over a ThreadPool", "load/pareto/threads:efficiency", "share")


def scale():
    for n in (1, 2, 8, 32, 128, 200):
        yield Row(f"empty tasks, {n} workers", f"load/workers/{n}", "tasks/s",
                  peer=f"workers/{n}" if n < 200 else "",
                  goals={OURS: 2e6} if n == 200 else {})
    for n in (1, 2, 8, 32, 128, 200):
        yield Row(f"tasks of 100 us, {n} workers", f"load/workers_100us/{n}:efficiency", "share")


def idle():
    yield Row("wake-ups of the process that has the most, a second", "idle/pool:wakeups_per_s",
              "count", goals={OURS: 2})
    yield Row("CPU time of all three processes, a second", "idle/pool:cpu_us_per_s", "us")
    yield Row("memory of a worker: its share", "idle/pool:worker_pss", "B of memory")
    yield Row("memory of a worker: its own", "idle/pool:worker_private", "B of memory")


def payload():
    for size, name in SIZES.items():
        for way in ("send", "receive", "echo"):
            peer = f"{way}/{size}" if way != "receive" and name != "1 KiB" else ""
            goals = {FLOOR: 0.8 if size < 1 << 30 else 0.5} if size >= 1 << 16 else {}
            yield Row(f"{way} {name}", f"payload/{way}/{size}", "B/s",
                      f"payload/floor_{'echo' if way == 'echo' else 'send'}/{size}", peer,
                      goals=goals)
        yield Row(f"one memcpy, {name}", f"payload/memcpy/{size}", "B/s")
    for size in (8, 1 << 20, 1 << 30):
        yield Row(f"a handle to {SIZES[size]}: over an empty task",
                  f"payload/handle/{size}:over_empty_us", "us", goals={OURS: 1})


def queue():
    names = ("pipe", "Boost", "ZeroMQ", "iceoryx", "multiprocessing.Queue")

    def peers(n):
        keys = dict(zip(names, (f"queue/pipe/{n}", f"queue/boost/{n}", f"queue/zeromq/{n}",
                                f"queue/iceoryx/{n}", "multiprocessing.Queue/queue")))
        return keys if n == 1 else {name: keys[name] for name in names[:2]}

    ahead = {"pipe": 1, "Boost": 1, "ZeroMQ": 1}
    for n in (1, 2, 4):
        yield Row(f"{n} to {n}", f"queue/queue/{n}", "messages/s", peer=peers(n),
                  goals={OURS: 3e6, **ahead} if n == 1 else {})
    yield Row("1 to 1, 1024 items at most", "queue/bounded/1", "messages/s", peer=peers(1))
    for n in (1, 4):
        yield Row(f"{n} to {n}, batches of 64", f"queue/batch/{n}", "messages/s", peer=peers(n),
                  goals={OURS: 20e6} if n == 1 else {})


def start():
    for mib in (0, 1024, 4096):
        for method in ("spawn", "forkserver", "fork"):
            floor = "floor_fork" if method == "fork" else "floor_spawn"
            goals = {"spawn": {FLOOR: 1}, "forkserver": {OURS: 250e-6}}.get(method, {})
            yield Row(f"Process, {method}, parent of {mib} MiB", f"start/process/{method}/{mib}",
                      "s", f"start/{floor}/{mib}", goals=goals if mib == 0 else {})
        yield Row(f"subprocess, static program, parent of {mib} MiB", f"start/popen/{mib}", "s",
                  f"start/floor_static/{mib}")


def programs():
    """Rows that were measured in turns with their floor: the counter is the share."""
    rows = {"start/true": ("start and wait, /bin/true", 1.0),
            "start/static": ("the same, a static program that does nothing", 1.3),
            "clone/static": ("clone, pidfd, poll, waitid, and nothing else", None),
            "run/true": ("run() of /bin/true", None),
            "run_python/true": ("run() of /bin/true, beside Python's subprocess.run", 1.2),
            "run_python/static": ("the same, the static program", 1.2),
            "capture/1": ("capture 1 MiB", 0.8), "capture/1024": ("capture 1 GiB", 0.8),
            "capture_warm/1024": ("capture 1 GiB into memory just touched", 0.8),
            "capture_string/1024": ("capture 1 GiB, beside appending to a string", None),
            "capture_fresh/1024": ("capture 1 GiB, beside reading into new memory", None),
            "parallel/xargs": ("examples/parallel, beside xargs -P", 1.0),
            "parallel/gnu": ("examples/parallel, beside GNU parallel", 5.0)}
    for row, (what, goal) in rows.items():
        yield Row(what, f"subprocess/{row}:x_floor", "x", goals={OURS: goal} if goal else {})


def talk():
    yield Row("Lock: lock and unlock", "ipc/lock_unlock", "s", goals={OURS: 30e-9})
    yield Row("RLock: lock and unlock", "ipc/rlock_unlock", "s")
    yield Row("Semaphore: acquire and release", "ipc/semaphore", "s")
    for size, name in {64: "64 B", 4096: "4 KiB", 1 << 20: "1 MiB"}.items():
        for row, what in (("round_trip", "round trip"), ("stream", "stream"),
                          ("one_thread", "both ends in one thread")):
            yield Row(f"Connection, {what} {name}", f"connection/{row}<FramedSocket>/{size}",
                      "messages/s", f"connection/{row}<BareSocket>/{size}",
                      goals={} if row == "one_thread" else {FLOOR: 0.9})
    for what in ("nothing", "lock", "queue"):
        yield Row(f"after a SIGKILL, {what} shared: the next one gets on, mean",
                  f"ipc/stall/{what}", "s")
        yield Row("the same, worst of 200", f"ipc/stall/{what}:worst_ms", "ms")
    for method in ("spawn", "forkserver"):
        yield Row(f"an Array of 1 GiB as argument, {method}: beside an int",
                  f"ipc/pass_array/{method}:x_int", "x", goals={OURS: 0.9})


OBJECT_PEERS = {"Python": "python", "Cap'n Proto": "capnp", "gRPC": "grpc", "CAF": "caf"}


def objects():
    """Calls of objects in other processes; each peer by the transport that it has."""
    places = {"actor": "an Actor, its owner", "manager": "a Manager", "unix": "a ManagerServer, Unix",
              "tcp": "a ManagerServer, TCP with TLS"}

    def peers(row):
        return {name: f"manager/{prefix}/{row}" for name, prefix in OBJECT_PEERS.items()}

    ahead = {"Python": 1, "Cap'n Proto": 1}
    for place, name in places.items():
        goals = {"manager": {FLOOR: 1 / 1.2, **ahead}, "tcp": {FLOOR: 1 / 1.7}}.get(place, {})
        yield Row(f"one call at a time, {name}", f"manager/call/{place}", "calls/s",
                  "manager/connection" if place != "tcp" else "manager/bare_tcp", peers("call"),
                  goals=goals)
    for n in (16, 512):
        for place, name in places.items():
            goals = {"unix": {OURS: 300e3}, "tcp": {OURS: 200e3}}.get(place, {})
            yield Row(f"{n} calls in flight, {name}", f"manager/in_flight/{place}/{n}", "calls/s",
                      peer=peers(f"in_flight/{n}"), goals=goals if n == 512 else {})
    for place, name in places.items():
        yield Row(f"four clients at once, {name}", f"manager/clients/{place}", "calls/s",
                  peer={"Python": "manager/python/clients"},
                  goals={"Python": 1} if place == "manager" else {})
    for place, name in places.items():
        yield Row(f"1 MiB there and back, {name}", f"manager/payload/{place}", "B/s",
                  "manager/connection_payload" if place != "tcp" else "", peers("payload"),
                  goals={FLOOR: 0.7, **ahead} if place == "manager" else {})
    yield Row("make an object of a Manager, and drop it", "manager/make_and_drop", "objects/s",
              peer=peers("make_and_drop"), goals={OURS: 1 / 30e-6, **ahead})
    yield Row("SIGKILL of a Manager's server until a call of it has failed", "manager/killed", "s",
              goals={OURS: 1e-3})
    yield Row("a Manager's lock that two processes want: lock and unlock",
              "manager/lock/two_clients", "locks/s")
    yield Row("SIGKILL of who has the lock until the next one has it", "manager/lock/of_the_dead",
              "s", goals={OURS: 5e-3})


def compute():
    for job in ("monte_carlo", "mandelbrot", "wordcount"):
        yield Row(job, f"compute/{job}/pool", "s",
                  peer={"one worker": f"compute/{job}/pool_of_one",
                        "ThreadPool": f"compute/{job}/threads",
                        "OpenMP": f"compute/{job}/openmp"},
                  goals={"one worker": 1.9, "ThreadPool": 0.95} if job == "wordcount" else {})
    yield Row("embedded Python, two workers", "python/pool of two", "s",
              peer={"one thread": "python/one thread"}, goals={"one thread": 1.9})
    yield Row("embedded Python, two threads", "python/two threads", "s",
              peer={"one thread": "python/one thread"})


def tables(cpus):
    return {
        "five": Table(list(five()), ("oneTBB", *PYTHON_POOLS)),
        "submit": Table(list(submitted()), ("oneTBB",)),
        "pool": Table(list(small_tasks()), PYTHON_POOLS),
        "load": Table(list(load(cpus)), PYTHON_POOLS),
        "scale": Table(list(scale()), ("multiprocessing.Pool",)),
        "policies": Table(list(policies())),
        "idle": Table(list(idle())),
        "payload": Table(list(payload()), PYTHON_POOLS),
        "queue": Table(list(queue()), ("pipe", "Boost", "ZeroMQ", "iceoryx",
                                       "multiprocessing.Queue")),
        "start": Table(list(start())),
        "programs": Table(list(programs())),
        "talk": Table(list(talk())),
        "objects": Table(list(objects()), tuple(OBJECT_PEERS)),
        "compute": Table(list(compute()), ("one worker", "ThreadPool", "OpenMP", "one thread")),
    }
