"""A case whose LV is a disc that beats, with known overlap and timing."""

from __future__ import annotations

import dataclasses

import numpy as np

from echodfkd.core.records import Conditions, VideoClip

T, SIZE, PERIOD = 40, 32, 16
ED, ES = (0, 16, 32), (8, 24)


def disc(radius: np.ndarray, shift: int = 0) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return np.roll((x**2 + y**2)[None] < (radius**2)[:, None, None], shift, axis=2)


def radius_at(t: np.ndarray) -> np.ndarray:
    return 8 + 3 * np.cos(2 * np.pi * t / PERIOD)


def beating_case(**changes: object) -> VideoClip:
    case = VideoClip(
        clip_id="fake-0",
        index=0,
        seed=0,
        epoch=0,
        window_start=0,
        video=np.random.default_rng(0).integers(0, 255, (T, SIZE, SIZE)).astype(np.uint8),
        fps=32.0,
        source="fake",
        domain="default",
        conditions=Conditions(ef_percent=60.0),
        truth_labels=disc(radius_at(np.arange(T))).astype(np.uint8),
        ed_frames=ED,
        es_frames=ES,
    )
    return dataclasses.replace(case, **changes)
