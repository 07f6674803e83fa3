"""Beats, heart rate and EF that a student's own masks give on phantom clips, blind, against the phantom's truth.

python -m tests.benchmarks.student_events SOURCE [--cases 6]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

import echodfkd
from echodfkd.core.records import VideoClip
from echodfkd.metrics.events import EventMatch, match_events

NORMAL = {"ef_percent": [50, 65], "heart_rate_bpm": [60, 80]}
ROWS: dict[str, tuple[dict[str, Any], float]] = {
    "normal, 4 beats": (NORMAL, 4),
    "1 beat": (NORMAL, 1.3),
    "2 beats": (NORMAL, 2.3),
    "12 beats": (NORMAL, 12.3),
    "40 to 45 beats a minute": ({**NORMAL, "heart_rate_bpm": [40, 45]}, 4),
    "140 to 150 beats a minute": ({**NORMAL, "heart_rate_bpm": [140, 150]}, 8),
    "EF 15 to 25 %": ({**NORMAL, "ef_percent": [15, 25]}, 4),
    "EF 70 to 75 %": ({**NORMAL, "ef_percent": [70, 75]}, 4),
    "a premature beat": (NORMAL, 5),
    "a long pause": (NORMAL, 5),
}
"""Name of a row: conditions, and beats of the clip."""
_BEATS_A_MINUTE = 60.0
SEED = 30_000_002


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a JSON line for each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("--cases", type=int, default=6, help="clips of a row")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    student = echodfkd.load_student(args.source)
    for name in ROWS:
        print(json.dumps({"row": name, **measure(student, name, args.cases)}), flush=True)
    return 0


def measure(student: echodfkd.Student, name: str, cases: int) -> dict[str, Any]:
    """Precision and recall within 2 frames over all clips of a row; median errors of heart rate and EF."""
    matches: dict[str, list[EventMatch]] = {"ed": [], "es": []}
    rate_errors, ef_errors = [], []
    for clip in clips(student, name, cases):
        rhythm = student.segment(clip).rhythm
        for phase, events, found in (
            ("ed", clip.ed_frames, rhythm.ed_frames),
            ("es", clip.es_frames, rhythm.es_frames),
        ):
            matches[phase].append(match_events(found, events, num_frames=len(clip.video)))
        intervals = np.diff(clip.ed_frames if len(clip.ed_frames) > 1 else clip.es_frames)
        known = _BEATS_A_MINUTE * clip.fps / float(np.median(intervals)) if len(intervals) else math.nan
        rate_errors.append(abs(rhythm.heart_rate_bpm - known))
        ef_errors.append(rhythm.ef_percent - float(clip.conditions.ef_percent or math.nan))
    return {
        **{f"{phase}_{key}": share(found, key) for phase, found in matches.items() for key in ("precision", "recall")},
        "rate_error": middle(rate_errors),
        "ef_error": middle(ef_errors),
        "ef_missing": int(np.isnan(ef_errors).sum()),
        "clips": cases,
    }


def share(matches: Sequence[EventMatch], key: str) -> float:
    """Precision or recall of all clips' events together."""
    hits = sum(len(found.errors) for found in matches)
    others = sum(len(found.invented if key == "precision" else found.missed) for found in matches)
    return round(hits / (hits + others), 3) if hits + others else math.nan


def middle(errors: Sequence[float]) -> float | None:
    """Median of those that are known."""
    known = [error for error in errors if not math.isnan(error)]
    return round(float(np.median(known)), 2) if known else None


def clips(student: echodfkd.Student, name: str, cases: int) -> Iterator[VideoClip]:
    """The clips of a row, of the student's size and rate."""
    conditions, beats = ROWS[name]
    slowest = min(conditions["heart_rate_bpm"])
    frames = round(beats * _BEATS_A_MINUTE * student.fps / slowest)
    for index in range(cases):
        clip = echodfkd.phantom(
            index, frames=frames, size=student.size, fps=student.fps, seed=SEED, conditions=conditions
        )
        yield {"a premature beat": shortened, "a long pause": prolonged}.get(name, lambda clip: clip)(clip)


def shortened(clip: VideoClip) -> VideoClip:
    """The second beat's filling is cut short: its last 30 % are left out."""
    start, stop = clip.ed_frames[1], clip.ed_frames[2]
    cut = round(0.3 * (stop - start))
    return _picked(clip, [*range(stop - cut - 1), *range(stop - 1, len(clip.video))])


def prolonged(clip: VideoClip) -> VideoClip:
    """The heart rests for a beat before the third one: the frame before its end-diastole stands still."""
    stop, length = clip.ed_frames[2], clip.ed_frames[2] - clip.ed_frames[1]
    return _picked(clip, [*range(stop), *([stop - 1] * length), *range(stop, len(clip.video))])


def _picked(clip: VideoClip, frames: Sequence[int]) -> VideoClip:
    """The clip of these frames, with the events among them; of a frame that is repeated, the last one counts."""
    last = {frame: place for place, frame in enumerate(frames)}
    moved = [tuple(last[event] for event in events if event in last) for events in (clip.ed_frames, clip.es_frames)]
    video, (ed_frames, es_frames) = clip.video[list(frames)], moved
    return dataclasses.replace(clip, video=video, truth_labels=None, ed_frames=ed_frames, es_frames=es_frames)


if __name__ == "__main__":
    raise SystemExit(main())
