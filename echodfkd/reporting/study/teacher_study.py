"""Several teachers compared: their own masks, and the students that learned from each, by scanner.

A run is one teacher and one seed; runs of one seed share clips, first weights and held-out cases. Intervals are those
of `echodfkd.reporting.study.study`: Student's over the seeds, and for a difference also the bootstrap over the cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from echodfkd.core.errors import InputError
from echodfkd.reporting.comparisons import case_values
from echodfkd.reporting.rows import RunRows, column
from echodfkd.reporting.study.study import format_difference, format_score, summarise

METRIC = "dice_all"
TEACHER = ""
"""Name under which a run keeps the scores of its teacher."""


def build_teacher_study(runs: Mapping[str, Sequence[RunRows]]) -> dict[str, Any]:
    """The content of study.json.

    Args:
        runs: teacher -> its runs' rows, one per seed, the same seeds for each; the first is what others are compared
            with.

    Returns:
        ``teachers``: teacher -> "teacher" or a student's name -> scanner (or "all") -> summary of the Dice.

    Raises:
        InputError: a run has no scores of a student or of its teacher.
    """
    baseline = next(iter(runs))
    config = runs[baseline][0].config
    domains = sorted({str(word) for rows in runs[baseline] for word in rows.cases["domain"].to_pylist()})
    teachers: dict[str, Any] = {}
    for name, of_teacher in runs.items():
        teachers[name] = {
            who or "teacher": {
                domain: summarise(
                    [_values(rows, who, domain) for rows in of_teacher],
                    [_values(rows, who, domain) for rows in runs[baseline]],
                )
                for domain in ("all", *domains)
            }
            for who in (TEACHER, *config["students"])
        }
    return {
        "study": str(config["name"]).rsplit("-seed", 1)[0].removesuffix(f"-{baseline}"),
        "seeds": [int(rows.config["seed"]) for rows in runs[baseline]],
        "steps": config["train"]["steps"],
        "clips_per_step": config["train"]["global_batch"],
        "frames": config["window"]["frames"],
        "size": config["window"]["size"],
        "cases_per_run": len(_values(runs[baseline][0], TEACHER, "all")),
        "baseline": baseline,
        "teachers": teachers,
    }


def teacher_table(study: Mapping[str, Any]) -> str:
    """The study as a Markdown table: Dice [95 % interval] by scanner, and the difference from the first teacher."""
    first = study["teachers"][study["baseline"]]
    domains = list(first["teacher"])
    head = ["who", "taught by", *domains, f"all - {study['baseline']}"]
    lines = [_row(head), _row(["---", "---"] + ["---:"] * (len(head) - 2))]
    for who in first:
        for name, scores in study["teachers"].items():
            found = scores[who]
            cells = ["the teacher itself" if who == "teacher" else who, name]
            cells += [format_score(found[domain]) for domain in domains]
            lines.append(_row([*cells, "" if name == study["baseline"] else format_difference(found["all"])]))
    note = (
        f"Dice of all frames. {study['steps']} steps of {study['clips_per_step']} clips of {study['frames']} frames,"
        f" {study['size']} x {study['size']} pixels; seeds {', '.join(map(str, study['seeds']))};"
        f" {study['cases_per_run']} held-out cases per seed. Brackets: 95 % interval over the seeds. A star: the"
        " difference is also clear of 0 over the cases."
    )
    return "\n".join([*lines, "", note])


def _values(rows: RunRows, who: str, domain: str) -> dict[str, float]:
    """Clip id -> Dice at the last scored step, of the cases of a scanner."""
    if not rows.scored_steps(who):
        raise InputError(f"run {rows.config.get('name')}: {who or 'its teacher'} has no scores; was the run evaluated?")
    values = case_values(rows, who, METRIC)
    if domain == "all":
        return values
    clips, domains = column(rows.cases, "clip_id"), column(rows.cases, "domain")
    return {str(clip): values[str(clip)] for clip in clips[domains == domain] if str(clip) in values}


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
