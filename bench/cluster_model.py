#!/usr/bin/env python3
"""Where the first process of a job saturates, and a simulation of many hosts that says whether that is so.

Of H hosts with C workers each, tasks of L seconds, and p seconds of the first process for a task,

    tasks/s = min(H * C / (L + w), 1 / p)

where w is what a host adds to a task. From H = (L + w) / (p * C) hosts on, more of them bring nothing:
then a chunk of n items is one task of n * L seconds (map's chunksize), or a task has a pool of its own on
its host. The simulation has what the formula leaves out: answers that come in batches, a time on the way,
and as many tasks ahead of a host as its lane sends (pool/src/lanes/host_link.hpp).

usage: cluster_model.py [--parent SECONDS] [--host SECONDS] [--way SECONDS]    (medians of cluster_bench:
parent is 1 / one_by_one, way half of round_trip)
"""
import argparse
import collections
import heapq

HOSTS = (10, 100, 1000)
WORKERS = 32  # of a host
LENGTHS = {0.001: "1 ms", 0.1: "100 ms", 1.0: "1 s"}
BATCH = 64  # answers of a host that are read at once, at most


def formula(hosts, length, parent, host):
    return min(hosts * WORKERS / (length + host), 1 / parent)


def ahead_of(length):
    """How many tasks may wait on a host: its lane's rule (kPrefetchNs, kMostForOneWorker)."""
    return WORKERS * (min(max(int(0.004 / length), 1), 256) - 1)


def simulate(hosts, length, parent, host, way):
    """Tasks a second over the middle of a run, event by event."""
    ahead = ahead_of(length)
    total = max(3 * hosts * (WORKERS + ahead), 20_000)
    events, order = [], 0  # (when, order, host, how many ended)
    free = [WORKERS] * hosts
    waiting = [0] * hosts
    sent = ended = 0
    clock = 0.0
    done_at = []
    inbox = collections.deque()
    ready = collections.Counter({h: WORKERS + ahead for h in range(hosts)})
    to_fill = collections.deque(range(hosts))

    def begin(at, h):
        nonlocal order
        while free[h] and waiting[h]:
            free[h] -= 1
            waiting[h] -= 1
            order += 1
            heapq.heappush(events, (at + length + host, order, "end", h))

    while ended < total:
        # The first process does one thing at a time: what has come, else what is to be sent.
        if to_fill and sent < total:
            h = to_fill.popleft()
            count = min(ready.pop(h, 0), total - sent)
            sent += count
            clock += count * parent / 2
            order += 1
            heapq.heappush(events, (clock + way, order, "tasks", (h, count)))
        while events and (events[0][0] <= clock or not (inbox or (to_fill and sent < total))):
            at, _, kind, what = heapq.heappop(events)
            if kind == "tasks":
                h, count = what
                waiting[h] += count
                begin(at, h)
            elif kind == "end":
                free[what] += 1
                begin(at, what)
                order += 1
                heapq.heappush(events, (at + way, order, "answer", what))
            else:
                inbox.append(what)
                clock = max(clock, at)
        for _ in range(min(BATCH, len(inbox))):
            h = inbox.popleft()
            clock += parent / 2
            ended += 1
            done_at.append(clock)
            if h not in ready:
                to_fill.append(h)
            ready[h] += 1
    middle = done_at[len(done_at) // 4:3 * len(done_at) // 4]
    return len(middle) / (middle[-1] - middle[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parent", type=float, default=20e-6)
    parser.add_argument("--host", type=float, default=20e-6)
    parser.add_argument("--way", type=float, default=100e-6)
    given = parser.parse_args()
    print("| tasks of | " + " | ".join(f"{h} hosts: formula, simulated" for h in HOSTS)
          + " | saturated from |\n|" + "---|" * (len(HOSTS) + 2))
    for length, name in LENGTHS.items():
        cells = []
        for hosts in HOSTS:
            expected = formula(hosts, length, given.parent, given.host)
            seen = simulate(hosts, length, given.parent, given.host, given.way)
            cells.append(f"{expected:,.0f}, {seen:,.0f}")
        edge = (length + given.host) / (given.parent * WORKERS)
        print(f"| {name} | " + " | ".join(cells) + f" | {edge:,.0f} hosts |")


if __name__ == "__main__":
    main()
