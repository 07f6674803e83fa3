"""A teacher's network that lets gradients through to its input, or whose inner features are looked at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from echodfkd.core.errors import ConfigError
from echodfkd.models.teachers.build import NETWORKS

KINDS = tuple(name for name in NETWORKS if name.startswith("embedded"))
"""Kinds of teachers whose first logit is the left ventricle, of one grey channel at any size."""


@dataclass(frozen=True)
class GradedTeacher:
    """The network in evaluation mode, frozen. The left ventricle is its first logit."""

    network: nn.Module
    mean: float
    std: float
    name: str = "teacher"

    def logits(self, video_BTHW: torch.Tensor) -> torch.Tensor:
        """(B, T, H, W) of grey frames 0..255."""
        frames = (video_BTHW.flatten(0, 1)[:, None] - self.mean) / self.std
        return self.network(frames)[:, 0].unflatten(0, video_BTHW.shape[:2])


def graded_teacher(kind: str, weights: str) -> GradedTeacher:
    """The network of a teacher's file; "" takes the shipped one.

    Raises:
        ConfigError: its kind is built elsewhere, or takes frames of one size or of several channels.
        InputError: its weights cannot be used.
    """
    if kind not in KINDS:
        raise ConfigError(f"teacher.kind: got {kind}, training without data takes {', '.join(KINDS)}")
    network, spec = NETWORKS[kind](weights)
    statistics = spec.statistics
    return GradedTeacher(network.eval().requires_grad_(False), statistics.mean[0], statistics.std[0], kind)
