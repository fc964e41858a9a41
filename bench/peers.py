"""The same work as pool_bench, done by Python's own pools. Prints JSON: {name: {row: value}}.

usage: python3 peers.py [SECONDS]     SECONDS: time for each row (default 0.5)
Rows: one_by_one, map (items/s); round_trip (s); send_BYTES, echo_BYTES (bytes/s); start (s)
"""
import array
import collections
import concurrent.futures
import json
import multiprocessing
import statistics
import sys
import time

SIZES = (64 << 10, 1 << 20, 64 << 20)


def same(x):
    return x


def first(values):
    return values[0]


def rate(step, seconds, warm_up=3):
    """Calls of step() in a second, where step returns how much it did."""
    for _ in range(warm_up):
        step()
    done, begin = 0, time.perf_counter()
    while True:
        done += step()
        elapsed = time.perf_counter() - begin
        if elapsed > seconds:
            return done / elapsed


def measure(submit, get, map_, seconds):
    rows = {}
    flying = collections.deque()

    def one():
        for _ in range(200):
            if len(flying) == 512:
                get(flying.popleft())
            flying.append(submit(same, 1))
        return 200

    rows["one_by_one"] = rate(one, seconds)
    while flying:
        get(flying.popleft())
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        get(submit(same, 1))
        times.append(time.perf_counter() - begin)
    rows["round_trip"] = statistics.median(times)
    items = list(range(1_000_000))

    def map_once():
        collections.deque(map_(items), maxlen=0)
        return len(items)

    rows["map"] = rate(map_once, seconds, warm_up=0)
    for size in SIZES:
        data = array.array("d", bytes(size))
        for name, function in (("send", first), ("echo", same)):
            def payload():
                get(submit(function, data))
                return size
            rows[f"{name}_{size}"] = rate(payload, seconds, warm_up=1)
    return rows


def start_time(make):
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        with make() as pool:
            (pool.apply if hasattr(pool, "apply") else lambda f, a: pool.submit(f, *a).result())(
                same, (1,))
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.5
    results = {}
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        results["multiprocessing.Pool"] = measure(
            lambda f, x: pool.apply_async(f, (x,)), lambda r: r.get(),
            lambda items: pool.map(same, items), seconds)
    results["multiprocessing.Pool"]["start"] = start_time(lambda: context.Pool(2))
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        results["ProcessPoolExecutor"] = measure(
            pool.submit, lambda f: f.result(),
            lambda items: pool.map(same, items, chunksize=10_000), seconds)
    results["ProcessPoolExecutor"]["start"] = start_time(
        lambda: concurrent.futures.ProcessPoolExecutor(2, mp_context=context))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
