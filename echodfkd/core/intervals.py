"""Arithmetic on intervals of time: how long an actor, a stage or several stages were at work.

An array of intervals is float64 (N, 2), rows of (start, end) in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def union(intervals: np.ndarray, *, gap: float = 0.0) -> np.ndarray:
    """Sorted, disjoint intervals that cover the same time; gaps up to ``gap`` are closed."""
    if len(intervals) == 0:
        return np.zeros((0, 2))
    ordered = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ordered[:, 1])
    is_new = np.concatenate(([True], ordered[1:, 0] > reach[:-1] + gap))
    is_last = np.concatenate((is_new[1:], [True]))
    return np.stack([ordered[is_new, 0], reach[is_last]], axis=1)


def length(intervals: np.ndarray) -> float:
    """Seconds covered by at least one of the intervals."""
    covered = union(intervals)
    return float((covered[:, 1] - covered[:, 0]).sum())


def shared_seconds(stages: Mapping[str, np.ndarray]) -> dict[int, float]:
    """Seconds in which exactly k of the stages were busy, for k = 1 .. number of stages."""
    edges = []
    for intervals in stages.values():
        covered = union(intervals)
        edges += [(float(t), 1) for t in covered[:, 0]] + [(float(t), -1) for t in covered[:, 1]]
    edges.sort()
    seconds = dict.fromkeys(range(1, len(stages) + 1), 0.0)
    busy, since = 0, 0.0
    for t, change in edges:
        if busy:
            seconds[busy] += t - since
        busy, since = busy + change, t
    return seconds


def most_at_once(intervals: np.ndarray) -> int:
    """The largest number of intervals that overlap; one that ends as another starts does not overlap it."""
    edges = sorted([(float(end), -1) for end in intervals[:, 1]] + [(float(start), 1) for start in intervals[:, 0]])
    return int(np.cumsum([change for _, change in edges]).max(initial=0))
