"""Feature maps of one layer of the teacher, pooled so that they are small enough to travel with the clips.

Legend: N clips, T frames, n frames of one pass, F channels, h rows, w columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.core.errors import ConfigError
from echodfkd.models.teachers.protocol import ClipKey, Teacher, TeacherOutput
from echodfkd.models.teachers.torch_teacher import TorchTeacher

HALF_MAX = float(torch.finfo(torch.float16).max)


def pool_features(maps_nFhw: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Maps averaged down to (n, *shape) as float16: cells over squares of pixels, channels over their neighbours.

    Channel i of the result is the mean of the channels floor(i F / F') .. ceil((i + 1) F / F') - 1, as in torch's
    adaptive pooling. Values beyond float16 are cut to its largest.
    """
    channels, size = shape[0], (shape[1], shape[2])
    maps = F.adaptive_avg_pool2d(maps_nFhw.float(), size)
    if channels != maps.shape[1]:
        maps = F.adaptive_avg_pool1d(maps.flatten(2).transpose(1, 2), channels).transpose(1, 2).unflatten(2, size)
    return maps.clamp(-HALF_MAX, HALF_MAX).half()


class FeatureTeacher(Teacher):
    """Adds to a network's masks the maps of one of its layers.

    Args:
        teacher: a `TorchTeacher` whose network sees a frame at a time.
        layer: name of a module of its network.
        shape: (F, h, w) that the layer's maps are averaged down to.
        size: side of the frames in pixels: one black frame is shown at once, so that an unfit layer is refused before
            a run starts.

    Raises:
        ConfigError: no such module, or it does not give at least as many channels and cells per frame.
    """

    def __init__(self, teacher: TorchTeacher, *, layer: str, shape: tuple[int, int, int], size: int) -> None:
        assert teacher.layout.axes == "NCHW"
        self.teacher, self.layer, self.feature_shape = teacher, layer, shape
        self.teacher_id, self.class_names = teacher.teacher_id, teacher.class_names
        self._shape = shape
        self._kept: list[torch.Tensor] = []
        modules = dict(teacher.network.named_modules())
        if not layer or layer not in modules:
            names = [name for name in modules if name and name.count(".") <= 1]
            raise ConfigError(
                f"teacher.feature_layer: the network has no module {layer!r}; it has {', '.join(names[:40])}"
            )
        modules[layer].register_forward_hook(self._keep)
        self.teach(np.zeros((1, 1, size, size), np.uint8))

    def teach(
        self,
        video_NTHW: np.ndarray,
        clips: Sequence[ClipKey] = (),
        *,
        classes: Sequence[str] | None = None,
        code: str | None = None,
    ) -> TeacherOutput:
        """See `Teacher.teach`. A clip whose features are not finite is at fault."""
        self._kept = []
        output = self.teacher.teach(video_NTHW, clips, classes=classes, code=code)
        features = self._features(*video_NTHW.shape[:2])
        faults = dict(output.faults)
        for row in np.flatnonzero(~np.isfinite(features).all(axis=(1, 2, 3, 4))):
            faults.setdefault(int(row), f"the teacher {self.teacher_id} gave features that are not finite")
        return replace(output, features=features, faults=dict(sorted(faults.items())))

    def _features(self, N: int, T: int) -> np.ndarray:
        """The maps that the layer gave since they were last emptied, float16 (N, T, F, h, w)."""
        count = sum(len(part) for part in self._kept)
        if count != N * T:
            raise ConfigError(
                f"teacher.feature_layer: {self.layer} gave {count} maps for {N * T} frames; name a module that runs"
                " once for each frame"
            )
        features = torch.cat(self._kept).cpu().numpy().reshape(N, T, *self._shape)
        self._kept = []
        return features

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, torch.Tensor) or output.dim() != 4:
            found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise ConfigError(f"teacher.feature_layer: {self.layer} gives {found}, expected maps (N, F, h, w)")
        if any(have < wanted for have, wanted in zip(output.shape[1:], self._shape, strict=True)):
            raise ConfigError(
                f"teacher.feature_layer: {self.layer} gives {tuple(output.shape[1:])} (channels, rows, columns) a"
                f" frame, less than the {self._shape} of teacher.feature_channels and teacher.feature_size; lower these"
            )
        self._kept.append(pool_features(output, self._shape))
