"""Clips of plain noise, and those of them that are nearest to a teacher's batch statistics.

Legend: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.core.errors import ClipError
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.teachers.batch_statistics import BatchStatistics
from echodfkd.models.teachers.graded import GradedTeacher

CANDIDATES = 6
"""Noise clips that a guided one is chosen from."""


class PlainNoise:
    """See `echodfkd.models.generators.protocol.Generator`: smooth random pictures that turn into one another."""

    notes: tuple[str, ...] = ()
    wants_label_map = False

    def generate(self, requests: Sequence[ClipRequest]) -> list[np.ndarray | ClipError]:
        """Each clip by itself."""
        return [as_grey(next(noise_of(request, 1))) for request in requests]


class GuidedNoise:
    """See `echodfkd.models.generators.protocol.Generator`: of several noise clips the one that is nearest to the
    teacher's batch statistics (the sampling of DFSS, Sun and Wu 2025; not its weights over time).

    Args:
        teacher: its network, on ``device``.
        candidates: noise clips to choose from; 0 takes `CANDIDATES`.
        device: cpu or cuda.

    Raises:
        InputError: the network keeps no batch statistics.
    """

    notes: tuple[str, ...] = ()
    wants_label_map = False

    def __init__(self, teacher: GradedTeacher, candidates: int = 0, device: str = "cpu") -> None:
        self._teacher, self._candidates, self._device = teacher, candidates or CANDIDATES, device
        teacher.network.to(device)
        self._statistics = BatchStatistics(teacher.network, f"source.generator.weights: {teacher.name}")

    @torch.inference_mode()
    def generate(self, requests: Sequence[ClipRequest]) -> list[np.ndarray | ClipError]:
        """Each clip by itself: its candidates are a batch of the teacher's."""
        return [self._generate(request) for request in requests]

    def _generate(self, request: ClipRequest) -> np.ndarray:
        videos = torch.stack(list(noise_of(request, self._candidates))).to(self._device)
        return as_grey(nearest_noise(videos, self._teacher, self._statistics)[0])


def nearest_noise(
    videos_BTHW: torch.Tensor, teacher: GradedTeacher, statistics: BatchStatistics
) -> tuple[torch.Tensor, float]:
    """The clip that is nearest to the teacher's batch statistics, and its distance."""
    with statistics.watching(len(videos_BTHW)):
        teacher.logits(videos_BTHW.round())
    distance, number = statistics.distances().min(0)
    return videos_BTHW[int(number)], float(distance)


def noise_of(request: ClipRequest, number: int) -> Iterator[torch.Tensor]:
    """So many noise clips (T, H, W), all drawn from the request's seed."""
    generator = torch.Generator().manual_seed(request.seed & (2**64 - 1))
    for _ in range(number):
        yield noise_clip(generator, request.frames, request.size)


def as_grey(video_THW: torch.Tensor) -> np.ndarray:
    """Whole grey levels, uint8."""
    return video_THW.round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def noise_clip(generator: torch.Generator, frames: int, size: int) -> torch.Tensor:
    """Plain noise: a smooth random picture that turns into another and back, (T, H, W) in 0..255.

    Its grain (1 to 16 pixels), brightness and contrast are drawn too.
    """
    grain, brightness, contrast = torch.rand(3, generator=generator).tolist()
    side = max(2, round(size / 16**grain))
    two = torch.randn(2, 1, side, side, generator=generator)
    one, other = F.interpolate(two, (size, size), mode="bilinear", align_corners=False)[:, 0]
    turn = torch.linspace(0.0, math.pi, frames).view(-1, 1, 1)
    picture = one * turn.cos() + other * turn.sin()
    return (80.0 * brightness + (10.0 + 60.0 * contrast) * picture).clamp(0.0, 255.0)
