"""Measure teachers and students on real clips, each number with what it was measured on; nothing is trained on them.

    python -m tests.benchmarks.real [--clips FOLDER] [--teachers KIND|FILE ...] [--students RUN:NAME|NAME ...]

Without FOLDER: stray share, parts, beats and rate on the cines of pydicom and pydicom-data, at three crops. With it
also Dice on side-by-side clips (`side_by_side`), clip by clip, at each of --sides (0: for a teacher the
video's own, for a student that of its training). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from echodfkd.core.errors import EchoDFKDError
from echodfkd.sources.video.shipped_cine import LONG, SHORT, shipped_cine
from tests.benchmarks.real_cine import score_cine
from tests.benchmarks.side_by_side import (
    PaintedClip,
    Predict,
    read_painted_clips,
    score_clip,
    size_slope,
    student_masks,
    teacher_masks,
    teacher_of,
)


def models_of(teachers: Sequence[str], students: Sequence[str]) -> dict[str, Predict]:
    """Every model by name; each teacher a second time as a plausible one."""
    found = {}
    for name in teachers:
        found[name] = teacher_masks(teacher_of(name))
        found[f"{name}, plausible"] = teacher_masks(teacher_of(name, plausible=True))
    return {**found, **{name: student_masks(name) for name in students}}


CINE_SIDE = 112
"""Side of the cines' frames if --sides names none: they are larger than any frame that a model was trained on."""


def _size(side: int) -> str:
    return f"{side} pixels" if side else "own size"


def measure_cines(models: Mapping[str, Predict], side: int) -> list[dict[str, Any]]:
    """A row per model, cine and crop."""
    rows = []
    for cine_name in (SHORT, LONG):
        cine = shipped_cine(cine_name)
        if cine is None:
            print(f"{cine_name} is not installed")
            continue
        print(f"{cine_name}: {len(cine.video)} frames of one person, {cine.fps:.1f} a second, shown at {side} pixels")
        for name, predict in models.items():
            for score in score_cine(predict, cine, side=side):
                print(f"  {name:<32} {score}", flush=True)
                rate = score.rhythm.heart_rate_bpm
                rows.append(
                    {"model": name, "cine": cine_name, "crop": score.crop, "side": side, "stray_share": score.stray,
                     "parts": score.parts, "heart_rate_bpm": rate if np.isfinite(rate) else None,
                     "in_order": score.in_order}
                )  # fmt: skip
    return rows


def measure_clips(
    models: Mapping[str, Predict], clips: Sequence[PaintedClip], sides: Sequence[int], every: int
) -> list[dict[str, Any]]:
    """A row per model and side."""
    frames = sum(len(clip.video[::every]) for clip in clips)
    print(f"{len(clips)} side-by-side clips, {frames} frames in all, against the painted masks")
    rows = []
    for name, predict in models.items():
        for side in sides:
            scores = [score_clip(predict, clip, side=side, every=every) for clip in clips]
            mean, worst = float(np.mean([one.dice for one in scores])), min(one.dice for one in scores)
            part = float(np.mean([one.one_part for one in scores]))
            area, filled, emptied = np.mean([(one.area, one.filled, one.emptied) for one in scores], axis=0)
            stray, each = np.nanmean([one.stray for one in scores]), " ".join(f"{one.dice:.2f}" for one in scores)
            print(
                f"  {name:<32} {_size(side):<10} Dice {mean:.3f}, worst {worst:.3f}, largest part {part:.3f}; area"
                f" {area:.2f} ({filled:.2f} filled, {emptied:.2f} emptied), slope of size {size_slope(scores):.2f},"
                f" stray {stray:.3f}; {each}",
                flush=True,
            )
            rows.append({"model": name, "side": side, "dice": mean, "worst": worst, "largest_part": part,
                         "frames": frames, "clips": [vars(one) for one in scores]})  # fmt: skip
    return rows


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", default="", metavar="FOLDER")
    parser.add_argument("--teachers", nargs="*", default=["embedded_wild"], metavar="KIND|FILE")
    parser.add_argument("--students", nargs="*", default=[], metavar="RUN:NAME|NAME")
    parser.add_argument("--sides", nargs="+", type=int, default=[80], metavar="PIXELS")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th frame of a clip")
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        models = models_of(args.teachers, args.students)
        cines = [row for side in args.sides for row in measure_cines(models, side or CINE_SIDE)]
        clips = measure_clips(models, read_painted_clips(args.clips), args.sides, args.every) if args.clips else []
    except EchoDFKDError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({"cines": cines, "clips": clips}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
