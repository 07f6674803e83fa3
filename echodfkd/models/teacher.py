"""A teacher: a per-frame network with its own pixel statistics, input size and bound on memory.

Legend: N clips, T frames, C channels or classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.records import CLASS_NAMES


class Teacher(Protocol):
    """What the pool runs."""

    teacher_id: str
    class_names: tuple[str, ...]
    """Background first, then what it segments; LV is one of them."""

    def soft_masks(self, video_NTHW: np.ndarray) -> np.ndarray:
        """Probability of each class but the background, for uint8 video (N, T, H, W).

        float32 (N, T, H, W) of a teacher that segments one class, else (N, T, C, H, W) in the order of its names.
        """
        ...


def pick_classes(prob: np.ndarray, class_names: tuple[str, ...], wanted: tuple[str, ...]) -> np.ndarray:
    """The wanted classes out of what `Teacher.soft_masks` gave: (N, T, H, W) for one, else (N, T, C, H, W)."""
    places = [class_names.index(name) - 1 for name in wanted]
    if len(class_names) == 2:
        return prob
    return prob[:, :, places[0]] if len(places) == 1 else prob[:, :, places]


@dataclass(frozen=True)
class PixelStatistics:
    """What a network expects of its input, in grey levels 0..255, one entry per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class TorchTeacher:
    """A per-frame network with its own normalisation, input size and device.

    Args:
        network: (N, C, h, w) float -> logits (N, classes, h, w).
        name: first half of ``teacher_id``; the second is a hash of the weights.
        statistics: pixel statistics; their length is the number of channels (grey is repeated).
        input_size: side in pixels that frames are resized to, or None for the clip's own size.
        device: torch device.
        batch_frames: frames in one forward pass.
        class_names: background, then what the logits stand for, in order.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        statistics: PixelStatistics,
        input_size: int | None,
        device: str,
        batch_frames: int,
        class_names: tuple[str, ...] = CLASS_NAMES,
    ) -> None:
        self.network = network.to(device).eval()
        self.teacher_id = f"{name}-{hash_weights(network)}"
        self.class_names = class_names
        self.device = torch.device(device)
        self.batch_frames = batch_frames
        self.input_size = input_size
        channels = len(statistics.mean)
        self._mean = torch.tensor(statistics.mean, device=self.device).view(1, channels, 1, 1)
        self._std = torch.tensor(statistics.std, device=self.device).view(1, channels, 1, 1)

    @torch.inference_mode()
    def soft_masks(self, video_NTHW: np.ndarray) -> np.ndarray:
        """See `Teacher.soft_masks`. Frames are grouped to ``batch_frames`` over clips."""
        N, T, H, W = video_NTHW.shape
        frames = torch.from_numpy(np.ascontiguousarray(video_NTHW)).view(N * T, 1, H, W)
        prob = [self._forward(chunk) for chunk in frames.split(self.batch_frames)]
        count = len(self.class_names) - 1
        return torch.cat(prob).view((N, T, H, W) if count == 1 else (N, T, count, H, W)).cpu().numpy()

    def _forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = (frames.to(self.device).float() - self._mean) / self._std  # grey repeats over the channels
        own = self.input_size
        if own is not None and x.shape[-2:] != (own, own):
            x = F.interpolate(x, size=(own, own), mode="bilinear", align_corners=False, antialias=True)
        logits = self.network(x)
        if logits.shape[-2:] != frames.shape[-2:]:
            logits = F.interpolate(logits, size=frames.shape[-2:], mode="bilinear", align_corners=False)
        return logits.float().sigmoid()


def hash_weights(network: nn.Module) -> str:
    """First 8 hex digits of a sha256 over names, shapes and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]
