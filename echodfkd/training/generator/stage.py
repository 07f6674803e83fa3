"""One training of a generator, by one worker of a group or by one process: draws, update, average, checkpoints.

All workers draw the whole batch of a step from (seed, stage, step), and each takes its share of it: a resumed run takes
the same steps, and any number of workers the same ones but for the rounding of their sum. Checkpoints are a run's
(`echodfkd.storage.checkpoints`), in the folder of the stage.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from echodfkd.config.sections.training import OptimizerConfig, TrainConfig
from echodfkd.core.errors import ConfigError, InputError, RunError
from echodfkd.core.records import PublishedCheckpoint
from echodfkd.models.archives.state_dicts import load_weights
from echodfkd.storage.checkpoints import StudentState, prune_resume, publish, read_resume
from echodfkd.storage.files import RunStorage
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.manifests import latest_checkpoint
from echodfkd.training.collectives import gather_texts, num_workers, sum_over_workers
from echodfkd.training.engine import EngineSettings
from echodfkd.training.generator.recipe import GeneratorRecipe
from echodfkd.training.student import build_engine
from echodfkd.training.weight_average import WeightAverage

Draw = Callable[[np.random.Generator, slice], tuple[torch.Tensor, ...]]
"""A step's random numbers, and a worker's own part of the batch -> the inputs of the loss."""


@dataclass(frozen=True)
class Stage:
    """What is trained: ``loss`` holds the network, and gives the loss of ``inputs``; ``batch`` is of all workers."""

    name: str
    loss: nn.Module
    inputs: Draw
    steps: int
    rate: float
    batch: int


@dataclass(frozen=True)
class Place:
    """Where a worker trains: its rank, device, engine, and the folder of the run."""

    folder: str
    rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(engine="plain"))
    report: Callable[[str], None] = lambda line: None
    save_s: float = 60.0
    """Least seconds between two checkpoints."""


def train_stage(stage: Stage, recipe: GeneratorRecipe, place: Place) -> None:
    """Train from the newest checkpoint to the last step; the network ends with the average of its weights.

    Raises:
        ConfigError: the batch cannot be divided among the workers, or the engine cannot keep an average.
        InputError: the folder holds a run of another recipe.
        RunError: the loss is not finite; the same on every worker.
    """
    share = _share(stage, place.train)
    storage = RunStorage(f"{place.folder}/{stage.name}")
    known = _known(stage, recipe)
    newest = latest_checkpoint(storage)
    state = None if newest is None else _read(storage, newest, stage, known)
    if state is not None:
        load_weights(stage.loss, state.weights, what=f"the checkpoint of {stage.name}")
    stage.loss.to(place.device)
    average = WeightAverage(stage.loss, recipe.average, None if state is None else state.average)
    options = dataclasses.replace(place.train, precision=recipe.precision, accumulation=1)
    adam = OptimizerConfig(kind="adamw", weight_decay=1e-4, clip_norm=1.0)
    settings = EngineSettings(adam, options, share, place.device)
    engine = build_engine(stage.loss, settings, None if state is None else state.optimizer)
    own, saved = slice(place.rank * share, (place.rank + 1) * share), time.monotonic()
    for step in range(newest.step if newest else 0, stage.steps):
        rng = np.random.default_rng([recipe.seed, *stage.name.encode(), step])
        loss = engine.forward(*(value.to(place.device) for value in stage.inputs(rng, own)))
        engine.backward(loss)
        engine.average_gradients()
        due = place.rank == 0 and time.monotonic() - saved >= place.save_s
        total, dues = sum_over_workers(torch.stack([loss.detach().double().cpu(), torch.tensor(float(due)).double()]))
        if not np.isfinite(total):
            raise RunError(f"the loss of {stage.name} is {total} at step {step + 1}; lower the learning rate")
        engine.step(stage.rate * min(1.0, (step + 1) / max(1, recipe.warmup_steps)))
        average.update(engine.module, step + 1)
        if dues or step + 1 == stage.steps:
            found = StudentState(engine.weights(), engine.optimizer_state(), average.weights())
            if place.rank == 0:
                _publish(storage, step + 1, stage.name, found, {**known, "loss": total / num_workers()})
            saved = time.monotonic()
            gather_texts("")  # no worker goes on before the commit
    stage.loss.load_state_dict(average.weights())
    stage.loss.eval()


def _share(stage: Stage, options: TrainConfig) -> int:
    """Entries of the batch of one worker."""
    if stage.batch % num_workers():
        raise ConfigError(
            f"train.workers: got {num_workers()}, must divide the batch of {stage.batch} of the {stage.name}'s training"
        )
    if options.engine == "deepspeed" and options.zero_stage == 3:
        raise ConfigError("train.zero_stage: got 3, the training of a generator takes 0, 1 or 2")
    return stage.batch // num_workers()


def _known(stage: Stage, recipe: GeneratorRecipe) -> dict[str, Any]:
    """The recipe in a checkpoint: the numbers of steps that may change when a run goes on are not in it."""
    free = ("vae_steps", "flow_steps") if stage.name == "vae" else ("flow_steps",)
    return {"recipe": {name: value for name, value in asdict(recipe).items() if name not in free}}


def _read(storage: RunStorage, newest: PublishedCheckpoint, stage: Stage, known: Mapping[str, Any]) -> StudentState:
    theirs, own = newest.meta.get("recipe"), known["recipe"]
    there = theirs if isinstance(theirs, dict) else {}
    changed = sorted(key for key in own.keys() | there.keys() if json.dumps(own.get(key)) != json.dumps(there.get(key)))
    if changed:
        raise InputError(
            f"--resume: {storage.root} was made with another recipe ({', '.join(changed)}); use another folder"
        )
    return read_resume(storage, newest, stage.name)


def _publish(storage: RunStorage, step: int, name: str, state: StudentState, meta: Mapping[str, object]) -> None:
    publish(storage, step=step, students={name: state}, consumed=Intervals(), ledger={}, quarantine={}, meta=meta)
    prune_resume(storage, 1)
