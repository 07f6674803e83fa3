"""The actor that Ray Data's pool runs: a teacher, loaded once, and the way to replace a bad clip."""

from __future__ import annotations

import numpy as np
import torch

from echodfkd.config import RunConfig
from echodfkd.errors import RunError
from echodfkd.runtime.cluster import actor_name
from echodfkd.runtime.parts import load_teacher, slot_rules, training_source
from echodfkd.synthesis.source import ClipSource
from echodfkd.teaching import teach_block


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
        if self.teacher.teacher_id != teacher_id:
            raise RunError(
                f"teacher.weights: this node loads {self.teacher.teacher_id}, the driver loaded {teacher_id};"
                " put the same file on every node"
            )
        self.rules = slot_rules(config)
        self.name = actor_name("teacher")

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns between source and teacher -> columns between teacher and students."""
        return teach_block(self.teacher, block, self._source, self.rules, actor=self.name)

    def _source(self) -> ClipSource:
        return training_source(self.config)
