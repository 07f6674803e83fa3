"""How well a judge reads each condition of phantom patients that it was never trained on.

Everything goes the way of a run: the cycle and the ejection fraction by `ReadingJudge.read_video`, the mask score by
`MaskJudge.score`, other captions by the same cosines and the same rules (`zero_shot_value`; of two captions, the one
that is nearer to the frame, or to the mean over the video's frames).

Legend: P patients, T frames, N captions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from echodfkd.core.counter import Counter
from echodfkd.evaluation.agreement import agreement_study
from echodfkd.metrics.blind_events import detect_events
from echodfkd.metrics.cardiac import mean_absolute_error, pearson_r
from echodfkd.metrics.events import TOLERANCE_FRAMES, match_events
from echodfkd.metrics.ranks import rank_agreement
from echodfkd.metrics.summary import Interval, bootstrap_mean, bootstrap_pairs
from echodfkd.models.judges.embedded import JudgeTowers, embedded_judge
from echodfkd.models.judges.reading import ReadingJudge, caption_similarity, zero_shot_value
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.training.judge.captions import CHOICES, NUMBERS
from echodfkd.training.judge.patients import JudgedPatient, JudgedPatients

MARKS = ("<!-- judge report: jobs/judge_report.py -->", "<!-- end of judge report -->")
"""Lines of a document between which the table stands."""
LATE_FRAMES = 6
"""Largest distance at which events are matched to measure their lateness."""
NUM_FRAMES, FPS = 64, 32.0


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``chance`` is the value of a judge that sees nothing; None if there is no such value."""

    condition: str
    measure: str
    found: Interval
    chance: float | None
    digits: int = 2


Readings = list[dict[str, float]]
"""Of each patient, by name."""


def report_on(
    towers: JudgeTowers, *, seed: int, num_patients: int, num_cases: int, size: int, say: Callable[[str], None]
) -> list[Finding]:
    """Read every patient and compare the readings with the truth.

    Args:
        towers: the judge's.
        seed: of the patients; none that training or the choice of a recipe has used.
        num_patients: P.
        num_cases: cases whose masks are spoiled for the mask score.
        size: side of the frames in pixels.
        say: takes lines of progress.
    """
    judge = embedded_judge(towers)
    source = JudgedPatients(seed=seed, num_frames=NUM_FRAMES, fps=FPS, size=size)
    asked, readings = embed_questions(towers), []
    with Counter(f"patients of {size} px", num_patients, say) as counter:
        for index in range(num_patients):
            readings.append(read_patient(towers, judge, asked, source.patient(index)))
            counter.show(index + 1)
    phantom = default_phantom(seed=seed, num_frames=16, fps=FPS, size=size, case_frames=16)
    study = agreement_study(judge, ((phantom.case(index), {}) for index in range(num_cases)))
    masks = f"Spearman of score and Dice, {study.spoiled.spearman.n} spoiled masks of {num_cases} cases"
    return [*findings(readings), Finding("mask", masks, study.spoiled.spearman, 0.0)]


@torch.inference_mode()
def embed_questions(towers: JudgeTowers) -> dict[str, torch.Tensor]:
    """The captions of every choice and number but the EF (the judge asks that itself), embedded, by fact."""
    of_numbers = {kind.fact: towers.embed_captions(kind.captions()[0]) for kind in NUMBERS}
    return of_numbers | {choice.fact: towers.embed_captions(list(choice.captions)) for choice in CHOICES}


@torch.inference_mode()
def read_patient(
    towers: JudgeTowers, judge: ReadingJudge, asked: Mapping[str, torch.Tensor], patient: JudgedPatient
) -> dict[str, float]:
    """Readings and truth of a patient, as numbers by name; event detections are counts."""
    video = patient.video.numpy()
    reading = judge.read_video(video)
    found = {"ef_percent": reading.ef_percent}
    all_TN = caption_similarity(towers, video, torch.cat(list(asked.values())))
    ends = np.cumsum([len(captions) for captions in asked.values()])[:-1]
    similarity = dict(zip(asked, np.split(all_TN, ends, axis=1), strict=True))
    for kind in NUMBERS:
        found[kind.fact] = zero_shot_value(similarity[kind.fact], kind.captions()[1].double().numpy())
    assert reading.cycle is not None
    curves = {"valve": reading.cycle}
    for choice in CHOICES:
        lead_T = similarity[choice.fact][:, 1] - similarity[choice.fact][:, 0]
        said_T, true_T = lead_T > 0, patient.facts[choice.fact].numpy() > 0.5
        found[f"{choice.fact} frames"] = float((said_T == true_T).mean())
        found[choice.fact] = float((lead_T.mean() > 0) == true_T[0])
        found[f"{choice.fact} commoner"] = float(true_T.mean())
        if choice.fact == "emptied":
            curves["captions"] = -lead_T
    for name, curve in curves.items():
        found |= _events(name, curve, patient)
    return found | {f"true {name}": float(values[0]) for name, values in patient.facts.items()}


def _events(name: str, curve: np.ndarray, patient: JudgedPatient) -> dict[str, float]:
    """Detections in a curve that is large at end-diastole: hits, detections and events that count, and lateness."""
    detected = dict(zip(("ed", "es"), detect_events(curve, fps=patient.fps), strict=True))
    truth = {"ed": patient.ed_frames, "es": patient.es_frames}
    found: dict[str, float] = {}
    for phase, frames in detected.items():
        match = match_events(frames, truth[phase], num_frames=len(curve))
        found[f"{name} {phase} hits"] = len(match.errors)
        found[f"{name} {phase} detected"] = len(match.errors) + len(match.invented)
        found[f"{name} {phase} events"] = len(match.errors) + len(match.missed)
        late = match_events(frames, truth[phase], num_frames=len(curve), tolerance=LATE_FRAMES).errors
        found[f"{name} {phase} late"] = float(np.mean(late)) if late else float("nan")
    beats = np.diff(detected["ed"])
    found[f"{name} rate"] = 60 * patient.fps / float(beats.mean()) if len(beats) else float("nan")
    return found


def findings(readings: Readings) -> list[Finding]:
    """The report's lines on all patients' readings."""
    column = {name: np.array([reading[name] for reading in readings], np.float64) for name in readings[0]}
    lines = _numbers(column)
    for name, how in (("valve", "valve prompts"), ("captions", "captions END-DIASTOLE, END-SYSTOLE")):
        for phase in ("ed", "es"):
            hits = column[f"{name} {phase} hits"]
            what = f"{phase.upper()} frame by the {how}"
            for measure, of in (("precision", "detected"), ("recall", "events")):
                share = bootstrap_pairs(_ratio, hits, column[f"{name} {phase} {of}"])
                lines.append(Finding(what, f"{measure} within {TOLERANCE_FRAMES} frames", share, None))
            late = bootstrap_mean(column[f"{name} {phase} late"])
            lines.append(Finding(what, f"lateness in frames at {FPS:g} frames/s", late, None))
    return lines + _choices(column)


def _numbers(column: dict[str, np.ndarray]) -> list[Finding]:
    ef, true_ef = column["ef_percent"], column["true ef_percent"]
    lines = [
        _correlation("ejection fraction", "Pearson r", ef, true_ef),
        Finding(
            "ejection fraction",
            "mean absolute error, points (chance: always their median)",
            bootstrap_pairs(mean_absolute_error, ef, true_ef),
            float(np.abs(true_ef - np.median(true_ef)).mean()),
            digits=1,
        ),
    ]
    quality = column["image_quality_percent"], column["true image_quality_percent"]
    ranks = rank_agreement(*quality, [str(place) for place in range(len(quality[0]))])
    lines.append(Finding("image quality", "Spearman", ranks.spearman, 0.0))
    names = {"edv_ml": "end-diastolic volume", "esv_ml": "end-systolic volume", "age_years": "age"}
    names |= {"bsa_m2": "body surface area", "heart_rate_bpm": "heart rate"}
    for fact, name in names.items():
        lines.append(_correlation(name, "Pearson r", column[fact], column[f"true {fact}"]))
    for name in ("valve", "captions"):
        rate = _correlation(
            "heart rate", f"Pearson r of the ED detections' distance, {name}", column[f"{name} rate"],
            column["true heart_rate_bpm"],
        )  # fmt: skip
        lines.append(rate)
    return lines


def _correlation(name: str, measure: str, found: np.ndarray, true: np.ndarray) -> Finding:
    return Finding(name, measure, bootstrap_pairs(pearson_r, found, true), 0.0)


def _choices(column: dict[str, np.ndarray]) -> list[Finding]:
    share = float(column["valve_open commoner"].mean())
    valve = bootstrap_mean(column["valve_open frames"])
    return [
        Finding("mitral valve open", "share of frames right", valve, max(share, 1 - share)),
        Finding("view", "share of patients right", bootstrap_mean(column["two_chamber"]), 0.5),
        Finding("sex", "share of patients right", bootstrap_mean(column["male"]), 0.5),
    ]


def _ratio(hits: np.ndarray, all_of_them: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return hits.sum(-1) / all_of_them.sum(-1)


def markdown_table(columns: Mapping[str, Sequence[Finding]]) -> str:
    """The findings as a table: a line per condition and measure, a column per title (a size of frames)."""
    lines = [
        f"| condition | measure | {' | '.join(columns)} | chance |",
        f"|---|---|{'---|' * len(columns)}---|",
    ]
    for row in zip(*columns.values(), strict=True):
        first = row[0]
        chance = "" if first.chance is None else f"{first.chance:.{first.digits}f}"
        cells = " | ".join(_cell(finding) for finding in row)
        lines.append(f"| {first.condition} | {first.measure} | {cells} | {chance} |")
    return "\n".join(lines)


def _cell(finding: Finding) -> str:
    shown = [f"{value:.{finding.digits}f}" for value in (finding.found.mean, finding.found.low, finding.found.high)]
    text = f"{shown[0]} [{shown[1]}, {shown[2]}]"
    undecided = finding.chance is not None and finding.found.low <= finding.chance <= finding.found.high
    return f"{text}, chance" if undecided else text


def insert_table(document: str, table: str) -> str:
    """The document with the table between `MARKS`. Raises `ValueError` if it does not have both, in order."""
    start, stop = document.find(MARKS[0]), document.find(MARKS[1])
    if not 0 <= start < stop:
        raise ValueError(f"expected the lines {MARKS[0]} and {MARKS[1]}")
    return f"{document[: start + len(MARKS[0])]}\n{table}\n{document[stop:]}"
