"""The dispatcher's limit. Of W workers and tasks of L seconds

    tasks/s = min(W / (L + w), 1 / p)

where w is what a worker adds to each task and p the CPU time of a task in the parent, whose pool is
served by one thread at a time. From W = (L + w) / p on, more workers bring nothing.
"""
from dataclasses import dataclass

LENGTHS = {1e-6: "1 us", 10e-6: "10 us", 100e-6: "100 us", 1e-3: "1 ms", 10e-3: "10 ms"}
MACHINES = (2, 64, 256)


@dataclass
class Model:
    parent: float  # seconds of a task in the parent
    worker: float  # seconds that a worker adds to a task

    def rate(self, workers, length):
        return min(workers / (length + self.worker), 1 / self.parent)

    def saturation(self, length):
        return (length + self.worker) / self.parent

    def efficiency(self, workers, length):
        """The share of the workers' time that is spent in tasks."""
        return self.rate(workers, length) * length / workers


def from_results(results):
    parent = results.median("dispatch/parent/task")
    worker = results.median("dispatch/worker/task")
    return Model(parent, worker) if parent and worker else None


def series(model):
    workers = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    return [(f"{name} tasks", [(w, model.rate(w, length)) for w in workers], False)
            for length, name in LENGTHS.items()]
