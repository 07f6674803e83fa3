"""The loss of a student: its output against a batch of taught clips.

The weighted terms on the masks (a cross-entropy, or those of ``students.<name>.objective``) + phase_weight * phase BCE
+ ef_weight * smooth L1 of the ejection fraction. Each is averaged over the known targets of the whole optimiser step,
so that the losses of the parts of a batch add up to the loss of the batch.

Legend: B clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.objective import PLAIN_OBJECTIVE, TERM_OPTIONS, TermConfig
from echodfkd.core.mask_codes import LEAST_PROB
from echodfkd.core.records import DistillationBatch
from echodfkd.losses.features import attention_transfer, feature_directions, feature_matching
from echodfkd.losses.pixels import HALF_CODE, entropy_confidence, soft_mask_focal, soft_mask_kl
from echodfkd.losses.regions import lovasz_hinge, soft_dice
from echodfkd.losses.shape import boundary_loss, temporal_consistency
from echodfkd.losses.targets import ef_smooth_l1, phase_bce, soft_mask_bce
from echodfkd.models.mask_tensors import decode_tensor
from echodfkd.models.students.output import StudentOutput


class Totals(NamedTuple):
    """Divisors of the terms of the loss: sums over all workers and rounds of an optimiser step."""

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
    """A batch on the device of its students; targets are float32, unknown ones NaN."""

    video: torch.Tensor
    """uint8 (B, T, H, W)."""
    mask_prob: torch.Tensor
    """(B, T, C, H, W), 0..1, of every class that the stream teaches."""
    weight: torch.Tensor
    """float32 (B,)."""
    phase: torch.Tensor | None
    """(B, T), or None if no student learns it."""
    ef: torch.Tensor | None
    """(B,), or None likewise."""
    mask_confidence: torch.Tensor | None = None
    """As ``mask_prob``, how far the teachers agree; None if no term weighs by it."""
    features: torch.Tensor | None = None
    """(B, T, F, h, w) of the teacher; None without the term ``features``."""
    least_prob: float = HALF_CODE
    """Smallest distance from 0 and 1 that the codes of ``mask_prob`` resolve."""


def batch_tensors(batch: DistillationBatch, device: torch.device) -> BatchTensors:
    """Copy a batch to the device; the host does not wait for a GPU."""
    codes = batch.teacher_prob
    weight = np.asarray(batch.sample_weight, np.float32)
    phase, ef, features = (
        None if column is None else _to_device(np.asarray(column, np.float32), device)
        for column in (batch.teacher_phase, batch.teacher_ef, batch.teacher_features)
    )
    sure = batch.teacher_confidence
    return BatchTensors(
        video=_to_device(np.asarray(batch.video), device),
        mask_prob=decode_tensor(_to_device(codes, device)),
        weight=_to_device(weight, device),
        phase=phase,
        ef=ef,
        mask_confidence=None if sure is None else decode_tensor(_to_device(sure, device)),
        features=features,
        least_prob=LEAST_PROB[codes.dtype],
    )


def _to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    # A copy, because arrays of a stream are read-only. A GPU reads pinned memory by itself, while the host goes on.
    return torch.tensor(array, pin_memory=device.type == "cuda").to(device, non_blocking=True)


_MASK_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "bce": soft_mask_bce,
    "kl": soft_mask_kl,
    "focal": soft_mask_focal,
    "dice": soft_dice,
    "lovasz": lovasz_hinge,
    "boundary": boundary_loss,
    "temporal": temporal_consistency,
}

_FEATURE_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "attention": attention_transfer,
    "matching": feature_matching,
    "projected": feature_directions,
}

TERM_NAMES = (*_MASK_LOSSES, "features", "phase", "ef")
"""Every term that an objective may have, in the order in which workers exchange their values."""


def ramped_weight(term: TermConfig, step: int) -> float:
    """A term's weight in the update ``step``, 0 for the first."""
    if step < term.start:
        return 0.0
    return term.weight * min(1.0, (step - term.start + 1) / max(1, term.ramp))


class LossTerms(NamedTuple):
    """The share of some clips in the loss of an optimiser step."""

    loss: torch.Tensor
    """Scalar to minimise."""
    terms: dict[str, torch.Tensor]
    """Unweighted terms by name, scalars; a term of weight 0 is not computed."""


@dataclass(frozen=True)
class Objective:
    """The loss of one student.

    Attributes:
        places: of its classes among those that the stream teaches.
        phase_weight: see `echodfkd.config.sections.student.ObjectiveConfig`.
        ef_weight: likewise.
        terms: on masks and features, by name.
        tasks: phase, ef.
    """

    places: tuple[int, ...] = (0,)
    phase_weight: float = 0.0
    ef_weight: float = 0.0
    terms: Mapping[str, TermConfig] = field(default_factory=lambda: dict(PLAIN_OBJECTIVE))
    tasks: tuple[str, ...] = ()

    @staticmethod
    def of_student(config: RunConfig, name: str) -> Objective:
        """The objective of a student of this run."""
        taught, student = config.taught_classes, config.students[name]
        places = tuple(taught.index(label) for label in student.classes)
        terms = student.objective or PLAIN_OBJECTIVE
        weights = config.objective
        return Objective(places, weights.phase_weight, weights.ef_weight, terms, tuple(student.tasks))

    def __call__(self, output: StudentOutput, batch: BatchTensors, totals: Totals) -> torch.Tensor:
        """The loss of `measure` with every term at its full weight."""
        return self.measure(output, batch, totals, step=None).loss

    def measure(self, output: StudentOutput, batch: BatchTensors, totals: Totals, *, step: int | None) -> LossTerms:
        """The share of these clips in the loss of the whole optimiser step, and in its terms.

        Args:
            output: of the student, for ``batch.video``.
            batch: some of the step's clips.
            totals: over all clips of the step.
            step: updates done before this one, for the terms' schedules; None is after all of them.
        """
        target = self.own(batch.mask_prob)
        weights = self.mask_weights(step)
        terms = {
            name: self._feature_term(output, batch, totals)
            if name == "features"
            else self._mask_term(name, output.mask_logits, target, batch, totals)
            for name in weights
        }
        if output.phase_logits is not None:
            assert batch.phase is not None
            terms["phase"] = phase_bce(output.phase_logits, batch.phase, batch.weight, total_weight=totals.phase)
            weights["phase"] = self.phase_weight
        if output.ef is not None:
            assert batch.ef is not None
            terms["ef"] = ef_smooth_l1(output.ef, batch.ef, batch.weight, total_weight=totals.ef)
            weights["ef"] = self.ef_weight
        first, *others = (weights[name] * value for name, value in terms.items())
        loss = first
        for value in others:
            loss = loss + value
        return LossTerms(loss, terms)

    def mask_weights(self, step: int | None) -> dict[str, float]:
        """Weights of the student's terms that are above 0; ``step`` as in `measure`."""
        terms = {name: self.terms[name] for name in TERM_NAMES if name in self.terms}
        weights = {n: term.weight if step is None else ramped_weight(term, step) for n, term in terms.items()}
        return {name: weight for name, weight in weights.items() if weight > 0}

    def term_names(self, step: int) -> tuple[str, ...]:
        """The terms that `measure` computes in an update."""
        return (*self.mask_weights(step), *self.tasks)

    def _mask_term(
        self, name: str, logits: torch.Tensor, target: torch.Tensor, batch: BatchTensors, totals: Totals
    ) -> torch.Tensor:
        term = self.terms[name]
        options: dict[str, Any] = {key: getattr(term, key) for key in TERM_OPTIONS[name] if key != "confidence"}
        if name == "kl":
            options["least_prob"] = batch.least_prob
        if term.confidence == "entropy":
            options["confidence"] = entropy_confidence(target)
        elif term.confidence == "teacher":
            assert batch.mask_confidence is not None, "check_config: teacher.confidence is on"
            options["confidence"] = self.own(batch.mask_confidence)
        return _MASK_LOSSES[name](logits, target, batch.weight, total_weight=totals.weight, **options)

    def _feature_term(self, output: StudentOutput, batch: BatchTensors, totals: Totals) -> torch.Tensor:
        assert output.features is not None, "make_student taps every student that has this term"
        assert batch.features is not None, "check_config asks for a layer of the teacher"
        loss = _FEATURE_LOSSES[self.terms["features"].kind]
        return loss(output.features, batch.features, batch.weight, total_weight=totals.weight)

    def own(self, taught: torch.Tensor) -> torch.Tensor:
        """The masks of this student's classes, in its order, out of those taught."""
        if self.places == tuple(range(taught.shape[2])):
            return taught
        # Not taught[:, :, places]: the index would be a tensor of the host, which the device waits for.
        return torch.stack([taught[:, :, place] for place in self.places], dim=2)


LV_OBJECTIVE = Objective()
"""Objective of a student of the left ventricle, on a stream that teaches nothing else."""
