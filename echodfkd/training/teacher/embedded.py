"""Train the shipped teachers on phantom clips, and write their weights and a card of the recipe and the scores."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.records import CHAMBER_NAMES, CLASS_NAMES, VideoClip
from echodfkd.core.redaction import dump_json
from echodfkd.models.teachers.unet import EMBEDDED_CHANNELS, PIXEL_MEAN, PIXEL_STD, EmbeddedTeacherNet
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.training.teacher.supervised import SupervisedRecipe, score_cases, train_segmentation

SCORED_SIZES = (56, 112)
"""Sides of the frames that the card's scores are measured on: the published training and inference sizes."""


def train_embedded_teacher(
    *,
    out: str,
    steps: int,
    seed: int,
    sizes: tuple[int, ...],
    max_seconds: float,
    num_cases: int,
    report: Callable[[str], None],
    classes: tuple[str, ...] = CLASS_NAMES[1:],
) -> dict[str, Any]:
    """Train, score on held-out cases, and write ``out`` and a JSON card beside it.

    Args:
        out: the safetensors file to write.
        steps: optimiser steps.
        seed: of the phantom's clips and cases (separate streams), of the first weights and of the jitter.
        sizes: sides of training frames; one is drawn for each batch.
        max_seconds: shorten the schedule to this time; 0 does not.
        num_cases: held-out cases scored at each of `SCORED_SIZES`.
        report: takes lines of progress.
        classes: that the teacher segments: only LV, or all of `CHAMBER_NAMES` after the background.

    Returns:
        The card: recipe, versions and held-out scores.

    Raises:
        ConfigError: an option is out of range.
        InputError: ``out`` cannot be written.
        RunError: the loss is not finite.
    """
    _check(steps=steps, seed=seed, sizes=sizes, num_cases=num_cases, classes=classes)
    prepare_folder(Path(out).parent, "--out")
    recipe = embedded_recipe(steps=steps, seed=seed, sizes=sizes, max_seconds=max_seconds, classes=classes)
    torch.manual_seed(seed)
    network = EmbeddedTeacherNet(num_classes=len(classes))
    steps_done = train_segmentation(network, _clip_maker(recipe), recipe, report=report)
    data = "echodfkd.sources.phantom.source, clips 0, 1, ... of this seed; scored on its cases 0, 1, ..."
    card = teacher_card(network, recipe, steps_done=steps_done, data=data, held_out=_score(network, recipe, num_cases))
    write_teacher(Path(out), network, card, "--out")
    return card


def prepare_folder(folder: Path, option: str) -> None:
    """Make the folder of an output before the work starts. Raises `InputError`, which names the option."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option}: {folder} cannot be written: {error}") from error


def write_teacher(path: Path, network: EmbeddedTeacherNet, card: dict[str, Any], option: str) -> None:
    """Write the weights, and the card as .json beside them. Raises `InputError`, which names the option."""
    try:
        path.write_bytes(save({key: value.contiguous() for key, value in network.state_dict().items()}))
        path.with_suffix(".json").write_bytes(dump_json(card, indent=2))
    except OSError as error:
        raise InputError(f"{option}: {path} cannot be written: {error}") from error


def embedded_recipe(
    *, steps: int, seed: int, sizes: tuple[int, ...], max_seconds: float, classes: tuple[str, ...] = CLASS_NAMES[1:]
) -> SupervisedRecipe:
    """The recipe of the shipped teachers; the arguments are those of `train_embedded_teacher`."""
    return SupervisedRecipe(
        steps=steps,
        seed=seed,
        sizes=sizes,
        batch_pixels=32 * 56 * 56,
        frames_per_clip=2,
        learning_rate=3e-3,
        weight_decay=1e-4,
        warmup_steps=min(100, steps),
        max_seconds=max_seconds,
        mean=PIXEL_MEAN[0],
        std=PIXEL_STD[0],
        jitter=0.15,
        classes=classes,
    )


def _score(network: EmbeddedTeacherNet, recipe: SupervisedRecipe, num_cases: int) -> dict[str, dict[str, float]]:
    held_out = {}
    for size in SCORED_SIZES:
        source = default_phantom(seed=recipe.seed, num_frames=1, fps=32.0, size=size, case_frames=48)
        cases = (source.case(index) for index in range(num_cases))
        held_out[str(size)] = score_cases(
            network, cases, mean=recipe.mean, std=recipe.std, threshold=0.5, classes=recipe.classes
        )
    return held_out


def teacher_card(
    network: EmbeddedTeacherNet, recipe: SupervisedRecipe, *, steps_done: int, data: str, held_out: dict[str, Any]
) -> dict[str, Any]:
    """The content of a teacher's JSON file: recipe, data and scores."""
    return {
        "name": "embedded_teacher" if len(recipe.classes) == 1 else "embedded_chambers_teacher",
        "input": "grey frames (N, 1, H, W), H and W divisible by 8, normalised by mean and std",
        "channels": list(EMBEDDED_CHANNELS),
        "parameters": sum(value.numel() for value in network.parameters()),
        "recipe": asdict(recipe),
        "steps_done": steps_done,
        "data": data,
        "held_out": held_out,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def _clip_maker(recipe: SupervisedRecipe) -> Callable[[int, int], VideoClip]:
    """Clips of two frames half a second apart, so that a batch holds many hearts, each in two states."""
    sources = {
        size: default_phantom(
            seed=recipe.seed, num_frames=recipe.frames_per_clip, fps=2.0, size=size, case_frames=recipe.frames_per_clip
        )
        for size in sorted(set(recipe.sizes))
    }
    return lambda index, size: sources[size].clip(index)


def _check(*, steps: int, seed: int, sizes: tuple[int, ...], num_cases: int, classes: tuple[str, ...]) -> None:
    if classes not in (CLASS_NAMES[1:], CHAMBER_NAMES[1:]):
        allowed = f"{' '.join(CLASS_NAMES[1:])}, or {' '.join(CHAMBER_NAMES[1:])}"
        raise ConfigError(f"--classes: got {' '.join(classes)}, allowed are {allowed}, in this order")
    for option, value, least in (("--steps", steps, 1), ("--seed", seed, 0), ("--cases", num_cases, 1)):
        if value < least:
            raise ConfigError(f"{option}: got {value}, must be at least {least}")
    for size in sizes:
        if size < 32 or size % 8:
            raise ConfigError(f"--size: got {size}, must be a multiple of 8 and at least 32")
