"""How a teacher's network is fed and its output read.

Legend: N clips, T frames, L frames that the network sees at once, C channels or classes, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from echodfkd.core.errors import RunError
from echodfkd.core.records import CLASS_NAMES


@dataclass(frozen=True)
class PixelStatistics:
    """Normalisation of a network's input, in grey levels 0..255, one entry per channel.

    If ``normalise`` is frame (or clip), each frame (or clip) is brought to mean 0 and deviation 1 over its own
    pixels first, and mean and std are applied to the result.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalise: str = field(default="fixed", repr=False)  # the older ids of teachers are made of the two others' text


MIN_STD = 1e-8
"""Least deviation that a frame is divided by, as in nnU-Net's `ZScoreNormalization` (nnunetv2/preprocessing/
normalization/default_normalization_schemes.py)."""


@dataclass(frozen=True)
class NetworkLayout:
    """Input and output of a network; by default (N, C, h, w) -> logits (N, classes, h, w).

    Attributes:
        axes: NCHW, or NCTHW or NTCHW for a network that sees several frames of a clip at once; of input and output.
        window_frames: L, frames that such a network sees at once; 0: the whole clip, however long.
        activation: sigmoid, softmax (over all channels), or none (the output is a probability already).
        channels: output channels that are kept, in this order; None keeps all.
        num_channels: output channels that there must be; 0: one per class.
        fixed_batch: the only number of frames (of windows, if it sees several) in a batch; None if any will do.
    """

    axes: str = "NCHW"
    window_frames: int = 0
    activation: str = "sigmoid"
    channels: tuple[int, ...] | None = None
    fixed_batch: int | None = None
    num_channels: int = field(default=0, repr=False)  # teachers' ids are made of the others' text


RANGE_SLACK = 1e-3
"""How far a probability of a network without activation may lie outside of 0 .. 1: rounding of half precision."""


@dataclass(frozen=True)
class NetworkSpec:
    """How a network is fed and its output read; all of it but ``channels_last`` decides the masks.

    Attributes:
        name: first half of ``teacher_id``; the second is ``weights_hash``.
        statistics: pixel statistics; their length is the number of channels (grey is repeated).
        input_size: side in pixels that frames are resized to, or None for the clip's own size.
        class_names: background, then the classes of the kept channels, in order.
        layout: axes and activation of the network.
        weights_hash: of the weights; "" takes `hash_weights`.
        channels_last: keep the channels of a pixel and of the weights next to each other; convolutions are faster so.

    Example: ``NetworkSpec("mine", PixelStatistics((35.0,), (43.0,)))``.
    """

    name: str
    statistics: PixelStatistics
    input_size: int | None = None
    class_names: tuple[str, ...] = CLASS_NAMES
    layout: NetworkLayout = NetworkLayout()
    weights_hash: str = ""
    channels_last: bool = False


def own_statistics(video_NTHW: np.ndarray, normalise: str) -> np.ndarray:
    """Mean and population deviation of the grey levels that each frame is brought to 0 and 1 by, float32 (N, T, 2).

    ``frame``: of the frame, ``clip``: of all frames of its clip, ``fixed``: 0 and 1. No deviation is below `MIN_STD`.
    """
    N, T = video_NTHW.shape[:2]
    if normalise == "fixed":
        return np.tile(np.array([0, 1], np.float32), (N, T, 1))
    axes = (2, 3) if normalise == "frame" else (1, 2, 3)
    pixels = video_NTHW.astype(np.float64)
    mean, std = pixels.mean(axes, keepdims=True), np.maximum(pixels.std(axes, keepdims=True), MIN_STD)
    found = np.concatenate([mean, std], axis=-1)[:, :, 0]
    return np.broadcast_to(found, (N, T, 2)).astype(np.float32)


def check_channels(output_nChw: torch.Tensor, names: int, teacher_id: str) -> None:
    """Raise `RunError` if an output has another number of channels than teacher.outputs has names, or no fractions."""
    found = output_nChw.shape[1]
    if found != names:
        example = ", ".join(
            ["background", "LV", "LA", "RV", "RA"][:found] if found <= 5 else ["background", "LV", "..."]
        )
        how = (
            f"name every channel in order, e.g. outputs: [{example}] with activation: softmax"
            if found > 1
            else ("expected one name, e.g. outputs: [LV]")
        )
        raise RunError(
            f"teacher.outputs: has {names} names, but the network of {teacher_id} gives {found} channels; {how}"
            " (`background` is never taught, and teacher.classes picks from the others)"
        )
    if not output_nChw.is_floating_point():
        raise RunError(
            f"teacher.weights: the network of {teacher_id} gives {str(output_nChw.dtype).removeprefix('torch.')},"
            " class numbers or a threshold's result, expected logits or probabilities as floats; export it without"
            " its last step"
        )
