"""Steering: which patients were drawn more often, over time, the signal that asked for it, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.config.file import config_from_dict
from echodfkd.config.sections.source import SourceConfig
from echodfkd.core.errors import EchoDFKDError
from echodfkd.metrics.summary import bootstrap_mean
from echodfkd.reporting.case_table import values_at
from echodfkd.reporting.figures import charts
from echodfkd.reporting.page.chart import Chart
from echodfkd.reporting.page.table import Cell, Column, Table, score_cell
from echodfkd.reporting.rows import RunRows, column
from echodfkd.sources.steering.strata import Cells
from echodfkd.storage.steering import Law

MAX_DRAWN = 8
"""Strata of a chart: those whose share of the clips changed most."""

TITLE = "Strata of the clips"
SCORES = (("dice_all", "Dice with the truth"), ("judge_score", "Judge score"))
RESAMPLES = 400
SIGNALS = {
    "disagreement": ("Disagreement of students and teacher", "students and teacher differ by {:.3f}"),
    "temporal": ("Difference of students and teacher in change", "their changes from frame to frame differ by {:.3f}"),
    "judge": ("The judge's shortfall of the students", "the judge scores the students {:.3f} below the teacher"),
}
"""Title and clause of a signal by `source.steering.follow`."""


@dataclass(frozen=True)
class _Steered:
    """A run by law and stratum: ``shares`` and ``losses`` float64 (laws, strata), NaN if unknown."""

    names: list[str]
    known: list[int]
    """Strata that hold patients."""
    drawn: list[int]
    """Those of the charts."""
    starts: np.ndarray
    shares: np.ndarray
    losses: np.ndarray
    weights: tuple[float, ...]
    signal: str
    """Of `SIGNALS`."""
    scores: dict[str, list[dict[str, Any]]]
    """By metric."""

    @staticmethod
    def of(rows: RunRows, laws: Sequence[Law]) -> _Steered:
        cells, last = _cells(rows), laws[-1].weights
        names = cells.names if cells is not None else [f"stratum {number}" for number in range(len(last))]
        shares = _shares(rows, laws, names) if cells is not None else np.full((len(laws), len(names)), np.nan)
        known = [k for k, weight in enumerate(last) if weight > 0]
        change = np.nanmax(np.nan_to_num(shares), axis=0) - np.nanmin(np.nan_to_num(shares), axis=0)
        return _Steered(
            names,
            known,
            sorted(known, key=lambda k: -change[k])[:MAX_DRAWN],
            np.array([law.step for law in laws], np.float64),
            shares,
            np.array([[value or np.nan for value in law.loss] for law in laws]),
            last,
            _signal(rows),
            {metric: found for metric, _ in SCORES if (found := _scores(rows, cells, names, metric))},
        )


def steering_section(rows: RunRows) -> tuple[list[Chart], Table]:
    """Charts over updates of share, signal and scores by stratum, and a table of all strata."""
    laws = _laws(rows)
    if not laws:
        return [], Table("steering", TITLE, [], [], empty="This run is not steered.")
    run = _Steered.of(rows, laws)
    found = [
        _chart(run, "share", "Share of the clips", run.shares),
        _chart(run, run.signal, SIGNALS[run.signal][0], run.losses),
        *(_score_chart(run, metric) for metric in run.scores),
    ]
    return found, _table(run)


def steering_sentences(rows: RunRows) -> list[str]:
    """What the page says first; nothing of a run that is not steered."""
    laws = _laws(rows)
    if not laws:
        return []
    back = sum(bool(value) for value in rows.ledger["comes_back"].to_pylist())
    said = [f"{len(laws)} laws drew the patients of this run. Of {len(rows.ledger):,} clips {back:,} came back."]
    law, cells = laws[-1], _cells(rows)
    weights = {k: weight for k, weight in enumerate(law.weights) if weight > 0}
    if cells is not None and law.towards and weights:
        most = min(weights, key=lambda k: weights[k])
        known = [value for k, value in enumerate(law.loss) if value > 0]
        clause = SIGNALS[_signal(rows)][1].format(law.loss[most])
        why = f", where {clause} (mean of the strata {np.mean(known):.3f})" if known and law.loss[most] else ""
        said.append(
            f"The last one drew patients of {cells.names[most]} {1 / weights[most]:.1f} times as often as chance does"
            f"{why}."
        )
    return said


def _laws(rows: RunRows) -> list[Law]:
    """The laws that clips were drawn by; the newest ones are for updates to come. None of a run that is not steered."""
    if rows.steering is None:
        return []
    return [law for law in rows.steering.laws if law.step == 0 or law.step < rows.manifests[-1].step]


def _cells(rows: RunRows) -> Cells | None:
    """The strata of the run's config; None if it cannot be read, or is of other strata."""
    source = _source(rows)
    if source is None:
        return None
    cells = Cells.of(source)
    fits = rows.steering is not None and len(cells.names) == len(rows.steering.laws[0].weights)
    return cells if fits else None


def _source(rows: RunRows) -> SourceConfig | None:
    """The run's `source`; None if its config is a stranger's that cannot be read."""
    try:
        return config_from_dict(rows.config).source
    except EchoDFKDError:
        return None


def _signal(rows: RunRows) -> str:
    """The signal that the run measured."""
    source = _source(rows)
    return source.steering.follow if source is not None and source.steering.follow in SIGNALS else "disagreement"


def _shares(rows: RunRows, laws: Sequence[Law], names: Sequence[str]) -> np.ndarray:
    """Share of each stratum in the clips trained under each law, float64 (laws, strata); NaN without clips."""
    steps, strata = column(rows.ledger, "step"), rows.ledger["stratum"].to_pylist()
    places = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(laws), len(names) + 1))
    starts = [law.step for law in laws]
    for law, stratum in zip(np.searchsorted(starts, steps - 1, side="right") - 1, strata, strict=True):
        counts[max(law, 0), places.get(stratum, len(names))] += 1
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), np.nan)[:, :-1]


def _scores(rows: RunRows, cells: Cells | None, names: Sequence[str], metric: str) -> list[dict[str, Any]]:
    """Mean of a metric by student, scored step and stratum, for strata with held-out cases."""
    if cells is None:
        return []
    of_case: dict[str, str] = {}
    for row in rows.cases.to_pylist():
        if all(row.get(name) is not None for name in cells.axes):
            try:
                of_case[row["clip_id"]] = names[cells.place(row)]
            except ValueError:  # a word that no phantom has
                continue
    found = []
    for student in rows.students:
        for step in rows.scored_steps(student):
            values = values_at(rows, student, step, metric)
            for name in names:
                mine = np.array([value for clip, value in values.items() if of_case.get(clip) == name])
                if np.isfinite(mine).any():
                    score = bootstrap_mean(mine, num_resamples=RESAMPLES).to_json()
                    found.append({"student": student, "step": step, "stratum": name, "metric": metric, **score})
    return found


def _chart(run: _Steered, name: str, title: str, values: np.ndarray) -> Chart:
    lines, data = [], []
    for k in run.drawn:
        known = np.isfinite(values[:, k])
        if known.any():
            lines.append(charts.Line(run.names[k], run.starts[known], values[known, k]))
    for law, start in enumerate(run.starts):
        data += [{"step": int(start), "stratum": run.names[k], name: float(values[law, k])} for k in run.known]
    if not lines:
        return Chart(f"steering_{name}", title, "No law has been measured yet.")
    few = len(run.drawn) < len(run.known)
    caption = f"by law; the {len(run.drawn)} strata whose share changed most" if few else "by law; all strata"
    figure = charts.line_chart(lines, x_label="first step of the law", y_label=name)
    return Chart(f"steering_{name}", title, caption, figure, data)


def _score_chart(run: _Steered, metric: str) -> Chart:
    """Of the first student, over steps."""
    scores, label = run.scores[metric], dict(SCORES)[metric]
    student, lines = scores[0]["student"], []
    for k in run.drawn:
        if mine := _of(scores, student, run.names[k]):
            x, y, low, high = np.array([[r["step"], r["mean"], r["low"], r["high"]] for r in mine], np.float64).T
            lines.append(charts.Line(run.names[k], x, y, low, high))
    if not lines:
        return Chart(f"steering_{metric}", f"{label} by stratum", "No held-out case lies in one of these strata.")
    counts = sorted({row["n"] for row in scores})
    caption = f"of {student}, over steps; n = {counts[0]:,} to {counts[-1]:,} held-out cases in a stratum"
    figure = charts.line_chart(lines, x_label="step", y_label=label)
    return Chart(f"steering_{metric}", f"{label} by stratum", caption, figure, scores)


def _of(scores: Sequence[dict[str, Any]], student: str, stratum: str) -> list[dict[str, Any]]:
    return [row for row in scores if (row["student"], row["stratum"]) == (student, stratum)]


def _table(run: _Steered) -> Table:
    cells, listed = [], []
    for k in run.known:
        weight = run.weights[k]
        row: dict[str, Any] = {"stratum": run.names[k], "weight": weight}
        shown = [Cell(run.names[k])]
        for key, values, digits in (("share", run.shares, ".1%"), (run.signal, run.losses, ".3f")):
            first, last = _ends(values[:, k])
            row |= {f"{key}_first": first, f"{key}_last": last}
            shown.append(Cell(f"{first:{digits}} → {last:{digits}}", last) if np.isfinite(first) else Cell("–"))
        shown.append(Cell(f"{weight:.2f}", weight))
        for metric, scores in run.scores.items():
            mine = _of(scores, scores[0]["student"], run.names[k])
            for word, score in (("first", mine[0]), ("last", mine[-1])) if mine else (("first", None), ("last", None)):
                shown.append(score_cell(score, 3))
                row[f"{metric}_{word}"] = score["mean"] if score else None
        cells.append(shown)
        listed.append(row)
    columns = [
        Column("stratum"),
        Column("share of clips", True, help="Of those trained under the first and the last law, repeats included."),
        Column(run.signal, True, help=f"{SIGNALS[run.signal][0]}, a mean: of the first measured law and of the last."),
        Column("importance weight", True, help="Share of the patients by share of the clips, under the last law."),
        *(Column(f"{dict(SCORES)[metric]}, {word}", True) for metric in run.scores for word in ("first", "last")),
    ]
    return Table("steering", TITLE, columns, cells, listed, empty="No stratum holds patients.")


def _ends(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(known[0]), float(known[-1])) if len(known) else (float("nan"), float("nan"))
