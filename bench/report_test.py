"""The report's own test: from results to tables, verdicts and plots, without measuring anything."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

import decide
import page
import report
import svg
from results import Results, parse_google_benchmark
from tables import FLOOR, OURS, Row, Table

HERE = pathlib.Path(__file__).resolve().parent


def results(*rounds, cpus=2, left_out=None):
    """Each round: {key: value}."""
    data = {"machine": {"cpus": cpus, "text": "a machine"}, "rounds": [],
            "left_out": left_out or {}}
    for given in rounds:
        measured = {}
        for key, value in given.items():
            program, _, row = key.partition("/")
            row, _, counter = row.partition(":")
            measured.setdefault(program, {}).setdefault(row, {})[counter or "value"] = value
        data["rounds"].append(measured)
    return Results(data)


class ResultsTest(unittest.TestCase):
    def test_a_ratio_is_the_median_of_the_rounds_ratios(self):
        r = results({"a/x": 10, "b/x": 1}, {"a/x": 100, "b/x": 50}, {"a/x": 9, "b/x": 3})
        self.assertEqual(r.ratio("a/x", "b/x"), 3)
        self.assertEqual(r.median("a/x"), 10)
        self.assertEqual(r.spread("a/x"), 9.1)

    def test_what_was_not_measured_in_a_round_is_skipped(self):
        r = results({"a/x": 10}, {"a/x": 20, "b/x": 2})
        self.assertEqual(r.ratio("a/x", "b/x"), 10)
        self.assertIsNone(r.median("c/x"))
        self.assertIsNone(r.ratio("a/x", "c/x"))

    def test_numbered_rows_are_in_order_of_their_numbers(self):
        r = results({"a/x/10": 1, "a/x/2": 2, "a/x/other": 3, "a/y/1": 4})
        self.assertEqual(r.rows("a/x"), [(2, 2), (10, 1)])

    def test_google_benchmark_rows_lose_their_suffixes_and_errors_keep_their_reason(self):
        rows, left_out = parse_google_benchmark(json.dumps({"benchmarks": [
            {"name": "a/8/iterations:20/manual_time", "real_time": 3, "time_unit": "us",
             "iterations": 20, "x_floor": 0.5},
            {"name": "b/real_time", "real_time": 3, "time_unit": "us", "items_per_second": 7},
            {"name": "c", "error_occurred": True, "error_message": "not installed"}]}))
        self.assertEqual(rows, {"a/8": {"value": 3e-6, "x_floor": 0.5}, "b": {"value": 7}})
        self.assertEqual(left_out, {"c": "not installed"})


class PageTest(unittest.TestCase):
    def test_a_row_says_share_ratio_and_how_its_goals_came_out(self):
        r = results({"a/t": 2e-6, "a/floor": 1e-6, "p/t": 20e-6})
        table = Table([Row("a task", "a/t", "s", "a/floor", "t",
                           goals={OURS: 1e-6, FLOOR: 0.5, "p": 9, "q": 2})], ("p", "q"))
        self.assertEqual(list(page.render_table(r, table))[-1],
                         "| a task | 2 us | 0% | 1 us | 0.50 | 10 | <= 1 us: **missed by 50%**; "
                         "floor x0.5: met; p x9: met; q x2: not measured |")

    def test_a_rate_above_its_goal_is_met_and_one_below_says_by_how_much(self):
        r = results({"a/r": 3e6})
        for limit, wanted in ((3e6, ">= 3 Mtasks/s: met"),
                              (4e6, ">= 4 Mtasks/s: **missed by 25%**")):
            row = Row("tasks", "a/r", "tasks/s", goals={OURS: limit})
            self.assertIn(wanted, list(page.render_table(r, Table([row])))[-1])

    def test_a_row_of_rounds_shows_their_quantiles_and_what_was_measured_in_turns(self):
        r = results({"a/r": 3e6, "a/r:p10": 2e6, "a/r:p90": 4e6, "a/r:x_q": 0.5, "a/s": 1e6})
        table = Table([Row("tasks", "a/r", "tasks/s", in_turns={"q": "a/r:x_q"}, quantiles=True,
                           goals={"q": 0.7}), Row("others", "a/s", "tasks/s")], ("q",))
        self.assertEqual(list(page.render_table(r, table))[2:],
                         ["| tasks | 3 Mtasks/s | 2 Mtasks/s | 4 Mtasks/s | 0% | 0.5 | "
                          "q x0.7: **missed by 29%** |",
                          "| others | 1 Mtasks/s |  |  | 0% |  |  |"])

    def test_an_unknown_mark_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(ValueError, "{{nonsense}}"):
                page.render(results({}), "{{nonsense}}", pathlib.Path(folder))


class PlotTest(unittest.TestCase):
    def test_a_plot_is_xml_and_shows_every_point_and_name(self):
        drawing = svg.line_plot("title", "x", "y", [("a < b", [(1, 1), (10, 1e6)], False),
                                                    ("floor", [(1, 5)], True)])
        root = xml.etree.ElementTree.fromstring(drawing)
        words = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
        self.assertIn("a < b", words)
        self.assertIn("floor", words)
        self.assertEqual(len(list(root.iter("{http://www.w3.org/2000/svg}circle"))), 2)

    def test_without_points_there_is_no_plot(self):
        self.assertIsNone(svg.line_plot("title", "x", "y", [("a", [], False)]))


class MergeTest(unittest.TestCase):
    def test_a_run_of_some_topics_leaves_the_other_rows_of_the_last_run(self):
        last = {"rounds": [{"a": {"x": 1, "y": 2}, "c": {"z": 3}}]}
        self.assertEqual(report.merged(last, 0, {"a": {"x": 5}, "b": {"w": 6}}),
                         {"a": {"x": 5, "y": 2}, "b": {"w": 6}, "c": {"z": 3}})
        self.assertEqual(report.merged(last, 1, {"a": {"x": 5}}), {"a": {"x": 5}})


class CommandTest(unittest.TestCase):
    def run_report(self, folder, *arguments):
        return subprocess.run([sys.executable, str(HERE / "report.py"), "--render", "--build",
                               folder, "--out", f"{folder}/page.md", *arguments],
                              capture_output=True, text=True, check=False)

    def test_kept_results_are_rendered_with_all_tables_and_plots(self):
        with tempfile.TemporaryDirectory() as folder:
            done = self.run_report(folder, "--results", str(HERE / "report_test.json"))
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            text = pathlib.Path(folder, "page.md").read_text()
            self.assertNotIn("{{", text)
            self.assertNotRegex(text, r"(?i)\(not measured\.?\)")
            for name in page.PLOTS:
                xml.etree.ElementTree.parse(pathlib.Path(folder, "plots", f"{name}.svg"))
            for row in page.tables(2)["pool"].rows:
                self.assertIn(f"| {row.what} |", text)

    def test_other_choices_are_made_in_lines_that_are_there(self):
        for name, patches in decide.VARIANTS.items():
            for file, text, other in patches:
                with self.subTest(name):
                    self.assertEqual((decide.ROOT / file).read_text().count(text), 1)
                    self.assertNotEqual(text, other)

    def test_rendering_without_results_says_what_to_do(self):
        with tempfile.TemporaryDirectory() as folder:
            done = self.run_report(folder)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("run it without --render first", done.stderr)


if __name__ == "__main__":
    unittest.main()
