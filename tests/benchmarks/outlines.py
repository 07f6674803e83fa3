"""How ventricles change their shape in systole: those painted into public clips, and those of the phantom.

    python -m tests.benchmarks.outlines --clips FOLDER [--domains default wild --cases 40]

Per group, medians over its clips, each at the tenth of its frames in which the mask is largest, and smallest:
width by level of the long axis over the largest width; what the apex and the annulus move, in lengths of the filled
ventricle; and the grey level at the border over the brightest one within 10 pixels outside of it.

Legend: T frames, H rows, W columns, K levels.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from echodfkd.core.errors import EchoDFKDError, InputError
from echodfkd.sources.phantom.source import default_phantom
from tests.benchmarks.side_by_side import read_painted_clips

LEVELS = 10
LEAST = 300
"""Pixels of the smallest mask of a clip that counts."""
OUTSIDE = 10
"""Pixels beyond the border in which the brightest grey level is looked for."""

Clip = tuple[np.ndarray, np.ndarray]
"""Video uint8 (T, H, W), mask bool (T, H, W)."""


def long_axis(mask_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the mask (N, 2) in (across, along) a long axis from apex to base, and the unit vector along it (y, x).

    The axis is the first principal component, turned so that it points down.
    """
    places = np.argwhere(mask_HW).astype(float)
    _, _, axes = np.linalg.svd(places - places.mean(0), full_matrices=False)
    down = axes[0] * np.sign(axes[0][0] or 1.0)
    return places @ np.array([[-down[1], down[0]], [down[0], down[1]]]).T, down


def widths(mask_HW: np.ndarray) -> np.ndarray:
    """Width at the K levels of the long axis, apex first, over the largest (K,)."""
    along = long_axis(mask_HW)[0][:, 1]
    counts, _ = np.histogram(along, bins=LEVELS)
    return np.asarray(counts / counts.max())


def ends(filled_HW: np.ndarray, emptied_HW: np.ndarray) -> tuple[float, float]:
    """What the apex moves down, and the base up, along the filled ventricle's axis, in its lengths."""
    down = long_axis(filled_HW)[1]
    (top, bottom), (later_top, later_bottom) = (
        np.percentile(np.argwhere(mask) @ down, [0.5, 99.5]) for mask in (filled_HW, emptied_HW)
    )
    return float((later_top - top) / (bottom - top)), float((bottom - later_bottom) / (bottom - top))


def border_grey(frame_HW: np.ndarray, mask_HW: np.ndarray) -> float:
    """Mean grey level of the two pixels at the border, over the brightest of the rings outside of it."""
    away = ndimage.distance_transform_edt(~mask_HW) - ndimage.distance_transform_edt(mask_HW)
    outside = [frame_HW[(away > at) & (away <= at + 2)].mean() for at in range(1, OUTSIDE)]
    return float(frame_HW[np.abs(away) <= 1].mean() / max(1.0, *outside))


def describe(clips: Iterable[Clip]) -> dict[str, np.ndarray]:
    """Medians over the clips; of each pair the filled ventricle comes first.

    Raises:
        InputError: every clip has a frame whose mask is small.
    """
    rows: dict[str, list[list[np.ndarray | float]]] = {"widths": [], "moved": [], "grey": []}
    for video, mask in clips:
        size = mask.sum((1, 2))
        if size.min() < LEAST:
            continue
        by_size, tenth = np.argsort(size), math.ceil(len(size) / 10)
        both = by_size[-tenth:], by_size[:tenth]
        rows["widths"].append([np.mean([widths(mask[at]) for at in few], axis=0) for few in both])
        rows["moved"].append(list(ends(mask[both[0][-1]], mask[both[1][0]])))
        rows["grey"].append([float(np.mean([border_grey(video[at], mask[at]) for at in few])) for few in both])
    if not rows["grey"]:
        raise InputError(f"no clip has a mask of {LEAST} pixels in every frame")
    return {name: np.median(np.array(found), axis=0) for name, found in rows.items()}


def drawn(domain: str, cases: int) -> list[Clip]:
    """Held-out patients of a domain, 24 frames of 112 pixels at 30 a second."""
    source = default_phantom(seed=5, num_frames=24, fps=30.0, size=112, case_frames=24, domain=domain)
    made = [source.clip(index) for index in range(cases)]
    return [(clip.video, clip.truth_labels == 1) for clip in made if clip.truth_labels is not None]


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", help="folder of side-by-side .mp4 files")
    parser.add_argument("--domains", nargs="*", default=["default", "wild"])
    parser.add_argument("--cases", type=int, default=40)
    options = parser.parse_args()
    try:
        painted = [(clip.video, clip.mask) for clip in read_painted_clips(options.clips)] if options.clips else []
    except EchoDFKDError as error:
        print(error, file=sys.stderr)
        return 1
    groups = ({"painted": painted} if painted else {}) | {name: drawn(name, options.cases) for name in options.domains}
    for name, clips in groups.items():
        found = describe(clips)
        for at, phase in enumerate(("filled", "emptied")):
            print(f"{name:8} {phase:8} widths {' '.join(f'{value:.2f}' for value in found['widths'][at])}"
                  f"  grey {found['grey'][at]:.2f}")  # fmt: skip
        print(f"{name:8} apex moves {found['moved'][0]:.3f}, annulus {found['moved'][1]:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
