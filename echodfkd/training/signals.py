"""What a law of a steered run can follow: how weak a student is in each clip, measured without labels.

Legend: B clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from echodfkd.core.records import DistillationBatch
from echodfkd.losses.regions import dice_distance
from echodfkd.losses.shape import temporal_distance
from echodfkd.models.judges.protocol import Judge
from echodfkd.models.students.output import StudentOutput
from echodfkd.training.objective import BatchTensors, Objective

Signal = Callable[[Objective, StudentOutput, BatchTensors, DistillationBatch], torch.Tensor]
"""A student's output for a batch -> (B,) on any device, at least 0, larger if it is weaker; NaN if not measured."""


def disagreement(
    objective: Objective, output: StudentOutput, tensors: BatchTensors, batch: DistillationBatch
) -> torch.Tensor:
    """How far the masks of student and teacher differ: `regions.dice_distance`."""
    return dice_distance(output.mask_logits, objective.own(tensors.mask_prob))


def temporal(
    objective: Objective, output: StudentOutput, tensors: BatchTensors, batch: DistillationBatch
) -> torch.Tensor:
    """How far their changes from frame to frame differ: `shape.temporal_distance`."""
    return temporal_distance(output.mask_logits, objective.own(tensors.mask_prob))


class JudgeShortfall:
    """How far a judge scores a student's mask below the teacher's, 0 if above, of some clips.

    The judge scores each clip by itself, in the worker that trains on it, so that the numbers depend neither on time
    nor on the other clips.

    Args:
        judge: of masks.
        place: of the left ventricle in the classes that the stream teaches.
        judged: whether the clip of an index is judged.
    """

    def __init__(self, judge: Judge, place: int, judged: Callable[[int], bool]) -> None:
        self._judge, self._place, self._judged = judge, place, judged
        # The newest batch, which all students see, and the teacher's scores in it
        self._taught: tuple[DistillationBatch | None, list[float]] = (None, [])

    def __call__(
        self, objective: Objective, output: StudentOutput, tensors: BatchTensors, batch: DistillationBatch
    ) -> torch.Tensor:
        """The shortfall of the clips that are judged. The host waits for the device if there is one."""
        rows = [row for row, index in enumerate(batch.index.tolist()) if self._judged(index)]
        found = torch.full((len(batch.index),), torch.nan)
        if rows:
            own = self._scores(batch, rows, output.mask_logits[rows, :, objective.places.index(self._place)] > 0)
            if self._taught[0] is not batch:
                self._taught = batch, self._scores(batch, rows, tensors.mask_prob[rows, :, self._place] > 0.5)
            for row, mine, wanted in zip(rows, own, self._taught[1], strict=True):
                found[row] = max(0.0, wanted - mine)
        return found

    def _scores(self, batch: DistillationBatch, rows: Sequence[int], masks: torch.Tensor) -> list[float]:
        pairs = zip(rows, masks.cpu().numpy(), strict=True)
        return [self._judge.score(batch.video[row], mask)["judge_score"] for row, mask in pairs]
