"""Measures other choices beside the ones that were made, and prints a table of ratios.

usage: tools/decide [--rounds N] [--list] [VARIANT...]

A variant is this source with a few lines replaced, built into build/decide; "as it is" is always
measured too. All run in turns, a round each; a figure is the median over the rounds of
(variant's speed / speed as it is), with the least and the most: above 1 is faster. For figures that
count, on a quiet machine.
Some variants are wrong on purpose: they leave out what a better protocol might save, and so are
the most that it could bring. None of them is a build to use.
"""
import argparse
import pathlib
import shutil
import statistics
import subprocess
import sys

import results

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "decide"
RING, LANE_CHOICE = "ipc/src/queue/task_ring.hpp", "pool/src/dispatch/lane_choice.cpp"
WAIT = "pool/src/dispatch/wait_room.cpp"
ANNOUNCER = "pool/src/worker/announcer.hpp"
TASK, SPIN, SEGMENT = "pool/include/sidestep/detail/pool_task.hpp", "ipc/src/sync/spin.cpp", "ipc/src/memory/segment.cpp"


# No larger than now: a task has as much room as a slot, in memory of records (192 bytes).
def slot(size):
    inline = size - 104
    return [(RING, "kInline = 152;", f"kInline = {inline};"), (TASK, "kWide = 152;", f"kWide = {inline};"),
            (RING, "sizeof(TaskSlot) == 2 * kCacheLine", f"sizeof(TaskSlot) == {size}")]


def prefetch(wake_ups, ns):
    return [(LANE_CHOICE, "kPrefetchWakeUps = 64;", f"kPrefetchWakeUps = {wake_ups};"),
            (LANE_CHOICE, "kPrefetchNs = 250'000;", f"kPrefetchNs = {ns};")]


def announce(wake_ups):
    return [(ANNOUNCER, "kAnnounceWakeUps = 4;", f"kAnnounceWakeUps = {wake_ups};")]


def announce_of_many(wake_ups):
    return [(ANNOUNCER, "kAnnounceOfMany = 16;", f"kAnnounceOfMany = {wake_ups};")]


def spin(factor):
    return [(SPIN, "return alone ? 0ns : wake_up_cost();",
             f"return alone ? 0ns : {factor} * wake_up_cost();")]


# A plain store cannot decide who has a task that is being taken back: without it, tasks get lost.
NO_TAKE_BACK = (RING, "if (consumed_ == published_) return false;\n        SlotState expected",
                "return false;\n        SlotState expected")

# name: [(file, text, what replaces it)]
VARIANTS = {
    "nothing is taken back": [NO_TAKE_BACK],
    "the same, claim by a plain store (the most that membarrier could bring)": [NO_TAKE_BACK, (RING, """\
        return slot.state.compare_exchange_strong(expected, SlotState::taken,
                                                  std::memory_order_acquire)
                   ? &slot
                   : nullptr;""", """\
        (void)expected;
        slot.state.store(SlotState::taken, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_acquire);
        return &slot;""")],
    "slots of 128 bytes (24 inline), not 256 (152)": slot(128),
    "prefetch of 16 wake-ups, not 64": prefetch(16, 50_000),
    "prefetch of 256 wake-ups": prefetch(256, 1_000_000),
    "each result is announced": announce(0) + announce_of_many(0),
    "announced for 4 wake-ups' worth of work, also while much waits": announce_of_many(4),
    "announced for 16, also while little waits": announce(16),
    "no spinning, not as long as a wake-up takes": spin(0),
    "spinning four times as long": spin(4),
    "the supervisor drains, not who waits": [(WAIT, "if (!leader_) {", "if (false) {")],
    "shared memory in huge pages, where the kernel grants them": [(
        SEGMENT, "    sys::no_dump(mapping.bytes());\n    return Segment(std::move(fd), std::move(mapping));\n}\n\nSegment Segment::reserve",
        "    sys::use_large_pages(mapping.bytes());\n    return Segment(std::move(fd), std::move(mapping));\n}\n\nSegment Segment::reserve")],
}
BASE = "as it is"

# column: (program, row of Google Benchmark, counter or "value", faster is more?)
ROWS = {
    "one by one": ("pool_bench", "one_by_one/512/real_time", "value", True),
    "hot": ("pool_bench", "round_trip/hot/manual_time", "value", False),
    "parked": ("pool_bench", "round_trip/parked/manual_time", "value", False),
    "map": ("pool_bench", "map/10000000/real_time", "value", True),
    "10 us": ("load_bench", "length/submit/10/manual_time", "efficiency", True),
    "100 us": ("load_bench", "length/submit/100/manual_time", "efficiency", True),
    "Pareto": ("load_bench", "pareto/submit/manual_time", "efficiency", True),
    "send 1 KiB": ("payload_bench", "send/1024/real_time", "value", True),
    "send 1 MiB": ("payload_bench", "send/1048576/real_time", "value", True),
}
PROGRAMS = sorted({program for program, *_ in ROWS.values()})


def run(command, **options):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, timeout=1200,
                          **options).stdout


def build(number, patches):
    """Builds the source with these patches, and keeps the programs in build/decide/NUMBER."""
    source, objects, kept = BUILD / "source", BUILD / "objects", BUILD / str(number)
    for file, text, other in patches:
        path = source / file
        old = path.read_text()
        if text not in old:
            sys.exit(f"tools/decide: {file} has changed; adapt bench/decide.py: {text!r}")
        path.write_text(old.replace(text, other))
    if not (objects / "build.ninja").exists():
        run(["meson", "setup", objects, source, "-Dbuildtype=release", "-Dtests=false",
             "-Dexamples=false"])
    run(["ninja", "-C", objects, *(f"bench/{program}" for program in PROGRAMS)])
    kept.mkdir(exist_ok=True)
    for program in PROGRAMS:
        shutil.copy2(objects / "bench" / program, kept)
    for file in {file for file, *_ in patches}:
        shutil.copyfile(ROOT / file, source / file)


def measure(number):
    """{column: speed}"""
    speeds = {}
    for program in PROGRAMS:
        rows = {c: r for c, r in ROWS.items() if r[0] == program}
        names = "|".join(f"^{name}$" for _, name, *_ in rows.values())
        output = run([BUILD / str(number) / program, f"--benchmark_filter={names}",
                      "--benchmark_min_time=0.3", "--benchmark_format=json"],
                     stderr=subprocess.DEVNULL)
        values, _ = results.parse_google_benchmark(output)
        for column, (_, name, counter, more) in rows.items():
            row = name.replace("/manual_time", "").replace("/real_time", "")
            value = values[row][counter]
            speeds[column] = value if more else 1 / value
    return speeds


def main():
    parser = argparse.ArgumentParser(description=__doc__, prog="tools/decide",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", help="a part of a variant's name; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--list", action="store_true", help="print the variants' names")
    args = parser.parse_args()
    names = [n for n in VARIANTS if not args.variants or any(v in n for v in args.variants)]
    if args.list or not names:
        print("\n".join(VARIANTS))
        return 0 if args.list else 2
    names.insert(0, BASE)
    shutil.rmtree(BUILD / "source", ignore_errors=True)
    shutil.copytree(ROOT, BUILD / "source", ignore=shutil.ignore_patterns("build*", ".git"))
    for number, name in enumerate(names):
        print(f"Building: {name}", file=sys.stderr)
        build(number, VARIANTS.get(name, []))
    rounds = []
    for number in range(args.rounds):
        print(f"Round {number + 1}", file=sys.stderr)
        rounds.append([measure(n) for n in range(len(names))])
    print("| | " + " | ".join(ROWS) + " |")
    print("|---" * (len(ROWS) + 1) + "|")
    for n, name in enumerate(names):
        cells = []
        for column in ROWS:
            ratios = sorted(r[n][column] / r[0][column] for r in rounds)
            cells.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
