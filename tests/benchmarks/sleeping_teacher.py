"""A fake teacher actor that sleeps instead of computing. It loads no torch, so that many fit on one machine.

It replaces `echodfkd.runtime.stream.teacher_pool.TeacherActor`: the same columns in and out, the clip's own pixels as
its masks.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence

import numpy as np

from echodfkd.core import clock
from echodfkd.core.records import DistillationBatch, StageSpan


class SleepingTeacher:
    """Teaches each block in a given time.

    Args:
        sleeps: (first slot, seconds per block from that slot on), sorted by slot.
    """

    def __init__(self, sleeps: Sequence[tuple[int, float]]) -> None:
        self.sleeps = sleeps
        self.name = f"teacher-standin-{os.getpid()}"

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns between source and teacher -> columns between teacher and students."""
        start = clock.now()
        time.sleep(next(s for first, s in reversed(self.sleeps) if int(block["slot"][0]) >= first))
        batch = DistillationBatch.from_columns({**block, "teacher_prob": block["video"][:, :, None]})
        clips, frames = batch.video.shape[:2]
        span = StageSpan("teacher", self.name, start, clock.now(), clips, clips * frames)
        return dataclasses.replace(batch, spans=(*batch.spans, span)).to_columns()
