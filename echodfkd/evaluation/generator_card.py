"""Train a generator, score it, and write it with its card and a sheet of samples."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ClipError, ConfigError, InputError
from echodfkd.core.records import VideoClip
from echodfkd.core.redaction import dump_json
from echodfkd.evaluation.generator_scores import score_generator
from echodfkd.models.generators.latent_networks import LatentSpec
from echodfkd.models.generators.latent_video import (
    GUIDANCE,
    STEPS,
    LatentModel,
    LatentVideo,
    load_latent_model,
    write_latent_model,
)
from echodfkd.models.teachers.build import build_teacher
from echodfkd.sources.build import build_source
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.video.sheets import in_rows, png, titled
from echodfkd.training.generator.gathered import GatheredClips
from echodfkd.training.generator.recipe import GeneratorRecipe
from echodfkd.training.teacher.embedded import prepare_folder

HELD_OUT_SEED = 7_000_003
"""Added to the run's seed for clips that the generator is scored on."""
Train = Callable[[ClipSource, GeneratorRecipe], tuple[LatentModel, GatheredClips]]
SHEET_CLIPS, SHEET_COLUMNS = 24, 3


def make_generator(
    config: RunConfig, out: Path, recipe: GeneratorRecipe, num_cases: int, *, train: Train
) -> dict[str, Any]:
    """Train, write ``out`` with its card (.json) and samples (.png) beside it, and return the scores.

    Args:
        config: ``source``, ``window``, ``seed`` and ``teacher`` are read.
        out: the file of weights.
        recipe: its seed, clip_frames and spec follow the config.
        num_cases: held-out clips under whose conditions clips are made, and as many again to compare with.
        train: source and recipe -> networks, and the clips that they were trained on.

    Raises:
        ConfigError: an option cannot be used.
        InputError: the source cannot be used, or a file not be written.
    """
    if num_cases < 4:
        raise ConfigError(f"--cases: got {num_cases}, must be at least 4")
    window = config.window
    spec = LatentSpec(size=window.size, fps_low=window.fps / 2, fps_high=window.fps)
    recipe = replace(recipe, seed=config.seed, clip_frames=window.frames, spec=spec)
    recipe.check()
    prepare_folder(out.parent, "--out")
    source = build_source(config.source, window, seed=config.seed, case_frames=config.evaluation.frames)
    model, clips = train(source, recipe)
    try:
        write_latent_model(out, model)
    except OSError as error:
        raise InputError(f"--out: {out} cannot be written: {error}") from error
    generator = LatentVideo(load_latent_model(str(out)))  # as a user gets it, in half precision
    shape = replace(window, frames=recipe.spec.frames, fps=window.fps / 2)
    held_out = build_source(
        config.source, shape, seed=config.seed + HELD_OUT_SEED, case_frames=config.evaluation.frames
    )
    drawn = usable_clips(held_out, 2 * num_cases)
    teacher = build_teacher(kind=config.teacher.kind, weights=config.teacher.weights, device="cpu", batch_frames=64)
    halves = drawn[:num_cases], drawn[num_cases:]
    scores, made = score_generator(generator, teacher, halves, clips.video, seed=config.seed)
    out.with_suffix(".json").write_bytes(dump_json(_card(recipe, model.tensors(), source, scores), indent=2))
    out.with_suffix(".png").write_bytes(sample_sheet(made[:SHEET_CLIPS], halves[0]))
    return scores


def usable_clips(source: ClipSource, count: int) -> list[VideoClip]:
    """The first clips of the source that can be used. Raises `InputError` if fewer than half can."""
    found: list[VideoClip] = []
    for index in range(2 * count):
        try:
            found.append(source.clip(index))
        except ClipError:
            continue
        if len(found) == count:
            return found
    raise InputError(f"source: only {len(found)} of {2 * count} held-out clips can be used, {count} are needed")


def sample_sheet(made_NTHW: np.ndarray, asked: Sequence[VideoClip]) -> bytes:
    """A PNG: four frames of every clip, evenly spaced, under the ejection fraction and heart rate it was asked for."""
    times = np.linspace(0, made_NTHW.shape[1] - 1, 4).round().astype(int)
    tiles = []
    for video, clip in zip(made_NTHW, asked, strict=False):
        tile = np.repeat(np.concatenate(list(video[times]), axis=1)[..., None], 3, -1)
        ef, rate = clip.conditions.ef_percent, clip.conditions.heart_rate_bpm
        words = [f"EF {ef:.0f} %"] if ef is not None else []
        words += [f"{rate:.0f}/min"] if rate is not None else []
        tiles.append(titled(np.pad(tile, ((0, 3), (0, 4), (0, 0))), "  ".join(words)))
    return png(in_rows(tiles, SHEET_COLUMNS), colours=128)


def _card(
    recipe: GeneratorRecipe, tensors: Mapping[str, torch.Tensor], source: ClipSource, scores: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": "latent_video",
        "parameters": sum(value.numel() for value in tensors.values()),
        "recipe": asdict(recipe),
        "data": f"source {source.name}, its clips 0, 1, ... of this seed; scored on clips of seed + {HELD_OUT_SEED}",
        "sampler": {"steps": STEPS, "guidance": GUIDANCE},
        "scores": scores,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
