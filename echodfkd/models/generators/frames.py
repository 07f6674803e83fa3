"""Clips between a generator's own rate and size and those that are asked for.

Legend: B clips, T frames, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.core.errors import ClipError
from echodfkd.models.generators.protocol import ClipRequest

Clips = list[np.ndarray | ClipError]


def own_frames(request: ClipRequest, fps: float) -> int:
    """Frames that a generator of rate ``fps`` must make, so that the request's frames lie among them."""
    return math.ceil((request.frames - 1) * fps / request.fps - 1e-6) + 1


def fit_clip(video_THW: torch.Tensor, request: ClipRequest, fps: float) -> np.ndarray | ClipError:
    """A clip of grey levels at rate ``fps`` as uint8 (T, H, W) of the request.

    Frames in between are means of their two neighbours by distance, so that a wall moves evenly; sizes go through
    area-true interpolation. Numbers are cut to 0 .. 255 and the fraction dropped, as the authors' samplers do.
    """
    if not torch.isfinite(video_THW).all():
        return ClipError(
            f"{request.clip_id}: the generator made numbers that are not finite (source.generator.precision,"
            " source.generator.scheduler)"
        )
    step = fps / request.fps
    places = torch.arange(request.frames, dtype=torch.float64) * step
    first = places.floor().long().clamp(max=len(video_THW) - 1)
    second, share = (first + 1).clamp(max=len(video_THW) - 1), (places - first).float()[:, None, None]
    video = video_THW.float().cpu()
    if float(share.max()) > 0:
        video = torch.lerp(video[first], video[second], share)
    else:
        video = video[first]
    if video.shape[1:] != (request.size, request.size):
        size = (request.size, request.size)
        video = F.interpolate(video[:, None], size=size, mode="bilinear", align_corners=False, antialias=True)[:, 0]
    return video.clamp(0, 255).to(torch.uint8).numpy()


def generate_alike(
    requests: Sequence[ClipRequest],
    key: Callable[[ClipRequest], Hashable | ClipError],
    make: Callable[[list[ClipRequest]], list[torch.Tensor]],
    fps: float | None,
) -> Clips:
    """The clips of all requests; those of one key are made together.

    Args:
        requests: of one batch.
        key: shape of the work that a request is, or the error of one that cannot be made.
        make: requests of one key -> grey levels (T, H, W) at rate ``fps``.
        fps: the generator's own rate; None if its frames are those asked for.
    """
    clips: dict[int, np.ndarray | ClipError] = {}
    groups: dict[Hashable, list[int]] = {}
    for place, request in enumerate(requests):
        found = key(request)
        if isinstance(found, ClipError):
            clips[place] = found
        else:
            groups.setdefault(found, []).append(place)
    for places in groups.values():
        asked = [requests[place] for place in places]
        for place, request, video in zip(places, asked, make(asked), strict=True):
            clips[place] = fit_clip(video, request, fps or request.fps)
    return [clips[place] for place in range(len(requests))]


def noise_sources(requests: Sequence[ClipRequest]) -> list[torch.Generator]:
    """A generator on the CPU for each clip, of its own seed: batch, actor and order do not matter."""
    return [torch.Generator().manual_seed(request.seed) for request in requests]


def choose_fractions(requests: Sequence[ClipRequest], generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Ejection fractions (B,), 0..1; of a request without one 0.1 .. 0.9, uniform, as the authors draw them."""
    chosen = [
        0.1 + 0.8 * float(torch.rand(1, generator=generator)) if request.ef is None else request.ef
        for request, generator in zip(requests, generators, strict=True)
    ]
    return torch.tensor(chosen, dtype=torch.float32)


def first_map(label_map: np.ndarray) -> np.ndarray:
    """The map (H, W) of the first frame."""
    return label_map if label_map.ndim == 2 else label_map[0]
