"""Distillation without data in one process: a student, and a painter that works against it.

(a) Adversarial: a painter (`MapPainter`) makes pictures around preset masks. It gains by a gap between teacher and
student up to a bound (Zhou and Chiam 2023) and loses if the teacher does not see the preset mask (CGDD, Yu et al.
2021); a share of plain clips stays in every batch (DeGAN, Addepalli et al. 2020; Zhou and Chiam).
(b) Guided: of several plain clips the student sees the one that is nearest to the teacher's batch statistics, and of a
batch the nearest counts most at first (DFSS, Sun and Wu 2025).

A clip is a function of the seed, its slot, and the painter's number of updates, which is part of its identity.

Legend: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from echodfkd.core.counter import Counter
from echodfkd.core.errors import RunError
from echodfkd.losses.regions import DICE_SMOOTH, soft_dice
from echodfkd.losses.targets import soft_mask_bce
from echodfkd.models.generators.map_painter import MapPainter, painter_noise
from echodfkd.models.generators.plain_noise import nearest_noise, noise_clip
from echodfkd.models.teachers.batch_statistics import BatchStatistics
from echodfkd.models.teachers.graded import GradedTeacher
from echodfkd.training.datafree.settings import Adversary, DataFreeSettings
from echodfkd.training.teacher.keeper import Keeper, TrainingState

Drawn = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""Slot -> a drawn clip's video, uint8 (T, H, W), and its mask of the left ventricle, bool: the preset mask."""


class DataFreeRun:
    """One student's training; see `DataFreeSettings`. The networks are trained in place.

    Args:
        student: video (B, T, H, W) -> `StudentOutput`.
        teacher: frozen, in evaluation mode.
        drawn: random conditions, as drawn clips and as preset masks.
        settings: of this run.
        keeper: saves the run now and then, and goes on from its last save.

    Raises:
        ConfigError: the shares are impossible.
        InputError: guided clips, and a teacher without batch statistics.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: GradedTeacher,
        drawn: Drawn,
        settings: DataFreeSettings,
        *,
        keeper: Keeper | None = None,
    ) -> None:
        settings.check()
        self._teacher, self._drawn, self._settings, self._keeper = teacher, drawn, settings, keeper
        self._kinds = settings.kinds()
        guided = settings.shares.get("guided", 0.0) > 0 or settings.statistics > 0
        self._statistics = BatchStatistics(teacher.network, f"teacher.kind: {teacher.name}") if guided else None
        torch.manual_seed(settings.seed)
        self._student, self.painter = student, MapPainter()
        groups = [
            {"params": list(student.parameters()), "lr": settings.rate},
            {"params": list(self.painter.parameters()), "lr": settings.painter_rate},
        ]
        both = nn.ModuleDict({"student": student, "painter": self.painter})
        self._state = TrainingState(both, torch.optim.AdamW(groups), None, np.random.default_rng(0))
        self.clip_ids: list[str] = []
        if keeper is not None:
            keeper.load(self._state)

    @property
    def generator_step(self) -> int:
        """Updates of the painter so far."""
        return self._state.index

    def run(self, report: Callable[[str], None] = lambda line: None) -> None:
        """Train to the last step; ``report`` takes lines of progress. Raises `RunError` if a loss is not finite."""
        state = self._state
        with Counter("steps", self._settings.steps, report, done=state.step) as counter:
            while state.step < self._settings.steps:
                self.step()
                counter.show(state.step, f"loss {state.mean_loss:.4f}")
        self._student.eval()

    def step(self) -> None:
        """One update of the student, after one of the painter if it is due."""
        settings, state = self._settings, self._state
        slots = range(state.step * settings.batch, (state.step + 1) * settings.batch)
        if settings.shares.get("adversarial", 0.0) > 0 and state.step % settings.paint_every == 0:
            self._update(self.painter_loss(slots), self.painter)
            state.index += 1  # the generator_step of the clips that follow
        clips, distances = zip(*(self.clip(slot) for slot in slots), strict=True)
        weight = guided_weights(torch.tensor(distances), state.step / settings.steps)
        share = 0.5 * (1.0 + math.cos(math.pi * state.step / settings.steps))
        state.optimizer.param_groups[0]["lr"] = settings.rate * (0.05 + 0.95 * share)
        self._student.train()
        loss = self.student_loss(torch.stack(clips), weight)
        self._update(loss, self._student)
        state.mean_loss = loss.item()
        state.step += 1
        if self._keeper is not None and (self._keeper.is_due(state) or state.step == settings.steps):
            self._keeper.save(state)

    @torch.no_grad()
    def clip(self, slot: int) -> tuple[torch.Tensor, float]:
        """The clip of a slot as the student sees it now, (T, H, W) whole grey levels; its identity is noted.

        With the distance of a guided clip to the teacher's batch statistics, else NaN.
        """
        kind, settings, distance = self._kinds[slot], self._settings, math.nan
        identity = f"{kind}-s{settings.seed}-i{slot}"
        if kind == "conditions":
            video = torch.from_numpy(self._drawn(slot)[0]).float()
        elif kind == "noise":
            video = self._noise(slot, 0)
        elif kind == "guided":
            video, distance = self._guided(slot)
        else:
            identity += f"-g{self.generator_step}"
            video = self._paint([slot], "clip")[0]
        self.clip_ids.append(identity)
        return video.round(), distance

    def student_loss(self, video_BTHW: torch.Tensor, weight_B: torch.Tensor) -> torch.Tensor:
        """Cross-entropy and soft Dice with the teacher's masks, a weighted mean over the clips."""
        with torch.no_grad():
            target = self._teacher.logits(video_BTHW).sigmoid()
        logits = self._student(video_BTHW).mask_logits[:, :, 0]
        return _mask_loss(logits, target, weight_B)

    def painter_loss(self, slots: range) -> torch.Tensor:
        """The preset masks' loss under the teacher, less the bounded gap, plus the distance to batch statistics."""
        settings = self._settings
        video = self._paint(list(slots), "painter")
        if self._statistics is None or not settings.statistics:
            logits, near = self._teacher.logits(video), torch.zeros(())
        else:
            with self._statistics.watching(len(video)):
                logits = self._teacher.logits(video)
            near = settings.statistics * self._statistics.distances().mean()
        self._student.eval()  # its running statistics are of the student's own clips
        students = [self._student(video).mask_logits[:, :, 0]]
        return adversarial_loss(logits, students, self._masks(list(slots)), settings) + near

    def _update(self, loss: torch.Tensor, part: nn.Module) -> None:
        """One update of the student or of the painter; the other one, which has no gradient then, stays as it is."""
        if not torch.isfinite(loss):
            raise RunError(f"the loss is {loss.item()} at step {self._state.step}; lower the learning rate")
        parameters = list(part.parameters())
        self._state.optimizer.zero_grad(set_to_none=True)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self._state.optimizer.step()

    def _paint(self, slots: list[int], purpose: str) -> torch.Tensor:
        seeds = [_seed(self._settings.seed, purpose, slot, 0) for slot in slots]
        return self.painter(self._masks(slots), painter_noise(seeds, self._settings.size))

    def _masks(self, slots: list[int]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(self._drawn(slot)[1]) for slot in slots])

    def _noise(self, slot: int, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(_seed(self._settings.seed, "noise", slot, number))
        return noise_clip(generator, self._settings.frames, self._settings.size)

    def _guided(self, slot: int) -> tuple[torch.Tensor, float]:
        assert self._statistics is not None
        videos = torch.stack([self._noise(slot, number) for number in range(self._settings.candidates)])
        return nearest_noise(videos, self._teacher, self._statistics)


def adversarial_loss(
    teacher_logits: torch.Tensor, student_logits: Sequence[torch.Tensor], mask_BTHW: torch.Tensor, settings: Adversary
) -> torch.Tensor:
    """A painter's: the preset masks' loss under the teacher, less the weighted bounded gap, a mean over students."""
    prob = teacher_logits.sigmoid()
    gaps = [bounded_gap(prob, logits.sigmoid(), settings.bound).mean() for logits in student_logits]
    preset = _mask_loss(teacher_logits, mask_BTHW.float(), torch.ones(len(mask_BTHW), device=mask_BTHW.device))
    return preset - settings.gap * torch.stack(gaps).mean()


def bounded_gap(teacher_prob: torch.Tensor, student_prob: torch.Tensor, bound: float) -> torch.Tensor:
    """One minus the soft Dice of each clip's masks (`losses.regions.soft_dice`), at most ``bound``: (B,).

    Above the bound there is no gradient: a painter that could win without end would leave the teacher's own world.
    """
    p, q = teacher_prob.flatten(1), student_prob.flatten(1)
    gap = (p - q).square().sum(1) / (p.square().sum(1) + q.square().sum(1) + DICE_SMOOTH)
    return gap.clamp(max=bound)


def guided_weights(distance_B: torch.Tensor, done: float) -> torch.Tensor:
    """Weights of a batch's clips at a share ``done`` of the training; 1 for a clip without a distance.

    The nearest guided clip counts 1, the farthest ``done``, the others in proportion: hard clips come in by and by.
    """
    guided = distance_B.isfinite()
    if not guided.any():
        return torch.ones_like(distance_B)
    low, high = distance_B[guided].aminmax()
    far = (distance_B - low) / (high - low).clamp(min=1e-9)
    return torch.where(guided, 1.0 - (1.0 - done) * far, 1.0)


def _mask_loss(logits: torch.Tensor, target: torch.Tensor, weight_B: torch.Tensor) -> torch.Tensor:
    total = float(weight_B.sum())
    return torch.stack(
        [term(logits, target, weight_B, total_weight=total) for term in (soft_mask_bce, soft_dice)]
    ).sum()


def _seed(seed: int, purpose: str, slot: int, number: int) -> int:
    words = [seed, int.from_bytes(purpose.encode(), "big"), slot, number]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
