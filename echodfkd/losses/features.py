"""Losses on a network's intermediate features: attention transfer, and matching of values or of directions.

All are weighted means over clips, like the mask losses, and add up over shards that do not cut a clip.

Legend: B clips, T frames, F features, h rows, w columns; _S of the student, _T of the teacher.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.losses.targets import mean_over_clips


def attention_transfer(
    student_BTFhw: torch.Tensor,
    teacher_BTFhw: torch.Tensor,
    weight: torch.Tensor,
    *,
    total_weight: float | torch.Tensor,
) -> torch.Tensor:
    """Attention transfer (Zagoruyko and Komodakis 2017): match the spatial maps of feature magnitude.

    A frame's attention map is the mean over its features of their squares, as a vector of length 1. The loss of a frame
    is the squared distance of the two vectors, and a clip's is the mean over its frames. The numbers of features may
    differ, and the finer map is averaged over the cells of the coarser.

    Args:
        student_BTFhw: floating; computed in at least float32.
        teacher_BTFhw: (B, T, F', h', w').
        weight: (B,), weight of each clip; 0 leaves it out.
        total_weight: sum of the weights of all clips of the optimiser step, above 0.

    Returns:
        Scalar, 0..2. A frame whose features are all 0 has no direction: its map stays 0, at distance 1 from any other.

    Raises:
        ValueError: shapes do not belong together.
    """
    student, teacher, w = _checked(student_BTFhw, teacher_BTFhw, weight)
    student, teacher = _same_size(student.square().mean(dim=2, keepdim=True), teacher.square().mean(2, keepdim=True))
    student_BTN, teacher_BTN = (F.normalize(maps.flatten(2), dim=-1) for maps in (student, teacher))
    return mean_over_clips((student_BTN - teacher_BTN).square().sum(-1).mean(dim=1), w, total_weight)


class FeatureAdapter(nn.Module):
    """A 1 x 1 convolution from a student's features to as many as the teacher has (Romero et al. 2015, "FitNets").

    It is trained with the student and discarded with the teacher.
    """

    def __init__(self, student_features: int, teacher_features: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(student_features, teacher_features, 1)

    def forward(self, student_BTFhw: torch.Tensor) -> torch.Tensor:
        """(B, T, F, h, w) -> (B, T, F', h, w)."""
        B, T = student_BTFhw.shape[:2]
        return self.project(student_BTFhw.flatten(0, 1)).unflatten(0, (B, T))


def feature_matching(
    adapted_BTFhw: torch.Tensor,
    teacher_BTFhw: torch.Tensor,
    weight: torch.Tensor,
    *,
    total_weight: float | torch.Tensor,
) -> torch.Tensor:
    """Half the mean squared difference of a student's adapted features and the teacher's (Romero et al. 2015).

    Args:
        adapted_BTFhw: the student's features after a `FeatureAdapter`; computed in at least float32.
        teacher_BTFhw: (B, T, F, h', w'); the finer of the two maps is averaged over the cells of the coarser.
        weight: (B,), weight of each clip; 0 leaves it out.
        total_weight: sum of the weights of all clips of the optimiser step, above 0.

    Returns:
        Scalar: mean over frames, features and cells.

    Raises:
        ValueError: shapes do not belong together.
    """
    _check_as_many(adapted_BTFhw, teacher_BTFhw)
    student, teacher, w = _checked(adapted_BTFhw, teacher_BTFhw, weight)
    student, teacher = _same_size(student, teacher)
    return mean_over_clips(0.5 * (student - teacher).square().flatten(1).mean(dim=1), w, total_weight)


def feature_directions(
    projected_BTFhw: torch.Tensor,
    teacher_BTFhw: torch.Tensor,
    weight: torch.Tensor,
    *,
    total_weight: float | torch.Tensor,
) -> torch.Tensor:
    """1 - cosine between a student's projected features and the teacher's, cell by cell (Chen et al. 2022).

    "Improved feature distillation via projector ensemble", with one linear projector: the magnitude of the features
    does not count.

    Args:
        projected_BTFhw: the student's features after a `FeatureAdapter`; computed in at least float32.
        teacher_BTFhw: (B, T, F, h', w'); the finer of the two maps is averaged over the cells of the coarser.
        weight: (B,), weight of each clip; 0 leaves it out.
        total_weight: sum of the weights of all clips of the optimiser step, above 0.

    Returns:
        Scalar, 0..2: mean over frames and cells. A cell whose features are all 0 has no direction, and counts 1.

    Raises:
        ValueError: shapes do not belong together.
    """
    _check_as_many(projected_BTFhw, teacher_BTFhw)
    student, teacher, w = _checked(projected_BTFhw, teacher_BTFhw, weight)
    student, teacher = (F.normalize(maps, dim=2) for maps in _same_size(student, teacher))
    return mean_over_clips((1 - (student * teacher).sum(dim=2)).flatten(1).mean(dim=1), w, total_weight)


def _check_as_many(student: torch.Tensor, teacher: torch.Tensor) -> None:
    if student.shape[2:3] != teacher.shape[2:3]:
        raise ValueError(
            f"features {tuple(student.shape)} and {tuple(teacher.shape)} must be as many (the third number)"
        )


def _checked(
    student: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    same_clips = student.shape[:2] == teacher.shape[:2] and weight.shape == student.shape[:1]
    if student.ndim != 5 or teacher.ndim != 5 or not same_clips:
        raise ValueError(
            f"features {tuple(student.shape)} and {tuple(teacher.shape)} must be (B, T, F, h, w) of the same clips and"
            f" frames, and weight {tuple(weight.shape)} (B,)"
        )
    dtype = torch.promote_types(student.dtype, torch.float32)
    return student.to(dtype), teacher.to(dtype), weight.to(dtype)


def _same_size(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both maps (B, T, F, h, w), average-pooled to the smaller height and the smaller width."""
    B, T = student.shape[:2]
    size = (min(student.shape[-2], teacher.shape[-2]), min(student.shape[-1], teacher.shape[-1]))
    small = [F.adaptive_avg_pool2d(maps.flatten(0, 1), size).unflatten(0, (B, T)) for maps in (student, teacher)]
    return small[0], small[1]
