"""One optimiser step of a family of students: losses, gradients, and the watch for numbers that are not finite.

Legend: B clips of a micro-batch, T frames, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn

from echodfkd.config import RunConfig
from echodfkd.errors import RunError
from echodfkd.losses import soft_mask_bce
from echodfkd.models.build import build_student
from echodfkd.records import DistillationBatch
from echodfkd.training.checkpoints import StudentState
from echodfkd.training.collectives import num_workers
from echodfkd.training.engine import AdamSettings, Engine, build_engine, load_weights


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


def student_seed(seed: int, name: str) -> int:
    """Seed of a student's initial weights: a function of the run's seed and its name alone."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def make_student(config: RunConfig, name: str, device: torch.device, state: StudentState | None) -> Student:
    """Build one student and its engine, from the seed or from a checkpoint's state.

    Raises:
        InputError: the state belongs to another architecture; names the first key that differs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(student_seed(config.seed, name))
        module = build_student(**asdict(config.students[name]))
    if state is not None:
        load_weights(module, state.weights, what=f"the checkpoint of {name}")
    module.to(device)
    watch = GradientWatch(module, device)  # before the engine: ZeRO stage 3 empties the parameters
    optimizer, train = config.optimizer, config.train
    engine = build_engine(
        train.engine,
        module,
        adam=AdamSettings(
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
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
    return Student(name, engine, watch)


def accumulate_gradients(
    students: Sequence[Student], batches: Sequence[DistillationBatch], *, total_weight: float, device: torch.device
) -> torch.Tensor:
    """Forward and backward of every student over this worker's micro-batches.

    The loss of a clip counts by its share of ``total_weight``, the weights' sum over all workers and rounds,
    so that the parts add up to the loss of the global batch. Engines average over workers, hence the factor.

    Returns:
        float64 (2 * students,) on ``device``: this worker's part of each loss, then for each student how
        many of its gradients were not finite. Sum it over the workers and read it before any update.
    """
    losses = torch.zeros(len(students), dtype=torch.float64, device=device)
    for student in students:
        student.watch.bad.zero_()
    for batch in batches:
        video_BTHW, target_prob, weight_B = batch_tensors(batch, device)
        for place, student in enumerate(students):
            logits = student.engine.forward(video_BTHW)
            loss = soft_mask_bce(logits, target_prob, weight_B, total_weight=total_weight)
            losses[place] += loss.detach()
            student.engine.backward(loss * num_workers())
    return torch.cat([losses, torch.stack([student.watch.bad for student in students])])


def check_finite(students: Sequence[Student], sums: Sequence[float], step: int) -> dict[str, float]:
    """Losses by student out of the summed vector of `accumulate_gradients`.

    Raises:
        RunError: a loss or gradient is not finite; names the first such student and the update (from 1).
            The vector is the same on every worker, so all of them stop here, before the update.
    """
    count = len(students)
    for place, student in enumerate(students):
        loss, bad = sums[place], sums[count + place]
        if not math.isfinite(loss) or bad:
            what = "loss" if not math.isfinite(loss) else "gradient"
            raise RunError(
                f"student {student.name}: the {what} of step {step} is not finite (loss {loss:g}); the weights were"
                " not updated. Lower optimizer.learning_rate or set optimizer.clip_norm"
            )
    return {student.name: sums[place] for place, student in enumerate(students)}


def update(students: Sequence[Student], learning_rate: float, step: int) -> dict[str, float]:
    """Update every student; returns gradient norms before clipping.

    Raises:
        RunError: finite gradients overflowed in their sum. The engine did not update then.
    """
    norms = {}
    for student in students:
        norms[student.name] = student.engine.step(learning_rate)
        if not math.isfinite(norms[student.name]):
            raise RunError(
                f"student {student.name}: the gradients of step {step} overflow in their sum over the workers; the"
                " weights were not updated. Lower optimizer.learning_rate"
            )
    return norms


def batch_tensors(batch: DistillationBatch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Video uint8 (B, T, H, W), target probability float32 (B, T, H, W) in 0..1, and weight float32 (B,).

    Arrays out of a stream may be read-only and are copied.
    """
    video = torch.tensor(np.asarray(batch.video)).to(device)
    target = torch.tensor(np.asarray(batch.teacher_prob)).to(device).float() / 255.0
    return video, target, torch.tensor(np.asarray(batch.sample_weight, np.float32)).to(device)
