"""A study of students: several runs of the same config, or of variants of it, with a seed each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from echodfkd.config.sections.student import StudentConfig
from echodfkd.models.students.cost import STATED_SIZE, student_cost
from echodfkd.reporting.rows import RunRows
from echodfkd.reporting.study.compared import (
    ALL,
    RunModel,
    difference_text,
    domains_of,
    markdown,
    over_runs,
    score_text,
    scored_model,
    study_facts,
    study_note,
)

METRICS = {
    "dice_all": "Dice", "dice_ed": "Dice ED", "dice_es": "Dice ES", "hd95_all_mm": "HD95 mm", "afd_ed": "aFD ED",
    "afd_es": "aFD ES", "area_jitter": "jitter", "ece": "ECE",
}  # fmt: skip
"""Metrics of the table, all against the truth, and their columns."""

_COMPARED = {"dice_all": "Dice", "hd95_all_mm": "HD95", "area_jitter": "jitter", "ece": "ECE"}
"""Metrics whose difference from the baseline has a column."""


def build_study(runs: Sequence[Mapping[str, RunRows]], *, baseline: str) -> dict[str, Any]:
    """The content of study.json.

    Args:
        runs: for each seed the rows of its runs by variant ("" without variants).
        baseline: the model that the others are compared with, by its name in the table.

    Raises:
        InputError: a run has no scores of a student.
    """
    seeds = [students_of(variants) for variants in runs]
    base = [seed[baseline] for seed in seeds]
    facts = study_facts(base, next(iter(METRICS)))
    students = {}
    for name, first in seeds[0].items():
        options = first.rows.config["students"][first.student]
        found = {metric: over_runs([seed[name] for seed in seeds], base, metric) for metric in METRICS}
        students[name] = {
            "options": dict(options),
            **student_cost(StudentConfig(**options).network, facts["size"]),
            "metrics": {metric: scores for metric, scores in found.items() if scores is not None},
            "domains": {
                domain: over_runs([seed[name] for seed in seeds], base, next(iter(METRICS)), domain)
                for domain in domains_of(base)
            },
        }
    return {**facts, "baseline": baseline, "students": students}


def students_of(variants: Mapping[str, RunRows]) -> dict[str, RunModel]:
    """The students of one seed's runs, named as in `RunConfig.compared`. Raises `InputError` if one has no scores."""
    found = {}
    for variant, rows in variants.items():
        for student in rows.config["students"]:
            name = variant if len(rows.config["students"]) == 1 else f"{student}_{variant}"
            name = name if variant else student
            found[name] = scored_model(rows, student, name)
    return found


def cost_table(students: Mapping[str, Mapping[str, Any]]) -> str:
    """Sizes and costs of students as a Markdown table: each with two and with three blocks.

    Args:
        students: name -> options of `build_student`.
    """
    head = ["student"]
    for blocks in (2, 3):
        head += [f"{blocks} blocks: widths", "weights", "of the paper's", "MMAC/frame"]
    lines = []
    for name, options in students.items():
        cells = [name]
        for blocks in (2, 3):
            cost = student_cost(StudentConfig(**{**options, "blocks": blocks}).network, STATED_SIZE)
            paper = StudentConfig(blocks, options["layers"])
            share = cost["parameters"] / student_cost(paper.network, STATED_SIZE)["parameters"]
            cells += [", ".join(map(str, cost["widths"])), f"{cost['parameters']:,}", f"{share:.1%}"]
            cells.append(f"{cost['macs_per_frame'] / 1e6:.0f}")
        lines.append(cells)
    return markdown(head, lines)


def students_markdown(study: Mapping[str, Any]) -> str:
    """The study as a Markdown table: score [95 % interval] per student, and its difference from the baseline."""
    baseline = study["baseline"]
    head = ["student", "weights", "MMAC/frame", *METRICS.values()]
    head += [f"{name} - {baseline}" for name in _COMPARED.values()]
    lines = []
    for name, student in study["students"].items():
        metrics = student["metrics"]
        cells = [name, f"{student['parameters']:,}", f"{student['macs_per_frame'] / 1e6:.1f}"]
        cells += [score_text(metrics.get(metric)) for metric in METRICS]
        cells += ["" if name == baseline else difference_text(metrics.get(metric)) for metric in _COMPARED]
        lines.append(cells)
    note = (
        "Brackets: 95 % interval over the seeds. Jitter: 1 is the truth's own. A star: the difference is also clear"
        " of 0 over the cases. Intervals are not widened for the number of students."
    )
    return "\n".join([markdown(head, lines), "", study_note(study), note, *_by_domain(study["students"])])


def _by_domain(students: Mapping[str, Any]) -> list[str]:
    """Dice of every student by the domain of the cases, if they are of several."""
    domains = [name for name in next(iter(students.values()))["domains"] if name != ALL]
    if len(domains) < 2:
        return []
    lines = [[name, *(score_text(of["domains"][domain]) for domain in domains)] for name, of in students.items()]
    return ["", "Dice of all frames, by the domain of the cases:", "", markdown(["student", *domains], lines)]
