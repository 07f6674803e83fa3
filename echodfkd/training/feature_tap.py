"""Read a student's inner features for the term ``features``, through an adapter if the term needs one.

The tap is a module inside the student, so that any engine trains, shards and stores the adapter like the other weights.
The published student has no tap (`without_tap`).

Legend: B clips, T frames, F features, h rows, w columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from echodfkd.config.sections.objective import FEATURE_KINDS, TermConfig
from echodfkd.losses.features import FeatureAdapter
from echodfkd.models.students.convlstm import ConvLSTMStudent
from echodfkd.storage.checkpoints import TAP


class FeatureTap(nn.Module):
    """Keeps a layer's output in a forward pass, and returns it once, through the adapter if there is one."""

    def __init__(self, layer: nn.Module, adapter: FeatureAdapter | None) -> None:
        super().__init__()
        self.adapter = adapter
        self._kept: torch.Tensor | None = None
        layer.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self._kept = output

    def forward(self, frames: int) -> torch.Tensor:
        """Features (B, T, F, h, w) of the last pass, over clips of T frames."""
        features, self._kept = self._kept, None
        assert features is not None, "the student has not run"
        if features.ndim == 4:  # decoder levels run on frames, not on clips
            features = features.unflatten(0, (-1, frames))
        return features if self.adapter is None else self.adapter(features)


def attach_tap(student: nn.Module, term: TermConfig, teacher_channels: int) -> None:
    """Add a tap to a complete student. The adapter's weights are drawn from torch's global generator.

    Args:
        student: of `build_student`, without a tap.
        term: its term ``features``, checked by the config.
        teacher_channels: F of the teacher's features.
    """
    body = next(module for module in student.modules() if isinstance(module, ConvLSTMStudent))
    part, _, number = (term.layer or f"encoder.{len(body.widths) - 1}").partition(".")
    place = int(number)
    if part == "encoder":
        layer, channels = body.conv_lstm_blocks[place], body.widths[place]
    else:
        layer, channels = body.conv_lstm_upsampling[place], body.widths[-2 - place]
    adapter = FeatureAdapter(channels, teacher_channels) if FEATURE_KINDS[term.kind] else None
    student.add_module(TAP, FeatureTap(layer, adapter))
