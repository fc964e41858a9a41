"""Writes docs/performance.md and its plots from results and a template: people's prose with marks
like {{table pool}}, {{plot length}}, {{value dispatch/parent/task s}}."""
import re

import model
import svg
from tables import FLOOR, OURS, PYTHON_POOLS, tables

SECONDS = {"s": 1, "ms": 1e-3, "us": 1e-6}
LENGTHS_US = (1, 3, 10, 30, 100, 300, 1000, 10_000, 100_000)


def human(value, unit):
    """Three digits and a unit that fits."""
    if value is None:
        return ""
    if unit == "share":
        return f"{value:.0%}"
    if unit in SECONDS:
        value *= SECONDS[unit]
        for scale, name in ((1, "s"), (1e-3, "ms"), (1e-6, "us")):
            if abs(value) >= scale:
                return f"{value / scale:.3g} {name}"
        return f"{value / 1e-9:.3g} ns"
    if unit == "x":
        return f"{value:.2f}"
    if unit == "count":
        return f"{value:.3g}"
    unit = unit.removesuffix(" of memory")
    for scale, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g} {name}{unit}"
    return f"{value:.3g} {unit}"


def less_is_better(unit):
    return unit in SECONDS or unit == "count" or unit.endswith("of memory")


def times_better(results, row, other, scale=1.0):
    """How many times better the row is than the other, median of the rounds' ratios."""
    ratio = results.ratio(row.key, other, scale) if other else None
    if ratio is None:
        return None
    return 1 / ratio if less_is_better(row.unit) else ratio


def verdict(row, column, limit, reached):
    """How a goal came out; a value is compared with its limit, all else is a ratio."""
    if column == OURS:
        name, wanted = "", ("<= " if less_is_better(row.unit) else ">= ") + human(limit, row.unit)
    else:
        name, wanted = column + " ", f"x{limit:.3g}"
    if reached is None:
        return f"{name}{wanted}: not measured"
    upside_down = column == OURS and less_is_better(row.unit)
    part = (limit / reached if reached > 0 else 1) if upside_down else reached / limit
    return f"{name}{wanted}: " + ("met" if part >= 1 else f"**missed by {1 - part:.0%}**")


def render_table(results, table):
    def in_turns(row, peer):
        return results.median(row.in_turns[peer]) if peer in row.in_turns else None

    peers = [p for p in table.peers
             if any(in_turns(r, p) or r.peer_key(p) and results.median(r.peer_key(p))
                    for r in table.rows)]
    quantiles = any(r.quantiles for r in table.rows)
    floors = any(r.floor for r in table.rows)
    goals = any(r.goals for r in table.rows)
    if not any(results.median(r.key) for r in table.rows):
        yield "(Not measured.)"
        return
    head = ["", "Sidestep", *(["p10", "p90"] if quantiles else []), "spread", *(["floor", "share"] if floors else []),
            *("x " + p for p in peers), *(["goal"] if goals else [])]
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in table.rows:
        value = results.median(row.key)
        if value is None:
            continue
        spread = results.spread(row.key)
        cells = [row.what, human(value, row.unit)]
        if quantiles:
            cells += [human(results.median(f"{row.key}:{name}"), row.unit) if row.quantiles else ""
                      for name in ("p10", "p90")]
        cells.append(f"{spread:.0%}" if spread is not None else "")
        reached = {OURS: value, FLOOR: times_better(results, row, row.floor)}
        if floors:
            cells += [human(results.median(row.floor), row.unit) if row.floor else "",
                      f"{reached[FLOOR]:.2f}" if reached[FLOOR] else ""]
        for peer in peers:
            reached[peer] = in_turns(row, peer) or times_better(
                results, row, row.peer_key(peer), row.peer_scale)
            cells.append(f"{reached[peer]:.3g}" if reached[peer] else "")
        if goals:
            cells.append("; ".join(verdict(row, c, limit, reached.get(c))
                                   for c, limit in row.goals.items()))
        yield "| " + " | ".join(cells) + " |"


def model_table(results):
    made = model.from_results(results)
    if not made:
        return ["(The constants of the model were not measured.)"]
    head = ["task", "workers that saturate it",
            *(f"{n} cores: tasks/s, efficiency" for n in model.MACHINES)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for length, name in model.LENGTHS.items():
        cells = [name, f"{made.saturation(length):,.0f}"]
        cells += [f"{human(made.rate(n, length), 'tasks/s')}, {made.efficiency(n, length):.0%}"
                  for n in model.MACHINES]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def number(value):
    for scale, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g}{name}"
    return f"{value:.3g}"


def count(value):
    return f"{value:.0f}"


def duration(microseconds):
    return human(microseconds, "us")


def size(value):
    for bits, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if value >= 1 << bits:
            return f"{value / (1 << bits):.3g} {name}"
    return f"{value:.0f} B"


def by_length(results):
    cpus = results.machine["cpus"]
    ideal = [(us, cpus * 1e6 / us) for us in LENGTHS_US]

    # Our tasks are an amount of work, which takes longer on a core whose twin is busy too; the
    # peers' look at the clock. Efficiency is the same of both.
    def ours(way):
        efficiency = ((us, results.median(f"load/length/{way}/{us}:efficiency"), most)
                      for us, most in ideal)
        return [(us, share * most) for us, share, most in efficiency if share]

    series = [(f"Sidestep, {way}", ours(way), False) for way in ("submit", "map")]
    series += [(peer, results.rows(f"{peer}/length"), False) for peer in PYTHON_POOLS]
    series.append(("all CPUs busy", ideal, True))
    return svg.line_plot("Throughput against task length", "length of a task", "tasks/s", series,
                         duration, number)


def by_size(results):
    series = [(f"Sidestep, {way}", results.rows(f"payload/{way}"), False)
              for way in ("send", "receive", "echo")]
    series += [(f"{peer}", results.rows(f"{peer}/send"), False)
               for peer in ("multiprocessing.Pool", "loky", "billiard", "mpi4py")]
    series.append(("memcpy, one copy", results.rows("payload/memcpy"), True))
    series.append(("two processes, shared buffer", results.rows("payload/floor_send"), True))
    return svg.line_plot("Payload, copied (peers: send)", "bytes in an argument or a result",
                         "bytes/s", series, size, number,
                         x_ticks=[1 << bits for bits in (3, 10, 16, 20, 24, 30)])


def by_workers(results):
    series = [("empty tasks", results.rows("load/workers"), False),
              ("tasks of 100 us", results.rows("load/workers_100us"), False),
              ("multiprocessing.Pool", results.rows("multiprocessing.Pool/workers"), False)]
    return svg.line_plot(f"Throughput on {results.machine['cpus']} CPUs against workers", "workers",
                         "tasks/s", series, count, number,
                         x_ticks=[1, 2, 4, 8, 16, 32, 64, 128, 200])


def by_in_flight(results):
    series = [("Sidestep", results.rows("pool/one_by_one"), False)]
    series += [(peer, results.rows(f"{peer}/one_by_one"), False) for peer in PYTHON_POOLS]
    return svg.line_plot("Empty tasks, one by one", "tasks in flight", "tasks/s", series, count,
                         number, x_ticks=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512])


def by_parent(results):
    names = {"process/spawn": ("Process, spawn", False), "process/fork": ("Process, fork", False),
             "process/forkserver": ("Process, forkserver", False), "popen": ("subprocess", False),
             "floor_spawn": ("posix_spawn, this program", True),
             "floor_static": ("posix_spawn, static program", True),
             "floor_fork": ("fork and wait", True)}
    series = [(name, [(mib, t * 1e6) for mib, t in results.rows(f"start/{row}")], dashed)
              for row, (name, dashed) in names.items()]
    return svg.line_plot("Start and end of a process against the parent's size",
                         "MiB that the parent has touched", "time", series, count, duration,
                         log_x=False)


def model_plot(results):
    made = model.from_results(results)
    if not made:
        return None
    measured = [("measured: empty tasks", results.rows("load/workers"), True)]
    return svg.line_plot("The model: throughput against workers, a core for each", "workers",
                         "tasks/s", model.series(made) + measured, count, number,
                         x_ticks=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])


PLOTS = {"length": by_length, "payload": by_size, "workers": by_workers, "in_flight": by_in_flight,
         "parent": by_parent, "model": model_plot}


def render(results, template, plots_folder):
    """The page; plots are written to the folder, which lies beside it."""
    all_tables = tables(results.machine["cpus"])
    plots_folder.mkdir(parents=True, exist_ok=True)

    def mark(match):
        kind, *words = match[1].split()
        if kind == "table" and words[0] == "model":
            return "\n".join(model_table(results))
        if kind == "table":
            return "\n".join(render_table(results, all_tables[words[0]]))
        if kind == "plot":
            drawing = PLOTS[words[0]](results)
            if drawing is None:
                return "(Not measured.)"
            (plots_folder / f"{words[0]}.svg").write_text(drawing)
            return f"![{words[0]}]({plots_folder.name}/{words[0]}.svg)"
        if kind == "value":
            return human(results.median(words[0]), words[1]) or "(not measured)"
        if kind == "machine":
            return results.machine["text"]
        if kind == "rounds":
            return str(len(results.rounds))
        if kind == "left_out":
            return "\n".join(f"- {name}: {why}" for name, why in sorted(results.left_out.items())) \
                or "Nothing was left out."
        raise ValueError(f"the template has a mark that is not known: {match[0]}")

    return re.sub(r"\{\{(.*?)\}\}", mark, template)
