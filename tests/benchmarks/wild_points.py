"""Which property of the domain wild carries a teacher to real clips? Each is switched off in turn.

    python -m tests.benchmarks.wild_points --rows FILE.csv [--out FOLDER --clips FOLDER --run all:0 all:1 haze:0 ...]

``POINT:SEED`` trains the weights of `embedded_chambers`, which have seen no wild clip, for a few hundred steps on the
domain without the point, and adds a row: Dice on every domain of the phantom and on side-by-side clips
(`side_by_side`). ``all`` has every point on, ``none`` has all of them off. A point that is off has the ranges of the
phantom's domain default, or no such structure. Rows that FILE.csv already has are not made again; without --run only
the table is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from echodfkd.config.sections.source import ConditionsConfig
from echodfkd.core.errors import EchoDFKDError, InputError
from echodfkd.core.records import CHAMBER_NAMES
from echodfkd.models.teachers.unet import EmbeddedTeacherNet
from echodfkd.sources.clip_source import WindowSettings
from echodfkd.sources.patients.sampler import ConditionSampler
from echodfkd.sources.phantom.domains import DOMAIN_NAMES, WILD
from echodfkd.sources.phantom.source import PhantomSource
from echodfkd.sources.phantom.wild.ranges import Spread, WildRanges
from echodfkd.training.teacher.embedded import embedded_recipe, prepare_folder, start_from, write_teacher
from echodfkd.training.teacher.supervised import train_segmentation
from tests.benchmarks.domain_gap import add_scores, score_teacher
from tests.benchmarks.side_by_side import PaintedClip, read_painted_clips

SIDE, STEPS, WARMUP, RATE = 64, 120, 30, 1.5e-3
ALL, NONE = "all", "none"
SCORES = (*DOMAIN_NAMES, "real", "real_worst")

POINTS: dict[str, dict[str, Spread | float]] = {
    "brightness": {  # a uniform bright wall, dark behind it
        "any_contrast": 0.0, "myocardium": (-14.0, -8.5), "septum": (0.0, 0.0), "endocardium": (0.0, 0.0),
        "blood": (-58.0, -48.0), "around": (-46.0, -30.0), "pericardium": (-46.0, -30.0), "lung": (-60.0, -60.0),
        "floor": (-46.0, -30.0), "crux": (-14.0, -8.5), "patchiness": (1.5, 4.0),
    },
    "chambers": {  # closed rings with thin walls, and no great vessels
        "rv_width": (16.0, 24.0), "la_width": (18.0, 26.0), "la_depth": (40.0, 60.0), "ra_width": (18.0, 26.0),
        "ra_depth": (38.0, 58.0), "atrial_shift": (0.0, 0.0), "right_wall": (-14.0, -8.5),
        "atrial_wall": (-14.0, -8.5), "atrial_septum": (-14.0, -8.5), "dissolve": (0.0, 0.0), "aortic_root": 0.0,
        "descending_aorta": 0.0, "moderator_band": 0.0,
    },
    "drop-out": {
        "lateral_loss": (0.0, 0.0), "inner_loss": (0.0, 0.0), "dropouts": (0.0, 0.0), "septal_dropout": 0.0,
        "side_shadow": 0.0,
    },
    "endocardium": {
        "trabeculae": (0.0, 0.0), "spongy": (0.0, 0.0), "papillary": (3.0, 5.0),
        "papillary_level": (0.45, 0.55), "second_papillary": 0.0, "tendon": 0.0,
    },
    "haze": {"clutter": (-44.0, -44.0), "streaks": (0.0, 0.0), "fogs": (0.0, 0.0), "shadows": (0.0, 0.0)},
    "speckle": {"axial": (0.5, 0.9), "lateral": (0.014, 0.024), "noise": (-67.0, -46.0)},
    "leaflets": {"leaflet_length": (0.9, 0.9), "leaflet_bow": (0.0, 0.0), "tenting": (0.0, 0.0), "chordae": 0.0},
    "furniture": {
        "ruler": 0.0, "probe_mark": 0.0, "ecg": 0.12, "text": 0.12, "calipers": 0.0, "colour_bar": 0.0, "outside": 0.0,
    },
    "pose": {
        "share": (0.45, 0.6), "centre": (-0.1, 0.1), "apex_depth": (10.0, 20.0), "lean": (-6.0, 13.0),
        "foreshortening": (0.92, 1.0), "rotation": (0.96, 1.04), "mirrored": 0.0, "breathing": (0.0, 2.5),
        "shake": (0.0, 0.3), "rocking": (-3.0, 3.0), "warp": (0.0, 0.0), "half_angle": (37.0, 45.0),
        "uneven": (1.0, 1.0), "depth": (0.93, 1.08), "probe_x": (0.5, 0.5),
    },
    "rhythm": {
        "akinesia": 0.0, "fibrillation": 0.0, "premature": 0.0, "pause": 0.0, "irregular": (0.0, 0.0),
    },
    "shape": {
        "roundness": (1.0, 1.0), "widest": (0.55, 0.6), "annulus": (0.7, 0.8), "blunt_apex": (2.0, 2.0),
        "blunt_base": (2.0, 2.0), "skew": (0.0, 0.0), "apex_shift": (0.0, 0.2), "bend": (0.0, 0.0),
        "slope": (-0.1, 0.1), "ripple": (0.0, 0.0), "septal_bulge": (0.0, 0.0), "aneurysm": 0.0, "hypertrophy": 0.0,
        "wall": (8.0, 10.0), "septal_wall": (1.0, 1.0), "lateral_wall": (1.0, 1.0), "apical_wall": (1.0, 1.0),
        "wall_ripple": (0.0, 0.05), "apical_narrowing": (0.0, 0.0), "apex_motion": (0.0, 0.0),
    },
    "picture": {
        "gain": (5.5, 11.5), "dynamic_range": (44.0, 56.0), "contrast": (0.35, 0.95), "attenuation": (2.0, 12.0),
        "tgc": (0.0, 2.5), "brightest": (-10.0, -10.0), "sharpen": (0.0, 0.0), "reduced": 0.0, "jpeg": (2.0, 8.0),
    },
}  # fmt: skip
"""The points by name, and the ranges of each that is off. The first seven and the furniture are those of a
sonographer's list of faults of the domain default, ``pose`` and ``rhythm`` are its last."""


def ranges_without(point: str) -> WildRanges:
    """The domain with this point off."""
    off = {ALL: {}, NONE: {name: value for of in POINTS.values() for name, value in of.items()}, **POINTS}[point]
    return replace(WildRanges(), **off)


def train_without(point: str, seed: int, out: Path) -> Path:
    """Train on the domain with this point off; returns the file of the weights."""
    classes = CHAMBER_NAMES[1:]
    recipe = embedded_recipe(steps=STEPS, seed=seed, sizes=(SIDE,), max_seconds=0.0, classes=classes)
    recipe = replace(recipe, warmup_steps=WARMUP, learning_rate=RATE, average=0.97, precision="bf16")
    window = WindowSettings(recipe.frames_per_clip, 2.0, SIDE, recipe.frames_per_clip)
    sampler = ConditionSampler(ConditionsConfig(), seed=seed)
    source = PhantomSource(sampler, window, seed=seed, domain=WILD, ranges=ranges_without(point))
    torch.manual_seed(seed)
    network = EmbeddedTeacherNet(num_classes=len(classes))
    start_from(network, "shipped", len(classes))
    train_segmentation(
        network, lambda index, size: source.clip(index), recipe, report=lambda line: print(f"  {line}", flush=True)
    )
    path = out / f"{point}-{seed}.safetensors"
    write_teacher(path, network, {"point": point, "seed": seed, "steps": STEPS}, "--out")
    return path


def add_rows(path: Path, runs: Sequence[str], out: Path, clips: Sequence[PaintedClip]) -> list[dict[str, str]]:
    """The file's rows and a new one for each run that it does not have; each is written as soon as it is there."""
    named = []
    for given in runs:
        point, _, seed = given.partition(":")
        if point not in (ALL, NONE, *POINTS) or not seed.isdigit():
            raise InputError(
                f"--run: got {given}, expected POINT:SEED, and as POINT {ALL}, {NONE}, {', '.join(POINTS)}"
            )
        named.append(({"point": point, "seed": seed, "steps": str(STEPS)}, given))

    def score(given: str) -> dict[str, float]:
        point, _, seed = given.partition(":")
        return score_teacher(str(train_without(point, int(seed), out)), SIDE, clips)

    return add_scores(path, named, score)


def differences(rows: Sequence[Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """Each point's score less that of ``all`` with the same seed, mean over seeds; ``noise`` is the spread of ``all``
    over seeds, largest less smallest. Raises `InputError` if there is no row, or none of ``all`` for a seed."""
    scores = {(row["point"], row["seed"]): np.array([float(row[name]) for name in SCORES]) for row in rows}
    control = {seed: of for (point, seed), of in scores.items() if point == ALL}
    if not rows:
        raise InputError("--rows: the file has no row yet; --run makes some")
    if missing := sorted({seed for _, seed in scores} - set(control)):
        raise InputError(f"--rows: got no row {ALL} of the seeds {', '.join(missing)}, which every seed needs")
    found = {"noise": np.ptp(list(control.values()), axis=0)}
    for point in dict.fromkeys(row["point"] for row in rows if row["point"] != ALL):
        found[point] = np.mean([of - control[seed] for (name, seed), of in scores.items() if name == point], axis=0)
    return {point: dict(zip(SCORES, of.tolist(), strict=True)) for point, of in found.items()}


def main() -> int:
    """Train, score, print a table; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, type=Path, metavar="FILE.csv")
    parser.add_argument("--out", default="wild_points", type=Path, metavar="FOLDER", help="of the weights")
    parser.add_argument("--clips", default="", metavar="FOLDER")
    parser.add_argument("--run", nargs="*", default=[], metavar="POINT:SEED")
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if args.run:
            prepare_folder(args.out, "--out")
        rows = add_rows(args.rows, args.run, args.out, read_painted_clips(args.clips) if args.run else [])
        found = differences(rows)
    except EchoDFKDError as error:
        print(error, file=sys.stderr)
        return 2
    for point, of in found.items():
        print(f"{point:<12}" + "  ".join(f"{name} {value:+.3f}" for name, value in of.items()))
    print(json.dumps({point: {name: round(value, 4) for name, value in of.items()} for point, of in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
