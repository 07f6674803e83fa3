"""What a student is trained to minimise: its outputs against a batch of taught clips.

mask BCE + phase_weight * phase BCE + ef_weight * smooth L1 of the ejection fraction, each term averaged over what is
known in the whole optimiser step, so that the parts of any cut of a batch add up to the whole.

Legend: B clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from echodfkd.config import RunConfig
from echodfkd.losses import ef_smooth_l1, phase_bce, soft_mask_bce
from echodfkd.models.heads import StudentOutput
from echodfkd.records import DistillationBatch


class Totals(NamedTuple):
    """What the terms of the loss are divided by: sums over all workers and rounds of an optimiser step."""

    weight: float
    """Sample weights of all clips."""
    phase: float = 0.0
    """Sample weights of all frames whose phase is known."""
    ef: float = 0.0
    """Sample weights of all clips whose ejection fraction is known."""


def own_totals(batches: Sequence[DistillationBatch]) -> Totals:
    """One worker's part of `Totals`."""
    weight = sum(float(batch.sample_weight.sum(dtype="float64")) for batch in batches)
    known = [0.0, 0.0]
    for batch in batches:
        for place, column in enumerate((batch.teacher_phase, batch.teacher_ef)):
            if column is not None:
                frames = np.isfinite(column).reshape(len(column), -1).sum(axis=1)
                known[place] += float((batch.sample_weight.astype(np.float64) * frames).sum())
    return Totals(weight, *known)


class BatchTensors(NamedTuple):
    """A batch on the device of its students; targets are float32, NaN where unknown."""

    video: torch.Tensor
    """uint8 (B, T, H, W)."""
    mask_prob: torch.Tensor
    """(B, T, H, W) or (B, T, C, H, W), 0..1."""
    weight: torch.Tensor
    """float32 (B,)."""
    phase: torch.Tensor | None
    """(B, T), or None where nobody asks for it."""
    ef: torch.Tensor | None
    """(B,), or None."""


def batch_tensors(batch: DistillationBatch, device: torch.device) -> BatchTensors:
    """Tensors of a batch. Arrays out of a stream may be read-only and are copied."""
    video = torch.tensor(np.asarray(batch.video)).to(device)
    target = torch.tensor(np.asarray(batch.teacher_prob)).to(device).float() / 255.0
    weight = torch.tensor(np.asarray(batch.sample_weight, np.float32)).to(device)
    phase, ef = (
        None if column is None else torch.tensor(np.asarray(column, np.float32)).to(device)
        for column in (batch.teacher_phase, batch.teacher_ef)
    )
    return BatchTensors(video, target, weight, phase, ef)


@dataclass(frozen=True)
class Objective:
    """The loss of one student.

    ``places`` are its classes' places among those that the stream teaches; empty where the stream teaches the LV
    alone. The weights are those of `echodfkd.config.ObjectiveConfig`.
    """

    places: tuple[int, ...] = ()
    phase_weight: float = 0.0
    ef_weight: float = 0.0

    @staticmethod
    def of_student(config: RunConfig, name: str) -> Objective:
        """The objective of a student of this run."""
        taught = config.taught_classes
        places = tuple(taught.index(label) for label in config.students[name].classes) if len(taught) > 1 else ()
        return Objective(places, config.objective.phase_weight, config.objective.ef_weight)

    def __call__(self, output: StudentOutput, batch: BatchTensors, totals: Totals) -> torch.Tensor:
        """This part's share of the loss of the whole optimiser step, a scalar.

        Args:
            output: of the student, for ``batch.video``.
            batch: a part of the step's clips.
            totals: over all parts.
        """
        if isinstance(output, torch.Tensor):
            return soft_mask_bce(output, self._masks(batch), batch.weight, total_weight=totals.weight)
        target = self._masks(batch).reshape(output.mask_logits.shape)  # one class has no axis of its own
        loss = soft_mask_bce(output.mask_logits, target, batch.weight, total_weight=totals.weight)
        if output.phase_logits is not None:
            assert batch.phase is not None
            term = phase_bce(output.phase_logits, batch.phase, batch.weight, total_weight=totals.phase)
            loss = loss + self.phase_weight * term
        if output.ef is not None:
            assert batch.ef is not None
            loss = loss + self.ef_weight * ef_smooth_l1(output.ef, batch.ef, batch.weight, total_weight=totals.ef)
        return loss

    def _masks(self, batch: BatchTensors) -> torch.Tensor:
        """(B, T, H, W) for one class, else (B, T, C, H, W)."""
        if not self.places:
            return batch.mask_prob
        if len(self.places) == 1:
            return batch.mask_prob[:, :, self.places[0]]
        return batch.mask_prob[:, :, list(self.places)]


LV_OBJECTIVE = Objective()
"""That of a student of the left ventricle alone, where the stream teaches nothing else."""
