"""One optimiser step of a family of students: losses, gradients, and the watch for numbers that are not finite.

Legend: B clips of a micro-batch, T frames, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
import torch.distributed as dist
from torch import nn

from echodfkd.config import RunConfig
from echodfkd.errors import RunError
from echodfkd.models.build import build_student
from echodfkd.records import DistillationBatch
from echodfkd.training.busy_clock import BusyClock
from echodfkd.training.checkpoints import StudentState
from echodfkd.training.engine import AdamSettings, Engine, build_engine, load_weights
from echodfkd.training.feature_tap import attach_tap
from echodfkd.training.objective import LV_OBJECTIVE, TERM_NAMES, Objective, Totals, batch_tensors
from echodfkd.training.spread import exchange_within
from echodfkd.training.student_files import load_initial
from echodfkd.training.weight_average import WeightAverage

LOSS, BAD, NORM, TERMS = range(4)
"""Places in a student's row of `accumulate_gradients`: its part of the loss, how many of its gradients were not finite,
its part of their norm before clipping (0 where only the update tells it), and from the last one on the values of
`TERM_NAMES` before they are weighted, 0 for those that it does not have."""


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


@dataclass(frozen=True)
class Student:
    """One student in training."""

    name: str
    engine: Engine
    watch: GradientWatch
    objective: Objective = LV_OBJECTIVE
    average: WeightAverage | None = None
    clock: BusyClock = field(default_factory=lambda: BusyClock(torch.device("cpu")))

    def state(self) -> StudentState:
        """What a checkpoint keeps of it. Every worker must call it."""
        average = None if self.average is None else self.average.weights()
        return StudentState(self.engine.weights(), self.engine.optimizer_state(), average)


def student_seed(seed: int, name: str) -> int:
    """Seed of a student's initial weights: a function of the run's seed and its name alone."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def make_student(
    config: RunConfig,
    name: str,
    device: torch.device,
    state: StudentState | None,
    *,
    group: dist.ProcessGroup | None = None,
) -> Student:
    """Build one student and its engine: from a checkpoint's state, else from its initial weights, else from the seed.

    Args:
        config: the run; with ``train.placement: spread`` the student is this worker's alone.
        name: of the student.
        device: where it trains.
        state: of the newest checkpoint; None starts from the seed.
        group: of this worker alone, where students are spread over several.

    Raises:
        InputError: the weights belong to another architecture; names the first key that differs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(student_seed(config.seed, name))
        module = build_student(**asdict(config.students[name]))
        if state is None and config.students[name].initial:
            load_initial(module, name, config.students[name])
        if config.feature_shape and "features" in config.students[name].objective:
            attach_tap(module, config.students[name].objective["features"], config.feature_shape[0])
    if state is not None:
        load_weights(module, state.weights, what=f"the checkpoint of {name}")
    shared = config.train.placement == "replicate"
    exchange_within(module, group)
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
        shared=shared,
        state=state.optimizer if state is not None else None,
    )
    return Student(name, engine, watch, Objective.of_student(config, name), average, BusyClock(device))


def accumulate_gradients(
    students: Sequence[Student],
    batches: Sequence[DistillationBatch],
    *,
    totals: Totals,
    step: int,
    device: torch.device,
) -> torch.Tensor:
    """Forward and backward of every student over this worker's micro-batches.

    The loss of a clip counts by its share of ``totals``, which are sums over all workers and rounds, so that the
    parts add up to the loss of the global batch. Engines average over the workers that hold a student, hence the
    factor. ``step`` counts the updates done so far, which the objectives' schedules go by.

    Returns:
        float64 (students, 3 + len(TERM_NAMES)) on ``device``, of this worker, as `LOSS`, `BAD`, `NORM` and `TERMS` say.
        Sum it over the workers and read it before any update: the host waits for nothing else in a step.
    """
    sums = torch.zeros(len(students), TERMS + len(TERM_NAMES), dtype=torch.float64, device=device)
    for student in students:
        student.watch.bad.zero_()
    for batch in batches:
        tensors = batch_tensors(batch, device)
        for own, student in zip(sums, students, strict=True):
            student.clock.start()
            measured = student.objective.measure(student.engine.forward(tensors.video), tensors, totals, step=step)
            own[LOSS] += measured.loss.detach()
            for name, value in measured.terms.items():
                own[TERMS + TERM_NAMES.index(name)] += value.detach()
            student.engine.backward(measured.loss * student.engine.workers)
            student.clock.stop()
    for own, student in zip(sums, students, strict=True):
        student.clock.start()
        norm = student.engine.average_gradients()
        student.clock.stop()
        own[BAD] = student.watch.bad
        if norm is not None:
            own[NORM] = norm.double() / student.engine.workers  # all of them have the same
    return sums


def check_finite(rows: Mapping[str, Sequence[float]], step: int) -> None:
    """Refuse an update, ``step`` from 1, by every student's row of `accumulate_gradients`, summed over the workers.

    Raises:
        RunError: a loss or gradient is not finite, or gradients overflow in their sum; names the first such student.
            The rows are the same on every worker, so all of them stop here, before the update.
    """
    for name, row in rows.items():
        if not math.isfinite(row[LOSS]) or row[BAD]:
            what = "loss" if not math.isfinite(row[LOSS]) else "gradient"
            raise RunError(
                f"student {name}: the {what} of step {step} is not finite (loss {row[LOSS]:g}); the weights were"
                " not updated. Lower optimizer.learning_rate or set optimizer.clip_norm"
            )
        if not math.isfinite(row[NORM]):
            raise RunError(
                f"student {name}: the gradients of step {step} overflow in their sum over the workers; the last"
                " published checkpoint stays as it is. Lower optimizer.learning_rate"
            )


def term_values(row: Sequence[float], student: Student, step: int) -> dict[str, float]:
    """A student's terms before they are weighted, out of its row; ``step`` as in `accumulate_gradients`."""
    return {name: row[TERMS + TERM_NAMES.index(name)] for name in student.objective.term_names(step)}


def update(students: Sequence[Student], learning_rate: float, step: int) -> dict[str, float]:
    """Update every student, ``step`` from 1, and its average. Returns the gradient norms before clipping that were not
    known before (ZeRO stages 1 to 3).

    Raises:
        RunError: such a norm is not finite.
    """
    norms = {}
    for student in students:
        student.clock.start()
        norm = student.engine.step(learning_rate)
        if student.average is not None:
            student.average.update(student.engine.module, step)
        student.clock.stop()
        if norm is not None:
            norms[student.name] = norm
            check_finite({student.name: (0.0, 0.0, norm)}, step)
    return norms
