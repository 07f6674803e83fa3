"""One optimiser step of a family of students: losses, gradients, and the check that they are finite.

Legend: B clips of a micro-batch, T frames, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from echodfkd.core.errors import RunError
from echodfkd.core.records import DistillationBatch
from echodfkd.models.students.output import StudentOutput
from echodfkd.training.objective import TERM_NAMES, BatchTensors, Objective, Totals, batch_tensors
from echodfkd.training.student import Student

LOSS, BAD, NORM, TERMS = range(4)
"""Places in a student's row of `accumulate_gradients`: its part of the loss, the number of its non-finite gradients,
its part of their norm before clipping (0 if only the update computes it), and from the last place on the unweighted
values of `TERM_NAMES`, 0 for those that it does not have."""

Look = Callable[[Objective, StudentOutput, BatchTensors, DistillationBatch], None]


def accumulate_gradients(
    students: Sequence[Student],
    batches: Sequence[DistillationBatch],
    *,
    totals: Totals,
    step: int,
    device: torch.device,
    look: Look | None = None,
) -> torch.Tensor:
    """Forward and backward of every student over this worker's micro-batches.

    The loss of a clip counts by its share of ``totals``, which are sums over all workers and rounds, so that the
    parts add up to the loss of the global batch. ``step`` counts the updates done so far, for the terms' schedules.
    ``look`` is shown every student's output for every batch, in this order.

    Returns:
        float64 (students, 3 + len(TERM_NAMES)) on ``device``, of this worker; `LOSS`, `BAD`, `NORM` and `TERMS` are
        places in a row. Sum it over the workers and read it before any update: the host waits for nothing else in a
        step.
    """
    sums = torch.zeros(len(students), TERMS + len(TERM_NAMES), dtype=torch.float64, device=device)
    for student in students:
        student.watch.bad.zero_()
    for batch in batches:
        tensors = batch_tensors(batch, device)
        for row, student in zip(sums, students, strict=True):
            with student.working():
                output = student.engine.forward(tensors.video)
                share = student.objective.measure(output, tensors, totals, step=step)
                row[LOSS] += share.loss.detach()
                for name, value in share.terms.items():
                    row[TERMS + TERM_NAMES.index(name)] += value.detach()
                student.engine.backward(share.loss * student.engine.workers)  # engines average over the workers
            if look is not None:  # no time of the student's
                look(student.objective, output, tensors, batch)
    for row, student in zip(sums, students, strict=True):
        with student.working():
            norm = student.engine.average_gradients()
        row[BAD] = student.watch.bad
        if norm is not None:
            row[NORM] = norm.double() / student.engine.workers  # every worker adds the same norm
    return sums


def check_finite(rows: Mapping[str, Sequence[float]], step: int) -> None:
    """Refuse update ``step`` (from 1) if a student's row of `accumulate_gradients`, summed over the workers, is bad.

    Raises:
        RunError: a loss or gradient is not finite, or gradients overflow in their sum; names the first such student.
            The rows are the same on every worker, so that all of them stop here, before the update.
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
    """The unweighted terms in a student's row; ``step`` as in `accumulate_gradients`."""
    return {name: row[TERMS + TERM_NAMES.index(name)] for name in student.objective.term_names(step)}


def update(students: Sequence[Student], learning_rate: float, step: int) -> dict[str, float]:
    """Update every student, ``step`` from 1, and its average.

    Returns the gradient norms before clipping that only the update computes (ZeRO stages 1 to 3).

    Raises:
        RunError: such a norm is not finite.
    """
    norms = {}
    for student in students:
        with student.working():
            norm = student.engine.step(learning_rate)
            if student.average is not None:
                student.average.update(student.engine.module, step)
        if norm is not None:
            norms[student.name] = norm
            check_finite({student.name: (0.0, 0.0, norm)}, step)
    return norms
