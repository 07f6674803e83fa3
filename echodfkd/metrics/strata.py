"""Group cases into strata by patient, image and scanner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

EDGES: dict[str, tuple[float, ...]] = {
    "ef_percent": (40.0, 50.0),
    "age_years": (40.0, 65.0),
    "heart_rate_bpm": (60.0, 100.0),
    "image_quality": (1 / 3, 2 / 3),
}
"""Inner edges of the strata of each numeric condition. EF: reduced, mildly reduced, preserved (European Society of
Cardiology, heart failure guideline 2021); heart rate: slow, usual, fast; age and quality: chosen."""

WORDS = ("view", "sex", "source", "domain", "route")
"""Conditions of which each value is a stratum."""


def strata_of(columns: Mapping[str, Sequence[object]]) -> dict[str, dict[str, np.ndarray]]:
    """Condition -> stratum -> positions of its cases, int64.

    A stratum holds its lower edge. Cases whose condition is unknown (None or NaN) are in no stratum. Conditions
    with fewer than two non-empty strata are left out.

    Args:
        columns: condition -> value per case; conditions other than `EDGES` and `WORDS` are ignored.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, edges in EDGES.items():
        if name in columns:
            values = np.array([np.nan if value is None else value for value in columns[name]], np.float64)
            place = np.searchsorted(edges, values, side="right")
            groups = {
                label: np.flatnonzero((place == number) & np.isfinite(values))
                for number, label in enumerate(interval_labels(edges))
            }
            found[name] = {label: group for label, group in groups.items() if len(group)}
    for name in WORDS:
        if name in columns:
            words = [str(value) if value is not None else "" for value in columns[name]]
            found[name] = {
                word: np.flatnonzero(np.array([other == word for other in words])) for word in sorted(set(words) - {""})
            }
    return {name: groups for name, groups in found.items() if len(groups) > 1}


def interval_labels(edges: Sequence[float]) -> list[str]:
    """Names of the intervals that these inner edges cut, in order."""
    inner = [f"{low:.3g} .. {high:.3g}" for low, high in pairwise(edges)]
    return [f"< {edges[0]:.3g}", *inner, f">= {edges[-1]:.3g}"]
