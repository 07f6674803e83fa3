"""Match detected events to all events of a recording: hits, misses and false detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TOLERANCE_FRAMES = 2
"""Largest distance of a hit."""


@dataclass(frozen=True)
class EventMatch:
    """Result of `match_events`, in frames.

    ``errors`` holds detection less event of each pair, ``missed`` the events and ``invented`` the detections without a
    partner.
    """

    errors: tuple[int, ...]
    missed: tuple[int, ...]
    invented: tuple[int, ...]

    @property
    def precision(self) -> float:
        """Share of detections that are events; NaN if nothing was detected."""
        return _share(len(self.errors), len(self.invented))

    @property
    def recall(self) -> float:
        """Share of events that were detected; NaN if there is none."""
        return _share(len(self.errors), len(self.missed))


def match_events(
    detected: Sequence[int], events: Sequence[int], *, num_frames: int, tolerance: int = TOLERANCE_FRAMES
) -> EventMatch:
    """Pair detections and events one to one, as many as lie within ``tolerance`` frames of each other.

    In order of time, each detection takes the first free event in reach: no other pairing has more pairs. An
    event within ``tolerance`` of the clip's first or last frame may just as well lie outside the clip: it counts if it
    has a partner, and is not missed (nor a detection there invented) if it has none.

    Args:
        detected: frames of detections, ascending.
        events: frames of all events of the clip, ascending; if only one beat is annotated, precision has no meaning.
        num_frames: frames of the clip.
        tolerance: largest distance of a pair in frames.
    """
    errors, missed, invented = [], [], []
    i = j = 0
    while i < len(detected) or j < len(events):
        if j == len(events) or (i < len(detected) and detected[i] < events[j] - tolerance):
            invented.append(detected[i])
            i += 1
        elif i == len(detected) or detected[i] > events[j] + tolerance:
            missed.append(events[j])
            j += 1
        else:
            errors.append(detected[i] - events[j])
            i, j = i + 1, j + 1
    inside = range(tolerance, num_frames - tolerance)
    return EventMatch(tuple(errors), tuple(t for t in missed if t in inside), tuple(t for t in invented if t in inside))


def _share(hits: int, others: int) -> float:
    return hits / (hits + others) if hits + others else float("nan")
