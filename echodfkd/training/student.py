"""One student in training: its network, engine, objective and averages."""

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
from echodfkd.models.students.build import build_student
from echodfkd.models.students.weights import check_same_keys, load_weights
from echodfkd.storage.checkpoints import OptimizerState, StudentState
from echodfkd.training.engine import AdamSettings, Engine
from echodfkd.training.feature_tap import attach_tap
from echodfkd.training.initial_weights import load_initial
from echodfkd.training.objective import LV_OBJECTIVE, Objective
from echodfkd.training.step_timer import StepTimer
from echodfkd.training.weight_average import WeightAverage


def build_engine(
    kind: str,
    module: nn.Module,
    *,
    adam: AdamSettings,
    zero_stage: int,
    precision: str,
    accumulation: int,
    micro_batch: int,
    torch_adam: bool,
    device: torch.device,
    state: OptimizerState | None = None,
) -> Engine:
    """Build an engine around a student whose weights are already in place.

    Args:
        kind: plain or deepspeed.
        module: the student; weights of a checkpoint are loaded into it before this call (`load_weights`).
        adam: optimiser settings.
        zero_stage: deepspeed: 0 to 3.
        precision: fp32, or bf16 (autocast over fp32 weights).
        accumulation: calls of `Engine.backward` before each `Engine.step`.
        micro_batch: clips in one forward pass of one worker.
        torch_adam: deepspeed: torch's Adam in place of DeepSpeed's fused kernel.
        device: where the student runs.
        state: Adam's state to go on from; None starts afresh.

    Raises:
        ConfigError: ``kind`` is unknown.
        InputError: ``state`` belongs to another architecture.
    """
    if state is not None:
        shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        for moment in (state.exp_avg, state.exp_avg_sq):
            check_same_keys(shapes, {k: v.shape for k, v in moment.items()}, "the optimiser state")
    module.to(device)
    if kind == "plain":
        from echodfkd.training.plain_engine import PlainEngine

        return PlainEngine(module, adam=adam, precision=precision, device=device, state=state)
    if kind == "deepspeed":
        from echodfkd.training.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(
            module,
            adam=adam,
            zero_stage=zero_stage,
            precision=precision,
            accumulation=accumulation,
            micro_batch=micro_batch,
            torch_adam=torch_adam,
            device=device,
            state=state,
        )
    raise ConfigError(f"train.engine: got {kind!r}, allowed are deepspeed, plain")


class GradientWatch:
    """Notices non-finite gradients while they are made, under every engine and ZeRO stage.

    Hooks on the parameters see each gradient before an engine sums, shards or drops it. The answer stays
    on the device, so that the pass does not wait for it.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.bad = torch.zeros((), dtype=torch.float64, device=device)
        for parameter in module.parameters():
            parameter.register_hook(self._look)

    def _look(self, gradient: torch.Tensor) -> None:
        self.bad += ~torch.isfinite(gradient).all()


class StudentMemoryError(RunError):
    """A student does not fit the memory of a worker's device. The other workers may not have met it."""


@dataclass(frozen=True)
class Student:
    """One student in training."""

    name: str
    engine: Engine
    watch: GradientWatch
    objective: Objective = LV_OBJECTIVE
    average: WeightAverage | None = None
    network: Mapping[str, Any] = field(default_factory=dict)
    """Options of its network (`StudentConfig.network`)."""
    timer: StepTimer = field(default_factory=lambda: StepTimer(torch.device("cpu")))

    def state(self) -> StudentState:
        """What a checkpoint keeps of it. Every worker must call it."""
        average = None if self.average is None else self.average.weights()
        return StudentState(self.engine.weights(), self.engine.optimizer_state(), average, self.network)

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
    """Seed of a student's initial weights: a function of the run's seed and its name alone."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def make_student(
    config: RunConfig,
    name: str,
    device: torch.device,
    state: StudentState | None,
) -> Student:
    """Build one student and its engine: from a checkpoint's state, else from its initial weights, else from the seed.

    Args:
        config: the run.
        name: of the student.
        device: where it trains.
        state: of the newest checkpoint; None starts from the seed.

    Raises:
        InputError: the weights belong to another architecture; names the first key that differs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(student_seed(config.seed, name))
        module = build_student(**config.students[name].network)
        if state is None and config.students[name].initial:
            load_initial(module, name, config.students[name])
        if config.feature_shape and "features" in config.students[name].objective:
            attach_tap(module, config.students[name].objective["features"], config.feature_shape[0])
    if state is not None:
        load_weights(module, state.weights, what=f"the checkpoint of {name}")
    module.to(device)
    watch = GradientWatch(module, device)  # before the engine: ZeRO stage 3 empties the parameters
    optimizer, train = config.optimizer, config.train
    stored = state.average if state is not None else None
    average = WeightAverage(module, train.ema_decay, stored) if train.ema_decay else None
    engine = build_engine(
        train.engine,
        module,
        adam=AdamSettings(
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            decoupled=optimizer.kind == "adamw",
            clip_norm=optimizer.clip_norm,
        ),
        zero_stage=train.zero_stage,
        precision=train.precision,
        accumulation=train.accumulation,
        micro_batch=config.micro_batch,
        torch_adam=train.torch_adam,
        device=device,
        state=state.optimizer if state is not None else None,
    )
    return Student(
        name,
        engine,
        watch,
        Objective.of_student(config, name),
        average,
        config.students[name].network,
        StepTimer(device),
    )
