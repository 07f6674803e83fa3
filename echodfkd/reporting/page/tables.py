"""The words of the report: its metrics, sentences on missing scores, on the ledger and on overlap, and facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from echodfkd.config.file import config_from_dict
from echodfkd.config.identity import own_options
from echodfkd.core import intervals
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.reporting.rows import RunRows
from echodfkd.reporting.summary import plan_slots, spans_by_actor


@dataclass(frozen=True)
class Metric:
    """A column of the headline table; ``arrow`` points to the better side."""

    name: str
    label: str
    group: str
    arrow: str
    digits: int
    help: str


METRICS = (
    Metric("dice_all", "Dice", "overlap", "↑", 3, "Dice with the truth, mean over all annotated frames."),
    Metric("dice_ed", "Dice ED", "overlap", "↑", 3, "Dice with the truth at end-diastole."),
    Metric("dice_es", "Dice ES", "overlap", "↑", 3, "Dice with the truth at end-systole."),
    Metric("iou_all", "IoU", "overlap", "↑", 3, "Intersection over union with the truth, all annotated frames."),
    Metric("hd95_all_mm", "HD95, mm", "overlap", "↓", 2, "95th percentile of the borders' distance, all frames."),
    Metric("hd95_all_px", "HD95, px", "overlap", "↓", 2, "Likewise, in pixels: the scale is not known."),
    Metric("assd_all_mm", "ASSD, mm", "overlap", "↓", 2, "Mean distance of the borders, all annotated frames."),
    Metric("assd_all_px", "ASSD, px", "overlap", "↓", 2, "Likewise, in pixels."),
    Metric("dice_teacher", "to teacher", "overlap", "↑", 3, "Dice with the teacher's mask: how well it imitates."),
    Metric("stray_share", "stray", "overlap", "↓", 3, "Share of the mask outside its largest part over the clip."),
    Metric("dice_myocardium", "myocardium", "chambers", "↑", 3, "Dice with the truth over all annotated frames."),
    Metric("dice_la", "LA", "chambers", "↑", 3, "Likewise, left atrium."),
    Metric("dice_rv", "RV", "chambers", "↑", 3, "Likewise, right ventricle; 1 where neither shows any."),
    Metric("dice_ra", "RA", "chambers", "↑", 3, "Likewise, right atrium."),
    Metric("temporal_dice", "frame to frame", "time", "", 3, "Dice of a mask with the next frame's."),
    Metric("afd_ed", "aFD ED", "time", "↓", 2, "Frames off at ED; the reference picks the beat (oracle-assisted)."),
    Metric("afd_es", "aFD ES", "time", "↓", 2, "Frames off at ES, found likewise."),
    Metric("ed_error_frames", "blind ED", "time", "↓", 2, "Frames from ED to the nearest blind detection."),
    Metric("es_error_frames", "blind ES", "time", "↓", 2, "Frames from ES to the nearest blind detection."),
    Metric("ed_precision", "ED precision", "time", "↑", 2, "Share of blind EDs within 2 frames of an ED."),
    Metric("ed_recall", "ED recall", "time", "↑", 2, "Share of EDs with a blind detection within 2 frames."),
    Metric("es_precision", "ES precision", "time", "↑", 2, "Likewise, end-systole."),
    Metric("es_recall", "ES recall", "time", "↑", 2, "Likewise, end-systole."),
    Metric("phase_ed_error_frames", "phase ED", "time", "↓", 2, "Blind ED in the phase head's curve."),
    Metric("phase_es_error_frames", "phase ES", "time", "↓", 2, "Blind ES in the phase head's curve."),
    Metric("phase_pearson", "phase r", "time", "↑", 3, "Correlation of the phase head with the truth's LV area."),
    Metric("ef_pearson", "EF r", "function", "↑", 3, "Pearson correlation of the naive area EF with the known EF."),
    Metric("ef_mae", "EF error", "function", "↓", 1, "Mean error of the naive area EF in points, biased by design."),
    Metric("ef_area_length_pearson", "EF A-L r", "function", "↑", 3, "The same of the area-length EF, true ED and ES."),
    Metric("ef_area_length_mae", "EF A-L error", "function", "↓", 1, "Mean error of the area-length EF in points."),
    Metric("ef_blind_mae", "EF blind error", "function", "↓", 1, "The same at blind ED and ES: nothing is given."),
    Metric("ef_head_abs_error", "EF head", "function", "↓", 1, "Mean error of the EF head in points."),
    Metric("ece", "ECE", "calibration", "↓", 4, "Calibration error of the soft mask over all known pixels."),
    Metric("judge_score", "judge", "judge", "↑", 3, "The auxiliary model's rating, which sees no truth."),
    Metric("judge_motion", "motion", "judge", "↑", 3, "How far its area beats as the judge reads the video."),
    Metric("judge_unmasked", "no mask", "judge", "", 3, "Control: its rating of the video alone."),
    Metric("judge_inverse", "inverse", "judge", "", 3, "Control: its rating of everything but the mask."),
    Metric("judge_shifted", "shifted", "judge", "", 3, "Control: its rating of the mask, moved by a quarter."),
    Metric("judge_random", "random", "judge", "", 3, "Control: its rating of a random mask of equal area."),
)  # fmt: skip
"""All columns that the table can have, in order; a run shows those it measured."""


def missing_scores(rows: RunRows) -> list[str]:
    """A sentence for everything that a reader looks for in the table and does not find."""
    if len(rows.scores) == 0:
        evaluation = rows.config.get("evaluation", {})
        if evaluation.get("enabled") is False:
            return ["This run was not evaluated (evaluation.enabled is false), so there are no scores."]
        return ["No scores yet: no published checkpoint has been evaluated."]
    sentences = []
    metrics = set(rows.scores["metric"].to_pylist())
    if "judge_score" not in metrics:
        sentences.append("No judge rated this run, so there is no judge score.")
    if "dice_all" not in metrics:
        sentences.append("The cases carry no truth masks, so there is no Dice with the truth.")
    for name in rows.students:
        if not rows.scored_steps(name):
            sentences.append(f"No checkpoint of student {name} has been evaluated.")
    return sentences


def notes(rows: RunRows, summary: dict[str, Any]) -> list[dict[str, str]]:
    """How the run stands, in one or two sentences at the top of the page."""
    counts, plan = summary["ledger"], plan_slots(rows)
    if rows.run.get("stopped"):
        done = f"{plan - counts['lost'] - counts['to_come']:,} of {plan:,} slots are trained and published"
        return [{"kind": "open", "text": f"This run was {rows.run['stopped']}; {done}."}]
    if rows.run.get("error"):
        return [{"kind": "bad", "text": f"This run failed: {rows.run['error']}"}]
    if not rows.run:
        done = f"{plan - counts['lost'] - counts['to_come']:,} of {plan:,} slots are trained and published so far"
        return [
            {"kind": "open", "text": f"This run has not ended, or failed on the way (it holds no run.json): {done}."}
        ]
    if counts["lost"] or counts["repeated"]:
        return [{"kind": "bad", "text": f"This run has ended, but {ledger_sentence(rows, summary)}"}]
    early = " Early stopping has ended all students." if rows.manifests and rows.manifests[-1].ended else ""
    return [{"kind": "good", "text": f"This run is complete: {ledger_sentence(rows, summary)}{early}"}]


def ledger_sentence(rows: RunRows, summary: dict[str, Any]) -> str:
    """The ledger in words."""
    counts, plan = summary["ledger"], plan_slots(rows)
    if plan == 0:
        return "no plan is known."
    if not (counts["lost"] or counts["to_come"] or counts["repeated"]):
        return f"each of the {plan:,} slots of the plan was trained exactly once."
    parts = []
    if counts["to_come"]:
        parts.append(f"{counts['to_come']:,} of {plan:,} slots of the plan are to come")
    if counts["lost"]:
        parts.append(f"{counts['lost']:,} of {plan:,} slots of the plan are not trained")
    if counts["repeated"]:
        parts.append(f"{counts['repeated']:,} ledger rows repeat a slot")
    return " and ".join(parts) + "."


def overlap_sentence(rows: RunRows) -> str:
    """How long several stages worked at once; "" if no work is logged."""
    total = work_seconds(rows)
    if not total:
        return ""
    work = {
        stage: intervals.union(np.concatenate(list(actors.values()))) for stage, actors in spans_by_actor(rows).items()
    }
    shared = intervals.shared_seconds(work)
    many = sum(seconds for count, seconds in shared.items() if count >= 2)
    return (
        f"The run's work spans {total:,.1f} s. Two or more of its {len(work)} stages were at work at the same"
        f" time for {many:,.1f} s of them ({100 * many / total:.0f} %), all {len(work)} for"
        f" {shared[len(work)]:,.1f} s ({100 * shared[len(work)] / total:.0f} %)."
    )


def work_seconds(rows: RunRows) -> float:
    """Seconds from a run's first piece of work to its last; 0 if none is logged."""
    every = [work for actors in spans_by_actor(rows).values() for work in actors.values()]
    if not every:
        return 0.0
    return max(float(max(work[:, 1].max() for work in every) - min(work[:, 0].min() for work in every)), 1e-9)


def facts(rows: RunRows, summary: dict[str, Any]) -> list[dict[str, str]]:
    """Facts of the run, in the order of a reader's questions."""
    config, run = rows.config, rows.run
    source, window, train = config.get("source", {}), config.get("window", {}), config.get("train", {})
    machine = run.get("machine", "")
    if isinstance(machine, dict):
        machine = ", ".join(f"{key} {value}" for key, value in machine.items())
    students = ", ".join(
        f"{name} ({s['parameters']:,} parameters)" if s["parameters"] else name
        for name, s in summary["students"].items()
    )
    engine = train.get("engine", "")
    if engine == "deepspeed":
        engine = f"deepspeed, ZeRO stage {train.get('zero_stage', 0)}"
    frames, fps, side = (window.get(key, "?") for key in ("frames", "fps", "size"))
    values = {
        "Teacher": summary["teacher"]["id"],
        "Students": students,
        "Clips": f"{source.get('kind', '')} {source.get('path', '')}".strip(),
        "Held-out cases": _cases_text(rows),
        "Judge": str(config.get("evaluation", {}).get("judge") or ""),
        "Window": f"{frames} frames at {fps} fps, {side} x {side} pixels",
        "Plan": _plan_text(rows),
        "Engine": f"{engine}, {train.get('workers', 1)} worker(s), {train.get('precision', '')}",
        "Measured precision": _measured(run.get("precision")),
        "Seed": str(summary["seed"]),
        "Config hash": summary["config_hash"],
        "Version": summary["version"],
        "Code": str(rows.manifests[-1].meta.get("commit") or "") if rows.manifests else "",
        "Machine": str(machine),
    }
    if not values["Measured precision"]:
        del values["Measured precision"]
    missing = "not recorded" if rows.run else "not recorded yet"
    return [{"label": label, "value": value or missing} for label, value in values.items()]


def _measured(precision: object) -> str:
    """Of each part that was told auto; run.json may be a stranger's."""
    return "; ".join(f"{option} {words}" for option, words in precision.items()) if isinstance(precision, dict) else ""


def _cases_text(rows: RunRows) -> str:
    evaluation = rows.config.get("evaluation", {})
    source = evaluation.get("source")
    where = f"{source.get('kind', '')} {source.get('path', '')}".strip() if isinstance(source, dict) else ""
    return f"{len(rows.cases):,} cases of {evaluation.get('frames', '?')} frames, {where}" if len(rows.cases) else ""


def _plan_text(rows: RunRows) -> str:
    train = rows.config.get("train", {})
    most, batch = train.get("steps", 0), train.get("global_batch", 0)
    ended = bool(rows.manifests) and rows.manifests[-1].ended
    done = f"{rows.manifests[-1].step:,} of at most {most:,}" if ended else f"{most:,}"
    return f"{done} steps of {batch} clips = {plan_slots(rows):,} slots"


def options_of(rows: RunRows) -> dict[str, str]:
    """`own_options` of the run; none if its config is of another version, whose defaults are not known here."""
    try:
        return own_options(config_from_dict(rows.config))
    except (ConfigError, InputError):
        return {}


def config_yaml(rows: RunRows) -> str:
    """The config as it was read."""
    return yaml.safe_dump(rows.config, sort_keys=False)
