"""The output of every student.

Legend: B clips, T frames, C classes, F features, H rows, W columns; h, w those of the features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class StudentOutput(NamedTuple):
    """Logits of the masks, and the outputs of the heads that the student has.

    A tuple of tensors, because DeepSpeed's hooks look for tensors in tuples.
    """

    mask_logits: torch.Tensor
    """(B, T, C, H, W); C is 1 for a student of the left ventricle."""
    phase_logits: torch.Tensor | None = None
    """(B, T): the sigmoid is 1 at end-diastole and 0 at end-systole."""
    ef: torch.Tensor | None = None
    """(B,): ejection fraction, 0..1."""
    features: torch.Tensor | None = None
    """(B, T, F, h, w) of an inner layer, only in training (`echodfkd.training.feature_tap`)."""

    def to_float32(self) -> StudentOutput:
        """The same output in float32."""
        return StudentOutput(*(None if tensor is None else tensor.float() for tensor in self))  # type: ignore[arg-type]
