"""Does Dice on the phantom's domains predict Dice on real clips? One row per teacher, then the correlations.

    python -m tests.benchmarks.domain_gap --rows FILE.csv [--clips FOLDER --teachers KIND|FILE:DOMAINS ... --side 112]

FOLDER holds side-by-side clips (`side_by_side`), DOMAINS are those that the teacher was trained on, with commas.
Teachers that FILE.csv already has are not scored again; without --teachers only its correlations are printed. Saves of
one training are no independent teachers, and the bootstrap, which draws teachers as if they were, gives too narrow an
interval for them: those of one folder and of the same domains are a family, and the families' means are correlated,
too.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata

from echodfkd.core.errors import EchoDFKDError, InputError
from echodfkd.core.records import VideoClip
from echodfkd.metrics.cardiac import pearson_r
from echodfkd.metrics.overlap import dice
from echodfkd.metrics.summary import Interval, bootstrap_pairs
from echodfkd.sources.phantom.domains import DOMAIN_NAMES
from echodfkd.sources.phantom.source import default_phantom
from tests.benchmarks.row_file import RowFile
from tests.benchmarks.side_by_side import PaintedClip, read_painted_clips, score_clip, teacher_masks, teacher_of

CASES, FRAMES = 24, 8
"""Cases of each domain, and frames of a case, which cover a beat and a half."""
EVERY = 4
"""Every so many frames of a real clip."""


@functools.cache
def phantom_cases(domain: str, side: int) -> list[VideoClip]:
    """Held-out cases of a domain; all domains show the same hearts."""
    fps = 32.0 * FRAMES / 48
    source = default_phantom(seed=7, num_frames=1, fps=fps, size=side, case_frames=FRAMES, domain=domain)
    return [source.case(number) for number in range(CASES)]


def who(given: str, side: int) -> dict[str, str]:
    """Family, name and domains of a teacher on the command line. Raises `InputError`."""
    name, _, trained = given.rpartition(":")
    domains = trained.split(",")
    if not name or not set(domains) <= set(DOMAIN_NAMES):
        allowed = ", ".join(DOMAIN_NAMES)
        raise InputError(f"--teachers: got {given}, expected KIND or FILE, a colon, and some of {allowed} with commas")
    path = Path(name)
    trained_on = " ".join(sorted(set(domains)))
    return {"family": path.parent.name or path.stem, "teacher": path.stem, "trained_on": trained_on, "side": str(side)}


def score_teacher(name: str, side: int, clips: Sequence[PaintedClip]) -> dict[str, float]:
    """Dice of the left ventricle on each domain, and on the real clips, with frames of this side."""
    predict = teacher_masks(teacher_of(name))

    def on(domain: str) -> float:
        cases = phantom_cases(domain, side)
        return float(np.mean([dice(predict(case.video, 0, 0.0), case.truth_labels == 1).mean() for case in cases]))

    real = [score_clip(predict, clip, side=side, every=EVERY).dice for clip in clips]
    return {**{name: on(name) for name in DOMAIN_NAMES}, "real": float(np.mean(real)), "real_worst": min(real)}


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's coefficient over the last axis, many at once for the bootstrap."""
    return pearson_r(rankdata(x, axis=-1), rankdata(y, axis=-1))


def correlations(rows: Sequence[Mapping[str, str]]) -> dict[str, dict[str, Interval]]:
    """Pearson's and Spearman's coefficient of real Dice with Dice on each domain, and with the mean over the domains
    that a teacher was not trained on (``unseen``); ``*_of_families`` over the means of the families."""
    predictors = np.array([[*_by_domain(row).values(), _unseen(row)] for row in rows])
    real, family = (
        np.array([float(row["real"]) for row in rows]),
        np.array([f"{row['family']} {row['trained_on']}" for row in rows]),
    )
    members = [family == name for name in sorted(set(family))]
    methods: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"pearson": pearson_r, "spearman": spearman}
    found: dict[str, dict[str, Interval]] = {}
    for name, x in zip((*DOMAIN_NAMES, "unseen"), predictors.T, strict=True):
        pairs = {"": (x, real), "_of_families": tuple(np.array([v[of].mean() for of in members]) for v in (x, real))}
        found[name] = {
            method + ending: bootstrap_pairs(compute, *pair)
            for ending, pair in pairs.items()
            for method, compute in methods.items()
        }
    return found


def _by_domain(row: Mapping[str, str]) -> dict[str, float]:
    return {name: float(row[name]) for name in DOMAIN_NAMES}


def _unseen(row: Mapping[str, str]) -> float:
    """Mean over the domains that the teacher was not trained on; NaN (left out) if there is none."""
    others = [value for name, value in _by_domain(row).items() if name not in row["trained_on"].split()]
    return float(np.mean(others)) if others else float("nan")


def add_rows(path: Path, teachers: Sequence[str], side: int, clips: Sequence[PaintedClip]) -> list[dict[str, str]]:
    """The file's rows and a new one for each teacher that it does not have; each is written as soon as it is there."""
    named = [(who(given, side), given.rpartition(":")[0]) for given in teachers]
    return add_scores(path, named, lambda name: score_teacher(name, side, clips))


def add_scores(
    path: Path, named: Sequence[tuple[dict[str, str], str]], score: Callable[[str], dict[str, float]]
) -> list[dict[str, str]]:
    """The file's rows, and for each name that has none the columns that identify it and its scores."""
    file = RowFile(path)
    for identity, name in named:
        if not file.find(**identity):
            file.add({**identity, **{key: f"{value:.4f}" for key, value in score(name).items()}})
    return [{key: str(value) for key, value in row.items()} for row in file.rows]


def main() -> int:
    """Score, print a table; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, type=Path, metavar="FILE.csv")
    parser.add_argument("--clips", default="", metavar="FOLDER")
    parser.add_argument("--teachers", nargs="*", default=[], metavar="TEACHER:DOMAINS")
    parser.add_argument("--side", type=int, default=112, metavar="PIXELS", help="of the frames that they are shown")
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        rows = add_rows(args.rows, args.teachers, args.side, read_painted_clips(args.clips) if args.teachers else [])
    except EchoDFKDError as error:
        print(error, file=sys.stderr)
        return 2
    found = correlations(rows)
    for predictor, of in found.items():
        cells = [
            f"{name} {value.mean:+.2f} [{value.low:+.2f}, {value.high:+.2f}] n {value.n}" for name, value in of.items()
        ]
        print(f"{predictor:<9}" + "; ".join(cells))
    print(json.dumps({name: {key: value.to_json() for key, value in of.items()} for name, of in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
