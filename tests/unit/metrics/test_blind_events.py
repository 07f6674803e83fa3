"""Blind detection on curves that no phantom drew: splines through the ventricle's volume curve, and what patients add.

The control points are fractions of the stroke volume at fractions of the beat, read off the volume curves of textbooks
(Wiggers' diagram): ejection to a third of the beat, rapid filling to a half, diastasis, atrial systole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from echodfkd.metrics.blind_events import detect_events
from echodfkd.metrics.events import match_events

FPS = 32.0
_SYSTOLE = [(0.0, 1.0), (0.06, 0.97), (0.12, 0.72), (0.2, 0.35), (0.28, 0.08), (0.34, 0.0)]
_DIASTOLE = [(0.38, 0.04), (0.46, 0.45), (0.54, 0.68), (0.7, 0.76), (0.86, 0.79), (0.94, 0.93)]


@dataclass(frozen=True)
class Patient:
    """What a curve is made of; rates in beats a minute, the rest in shares of the area, or of the rate."""

    rate: tuple[float, float] = (45, 140)
    ef: tuple[float, float] = (0.1, 0.5)
    breathing: float = 0.0
    drift: float = 0.0
    noise: float = 0.0
    irregular: float = 0.0
    filling: float = 0.0
    atrial: bool = True
    premature: bool = False


def curve(patient: Patient, seed: int) -> tuple[np.ndarray, list[int], list[int]]:
    """Area of 3 to 10 beats that begins anywhere, and the frames of ED and ES in it."""
    rng = np.random.default_rng(seed)
    beats = int(rng.integers(3, 11)) + 2
    rate = np.full(beats, rng.uniform(*patient.rate))
    rate *= np.clip(1 + patient.irregular * rng.normal(size=beats), 0.6, 1.5)
    if patient.premature:
        early = int(rng.integers(2, beats - 2))
        rate[early : early + 2] *= [1.5, 0.75]
    ef = rng.uniform(*patient.ef)
    full = 1 + patient.filling * ef * rng.normal(size=beats + 1)
    knots, values, ed, es, start = [], [], [], [], 0.0
    for beat in range(beats):
        length = 60 / rate[beat]
        for share, level in [*_SYSTOLE, *_DIASTOLE]:
            before, after = full[beat] - 1, full[beat + 1] - 1
            if not patient.atrial and share > 0.5:
                level = 1.0
            knots.append(start + share * length)
            values.append(1 - ef * (1 - level) + (before if share < 0.34 else after) * level)
        ed.append(start)
        es.append(start + 0.34 * length)
        start += length
    spline = PchipInterpolator(knots, values)
    began = 60 / rate[0] * (1 + rng.uniform(0, 0.9))
    time = np.arange(began, start - 60 / rate[-1], 1 / FPS)
    area = spline(time) * (1 + patient.breathing * np.sin(2 * np.pi * time / 4 + rng.uniform(0, 6)))
    area = area * (1 + patient.drift * np.linspace(-0.5, 0.5, len(time))) + patient.noise * ef * rng.normal(
        size=len(time)
    )
    frames = [[round((at - began) * FPS) for at in events] for events in (ed, es)]
    return 900 * area, *[[f for f in found if 0 <= f < len(time)] for found in frames]


def scores(patient: Patient) -> dict[str, float]:
    """Precision and recall of ED and ES over 60 patients."""
    hits, invented, missed = np.zeros(2), np.zeros(2), np.zeros(2)
    for seed in range(60):
        area, *truth = curve(patient, seed)
        for kind, (found, events) in enumerate(zip(detect_events(area, fps=FPS), truth, strict=True)):
            match = match_events(found, events, num_frames=len(area))
            hits[kind] += len(match.errors)
            invented[kind] += len(match.invented)
            missed[kind] += len(match.missed)
    precision, recall = hits / (hits + invented), hits / (hits + missed)
    return {"ed precision": precision[0], "ed recall": recall[0], "es precision": precision[1], "es recall": recall[1]}


@pytest.mark.parametrize(
    ("patient", "least"),
    [
        (Patient(), 0.99),
        (Patient(breathing=0.1), 0.97),
        (Patient(breathing=0.05, ef=(0.1, 0.2)), 0.97),
        (Patient(drift=0.4), 0.97),
        (Patient(noise=0.1), 0.95),
        (Patient(irregular=0.15), 0.97),
        (Patient(atrial=False), 0.97),
        (Patient(irregular=0.2, filling=0.2, atrial=False), 0.9),  # atrial fibrillation
        (Patient(premature=True), 0.97),
    ],
    ids=lambda value: str(value) if isinstance(value, float) else "",
)
def test_events_survive_what_patients_do(patient: Patient, least: float) -> None:
    """Within 2 frames at 32 frames a second."""
    found = scores(patient)
    assert min(found.values()) >= least, found


def test_a_pause_of_the_heart_hides_no_beat() -> None:
    """Two seconds of diastole between regular beats."""
    area, ed, es = curve(Patient(rate=(75, 75), ef=(0.4, 0.4)), 5)
    at = ed[2] - 1
    held = np.concatenate([area[:at], np.full(64, area[at]), area[at:]])
    found = detect_events(held, fps=FPS)
    for kind, events in zip(found, (ed, es), strict=True):
        wanted = [frame + 64 * (frame >= at) for frame in events]
        match = match_events(kind, wanted, num_frames=len(held))
        assert (match.missed, match.invented) == ((), ())


def test_any_unit_and_any_offset_give_the_same_events() -> None:
    area, _, _ = curve(Patient(breathing=0.05), 1)
    assert detect_events(area, fps=FPS) == detect_events(0.01 * area - 40, fps=FPS)
