"""The six questions of the study: each a number with its interval and a figure, from the cells that are there."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

from echodfkd.metrics.ranks import ranking_agreement
from echodfkd.metrics.summary import Interval
from echodfkd.reporting.case_table import values_at
from echodfkd.reporting.figures.charts import Line, Point, line_chart, pareto_chart
from echodfkd.reporting.figures.charts_cases import scatter_chart, strata_chart
from echodfkd.reporting.page.pareto import pareto_front
from echodfkd.reporting.study.cell import CURVE
from echodfkd.reporting.study.compared import RunModel, compare, student_interval
from tests.benchmarks.domain_gap import correlations
from tests.benchmarks.study_page import ROOT, Answer, Part, over_seeds, text_of, value_of

SIZES = ("2x1", "3x1", "4x1")
GAPS = {"short": "eight short teachers", "saves": "17 saves of one chain"}
LEAST_SEEDS = 2
LEAST_RANKED = 3


def _paired(part: Part, student: str, condition: str, base: str) -> Interval | None:
    """Difference in Dice of a student under two conditions, over the seeds that have both; None below two."""
    one, other = part.models(condition, student), part.models(base, student)
    seeds = sorted(one.keys() & other.keys())
    if len(seeds) < LEAST_SEEDS:
        return None
    return compare([one[s].values(CURVE) for s in seeds], [other[s].values(CURVE) for s in seeds]).over_runs


def _rows(found: Mapping[str, Interval | None]) -> list[tuple[float, float, float]]:
    nothing = Interval(np.nan, np.nan, np.nan, 0)
    return [(one.mean, one.low, one.high) for one in (of or nothing for of in found.values())]


def data_free(parts: Mapping[str, Part]) -> Answer:
    """(a) Drawn clips and a teacher, less the same clips with their labels."""
    part = parts["sizes"]
    found = {
        net: {size: _paired(part, f"{net}_{size}", "drawn", "labels") for size in SIZES} for net in ("paper", "ours")
    }
    known = {f"{net} {size}": gap for net, of in found.items() for size, gap in of.items() if gap is not None}
    if not known:
        return Answer(part.missing)
    said = "; ".join(f"{name} {text_of(gap, sign='+')}" for name, gap in known.items())
    text = f"Dice of the student that is taught by the teacher, less that of its twin that is taught by labels: {said}."
    title = "Dice without labels less Dice with labels, by size"
    figure = partial(
        strata_chart, SIZES, {net: _rows(of) for net, of in found.items()}, x_label="Dice, less the control"
    )
    return Answer("\n\n".join(filter(None, (text, part.missing))), title, figure)


def _of_two(part: Part, condition: str, base: str, words: str) -> Answer:
    """One student under two conditions."""
    first = next((cell for seeds in part.cells.values() for cell in seeds.values()), None)
    found = {name: _paired(part, name, condition, base) for name in first.students} if first else {}
    if not any(found.values()):
        return Answer(part.missing)
    said = "; ".join(f"{name} {text_of(gap, sign='+')}" for name, gap in found.items() if gap is not None)
    figure = partial(strata_chart, [*found], {condition: _rows(found)}, x_label=f"Dice, less {base}")
    return Answer("\n\n".join(filter(None, (f"{words}: {said}.", part.missing))), words, figure)


def specialists(parts: Mapping[str, Part]) -> Answer:
    """(b) The specialist less the generalist on the specialist's patients."""
    words = "Dice of the specialist on its patients, less that of the generalist"
    return _of_two(parts["specialists"], "specialist", "generalist", words)


def limited_teachers(parts: Mapping[str, Part]) -> Answer:
    """(c) Three limited teachers less the best of them."""
    words = "Dice of a student of all three teachers, less that of a student of the best one"
    return _of_two(parts["teachers"], "all_three", "best_single", words)


def judge_ranks(parts: Mapping[str, Part]) -> Answer:
    """(d) Rank correlation of judge and truth over all students of all conditions, seed by seed."""
    part = parts["sizes"]
    seeds = sorted({seed for of in part.cells.values() for seed in of})
    judged = {seed: _judged(part, seed) for seed in seeds}
    judged = {seed: pair for seed, pair in judged.items() if len(pair[0]) >= LEAST_RANKED}
    if len(judged) < LEAST_SEEDS:
        return Answer(part.missing)
    found = student_interval([ranking_agreement(*pair, num_resamples=1).spearman.mean for pair in judged.values()])
    text = (
        "Spearman's rank correlation of the judge's mean score with mean Dice over"
        f" {min(len(pair[0]) for pair in judged.values())} networks of a seed: {text_of(found, 2, sign='+')}."
    )
    dots = {f"seed {seed}": (np.nanmean(x, axis=1), np.nanmean(y, axis=1)) for seed, (x, y) in judged.items()}
    figure = partial(scatter_chart, dots, x_label="judge", y_label="Dice with the truth")
    return Answer("\n\n".join(filter(None, (text, part.missing))), "Judge against truth, a dot a network", figure)


def _judged(part: Part, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(networks, cases) of judge and Dice on the cases that all of a seed share."""
    models = [
        model
        for condition, seeds in part.cells.items()
        if seed in seeds
        for model in (part.models(condition, student)[seed] for student in seeds[seed].students)
    ]
    models = [model for model in models if model.values("judge_score")]
    if not models:
        return np.zeros((0, 0)), np.zeros((0, 0))
    clips = sorted(set.intersection(*(set(model.values(CURVE)) for model in models)))

    def values(metric: str) -> np.ndarray:
        return np.array([[model.values(metric).get(clip, np.nan) for clip in clips] for model in models])

    return values("judge_score"), values(CURVE)


def repetition(parts: Mapping[str, Part]) -> Answer:
    """(e) Dice by clips seen, of clips without end and of two sets that come again."""
    part, student = parts["repetition"], "ours_2x1"
    models = {condition: part.models(condition, student) for condition in part.cells}
    shared = sorted(set.intersection(*(set(of) for of in models.values()))) if models else []
    if len(shared) < LEAST_SEEDS:
        return Answer(part.missing)
    first = models["endless"][shared[0]].rows
    steps, batch = first.scored_steps(student), int(first.config["train"]["global_batch"])
    curves = {name: [[_at(of[seed], step) for seed in shared] for step in steps] for name, of in models.items()}
    said = [_cost(name, curve, curves["endless"], steps, batch) for name, curve in curves.items() if name != "endless"]
    x = np.array(steps) * float(batch)

    def lines() -> list[Line]:
        return [Line(name, x, np.array([np.mean([*map(_mean, of)]) for of in curve])) for name, curve in curves.items()]

    figure = partial(line_chart, lines(), x_label="clips seen", y_label="Dice with the truth")
    text = "Dice after all clips, less that of clips without end: " + "; ".join(said) + "."
    return Answer("\n\n".join(filter(None, (text, part.missing))), "Dice by the number of clips seen", figure)


def _at(model: RunModel, step: int) -> dict[str, float]:
    return values_at(model.rows, model.student, step, CURVE)


def _mean(values: Mapping[str, float]) -> float:
    return float(np.nanmean([*values.values()]))


Curve = Sequence[Sequence[Mapping[str, float]]]
"""Values of the cases by step and seed."""


def _cost(name: str, curve: Curve, endless: Curve, steps: Sequence[int], batch: int) -> str:
    """The last difference of a set, and the clips from which on every difference is clearly below 0."""
    gaps = [compare(of, base).over_runs for of, base in zip(curve, endless, strict=True)]
    below = len(gaps)
    while below and gaps[below - 1].high < 0:
        below -= 1
    since = f"repetition costs from {steps[below] * batch:,} clips on" if below < len(gaps) else "no cost is seen"
    return f"{name} {text_of(gaps[-1], sign='+')}, {since}"


def real_dice(parts: Mapping[str, Part]) -> Answer:
    """(f) Rank correlation of Dice on the domain wild with Dice on real clips, of the rows of `domain_gap`."""
    said = []
    for key, words in GAPS.items():
        said.append(f"{text_of(_gap_rank(key), 2, sign='+')} over {words}")
    text = (
        "Spearman's rank correlation of Dice on the phantom's domain `wild` with Dice on nine real clips:"
        f" {'; '.join(said)}. ([Real hearts](explanation/real.md) has the other domains and the warnings.)"
    )
    dots = {
        words: (np.array([float(row["wild"]) for row in of]), np.array([float(row["real"]) for row in of]))
        for words, of in ((words, _gap_rows(key)) for key, words in GAPS.items())
    }
    figure = partial(scatter_chart, dots, x_label="Dice on wild phantoms", y_label="Dice on nine real clips")
    return Answer(text, "Dice on phantoms against Dice on real clips, a dot a teacher", figure)


def _gap_rows(key: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(ROOT, f"docs/benchmarks/domain_gap_{key}.csv").open()))


@cache
def _gap_rank(key: str) -> Interval:
    return correlations(_gap_rows(key))["wild"]["spearman"]


def pareto(parts: Mapping[str, Part]) -> Answer:
    """Dice of the students of drawn clips against their weights, over the seeds."""
    part, points = parts["sizes"], []
    for number, name in enumerate(f"{net}_{size}" for net in ("paper", "ours") for size in SIZES):
        models = [*part.models("drawn", name).values()]
        if len(models) < LEAST_SEEDS:
            return Answer(part.missing)
        score, weights = (
            over_seeds([value_of(m, CURVE) for m in models], CURVE),
            models[0].rows.sizes[name]["parameters"],
        )
        points.append(Point(name, float(weights or 0), score.mean, score.low, score.high, number))
    front = [points[n] for n in pareto_front([p.cost for p in points], [p.mean for p in points], better=1)]
    text = f"On the front: {', '.join(f'{p.label} ({p.cost:,.0f} weights, Dice {p.mean:.3f})' for p in front)}."
    figure = partial(pareto_chart, points, front, x_label="weights", y_label="Dice with the truth")
    return Answer(text, "Dice of students of drawn clips against their weights", figure)


QUESTIONS: dict[str, Callable[[Mapping[str, Part]], Answer]] = {
    "a": data_free,
    "b": specialists,
    "c": limited_teachers,
    "d": judge_ranks,
    "e": repetition,
    "f": real_dice,
}


def decision(part: Part) -> str:
    """The default student: ours if better in mean Dice at every size, with intervals apart at two sizes or more."""
    scores: dict[str, dict[str, Interval]] = {}
    for size in SIZES:
        models = {net: part.models("drawn", f"{net}_{size}") for net in ("paper", "ours")}
        if any(len(of) < LEAST_SEEDS for of in models.values()):
            return part.missing
        scores[size] = {net: over_seeds([value_of(m, CURVE) for m in of.values()], CURVE) for net, of in models.items()}
    better = [size for size, of in scores.items() if of["ours"].mean > of["paper"].mean]
    apart = [size for size in better if scores[size]["ours"].low > scores[size]["paper"].high]
    said = "; ".join(f"{size}: {text_of(of['ours'])} against {text_of(of['paper'])}" for size, of in scores.items())
    holds = len(better) == len(SIZES) and len(apart) >= 2
    verdict = "four blocks with fewer filters become the default" if holds else "the paper's network stays the default"
    why = f"better at {len(better)} of {len(SIZES)} sizes, with intervals apart at {len(apart)}"
    return f"**By this rule {verdict}**: {why} ({said})."
