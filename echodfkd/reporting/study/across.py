"""Several runs on one page: options that differ, scores, paired tests, curves, and score against cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from echodfkd.core.errors import InputError
from echodfkd.metrics.comparison import holm, paired_test
from echodfkd.metrics.summary import NUM_RESAMPLES
from echodfkd.reporting import published
from echodfkd.reporting.case_table import mean_at, models
from echodfkd.reporting.page.curves import curve_charts
from echodfkd.reporting.page.page import render, write_files
from echodfkd.reporting.page.pareto import pareto_charts
from echodfkd.reporting.page.run_tables import ScoreRow, score_table
from echodfkd.reporting.page.table import Cell, Column, Table, score_cell
from echodfkd.reporting.page.tables import METRICS
from echodfkd.reporting.rows import RunRows, read_rows
from echodfkd.reporting.study.compared import RunModel
from echodfkd.storage.files import RunStorage

TESTED = (("dice_all", "Dice", 3), ("afd", "aFD, frames", 2), ("judge_score", "judge", 3))
MAX_RUNS = 12
MAX_PAIRS = 200
"""Pairs of networks that are tested: those of one name first, then in the order of the runs."""
_PLACE = ("name", "storage")
"""Options of a run's place, which do not change its numbers."""


def compare_runs(roots: Sequence[str], out: str) -> str:
    """Write a page on several run folders to ``out``/report.html, its CSV and figures beside it; returns its path.

    Args:
        roots: two or more run folders, local or s3://.
        out: a folder, made if it does not exist; not one of ``roots``.

    Raises:
        InputError: a folder is no run folder, there are too many, or ``out`` is one of them.
    """
    if len(roots) > MAX_RUNS:
        raise InputError(f"{len(roots)} runs, at most {MAX_RUNS} are compared on one page")
    storage = RunStorage(out)
    if storage.exists("config.yaml"):
        raise InputError(f"--out: {out} is a run folder, whose own page would be lost; name another folder")
    storage.check_writable("--out")
    runs = name_runs([(root, read_rows(RunStorage(root))) for root in roots])
    charts = {"curves": curve_charts(runs), "pareto": pareto_charts(runs)}
    table = [RunModel(run, name, rows, *which) for run, rows in runs.items() for name, which in models(rows).items()]
    tables = {"configs": config_table(runs), "scores": scores_of(table), "tests": tests_of(table)}
    page = render(
        "compare.html",
        title=" · ".join(runs),
        refresh_s=0.0,
        roots=dict(zip(runs, roots, strict=True)),
        charts={name: [chart.on_page() for chart in section] for name, section in charts.items()},
        tables=tables,
        published_note=published.ED_ES_NOTE,
    )
    storage.write("report.html", page.encode())
    write_files(storage, [*charts["curves"], *charts["pareto"], *tables.values()])
    return f"{storage.root}/report.html"


def name_runs(found: Sequence[tuple[str, RunRows]]) -> dict[str, RunRows]:
    """Runs by their configs' names, or by their folders' if names repeat."""
    names = [str(rows.config.get("name") or root.rstrip("/").rsplit("/", 1)[-1]) for root, rows in found]
    if len(set(names)) < len(names):
        names = [root for root, _ in found]
    if len(set(names)) < len(names):
        raise InputError("a run folder is named twice")
    return {name: rows for name, (_, rows) in zip(names, found, strict=True)}


def config_table(runs: Mapping[str, RunRows]) -> Table:
    """Options that are not the same in all runs."""
    flat = {name: dict(_flatten(rows.config)) for name, rows in runs.items()}
    options = dict.fromkeys(option for values in flat.values() for option in values)
    cells, listed = [], []
    for option in options:
        values = [flat[name].get(option, "not there") for name in runs]
        if option not in _PLACE and len(set(values)) > 1:
            cells.append([Cell(option, code=True), *(Cell(value, code=True) for value in values)])
            listed.append({"option": option, **dict(zip(runs, values, strict=True))})
    title, empty = "Options that differ", "The configs of these runs are the same but for their names."
    return Table("configs", title, [Column("option"), *map(Column, runs)], cells, listed, empty=empty)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, default=str)


def scores_of(models: Sequence[RunModel]) -> Table:
    """Every model of every run against the metrics that any of them has."""
    found = []
    for model in models:
        means = {
            m.name: mean_at(model.rows, model.student, model.step, m.name, resamples=NUM_RESAMPLES) for m in METRICS
        }
        scores = {metric: mean.to_json() for metric, mean in means.items() if mean.n}
        cells = [Cell(model.run), Cell(model.name, notes=[f"step {model.step:,}"] if model.student else [])]
        found.append(ScoreRow(cells, {"run": model.run, "model": model.name, "step": model.step}, scores))
    return score_table(["run", "model"], found, empty="None of these runs has scores yet.")


def tests_of(models: Sequence[RunModel]) -> Table:
    """Paired tests between models of different runs, on the cases that both were scored on."""
    pairs = [(a, b) for a, b in combinations(models, 2) if a.run != b.run]
    pairs = sorted(pairs, key=lambda pair: pair[0].name != pair[1].name)[:MAX_PAIRS]
    cells, listed = [], []
    for metric, label, digits in TESTED:
        values = {id(model): model.values(metric) for model in models}
        usable = [(a, b) for a, b in pairs if values[id(a)].keys() & values[id(b)].keys()]
        tests = [paired_test(values[id(a)], values[id(b)]) for a, b in usable]
        for (a, b), test, adjusted in zip(usable, tests, holm([test.wilcoxon_p for test in tests]), strict=True):
            found = test.difference.to_json()
            clear = np.isfinite(adjusted) and adjusted < 0.05
            cells.append(
                [
                    Cell(label), Cell(f"{a.run} / {a.name}"), Cell(f"{b.run} / {b.name}"), score_cell(found, digits),
                    _p_cell(test.wilcoxon_p), _p_cell(adjusted), Cell("clear" if clear else "not clear"),
                ]
            )  # fmt: skip
            listed.append(
                {
                    "metric": metric, "run_a": a.run, "model_a": a.name, "run_b": b.run, "model_b": b.name,
                    **found, "wilcoxon_p": test.wilcoxon_p, "wilcoxon_p_holm": adjusted, "left_out": test.left_out,
                }
            )  # fmt: skip
    columns = [Column("metric"), Column("a"), Column("b"), Column("a - b", True), Column("p", True)]
    columns += [Column("p, Holm", True), Column("difference")]
    note = (
        "Mean difference over the cases that both were scored on, with its paired-bootstrap 95 % interval and their"
        " number; Wilcoxon's signed-rank test, adjusted for all pairs of a metric. Clear: adjusted p below 0.05."
    )
    empty = "No two networks of different runs were scored on the same cases, so nothing can be tested in pairs."
    return Table("tests", "Paired tests", columns, cells, listed, empty=empty, note=note)


def _p_cell(p: float) -> Cell:
    return Cell(f"{p:.2g}", p) if np.isfinite(p) else Cell("–")
