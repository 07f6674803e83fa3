"""The actor that Ray Data's pool runs: a teacher, loaded once, and the way to replace a bad clip."""

from __future__ import annotations

import contextlib
import faulthandler
from collections.abc import Iterator

import numpy as np
import torch

from echodfkd.config import RunConfig
from echodfkd.errors import EchoDFKDError, RunError
from echodfkd.runtime.cluster import actor_name
from echodfkd.runtime.parts import load_teacher, slot_rules, training_source
from echodfkd.synthesis.source import ClipSource
from echodfkd.teaching import teach_block

WARM_UP_FACTOR = 4.0
"""An actor's first block may take so many times `teacher.timeout_s`."""

_STDERR = 2
"""Descriptor of the worker's log."""


class TeacherActor:
    """Makes soft masks for blocks of clips.

    Args:
        config: the run.
        teacher_id: what the driver loaded; another id here means that this node holds other weights.
    """

    def __init__(self, config: RunConfig, teacher_id: str) -> None:
        if not config.teacher.num_gpus:
            torch.set_num_threads(max(1, round(config.teacher.num_cpus)))
        self.config = config
        self.teacher = load_teacher(config)
        check_same_teacher(self.teacher.teacher_id, teacher_id)
        self.rules = slot_rules(config)
        self.name = actor_name("teacher")
        self.deadline_s = WARM_UP_FACTOR * config.teacher.timeout_s

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns between source and teacher -> columns between teacher and students.

        An explained error travels with the block, as every fault of the stream does: raised here, it would restart
        the workers again and again, to meet the same block.
        """
        with _ends_in(self.deadline_s):
            try:
                taught = teach_block(self.teacher, block, self._source, self.rules, actor=self.name)
            except EchoDFKDError as error:
                fault = np.array([str(error)] * len(block["slot"]), dtype=object)
                taught = teach_block(self.teacher, {**block, "fault": fault}, self._source, self.rules, actor=self.name)
        self.deadline_s = self.config.teacher.timeout_s
        return taught

    def _source(self) -> ClipSource:
        return training_source(self.config)


def check_same_teacher(found: str, teacher_id: str) -> None:
    """Raise `RunError` where a process has another teacher than the driver had."""
    if found != teacher_id:
        raise RunError(
            f"teacher.weights: this node loads {found}, the driver loaded {teacher_id}; put the same file on every"
            " node (a remote teacher: its service has been given another one)"
        )


@contextlib.contextmanager
def _ends_in(seconds: float) -> Iterator[None]:
    """End this process, with every thread's stack in its log, where the block takes longer (0: never).

    Ray Data then starts the actor again and gives its block to another. The watch is a thread in C that needs no
    interpreter lock, so that a kernel or a driver call that never returns cannot hold it up.
    """
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
