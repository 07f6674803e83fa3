"""The trainer's side of a steered run: how weak the students are per stratum, and the next law from it.

Signals (`training.signals`) are summed in whole numbers (`storage.steering.UNIT`), so that the sums are the same in any
order. Workers exchange them at checkpoints only; all of them then hold the same state.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from echodfkd.config.run import RunConfig
from echodfkd.core.records import DistillationBatch, PublishedCheckpoint
from echodfkd.models.judges.embedded import read_towers
from echodfkd.models.judges.protocol import MaskJudge
from echodfkd.models.students.output import StudentOutput
from echodfkd.sources.steering.laws import Timetable, first_laws, measured_law, no_counts
from echodfkd.sources.steering.plan import SteeringPlan
from echodfkd.storage.files import RunStorage
from echodfkd.storage.steering import UNIT, Law, SteeringState, Window, read_laws
from echodfkd.storage.untrusted import parse_json
from echodfkd.training.collectives import gather_texts, sum_over_workers
from echodfkd.training.objective import BatchTensors, Objective
from echodfkd.training.signals import JudgeShortfall, Signal, disagreement, temporal

MOST_AGAIN = 1000
"""Most clips that one law brings back."""


@dataclass(frozen=True)
class _Drawn:
    """A trained clip."""

    index: int
    stratum: int
    comes_back: bool


class Steering:
    """Laws and counts of one worker.

    Args:
        plan: which patient an index shows.
        times: when laws change.
        signal: of the students in a clip, which the laws follow.
        state: of the newest checkpoint; None begins.
    """

    def __init__(
        self, plan: SteeringPlan, times: Timetable, signal: Signal = disagreement, state: SteeringState | None = None
    ) -> None:
        self.plan, self.times, self._signal = plan, times, signal
        fresh = SteeringState(first_laws(plan.source, plan.shares, times), no_counts(plan.shares))
        self.state = state or fresh
        clips = times.period * times.batch
        self._num_again = min(MOST_AGAIN, round(plan.source.steering.again * clips))
        self._numbers = {plan.name(number): number for number in range(plan.other + 1)}
        self._looked: list[torch.Tensor] = []
        self._waiting: list[tuple[list[_Drawn], torch.Tensor]] = []
        self._clear()

    def _clear(self) -> None:
        self._sums = torch.zeros(2, len(self.plan.shares) + 1, dtype=torch.float64)
        self._hard: list[tuple[int, int]] = []

    def law(self, index: int) -> Law:
        """The law that draws an index."""
        return self.state.laws[self.times.law(index)]

    @torch.no_grad()
    def look(
        self, objective: Objective, output: StudentOutput, tensors: BatchTensors, batch: DistillationBatch
    ) -> None:
        """Measure the signal of a student's output; see `training.step.accumulate_gradients`."""
        self._looked.append(self._signal(objective, output, tensors, batch))

    def add(self, batches: Sequence[DistillationBatch]) -> list[list[bool]]:
        """Remember these clips, which `look` has seen in this order; the device is not read before `close`.

        Returns:
            For each batch which of its clips come back.
        """
        back = []
        students = len(self._looked) // len(batches)
        for number, batch in enumerate(batches):
            signal = torch.stack(self._looked[number * students : (number + 1) * students]).mean(dim=0)
            clips = zip(batch.index.tolist(), batch.stratum, strict=True)
            drawn = [_Drawn(index, self._numbers[name], self._comes_back(index)) for index, name in clips]
            self._waiting.append((drawn, signal))
            back.append([one.comes_back for one in drawn])
        self._looked = []
        return back

    def fault(self, batch: DistillationBatch) -> str:
        """A sentence about a clip of another stratum than its law asks for; "" if there is none."""
        for index, found in zip(batch.index.tolist(), batch.stratum, strict=True):
            choice = self.plan.choose(index, self.law(index))
            wanted = choice.comes_back[2] if choice.comes_back else choice.stratum
            if wanted is not None and found != self.plan.name(wanted):
                return (
                    f"the clip of index {index} is of the stratum {found}, but its law asks for"
                    f" {self.plan.name(wanted)}: the process that drew it has laws of another run; start Ray anew"
                )
        return ""

    def _comes_back(self, index: int) -> bool:
        return self.plan.choose(index, self.law(index)).comes_back is not None

    def close(self, done: int) -> None:
        """Add up the clips of all workers, and make the law that is due after ``done`` updates. All must call it."""
        self._count()
        counts = [int(value) for value in sum_over_workers(self._sums.flatten())]
        split, window = len(counts) // 2, self.state.window
        found = [
            tuple(pair) for text in gather_texts(json.dumps(self._hard)) for pair in parse_json(text, "hard clips")
        ]
        window = Window(
            tuple(a + b for a, b in zip(window.sums, counts[:split], strict=True)),
            tuple(a + b for a, b in zip(window.clips, counts[split:], strict=True)),
            tuple(self._hardest({*window.hard, *found})),
        )
        self._clear()
        laws, step = self.state.laws, self.times.next_step(done)
        if step is not None and step > laws[-1].step:
            law = measured_law(self.plan.source, self.plan.shares, step, window, laws[-1], self._again(window))
            laws, window = (*laws, law), no_counts(self.plan.shares)
        self.state = SteeringState(laws, window)

    def _count(self) -> None:
        """Read the signals of the waiting clips from the device, and count those of clips that are not repeats."""
        for drawn, signal in self._waiting:
            for one, value in zip(drawn, signal.tolist(), strict=True):
                if one.comes_back or not self.plan.measured(one.index):
                    continue  # a repeat's signal is large by selection
                parts = max(1, round(value * UNIT))  # a sum of 0 would be unknown
                self._sums[0, one.stratum] += parts
                self._sums[1, one.stratum] += 1
                self._hard.append((parts, one.index))
        self._hard = self._hardest(self._hard)
        self._waiting = []

    def _hardest(self, found: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those with the largest signal, of equal ones the earliest: the same for any number of workers."""
        return heapq.nsmallest(self._num_again, found, key=lambda pair: (-pair[0], pair[1]))

    def _again(self, window: Window) -> tuple[tuple[int, int, int], ...]:
        places = (self.plan.place(index, self.law(index)) for _, index in window.hard)
        return tuple((place.index, place.draw, place.stratum) for place in places)


def start_steering(config: RunConfig, storage: RunStorage, newest: PublishedCheckpoint | None) -> Steering | None:
    """The steering of a run, from its newest checkpoint if there is one; None without `source.steering`.

    Raises:
        InputError: the checkpoint holds no laws, or those of other strata.
    """
    if not config.source.steering.strata:
        return None
    plan = SteeringPlan(config.source, config.seed)
    state = read_laws(storage, newest, len(plan.shares)) if newest is not None else None
    return Steering(plan, Timetable.of(config), _signal(config, plan), state)


def _signal(config: RunConfig, plan: SteeringPlan) -> Signal:
    follow = config.source.steering.follow
    if follow == "judge":
        judge = MaskJudge(read_towers(), judge_id="embedded-judge")
        return JudgeShortfall(judge, config.taught_classes.index("LV"), plan.measured)
    return temporal if follow == "temporal" else disagreement
