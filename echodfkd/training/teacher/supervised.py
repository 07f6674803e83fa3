"""Supervised training of a per-frame segmentation network on labelled clips, and its held-out score.

The embedded teachers are trained by it; it takes any network that maps (N, 1, H, W) to logits (N, C, H, W).

Legend: N frames, T frames of one clip, C classes, H rows, W columns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from echodfkd.core.counter import Counter
from echodfkd.core.errors import RunError
from echodfkd.core.records import TRUTH_UNKNOWN, VideoClip
from echodfkd.metrics.overlap import dice
from echodfkd.training.teacher.keeper import Keeper, TrainingState


@dataclass(frozen=True)
class SupervisedRecipe:
    """Options of a training run.

    ``steps`` optimiser steps of AdamW with linear warm-up and cosine decay; ``max_seconds`` (0: none) shortens the
    schedule to that time, at the price of a result that depends on the machine. Each batch has a random one of
    ``sizes``; ``batch_pixels`` bounds frames x H x W, so that large frames come in small batches. ``mean`` and ``std``
    normalise the grey levels of the input. ``jitter`` scales the contrast by up to that share either way, and shifts
    the grey level by up to 64 times as much. ``classes`` names the logits, in order. The result is the weights' moving
    average with the decay ``average``; 0 takes the last weights. ``precision`` bf16 is autocast.
    """

    steps: int
    seed: int
    sizes: tuple[int, ...]
    batch_pixels: int
    frames_per_clip: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    max_seconds: float
    mean: float
    std: float
    jitter: float
    classes: tuple[str, ...] = ("LV",)
    average: float = 0.0
    precision: str = "fp32"


def train_segmentation(
    network: nn.Module,
    make_clip: Callable[[int, int], VideoClip],
    recipe: SupervisedRecipe,
    *,
    report: Callable[[str], None],
    keeper: Keeper | None = None,
) -> int:
    """Train ``network`` in place and leave it in eval mode.

    Args:
        network: (N, 1, H, W) float, normalised -> logits (N, C, H, W), one per class of the recipe.
        make_clip: (index, size) -> a labelled clip of ``frames_per_clip`` frames; each index is asked for once.
        recipe: see `SupervisedRecipe`.
        report: takes a line of progress now and then.
        keeper: saves the run now and then, and goes on from its last save.

    Returns:
        Optimiser steps taken.

    Raises:
        RunError: the loss is not finite.
    """
    rng = np.random.default_rng([recipe.seed, 1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average)) if recipe.average else None
    state = TrainingState(network, optimizer, average, rng)
    if keeper is not None:
        keeper.load(state)
    start, done = time.monotonic() - state.seconds, 0.0
    network.train()
    with Counter("steps", recipe.steps, report, done=state.step) as counter:
        while state.step < recipe.steps and done < 1.0:
            spent = (time.monotonic() - start) / recipe.max_seconds if recipe.max_seconds else 0.0
            done = min(1.0, max(state.step / recipe.steps, spent))
            warmup = min(1.0, (state.step + 1) / max(1, recipe.warmup_steps))
            rate = recipe.learning_rate * warmup * (0.01 + 0.495 * (1.0 + math.cos(math.pi * done)))
            _update(state, make_clip, recipe, rate)
            state.seconds = time.monotonic() - start
            counter.show(state.step, f"loss {state.mean_loss:.4f}")
            if keeper is not None and keeper.is_due(state):
                keeper.save(state)
    if average is not None:
        network.load_state_dict(average.module.state_dict())
    network.eval()
    return state.step


def _update(
    state: TrainingState, make_clip: Callable[[int, int], VideoClip], recipe: SupervisedRecipe, rate: float
) -> None:
    """One step of the optimiser at this learning rate, and of the running average."""
    size = int(state.rng.choice(recipe.sizes))
    num_clips = max(1, recipe.batch_pixels // (size * size * recipe.frames_per_clip))
    clips = [make_clip(state.index + offset, size) for offset in range(num_clips)]
    state.index += num_clips
    frames, labels = _batch(clips, recipe, state.rng)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
        logits = state.network(frames)
    loss = segmentation_loss(logits.float(), labels, class_values(clips[0], recipe.classes))
    if not torch.isfinite(loss):
        raise RunError(f"supervised training: the loss is {loss.item()} at step {state.step}; lower the learning rate")
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    if state.average is not None:
        state.average.update_parameters(state.network)
    state.step += 1
    state.mean_loss = loss.item() if math.isnan(state.mean_loss) else 0.98 * state.mean_loss + 0.02 * loss.item()


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, values: Sequence[int] = (1,)) -> torch.Tensor:
    """Binary cross-entropy plus one minus soft Dice (Milletari et al., 2016), over annotated pixels.

    Args:
        logits: (N, C, H, W).
        labels: uint8 label map (N, 1, H, W); `TRUTH_UNKNOWN` is left out.
        values: the label value of each class, in the order of the logits; 1 is the left ventricle.

    Returns:
        Scalar: cross-entropy averaged over classes and annotated pixels, soft Dice per frame and class averaged
        over both.
    """
    known = (labels != TRUTH_UNKNOWN).to(logits.dtype)
    target = (labels == torch.tensor(values, dtype=labels.dtype).view(1, -1, 1, 1)).to(logits.dtype)
    num_pixels = known.sum().clamp(min=1) * len(values)
    bce = F.binary_cross_entropy_with_logits(logits, target, weight=known, reduction="sum") / num_pixels
    prob = logits.sigmoid() * known
    overlap = (prob * target).sum((2, 3))
    total = (prob + target).sum((2, 3))
    return bce + (1.0 - (2.0 * overlap + 1.0) / (total + 1.0)).mean()


def class_values(clip: VideoClip, classes: Sequence[str]) -> list[int]:
    """The value of each class in the clip's label map."""
    return [clip.class_names.index(name) for name in classes]


@torch.inference_mode()
def score_cases(
    network: nn.Module,
    cases: Iterable[VideoClip],
    *,
    mean: float,
    std: float,
    threshold: float,
    classes: tuple[str, ...] = ("LV",),
) -> dict[str, float]:
    """Mean over cases of each case's mean Dice: the LV's ``dice_all`` frames, ``dice_ed`` and ``dice_es`` frames.

    Args:
        network: see `train_segmentation`.
        cases: wholly annotated clips with at least one ED and one ES frame.
        mean: grey level subtracted from frames.
        std: grey levels they are divided by.
        threshold: probability from which a pixel belongs to a class.
        classes: names of the logits; the first is the left ventricle.

    Returns:
        The three scores, ``dice_<class>`` of all frames for each further class, and ``num_cases``. An empty frame
        scores as `echodfkd.metrics.overlap.dice` says.
    """
    rows = []
    for case in cases:
        assert case.truth_labels is not None
        frames = _normalise(case.video, mean, std)
        logits = torch.cat([network(chunk) for chunk in frames.split(64)])
        masks = (logits.sigmoid() >= threshold).numpy()
        values = class_values(case, classes)
        lv, *others = (dice(masks[:, place], case.truth_labels == value) for place, value in enumerate(values))
        at_phases = [_at(lv, which) for which in (case.ed_frames, case.es_frames)]
        rows.append([lv.mean(), *at_phases, *(each.mean() for each in others)])
    scores = np.asarray(rows).mean(axis=0)
    names = ("dice_all", "dice_ed", "dice_es", *(f"dice_{name.lower()}" for name in classes[1:]))
    return {**{name: float(value) for name, value in zip(names, scores, strict=True)}, "num_cases": len(rows)}


def _batch(
    clips: Sequence[VideoClip], recipe: SupervisedRecipe, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    video = np.concatenate([clip.video for clip in clips])
    frames = _normalise(video, recipe.mean, recipe.std)
    contrast = 1.0 + recipe.jitter * rng.uniform(-1.0, 1.0, (len(video), 1, 1, 1))
    shift = 64.0 * recipe.jitter / recipe.std * rng.uniform(-1.0, 1.0, (len(video), 1, 1, 1))
    frames = frames * torch.from_numpy(contrast).float() + torch.from_numpy(shift).float()
    labels = np.concatenate([clip.truth_labels for clip in clips if clip.truth_labels is not None])
    return frames, torch.from_numpy(labels)[:, None]


def _normalise(video: np.ndarray, mean: float, std: float) -> torch.Tensor:
    """uint8 (T, H, W) -> float32 (T, 1, H, W)."""
    return (torch.from_numpy(np.ascontiguousarray(video)).float()[:, None] - mean) / std


def _at(values: np.ndarray, frames: tuple[int, ...] | None) -> float:
    assert frames, "a case needs at least one ED and one ES frame"
    return float(values[list(frames)].mean())
