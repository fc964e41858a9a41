"""What was measured: values of several rounds, their medians, and ratios of values that were taken
in the same round.

A value's key is PROGRAM/ROW, or PROGRAM/ROW:COUNTER: pool/one_by_one/512, loky/map,
load/length/submit/10:efficiency. A row's value is its rate if it has one, else seconds.
"""
import json
import statistics

UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
NOT_COUNTERS = {"real_time", "cpu_time", "iterations", "repetitions", "repetition_index", "threads",
                "family_index", "per_family_instance_index", "items_per_second",
                "bytes_per_second"}


def parse_google_benchmark(output):
    """({row: {"value": number, counter: number...}}, {row: why it was left out})"""
    rows, left_out = {}, {}
    for b in json.loads(output)["benchmarks"]:
        name = b["name"].split("/iterations:")[0]
        name = name.replace("/manual_time", "").replace("/real_time", "")
        if b.get("error_occurred"):
            left_out[name] = b["error_message"]
            continue
        rows[name] = {k: v for k, v in b.items()
                      if isinstance(v, (int, float)) and k not in NOT_COUNTERS}
        rows[name]["value"] = (b.get("items_per_second") or b.get("bytes_per_second") or
                               b["real_time"] * UNIT_SECONDS[b["time_unit"]])
    return rows, left_out


class Results:
    def __init__(self, data):
        self.machine, self.rounds, self.left_out = data["machine"], data["rounds"], data["left_out"]

    def in_round(self, number, key):
        """None if it was not measured."""
        key, _, counter = key.partition(":")
        program, _, row = key.partition("/")
        values = self.rounds[number].get(program, {}).get(row, {})
        return values.get(counter or "value")

    def all(self, key):
        values = [self.in_round(n, key) for n in range(len(self.rounds))]
        return [v for v in values if v is not None]

    def median(self, key):
        values = self.all(key)
        return statistics.median(values) if values else None

    def spread(self, key):
        """(highest - lowest) / median"""
        values = self.all(key)
        middle = statistics.median(values) if values else 0
        return (max(values) - min(values)) / middle if middle else None

    def ratio(self, key, other, scale=1.0):
        """Median over the rounds of value / (other value * scale)."""
        ratios = []
        for n in range(len(self.rounds)):
            mine, theirs = self.in_round(n, key), self.in_round(n, other)
            if mine and theirs:
                ratios.append(mine / (theirs * scale))
        return statistics.median(ratios) if ratios else None

    def rows(self, prefix):
        """[(number, median)] of the rows PREFIX/NUMBER, smallest first."""
        program, _, start = prefix.partition("/")
        numbers = {row[len(start) + 1:] for measured in self.rounds
                   for row in measured.get(program, {}) if row.startswith(start + "/")}
        return [(n, self.median(f"{prefix}/{n}"))
                for n in sorted(int(n) for n in numbers if n.isdigit())]
