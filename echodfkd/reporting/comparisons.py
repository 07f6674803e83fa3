"""Students compared in pairs, and their scores by stratum of patients and images: parts of ``summary.json``.

Everything is at a student's last scored step.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from echodfkd.metrics.comparison import holm, paired_test
from echodfkd.metrics.strata import EDGES, WORDS, strata_of
from echodfkd.metrics.summary import bootstrap_mean
from echodfkd.reporting.case_table import last_values
from echodfkd.reporting.rows import RunRows, column

COMPARED = ("dice_all", "dice_ed", "dice_es")
STRATIFIED = (*COMPARED, "hd95_all_mm", "hd95_all_px", "judge_score")
MAX_STUDENTS = 20
"""Students compared in pairs: the first ones of the config (20 make 190 pairs)."""


def compare_students(rows: RunRows, *, seed: int) -> list[dict[str, Any]]:
    """Every pair of students on the cases that both were scored on, metric by metric.

    ``wilcoxon_p`` is as tested, ``wilcoxon_p_holm`` adjusted for all pairs of the run in this metric.
    """
    found = []
    names = [name for name in rows.students if rows.scored_steps(name)][:MAX_STUDENTS]
    for metric in COMPARED:
        values = {name: last_values(rows, name, metric) for name in names}
        pairs = [(a, b) for a, b in combinations(names, 2) if values[a] and values[b]]
        tests = [paired_test(values[a], values[b], seed=seed) for a, b in pairs]
        adjusted = holm([test.wilcoxon_p for test in tests])
        for (a, b), test, p in zip(pairs, tests, adjusted, strict=True):
            known = p if np.isfinite(p) else None
            found.append({"a": a, "b": b, "metric": metric, **test.to_json(), "wilcoxon_p_holm": known})
    return found


def strata_scores(rows: RunRows, student: str, *, seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Condition -> stratum -> metric -> mean, interval and n; {} if nothing is known of the cases.

    ``n`` counts the cases of the stratum whose value is defined; a stratum without one has nulls.
    """
    if not rows.scored_steps(student):
        return {}
    clips = [str(clip) for clip in column(rows.cases, "clip_id")]
    known = {name: rows.cases[name].to_pylist() for name in (*EDGES, *WORDS)}
    metrics = {metric: last_values(rows, student, metric) for metric in STRATIFIED}
    metrics = {metric: values for metric, values in metrics.items() if values}
    return {
        condition: {
            label: {
                metric: bootstrap_mean(
                    np.array([values.get(clips[place], np.nan) for place in places]), seed=seed
                ).to_json()
                for metric, values in metrics.items()
            }
            for label, places in groups.items()
        }
        for condition, groups in strata_of(known).items()
    }
