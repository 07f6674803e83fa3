"""Show a network a few frames when it is built, and hold its output against the options that describe it.

A wrong number of channels, or an activation that the network has applied already, raises no error later: the masks are
only wrong. The rules name outputs that no usable network of logits gives for all of these frames.

Legend: N clips, L frames that the network sees at once, C channels, H rows, W columns.
"""

from __future__ import annotations

import numpy as np
import torch

from echodfkd.core.errors import InputError, RunError
from echodfkd.models.teachers.network_spec import RANGE_SLACK
from echodfkd.models.teachers.torch_teacher import TorchTeacher

UNTRAINED_SPAN = 0.5
"""Logits for a softmax that differ by less come from weights that are not trained, and may lie in 0..1 by chance."""


def probe_frames(length: int, size: int) -> np.ndarray:
    """Clips of ``length`` frames, uint8 (5, L, H, W): black, white, a ramp, noise, and a sector with a dark cavity."""
    y, x = np.mgrid[:size, :size] / max(1, size - 1)
    sector = (np.abs(x - 0.5) < 0.1 + 0.5 * y) & (np.hypot(x - 0.5, y) < 0.95)
    cavity = np.hypot((x - 0.5) / 0.5, y - 0.5) < 0.3
    speckle = np.random.default_rng(0).rayleigh(60.0, (size, size)).clip(0, 255)
    drawn = np.where(cavity, 8, speckle) * sector
    noise = np.random.default_rng(1).integers(0, 256, (size, size))
    frames = [np.zeros((size, size)), np.full((size, size), 255), 255 * x, noise, drawn]
    return np.repeat(np.stack(frames).astype(np.uint8)[:, None], length, axis=1)


def check_network(teacher: TorchTeacher, *, frames: int, size: int) -> None:
    """Refuse a network whose output for `probe_frames` is not of the kind that its options say.

    Args:
        teacher: of the network.
        frames: of a clip, for a network that sees whole clips.
        size: side of a clip's frames.

    Raises:
        InputError: it fails on these frames, gives another number of channels than teacher.outputs names, is not
            finite, has applied an activation or argmax already, or (teacher.activation: none) has not.
    """
    layout = teacher.layout
    length = 1 if layout.axes == "NCHW" else layout.window_frames or frames
    try:
        output = teacher.own_output(probe_frames(length, size)).float()
    except RunError as error:
        raise InputError(f"{error} (shown {length} x {size} x {size}: window.frames, window.size)") from error
    if not output.isfinite().all():
        raise InputError(f"teacher.weights: the network of {teacher.teacher_id} gives values that are not finite")
    if told := _fault_of(output, layout.activation):
        raise InputError(f"teacher.activation: got {layout.activation}, but the network of {teacher.teacher_id} {told}")


def _fault_of(output: torch.Tensor, activation: str) -> str:
    """Why this output (n, C, h, w) is not what the activation takes, or ""."""
    low, high = (float(edge) for edge in output.aminmax())
    within = -RANGE_SLACK <= low and high <= 1 + RANGE_SLACK
    found = f"gives values from {low:.3g} to {high:.3g} for black, white, noisy and drawn frames"
    if activation == "none":
        return "" if within else f"{found}, expected probabilities of 0 .. 1; set it to sigmoid or softmax"
    if low >= 0 and bool((output == output.round()).all()):
        return (
            f"gives only whole numbers, {low:g} to {high:g}: classes, no logits; export it without argmax or threshold"
        )
    exclusive = activation == "softmax"
    if within and (not exclusive or high - low > UNTRAINED_SPAN or _is_one(output.sum(1))):
        return f"{found}: it ends in a sigmoid or softmax already, of which a second one leaves nothing; set it to none"
    if activation == "sigmoid" and low >= -RANGE_SLACK:
        return f"{found}: no logit is below 0, so that every pixel of each would be in every class; expected logits"
    if activation == "sigmoid" and _are_log_probabilities(output):
        return f"{found}, logarithms of probabilities of classes that exclude each other; set it to softmax"
    return ""


def _are_log_probabilities(output: torch.Tensor) -> bool:
    """Whether the channels' exponentials add to 1 everywhere, as those of a log-softmax do."""
    return output.shape[1] > 1 and _is_one(output.exp().sum(1))


def _is_one(total: torch.Tensor) -> bool:
    return bool(((total - 1).abs() <= 4 * RANGE_SLACK).all())
