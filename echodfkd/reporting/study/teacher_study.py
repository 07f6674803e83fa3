"""A study of teachers: their own masks, and the students that learned from each, by domain (scanner).

A run is one teacher and one seed; runs of one seed share clips, first weights and held-out cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from echodfkd.reporting.rows import RunRows
from echodfkd.reporting.study.compared import (
    ALL,
    difference_text,
    domains_of,
    markdown,
    over_runs,
    score_text,
    scored_model,
    study_facts,
    study_note,
)

METRIC = "dice_all"


def build_teacher_study(runs: Mapping[str, Sequence[RunRows]]) -> dict[str, Any]:
    """The content of study.json.

    Args:
        runs: teacher -> its runs' rows, one per seed, the same seeds for each; the first teacher is the baseline.

    Returns:
        ``teachers``: teacher -> "teacher" or a student's name -> domain (or "all") -> result of `over_runs` in Dice.

    Raises:
        InputError: a run has no scores of a student or of its teacher.
    """
    baseline, first = next(iter(runs.items()))
    table = {
        teacher: {
            student: [scored_model(rows, student) for rows in of] for student in ("", *first[0].config["students"])
        }
        for teacher, of in runs.items()
    }
    domains = domains_of(table[baseline][""])
    facts = study_facts(table[baseline][""], METRIC)
    return {
        **facts,
        "study": facts["study"].removesuffix(f"-{baseline}"),
        "baseline": baseline,
        "teachers": {
            teacher: {
                student or "teacher": {
                    domain: over_runs(models, table[baseline][student], METRIC, domain) for domain in domains
                }
                for student, models in of_teacher.items()
            }
            for teacher, of_teacher in table.items()
        },
    }


def teachers_markdown(study: Mapping[str, Any]) -> str:
    """The study as a Markdown table: Dice [95 % interval] by domain, and the difference from the first teacher."""
    first = study["teachers"][study["baseline"]]
    domains = list(first["teacher"])
    lines = []
    for model in first:
        for name, scores in study["teachers"].items():
            found = scores[model]
            cells = ["the teacher itself" if model == "teacher" else model, name]
            cells += [score_text(found[domain]) for domain in domains]
            lines.append([*cells, "" if name == study["baseline"] else difference_text(found[ALL])])
    note = (
        f"Dice of all frames. {study_note(study)} Brackets: 95 % interval over the seeds. A star: the difference is"
        " also clear of 0 over the cases."
    )
    head = ["who", "taught by", *domains, f"all - {study['baseline']}"]
    return "\n".join([markdown(head, lines, names=2), "", note])
