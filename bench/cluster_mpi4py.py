"""The rows of cluster_bench with mpi4py.futures: started as `mpirun ... python3 -m mpi4py.futures FILE`."""
import statistics
import time

from mpi4py.futures import MPIPoolExecutor

ROUNDS = 5


def nothing(i):
    return i


def same(data):
    return data


def median(one):
    return statistics.median(one() for _ in range(ROUNDS))


def seconds(run):
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def report(row, value):
    print(row, f"{value:.4g}", flush=True)


def main():
    with MPIPoolExecutor() as pool:
        list(pool.map(nothing, range(100)))
        tasks = 2000

        def one_by_one():
            futures = [pool.submit(nothing, 1) for _ in range(tasks)]
            for future in futures:
                future.result()

        report("one_by_one/s", median(lambda: tasks / seconds(one_by_one)))
        items = range(20 * tasks)
        report("in_batches_of_100/s", median(lambda: len(items) / seconds(
            lambda: list(pool.map(nothing, items, chunksize=100)))))
        report("map/s", median(lambda: len(items) / seconds(
            lambda: list(pool.map(nothing, items, chunksize=500)))))
        trips = [seconds(pool.submit(nothing, 1).result) for _ in range(300)]
        report("round_trip_us", 1e6 * statistics.median(trips))
        for kib in (64, 1024, 65536):
            data = bytes(kib << 10)
            report(f"payload_{kib}_KiB_MB/s", median(
                lambda: 2 * len(data) / 1e6 / seconds(lambda: pool.submit(same, data).result())))


if __name__ == "__main__":
    main()
