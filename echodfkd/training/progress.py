"""Progress numbers of a run, summed on rank 0 and reported at most once a second."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from echodfkd.config.run import RunConfig
from echodfkd.core import clock, intervals
from echodfkd.core.records import DistillationBatch, StageSpan

_EVERY_S = 1.0

WINDOW_S = 60.0
"""Shares are those of the last minute: sums since the start would hide what has changed since."""


class Progress:
    """Sums over the steps since this worker started, and the numbers derived from them.

    Args:
        config: the run.
        send: takes the numbers; None sends nothing.
    """

    def __init__(self, config: RunConfig, send: Callable[[dict[str, Any]], None] | None) -> None:
        self._config = config
        self._send = send
        self._begin = clock.now()
        self._sent = 0.0
        self._numbers: dict[str, Any] = {}
        self._busy: dict[str, list[float]] = {}
        self._recent: deque[tuple[float, float, list[StageSpan]]] = deque()
        """Of the updates of the last `WINDOW_S`: its time, the seconds it waited, the work on its clips."""
        self.losses: dict[str, float] = {}
        """Of each student's last update."""
        self.wait_s = 0.0
        """Seconds spent waiting for micro-batches."""
        self.published = 0
        """Step of the newest checkpoint."""
        self.gaps = 0
        """Slots below its highest one that it leaves out."""
        self.quarantined = 0
        """Indices quarantined so far, over all workers."""

    @property
    def wall_s(self) -> float:
        """Seconds since this worker's students were built."""
        return clock.now() - self._begin

    def add_step(
        self,
        step: int,
        rounds: Sequence[DistillationBatch],
        *,
        asked: float,
        started: float,
        losses: dict[str, float],
        rate: float,
    ) -> None:
        """Count a finished update. It waited for clips from ``asked`` to ``started``, in seconds since 1970."""
        now = clock.now()
        self.wait_s += started - asked
        self.losses = {**self.losses, **losses}
        spans = [span for batch in rounds for span in batch.spans]
        self._recent.append((now, started - asked, spans))
        for span in spans:
            clips, seconds = self._busy.get(span.stage, [0.0, 0.0])
            self._busy[span.stage] = [clips + span.clips, seconds + span.end - span.start]
        if "first_step" not in self._numbers:
            self._numbers.update(first_step=step, first_step_time=now)
        self._numbers.update(step=step, losses=losses, learning_rate=rate)

    def report(self, *, force: bool) -> None:
        """Send the newest numbers, unless that was done less than a second ago.

        Keys: step, steps, losses, learning_rate, published, clips (all workers, of this start), wait_share (of the
        last `WINDOW_S`), quarantined, ledger_gaps, first_step and first_step_time (of this start), and if known
        ``<stage>_clips_s`` (clips per busy second of one actor; of an ensemble's members in pools of their own,
        ``teacher_clips_s`` is that of the slowest) and ``<stage>_at_work`` (actors at work at a time, a mean over the
        last `WINDOW_S`, estimated from this worker's share of the clips).
        """
        now = clock.now()
        if self._send is None or not self._numbers or (now - self._sent < _EVERY_S and not force):
            return
        self._sent = now
        done = self._numbers["step"] - self._numbers["first_step"] + 1
        rates = {f"{stage}_clips_s": clips / max(busy, 1e-9) for stage, (clips, busy) in self._busy.items()}
        if "teacher_clips_s" in rates:
            rates["teacher_clips_s"] = self._teacher_rate()
        self._send(
            {
                **self._numbers,
                **rates,
                **self._recent_shares(now),
                "quarantined": self.quarantined,
                "ledger_gaps": self.gaps,
                "steps": self._config.train.steps,
                "published": self.published,
                "clips": done * self._config.train.global_batch,
            }
        )

    def _recent_shares(self, now: float) -> dict[str, float]:
        """The share of the last `WINDOW_S` that the students waited, and how many actors of each stage were at work.

        Clips wait for the students, so that their work lies further back: it counts when they are trained.
        """
        while self._recent and self._recent[0][0] < now - WINDOW_S:
            self._recent.popleft()
        seconds = max(min(WINDOW_S, self.wall_s), 1e-9)
        work: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        for span in (span for _, _, spans in self._recent for span in spans):
            work[span.stage][span.actor].append((span.start, span.end))
        at_work = {
            f"{stage}_at_work": self._config.train.workers
            * sum(intervals.length(np.array(spans)) for spans in actors.values())
            / seconds
            for stage, actors in work.items()
        }
        return {"wait_share": min(1.0, sum(wait for _, wait, _ in self._recent) / seconds), **at_work}

    def _teacher_rate(self) -> float:
        """Clips per busy second of one teacher actor over all of its stages, or of the slowest member's pool."""
        seconds = [
            busy / max(clips, 1) for stage, (clips, busy) in self._busy.items() if stage.partition(".")[0] == "teacher"
        ]
        return 1 / max(max(seconds) if self._config.teacher.pools == "each" else sum(seconds), 1e-9)
