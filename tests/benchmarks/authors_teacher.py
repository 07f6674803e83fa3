"""The published loop that makes soft masks, a reference for speed and numbers.

Written from its description: one clip at a time, all frames in one float32 forward pass, channels first, and
probabilities truncated to 256 levels (`astype`). The published script also lets autograd record the pass, which keeps
each layer's output in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from echodfkd.models.teachers.deeplabv3 import PIXEL_MEAN, PIXEL_STD


def teach_clip(network: nn.Module, video_THW: np.ndarray, *, device: str, records_graph: bool = False) -> np.ndarray:
    """Probability float32 (T, H, W) of one clip."""
    grey = video_THW[:, None].repeat(3, axis=1).astype(np.float32)
    mean, std = (np.array(values, np.float32)[None, :, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    frames = torch.from_numpy((grey - mean) / std).to(device)
    with contextlib.nullcontext() if records_graph else torch.no_grad():
        prob: np.ndarray = network(frames)[:, 0].sigmoid().detach().cpu().numpy()
    return prob


def teach_clips(
    network: nn.Module, videos: Iterable[np.ndarray], *, device: str, records_graph: bool = False
) -> Iterator[np.ndarray]:
    """Yield the soft masks of each clip, uint8 (T, H, W)."""
    for video in videos:
        yield (teach_clip(network, video, device=device, records_graph=records_graph) * 255).astype(np.uint8)
