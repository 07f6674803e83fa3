"""Reasons to doubt the masks of a clip: numbers that lie beyond those of clips which a student knows.

A flag is no diagnosis, and no flag is no guarantee. How often each is right and wrong is measured by
``python -m tests.benchmarks confidence`` (docs/explanation/confidence.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple


class Flag(NamedTuple):
    """A reason to doubt: the ``name`` of a number (`LIMITS`), and a ``sentence`` with its value."""

    name: str
    sentence: str


class Limit(NamedTuple):
    """``usual``: a clip that the student knows. Beyond ``limit``, seen from there, the ``sentence`` is said."""

    usual: float
    limit: float
    sentence: str


MOST_DOUBT = 10.0
"""Larger doubts are cut: one is as good as the other."""

LIMITS = {
    "black": Limit(0.66, 0.10, "the picture is black: {value:.1%} of it is lit, expected at least {limit:.0%}"),
    "still": Limit(27.0, 2.0, "nothing moves: grey levels change by {value:.1f}, expected at least {limit:.0f}"),
    "order": Limit(
        0.08, 0.5, "the frames follow no order: neighbours differ by {value:.0%} of frames that are far apart"
    ),
    "sector": Limit(
        0.0,
        0.3,
        "no sector with its tip at the top: {value:.0%} of the upper corners is lit, expected at most {limit:.0%}",
    ),
    "unsure": Limit(
        0.97,
        0.87,
        "the student is unsure: the mean probability in its mask is {value:.2f}, expected at least {limit:.2f}",
    ),
    "jumps": Limit(
        0.02, 0.08, "the mask jumps: {value:.0%} of it changes from frame to frame, expected at most {limit:.0%}"
    ),
    "parts": Limit(
        0.0,
        0.05,
        "{value:.1%} of the mask lies outside the part that is largest over the video, such as text or another chamber:"
        " its areas and volumes count it",
    ),
    "small": Limit(0.12, 0.02, "the mask takes {value:.1%} of the frame, expected at least {limit:.0%}"),
    "large": Limit(0.12, 0.25, "the mask takes {value:.0%} of the frame, expected at most {limit:.0%}"),
    "empty": Limit(
        0.0,
        0.5,
        "no ventricle is seen in {value:.0f} frames: trust no beat, rate or EF of this video before you have looked at"
        " its overlay",
    ),
    "beat": Limit(2.0, 1.0, "no whole beat is seen in the area of the mask"),
    "slow": Limit(70.0, 35.0, "the heart rate of {value:.0f} a minute is below {limit:.0f}: is the frame rate right?"),
    "fast": Limit(70.0, 180.0, "the heart rate of {value:.0f} a minute is above {limit:.0f}: is the frame rate right?"),
    "size": Limit(1.0, 2.0, "the video is enlarged by {value:.1f} to the student's size, expected at most {limit:.0f}"),
    "rate": Limit(1.0, 2.0, "the student's rate is {value:.1f} times that of the video, expected at most {limit:.0f}"),
}
"""By the number's name. ``usual`` is the median of clips of the phantom's domains default and clear, with the masks of
the demo's larger student. A limit lies between the worst of these clips and the middle one of the odd clips that the
number is for (docs/explanation/confidence.md)."""


def doubt_of(name: str, value: float) -> float:
    """0 for a usual number, 1 at the limit, more beyond it; 0 for one that is not known (NaN)."""
    usual, limit, _ = LIMITS[name]
    return 0.0 if math.isnan(value) else min(max(0.0, (value - usual) / (limit - usual)), MOST_DOUBT)


def most_doubt(signals: Mapping[str, float]) -> float:
    """The largest doubt of all numbers; above 1 there is a flag."""
    return max((doubt_of(name, value) for name, value in signals.items()), default=0.0)


def find_flags(signals: Mapping[str, float]) -> tuple[Flag, ...]:
    """A flag for every number beyond its limit, the largest doubt first."""
    doubts = {name: doubt_of(name, value) for name, value in signals.items()}
    beyond = sorted((name for name in doubts if doubts[name] > 1.0), key=lambda name: -doubts[name])
    return tuple(
        Flag(name, LIMITS[name].sentence.format(value=signals[name], limit=LIMITS[name].limit)) for name in beyond
    )
