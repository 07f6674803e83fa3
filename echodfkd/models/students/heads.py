"""Students with heads: several classes, the phase of every frame, the clip's ejection fraction.

They wrap a network of the family, and use its `encode`, `decode` and `output_layer`.

Legend: B clips, T frames, C classes, F features, H rows, W columns; h, w those of the deepest features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from echodfkd.models.students.convlstm import FrameLayer
from echodfkd.models.students.output import StudentOutput
from echodfkd.models.students.sides import resize


def add_heads(network: Any, *, classes: Sequence[str], tasks: Sequence[str]) -> nn.Module:
    """The network itself for one class and no task, else a `MultiTaskStudent` around it.

    Args:
        network: a student for one class.
        classes: names of the classes, in the order of the logits.
        tasks: phase, ef, both or none.
    """
    if len(classes) == 1 and not tasks:
        return network
    return MultiTaskStudent(network, num_classes=len(classes), tasks=tasks)


class MultiTaskStudent(nn.Module):
    """A student with heads; see `add_heads` for the arguments.

    The phase is a linear function of a frame's deepest features, averaged over the frame. The ejection fraction is the
    sigmoid of a linear function of their mean and standard deviation over the frames: the mean does not show how far
    the heart moves.
    """

    def __init__(self, network: Any, *, num_classes: int, tasks: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        network.output_layer = FrameLayer(nn.Conv2d(network.output_layer.layer.in_channels, num_classes, 1))
        features = _count_features(network)
        self.phase_head = nn.Linear(features, 1) if "phase" in tasks else None
        self.ef_head = nn.Linear(2 * features, 1) if "ef" in tasks else None

    def forward(self, video: torch.Tensor) -> StudentOutput:
        """Outputs for grey video (B, T, H, W), uint8 or float, 0..255.

        Raises:
            ValueError: the input is not (B, T, H, W), or its sides do not fit the network.
        """
        if video.ndim != 4:
            raise ValueError(f"a student takes video of shape (B, T, H, W), got {tuple(video.shape)}")
        B, T, H, W = video.shape
        fitted = self.network.fit(video)
        encoded = self.network.encode(fitted)
        logits_NCHW = self.network.output_layer(self.network.decode(encoded))
        if logits_NCHW.shape[-2:] != fitted.shape[-2:]:
            raise ValueError(
                f"frames of {H} x {W} pixels do not fit this student: its masks have {logits_NCHW.shape[-2]} x"
                f" {logits_NCHW.shape[-1]}, because a side is no multiple of 2^(blocks-1)"
            )
        deepest_BTFhw = _deepest(encoded)
        dtype = torch.promote_types(deepest_BTFhw.dtype, torch.float32)  # means over pixels: not in bfloat16
        pooled_BTF = deepest_BTFhw.mean(dim=(-2, -1), dtype=dtype)
        return StudentOutput(
            resize(logits_NCHW, (H, W)).unflatten(0, (B, T)),
            None if self.phase_head is None else self.phase_head(pooled_BTF).squeeze(-1),
            None if self.ef_head is None else self.ef_head(_over_time(pooled_BTF)).squeeze(-1).sigmoid(),
        )


def _deepest(encoded: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The deepest features; networks with skip connections encode to a tuple, the deepest last."""
    return encoded[-1] if isinstance(encoded, tuple) else encoded


@torch.no_grad()
def _count_features(network: Any) -> int:
    """F, measured on one black frame whose sides fit every student of at most 6 blocks."""
    was_training = network.training
    deepest_BTFhw = _deepest(network.eval().encode(torch.zeros(1, 1, 32, 32)))
    network.train(was_training)
    return deepest_BTFhw.shape[2]


def _over_time(pooled_BTF: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation over frames, (B, 2F)."""
    variance, mean = torch.var_mean(pooled_BTF, dim=1, correction=0)
    return torch.cat([mean, (variance + 1e-6).sqrt()], dim=1)  # at a variance of 0 the root has no finite slope
