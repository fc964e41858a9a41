"""The work of our benchmarks, done by one of Python's pools. Prints JSON: {row: value}, or
{"missing": reason} if it cannot be imported.

usage: python3 peers.py PEER [SECONDS [TOPICS]]
SECONDS: time for each row (default 0.3); below 0.1, the largest payloads are left out
TOPICS: pool,load,payload (default: all of them)
PEER: one of the names below; mpi4py has to be started as
      mpiexec -n N python3 -m mpi4py.futures peers.py mpi4py

Rows (a worker for each CPU):
  one_by_one/N   empty tasks with N in flight: tasks/s
  all            10,000 submitted, then all got: tasks/s    length/US   tasks of US microseconds:
  round_trip     one empty task: s                                      tasks/s
  map            over 10^6 items, in chunks: items/s        pareto      share of the time of all
  send/BYTES, echo/BYTES   an array of doubles: bytes/s                 workers that tasks ran
  start          a pool, one task, its end: s               workers/N   one_by_one/512, N workers
  queue          (multiprocessing.Queue) messages/s, one producer, one consumer
"""
import array
import collections
import concurrent.futures
import json
import multiprocessing
import os
import random
import statistics
import sys
import time

from peer_tasks import busy, first, put_all, same

WORKERS = len(os.sched_getaffinity(0))
SIZES = (8, 1 << 16, 1 << 20, 1 << 24, 1 << 26)
LENGTHS_US = (10, 100, 1000, 10_000, 100_000)
FORK = multiprocessing.get_context("fork")
MAP_ITEMS = 1_000_000
ALL_HELD = 10_000


class Executor:
    """A pool with the interface of concurrent.futures."""

    def __init__(self, pool, **map_options):
        self.pool, self.map_options = pool, map_options

    def submit(self, function, argument):
        return self.pool.submit(function, argument)

    def get(self, future):
        return future.result()

    def map(self, function, items):
        return self.pool.map(function, items, **self.map_options)

    def close(self):
        self.pool.shutdown()


class ClassicPool(Executor):
    """A pool with the interface of multiprocessing.Pool."""

    def submit(self, function, argument):
        return self.pool.apply_async(function, (argument,))

    def get(self, future):
        return future.get()

    def close(self):
        self.pool.close()
        self.pool.join()


class PebblePool(Executor):
    def submit(self, function, argument):
        return self.pool.schedule(function, args=(argument,))

    def map(self, function, items):
        return self.pool.map(function, items, **self.map_options).result()

    def close(self):
        self.pool.close()
        self.pool.join()


def multiprocessing_pool(workers):
    return ClassicPool(FORK.Pool(workers))


def process_pool_executor(workers):
    make = concurrent.futures.ProcessPoolExecutor(workers, mp_context=FORK)
    return Executor(make, chunksize=10_000)


def loky(workers):
    from joblib.externals.loky import ProcessPoolExecutor
    return Executor(ProcessPoolExecutor(workers), chunksize=10_000)


def billiard(workers):
    import billiard as module
    return ClassicPool(module.Pool(workers))


def pebble(workers):
    import pebble as module
    return PebblePool(module.ProcessPool(workers), chunksize=10_000)


def mpi4py(workers):
    from mpi4py.futures import MPIPoolExecutor
    return Executor(MPIPoolExecutor(workers), chunksize=10_000)


PEERS = {
    "multiprocessing.Pool": multiprocessing_pool,
    "ProcessPoolExecutor": process_pool_executor,
    "loky": loky,
    "billiard": billiard,
    "pebble": pebble,
    "mpi4py": mpi4py,
}


def rate(step, seconds, warm_up=1):
    """Calls of step() in a second, where step returns how much it did."""
    for _ in range(warm_up):
        step()
    done, begin = 0, time.perf_counter()
    while True:
        done += step()
        elapsed = time.perf_counter() - begin
        if elapsed > seconds:
            return done / elapsed


def one_by_one(pool, in_flight, seconds):
    flying = collections.deque()

    def some():
        for _ in range(100):
            if len(flying) == in_flight:
                pool.get(flying.popleft())
            flying.append(pool.submit(same, 1))
        return 100

    result = rate(some, seconds)
    while flying:
        pool.get(flying.popleft())
    return result


def run_all(pool, lengths):
    """The seconds that tasks of these lengths take, submitted one by one."""
    begin = time.perf_counter()
    for future in [pool.submit(busy, length) for length in lengths]:
        pool.get(future)
    return time.perf_counter() - begin


def pareto(pool):
    numbers = random.Random(1)
    lengths = [min(20e-3, 20e-6 * numbers.random() ** (-1 / 1.2)) for _ in range(1000)]
    return sum(lengths) / WORKERS / run_all(pool, lengths)


def pool_rows(pool, seconds):
    for n in (1, 16, 512):
        yield f"one_by_one/{n}", one_by_one(pool, n, seconds)

    def all_held():
        for future in [pool.submit(same, 1) for _ in range(ALL_HELD)]:
            pool.get(future)
        return ALL_HELD

    yield "all", rate(all_held, seconds, warm_up=0)
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        pool.get(pool.submit(same, 1))
        times.append(time.perf_counter() - begin)
    yield "round_trip", statistics.median(times)
    items = list(range(MAP_ITEMS))

    def map_once():
        collections.deque(pool.map(same, items), maxlen=0)
        return MAP_ITEMS

    yield "map", rate(map_once, seconds, warm_up=0)


def load_rows(pool, seconds):
    for length in LENGTHS_US:
        count = max(2 * WORKERS, min(2000, int(seconds * 1e6 * WORKERS / length)))
        yield f"length/{length}", count / run_all(pool, [length * 1e-6] * count)
    yield "pareto", pareto(pool)


def payload_rows(pool, seconds):
    for size in SIZES if seconds >= 0.1 else SIZES[:3]:
        data = array.array("d", bytes(size))
        for name, function in (("send", first), ("echo", same)):
            def payload():
                pool.get(pool.submit(function, data))
                return size
            yield f"{name}/{size}", rate(payload, seconds)


TOPICS = {"pool": pool_rows, "load": load_rows, "payload": payload_rows}


def start(make):
    begin = time.perf_counter()
    pool = make(WORKERS)
    pool.get(pool.submit(same, 1))
    pool.close()
    return time.perf_counter() - begin


def measure_queue(seconds):
    count = int(100_000 * min(1, 3 * seconds))
    queue = FORK.Queue()
    begin = time.perf_counter()
    producer = FORK.Process(target=put_all, args=(queue, count))
    producer.start()
    for _ in range(count):
        queue.get()
    producer.join()
    return {"queue": count / (time.perf_counter() - begin)}


def measure_peer(name, seconds, topics):
    if name == "multiprocessing.Queue":
        return measure_queue(seconds)
    make = PEERS[name]
    try:
        pool = make(WORKERS)
    except ImportError as error:
        return {"missing": str(error)}
    rows = {}
    for topic in topics:
        rows.update(TOPICS[topic](pool, seconds))
    pool.close()
    # Those of MPI are the processes that mpiexec started.
    if "pool" in topics and name != "mpi4py":
        rows["start"] = statistics.median(start(make) for _ in range(3))
    if "load" in topics and name == "multiprocessing.Pool":
        for workers in (1, 2, 8, 32, 128):
            many = make(workers)
            rows[f"workers/{workers}"] = one_by_one(many, 512, seconds)
            many.close()
    return rows


def main():
    name, *rest = sys.argv[1:]
    seconds = float(rest[0]) if rest else 0.3
    topics = rest[1].split(",") if len(rest) > 1 and rest[1] else list(TOPICS)
    print(json.dumps(measure_peer(name, seconds, topics)))


if __name__ == "__main__":
    main()
