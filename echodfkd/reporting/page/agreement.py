"""Judge against truth, ejection fraction against the known one, and calibration of the soft masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

from echodfkd.evaluation.against_truth import RELIABILITY
from echodfkd.metrics.calibration import NUM_BINS
from echodfkd.metrics.cardiac import mean_absolute_error, pearson_r
from echodfkd.metrics.comparison import bias, intraclass_correlation, lower_limit, upper_limit
from echodfkd.metrics.summary import bootstrap_pairs
from echodfkd.reporting.case_table import models, paired, values_at
from echodfkd.reporting.figures import charts_cases
from echodfkd.reporting.page.chart import Chart
from echodfkd.reporting.page.table import Cell, Column, Table, score_cell
from echodfkd.reporting.rows import RunRows, column

EF_KINDS = {
    "ef_head": "EF head",
    "ef_blind": "area-length at blind ED and ES",
    "ef_simpson": "Simpson's rule at the known ED and ES",
    "ef_area_length": "area-length at the known ED and ES",
    "ef_area": "areas at the known ED and ES, biased by design",
}
"""Ejection fractions of a case that can be held against the known one."""

JUDGE_READINGS = {
    "judge_truth_score": ("score of the truth's own mask, to hold the models' against", 3),
    "judge_truth_motion": ("motion of the truth's own mask, likewise", 3),
    "judge_ef_pearson": ("ejection fraction, Pearson r with the known one", 2),
    "judge_ef_mae": ("ejection fraction, mean error in points", 1),
    "judge_ef_bias": ("ejection fraction, bias in points", 1),
    "judge_phase_ed_error_frames": ("frames from ED to the nearest detection in its cycle", 2),
    "judge_phase_es_error_frames": ("frames from ES to the nearest detection in its cycle", 2),
    "judge_phase_gap": ("its cycle at ED less at ES, standard deviations", 2),
}
"""A judge's readings without a model's mask, by their names in `summary.json` -> words and digits."""


def spearman_r(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation over the last axis, float64 (...): Pearson's of the ranks, ties share their mean."""
    return pearson_r(rankdata(x, axis=-1), rankdata(y, axis=-1)) if x.shape[-1] else pearson_r(x, y)


def judge_section(rows: RunRows) -> tuple[Chart, Table]:
    """Judge score against Dice, a dot per case and model, and how far the two agree in each model."""
    title, seed = "Judge against truth", int(rows.config.get("seed") or 0)
    pairs = {
        name: found
        for name, (student, step) in models(rows).items()
        if len((found := paired(rows, student, step, "dice_all", "judge_score"))[0])
    }
    columns = [Column("model"), Column("Spearman", True), Column("Pearson", True)]
    if not pairs:
        empty = "No case has both a judge score and a Dice with the truth."
        return Chart("judge_truth", title, empty), Table("judge_agreement", title, columns, [], empty=empty)
    data = [
        {"model": name, "clip_id": clip, "dice_all": float(x), "judge_score": float(y)}
        for name, (clips, of_dice, of_judge) in pairs.items()
        for clip, x, y in zip(clips, of_dice, of_judge, strict=True)
    ]
    figure = charts_cases.scatter_chart(
        {name: (x, y) for name, (_, x, y) in pairs.items()}, x_label="Dice with the truth", y_label="judge score"
    )
    cells, listed = [], []
    for name, (_, x, y) in pairs.items():
        both = {
            "spearman": bootstrap_pairs(spearman_r, x, y, seed=seed).to_json(),
            "pearson": bootstrap_pairs(pearson_r, x, y, seed=seed).to_json(),
        }
        cells.append([Cell(name), *(score_cell(found, 2) for found in both.values())])
        listed += [{"model": name, "statistic": kind, **found} for kind, found in both.items()]
    caption = f"n = {len(data):,} (cases x models), each at its last scored step"
    note = "Over the cases of one model: 1 says that the judge puts them in the truth's order, 0 that it does not know."
    return (
        Chart("judge_truth", title, caption, figure, data),
        Table("judge_agreement", title, columns, cells, listed, note=note),
    )


def ef_section(rows: RunRows) -> tuple[Chart, Table]:
    """Bland-Altman of the ejection fraction of the first model that has one, and the numbers of all."""
    title = "Ejection fraction against the known one"
    truth = dict(zip(column(rows.cases, "clip_id"), column(rows.cases, "ef_percent"), strict=True))
    seed = int(rows.config.get("seed") or 0)
    columns = [Column("model"), Column("measured by")]
    columns += [
        Column(label, True) for label in ("bias, points", "lower limit", "upper limit", "mean error", "r", "ICC")
    ]
    statistics = {
        "bias": bias, "lower limit": lower_limit, "upper limit": upper_limit, "mean error": mean_absolute_error,
        "pearson": pearson_r, "icc": intraclass_correlation,
    }  # fmt: skip
    cells, listed = [], []
    drawn: tuple[str, str, list[str], np.ndarray, np.ndarray] | None = None
    for name, (student, step) in models(rows).items():
        for kind, words in EF_KINDS.items():
            found = {c: v for c, v in values_at(rows, student, step, kind).items() if np.isfinite(v)}
            clips = [clip for clip in found if np.isfinite(truth.get(clip, np.nan))]
            if not clips:
                continue
            x, y = np.array([found[c] for c in clips]), np.array([truth[c] for c in clips], np.float64)
            drawn = drawn or (name, words, clips, x, y)
            scores = {key: bootstrap_pairs(wanted, x, y, seed=seed).to_json() for key, wanted in statistics.items()}
            digits = {"pearson": 2, "icc": 2}
            cells.append(
                [Cell(name), Cell(words), *(score_cell(score, digits.get(key, 1)) for key, score in scores.items())]
            )
            listed += [{"model": name, "kind": kind, "statistic": key, **score} for key, score in scores.items()]
    if drawn is None:
        empty = "No case has both a known ejection fraction and a measured one."
        return Chart("bland_altman", title, empty), Table("ef_agreement", title, columns, [], empty=empty)
    note = (
        "Points of ejection fraction. 95 % of differences lie between the limits if they are normal. ICC(2,1): absolute"
        " agreement, which a bias lowers and r does not see."
    )
    return _bland_altman(drawn, listed), Table("ef_agreement", title, columns, cells, listed, note=note)


def judge_reading_table(summary: dict[str, Any]) -> Table:
    """The judge's readings of the videos against the truth; empty if it only rates masks."""
    scores = summary["judge"]["scores"]
    known = [name for name in JUDGE_READINGS if name in scores]
    cells = [[Cell(JUDGE_READINGS[name][0]), score_cell(scores[name], JUDGE_READINGS[name][1])] for name in known]
    listed = [{"metric": name, **scores[name]} for name in known]
    note = (
        "Without a model's mask: the cycle from captions of the mitral valve, the ejection fraction from its prompts."
    )
    columns = [Column("reading"), Column("mean over cases", True)]
    empty = "The judge read nothing from the videos of this run."
    return Table("judge_reading", "What the judge reads without a mask", columns, cells, listed, note=note, empty=empty)


def _bland_altman(drawn: tuple[str, str, list[str], np.ndarray, np.ndarray], listed: list[dict[str, Any]]) -> Chart:
    name, words, clips, x, y = drawn
    of_first = {row["statistic"]: row["mean"] for row in listed[:5]}
    limits = tuple(np.nan if of_first[key] is None else of_first[key] for key in ("lower limit", "upper limit"))
    figure = charts_cases.bland_altman_chart(x, y, bias=of_first["bias"], limits=limits, unit="EF points")  # type: ignore[arg-type]
    data = [
        {"model": name, "clip_id": clip, "predicted": float(a), "known": float(b)}
        for clip, a, b in zip(clips, x, y, strict=True)
    ]
    caption = f"Bland-Altman of {name}, {words}; n = {len(clips):,} cases"
    return Chart("bland_altman", "Ejection fraction against the known one", caption, figure, data)


def reliability_section(rows: RunRows) -> Chart:
    """Share of truth among the pixels of each predicted probability: pooled over cases, a line per model."""
    title, data, curves = "Reliability of the soft masks", [], {}
    for name, (student, step) in models(rows).items():
        bins = _pooled(rows, student, step)
        if bins:
            curves[name] = (np.array([row["probability"] for row in bins]), np.array([row["share"] for row in bins]))
            data += [{"model": name, **row} for row in bins]
    if not curves:
        return Chart("reliability", title, "No reliability curve was stored with the scores of this run.")
    cases = len({str(clip) for clip in rows.cases["clip_id"].to_pylist()})
    first = next(iter(curves))
    pixels = sum(row["pixels"] for row in data if row["model"] == first)
    caption = f"{NUM_BINS} equal bins of probability, n = {pixels:,} pixels of {cases:,} cases per model"
    return Chart("reliability", title, caption, charts_cases.reliability_chart(curves), data)


def _pooled(rows: RunRows, student: str, step: int) -> list[dict[str, Any]]:
    at = rows.score_groups[student, step]
    names = rows.score_columns["metric"][at]
    found = []
    for number in range(NUM_BINS):
        chosen = at[names == f"{RELIABILITY}{number:02d}"]
        pixels = rows.score_columns["n"][chosen].astype(np.float64)
        prob, share = rows.score_columns["threshold"][chosen], rows.score_columns["value"][chosen]
        if (total := pixels.sum()) > 0:
            mean = (float((values * pixels).sum() / total) for values in (prob, share))
            found.append(
                {"bin": number, **dict(zip(("probability", "share"), mean, strict=True)), "pixels": int(total)}
            )
    return found
