"""One student in training: its network, engine, objective and average."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError, RunError, one_line
from echodfkd.models.archives.state_dicts import check_same_keys, load_weights
from echodfkd.models.students.build import build_student
from echodfkd.storage.checkpoints import NETWORK_KEY, WINDOW_KEY, OptimizerState, StudentState
from echodfkd.training.engine import Engine, EngineSettings
from echodfkd.training.feature_tap import attach_tap
from echodfkd.training.initial_weights import load_initial
from echodfkd.training.objective import LV_OBJECTIVE, Objective
from echodfkd.training.step_timer import StepTimer
from echodfkd.training.weight_average import WeightAverage


class GradientWatch:
    """Notices non-finite gradients during the backward pass, under every engine and ZeRO stage.

    Hooks on the parameters see each gradient before an engine sums, shards or drops it. The flag stays on the device,
    so that the pass does not wait for it.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.bad = torch.zeros((), dtype=torch.float64, device=device)
        for parameter in module.parameters():
            parameter.register_hook(self._check)

    def _check(self, gradient: torch.Tensor) -> None:
        self.bad += ~torch.isfinite(gradient).all()


class StudentMemoryError(RunError):
    """A student does not fit the memory of a worker's device. Unlike other errors, only this worker may raise it."""


@dataclass(frozen=True)
class Student:
    """One student in training."""

    name: str
    engine: Engine
    watch: GradientWatch
    objective: Objective = LV_OBJECTIVE
    average: WeightAverage | None = None
    about: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of `StudentState`."""
    timer: StepTimer = field(default_factory=lambda: StepTimer(torch.device("cpu")))

    def state(self) -> StudentState:
        """Its state for a checkpoint. Every worker must call it."""
        average = None if self.average is None else self.average.weights()
        return StudentState(self.engine.weights(), self.engine.optimizer_state(), average, self.about)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Time a piece of the student's work. Raises `StudentMemoryError` if the device's memory does not suffice."""
        self.timer.start()
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise StudentMemoryError(
                f"student {self.name} does not fit the device's memory ({one_line(error)}); a larger"
                " train.accumulation cuts the batch into smaller passes, which take less"
            ) from error
        self.timer.stop()


def student_seed(seed: int, name: str) -> int:
    """Seed of a student's initial weights: a function of the run's seed and the student's name ("" for all alike)."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def make_student(config: RunConfig, name: str, device: torch.device, state: StudentState | None) -> Student:
    """Build one student and its engine: from a checkpoint's state, else from its initial weights, else from the seed.

    Args:
        config: the run.
        name: of the student.
        device: where it trains.
        state: of the newest checkpoint; None starts anew.

    Raises:
        InputError: the weights belong to another architecture; names the first key that differs.
    """
    module = _make_network(config, name, state).to(device)
    watch = GradientWatch(module, device)  # before the engine: ZeRO stage 3 empties the parameters
    decay = config.train.ema_decay
    average = WeightAverage(module, decay, None if state is None else state.average) if decay else None
    settings = EngineSettings(config.optimizer, config.train, config.micro_batch, device)
    engine = build_engine(module, settings, None if state is None else state.optimizer)
    about = {NETWORK_KEY: config.students[name].network, WINDOW_KEY: vars(config.window)}
    return Student(name, engine, watch, Objective.of_student(config, name), average, about, StepTimer(device))


def _make_network(config: RunConfig, name: str, state: StudentState | None) -> nn.Module:
    """The student's network with its weights in place, and the tap that its objective needs."""
    student = config.students[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(student_seed(config.seed, "" if config.train.same_start else name))
        module = build_student(**student.network)
        if state is None and student.initial:
            load_initial(module, name, student)
        if config.feature_shape and "features" in student.objective:
            attach_tap(module, student.objective["features"], config.feature_shape[0])
    if state is not None:
        load_weights(module, state.weights, what=f"the checkpoint of {name}")
    return module


def build_engine(module: nn.Module, settings: EngineSettings, state: OptimizerState | None = None) -> Engine:
    """Build an engine around a student whose weights are already in place.

    Args:
        module: the student.
        settings: ``settings.train.engine`` is plain or deepspeed.
        state: Adam's state to go on from; None starts afresh.

    Raises:
        ConfigError: the engine is unknown.
        InputError: ``state`` belongs to another architecture.
    """
    if state is not None:
        shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        for moment in (state.exp_avg, state.exp_avg_sq):
            check_same_keys(shapes, {k: v.shape for k, v in moment.items()}, "the optimiser state")
    module.to(settings.device)
    if settings.train.engine == "plain":
        from echodfkd.training.plain_engine import PlainEngine

        return PlainEngine(module, settings, state)
    if settings.train.engine == "deepspeed":
        from echodfkd.training.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(module, settings, state)
    raise ConfigError(f"train.engine: got {settings.train.engine!r}, allowed are deepspeed, plain")
