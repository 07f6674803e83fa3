"""The laws of a steered run: pure functions of its options, its strata and the signal per stratum.

A law gives each steered clip its stratum. A share `floor` of all clips is drawn from the patients as they are, so that
stratum k has the share ``floor * p_k + (1 - floor) * t_k`` with its share p of the patients and the law's own t:

    t_k ~ w_k * loss_k ** (1 / temperature)   if a signal is followed,
    t_k ~ w_k * p_k                           if only a curriculum is,

in which w are the curriculum's weights. The first is the softmax of log-losses: the weights of a bandit's arms (Auer
et al. 2002, Exp3, which has the same floor) for a loss that is measured and not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.source import SourceConfig
from echodfkd.config.sections.steering import CurriculumStage
from echodfkd.sources.steering.strata import Cells
from echodfkd.storage.steering import UNIT, Law, Window


@dataclass(frozen=True)
class Timetable:
    """When laws change: every ``period`` updates, of a run of ``steps`` with a checkpoint every ``checkpoint``."""

    steps: int
    batch: int
    checkpoint: int
    period: int

    @staticmethod
    def of(config: RunConfig) -> Timetable:
        """That of a run."""
        train = config.train
        return Timetable(train.steps, train.global_batch, train.checkpoint_every, config.segment_steps)

    def law(self, index: int) -> int:
        """Number of the law that draws an index: that of its slot's segment."""
        return index % (self.steps * self.batch) // self.batch // self.period

    def next_step(self, done: int) -> int | None:
        """First step of the law that is made when ``done`` updates are; None if none is.

        It is made one checkpoint before it holds: by then no clip of its segment has been asked for. It may lie beyond
        the last update: a run can be made longer.
        """
        step = done + self.checkpoint
        return step if done > 0 and step % self.period == 0 else None


def first_laws(source: SourceConfig, shares: Sequence[float], times: Timetable) -> tuple[Law, ...]:
    """The laws that come before the first measurement; ``shares`` of the patients by stratum."""
    steps = (0, times.period) if times.period == times.checkpoint else (0,)
    return tuple(make_law(source, shares, step, (0.0,) * len(shares)) for step in steps)


def no_counts(shares: Sequence[float]) -> Window:
    """The counts right after a law."""
    return Window((0,) * (len(shares) + 1), (0,) * (len(shares) + 1))


def measured_law(
    source: SourceConfig,
    shares: Sequence[float],
    step: int,
    window: Window,
    before: Law,
    again: tuple[tuple[int, int, int], ...],
) -> Law:
    """The law after a measurement: `make_law` of the mean signals, of the law before in a stratum without clips.

    Args:
        source: with the options.
        shares: as in `make_law`.
        step: likewise.
        window: counts since the law before.
        before: that law.
        again: clips that come back.
    """
    clips = window.clips[: len(shares)]
    means = zip(window.sums, clips, before.loss, strict=False)
    loss = [total / UNIT / count if count else earlier for total, count, earlier in means]
    return replace(make_law(source, shares, step, loss), clips=clips, again=again)


def make_law(source: SourceConfig, shares: Sequence[float], step: int, loss: Sequence[float]) -> Law:
    """The law from update ``step`` on.

    Args:
        source: with the options.
        shares: of the patients, by stratum; 0 for a cell that is no stratum.
        step: its first update.
        loss: mean signal of each stratum, 0 if unknown.
    """
    steering = source.steering
    weights = curriculum_weights(steering.curriculum, Cells.of(source), step)
    known = [value for value, share in zip(loss, shares, strict=True) if share > 0 and value > 0]
    if steering.follow != "none" and known:
        wanted = _followed(loss, weights, shares, steering.temperature)
    elif steering.curriculum:
        wanted = [w * p for w, p in zip(weights, shares, strict=True)]
    else:
        wanted = []
    total = sum(wanted)
    towards = tuple(value / total for value in wanted) if total > 0 else ()
    weights = importance_weights(shares, towards, steering.floor)
    return Law(step, towards, tuple(weights), tuple(loss), clips=(0,) * len(shares))


def _followed(
    loss: Sequence[float], weights: Sequence[float], shares: Sequence[float], temperature: float
) -> list[float]:
    """Weights of the strata by their loss; a stratum of unknown loss has the mean of the known ones."""
    known = [value for value, share in zip(loss, shares, strict=True) if share > 0 and value > 0]
    usual, most = sum(known) / len(known), max(known)
    return [
        w * ((value or usual) / most) ** (1.0 / temperature) if share > 0 else 0.0
        for w, value, share in zip(weights, loss, shares, strict=True)
    ]


def importance_weights(shares: Sequence[float], towards: Sequence[float], floor: float) -> list[float]:
    """Share of the patients by share of the clips, of each stratum; 1 without a law, 0 for a cell that is none."""
    return [
        p / (floor * p + (1.0 - floor) * (towards[k] if towards else p)) if p > 0 else 0.0 for k, p in enumerate(shares)
    ]


def curriculum_weights(stages: Sequence[CurriculumStage], cells: Cells, step: int) -> list[float]:
    """Weights of the cells at an update: linear between two stages, those of the last stage after it; 1 without any."""
    if not stages:
        return cells.weights({})
    for before, after in pairwise(stages):
        if before.step <= step < after.step:
            part = (step - before.step) / (after.step - before.step)
            ends = zip(cells.weights(before.shares), cells.weights(after.shares), strict=True)
            return [(1.0 - part) * a + part * b for a, b in ends]
    return cells.weights(stages[-1].shares)
