"""How good a generator's clips are: asked and measured ejection fraction, distance to held-out clips, copies.

Each number stands beside the same number of held-out clips of the generator's own training source, which is the best
that it could reach.

Legend: N clips, T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from echodfkd.core.errors import ClipError, RunError
from echodfkd.core.records import VideoClip
from echodfkd.metrics.cardiac import mean_absolute_error, pearson_r
from echodfkd.metrics.frechet import frechet_distance
from echodfkd.metrics.summary import bootstrap_pairs
from echodfkd.metrics.volume import area_length_volume
from echodfkd.models.generators.latent_networks import CONDITIONS
from echodfkd.models.generators.protocol import ClipRequest, Generator
from echodfkd.models.judges.embedded import read_towers
from echodfkd.models.teachers.protocol import Teacher

_PAIRS, _ASKED_EFS = 16, (20.0, 80.0)
"""Clips, and ejection fractions, that are made of the same noise."""
_FRAMES_OF_CLIP = 4
"""Frames of each clip that the judge's features are taken of."""


def requests_like(clips: Sequence[VideoClip], seed: int) -> list[ClipRequest]:
    """Requests of the same conditions, shape and rate as these clips."""
    found = []
    for number, clip in enumerate(clips):
        known = {name: getattr(clip.conditions, name) for name in CONDITIONS}
        ef = known["ef_percent"]
        found.append(
            ClipRequest(
                clip_id=f"made-{number}",
                seed=seed * 1_000_003 + number,
                frames=len(clip.video),
                fps=clip.fps,
                size=clip.video.shape[-1],
                ef=None if ef is None else ef / 100.0,
                conditions={name: value for name, value in known.items() if value is not None},
            )
        )
    return found


def score_generator(
    generator: Generator,
    teacher: Teacher,
    held_out: Sequence[Sequence[VideoClip]],
    training_NTHW: np.ndarray,
    *,
    seed: int,
) -> tuple[dict[str, Any], np.ndarray]:
    """Scores by name, and the clips that they are of, uint8 (N, T, H, W).

    Args:
        generator: makes a clip under the conditions of each clip of the first set.
        teacher: its masks measure the ejection fraction.
        held_out: two disjoint sets of clips of one shape and rate, of the source that it was trained on.
        training_NTHW: the clips that it was trained on, of the same side.
        seed: of its noise.

    Raises:
        RunError: it cannot make a clip.
    """
    first, second = (np.stack([clip.video for clip in clips]) for clips in held_out)
    requests = requests_like(held_out[0], seed)
    videos = _made(generator, requests)
    asked = np.array([clip.conditions.ef_percent for clip in held_out[0]], np.float64)
    features = {name: judge_features(video) for name, video in (("made", videos), ("a", first), ("b", second))}
    scores = {
        "clips": len(videos),
        "ef": {
            "made": ef_agreement(asked, measured_ef(teacher, videos)),
            "drawn": ef_agreement(asked, measured_ef(teacher, first)),
            "same_noise": ef_of_same_noise(generator, teacher, requests[:_PAIRS]),
        },
        "frechet": {
            "made_to_drawn": frechet_distance(features["made"], features["b"]),
            "drawn_to_drawn": frechet_distance(features["a"], features["b"]),
        },
        "copies": copies(videos[:, 0], first[:, 0], training_NTHW),
    }
    return scores, videos


def _made(generator: Generator, requests: Sequence[ClipRequest]) -> np.ndarray:
    """The clips of requests of one shape, made one by one, uint8 (N, T, H, W)."""
    found = []
    for request in requests:
        (clip,) = generator.generate([request])
        if isinstance(clip, ClipError):
            raise RunError(f"the generator cannot make {request.clip_id}: {clip}")
        found.append(clip)
    return np.stack(found)


def ef_of_same_noise(
    generator: Generator, teacher: Teacher, requests: Sequence[ClipRequest]
) -> dict[str, float | None]:
    """Mean measured ejection fraction by the one that is asked for, in percent, all else as in the requests.

    None if it is known of no clip.
    """
    found: dict[str, float | None] = {}
    for ef in _ASKED_EFS:
        measured = measured_ef(teacher, _made(generator, [replace(r, ef=ef / 100) for r in requests]))
        known = measured[np.isfinite(measured)]
        found[f"{ef:.0f}"] = float(known.mean()) if len(known) else None
    return found


def measured_ef(teacher: Teacher, video_NTHW: np.ndarray) -> np.ndarray:
    """Ejection fraction in percent of each clip, 1 less smallest by largest area-length volume of the teacher's masks.

    NaN if a frame has no ventricle. A clip shorter than a beat shows less than its heart's whole ejection fraction.
    """
    found = []
    for video in video_NTHW:
        mask = teacher.teach(video[None], classes=("LV",)).masks[0, :, 0] >= 0.5
        volume = area_length_volume(mask)
        found.append(100.0 * (1.0 - volume.min() / volume.max()) if volume.min() > 0 else np.nan)
    return np.array(found)


def ef_agreement(asked: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    """Correlation and mean absolute error with their bootstrap intervals, and the share of clips that were measured."""
    return {
        "r": bootstrap_pairs(pearson_r, asked, measured).to_json(),
        "mae": bootstrap_pairs(mean_absolute_error, asked, measured).to_json(),
        "measured_share": float(np.isfinite(measured).mean()),
    }


@torch.inference_mode()
def judge_features(video_NTHW: np.ndarray) -> np.ndarray:
    """The embedded judge's vectors of some frames of each clip, evenly spaced, (4 N, features)."""
    times = np.linspace(0, video_NTHW.shape[1] - 1, _FRAMES_OF_CLIP).round().astype(int)
    frames = torch.from_numpy(video_NTHW[:, times]).flatten(0, 1)
    towers = read_towers()
    return torch.cat([towers.embed_frames(part) for part in frames.split(64)]).numpy()


def copies(made_NHW: np.ndarray, drawn_NHW: np.ndarray, training_NTHW: np.ndarray) -> dict[str, float]:
    """Root mean squared distance in grey levels of made and of held-out frames to their nearest training frame.

    ``nearer_than_drawn`` is the share of made frames that are nearer to one than the nearest held-out frame is: copies
    would be.
    """
    made, drawn = (nearest_distance(frames, training_NTHW) for frames in (made_NHW, drawn_NHW))
    return {
        "made_median": float(np.median(made)),
        "drawn_median": float(np.median(drawn)),
        "made_least": float(made.min()),
        "drawn_least": float(drawn.min()),
        "nearer_than_drawn": float((made < drawn.min()).mean()),
    }


def nearest_distance(frames_NHW: np.ndarray, training_NTHW: np.ndarray) -> np.ndarray:
    """Root mean squared distance of each frame to the nearest frame of all clips, float64 (N,)."""
    wanted = torch.from_numpy(frames_NHW.reshape(len(frames_NHW), -1).astype(np.float32))
    least = torch.full((len(wanted),), torch.inf)
    for clip in training_NTHW:
        known = torch.from_numpy(np.asarray(clip, np.float32).reshape(len(clip), -1))
        squares = wanted.square().sum(1)[:, None] + known.square().sum(1) - 2.0 * wanted @ known.T
        least = torch.minimum(least, squares.amin(1))
    return (least.clamp(min=0).double() / wanted.shape[1]).sqrt().numpy()
