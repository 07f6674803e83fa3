"""The actors of Ray Data's pools: each loads a teacher once, and teaches blocks.

An ensemble runs in one pool, or (teacher.pools: each) each member in its own and the fusion in a last one: a block
passes them one after the other, with the same result as in one process.

An actor imports what it needs when it starts: Ray takes the classes into processes that never make one
(`clip_stream`).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import RunError
from echodfkd.runtime.stream.builders import load_member, load_teacher, slot_rules, training_source
from echodfkd.runtime.stream.pool_worker import PoolWorker, Stage

if TYPE_CHECKING:
    from echodfkd.core.records import Block
    from echodfkd.models.teachers.protocol import Teacher
    from echodfkd.teaching.clip_block import ClipBlock


class TeacherActor:
    """Makes soft masks for blocks of clips.

    Args:
        config: the run.
        teacher_id: of the teacher that the driver loaded; another id here means that this node holds other weights.
        progress_actor: counts the clips that are taught; None counts nothing.
    """

    def __init__(self, config: RunConfig, teacher_id: str, progress_actor: Any = None) -> None:
        self.config = config
        self.worker = PoolWorker(config.teacher, "teacher", progress_actor)
        self.teacher = known_teacher(config, teacher_id)
        self.rules = slot_rules(config)

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns between source and teacher -> columns between teacher and students."""
        return self.worker.run(columns, self._teach)

    def _teach(self, block: ClipBlock) -> Block:
        from echodfkd.teaching.blocks import teach_block

        source = functools.partial(training_source, self.config)
        return teach_block(self.teacher, block, source, self.rules, actor=self.worker.name)


class MemberActor:
    """One member of an ensemble in a pool of its own (teacher.pools: each)."""

    def __init__(self, config: RunConfig, member: str, progress_actor: Any = None) -> None:
        self.member = member
        self.worker = PoolWorker(config.teacher.members[member], f"teacher.{member}", progress_actor)
        self.teacher = load_member(config, member)
        if config.teacher.members[member].compile:
            self.teacher.compile()
        self.rules = slot_rules(config)

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The block with this member's output."""
        return self.worker.run(columns, self._teach)

    def _teach(self, block: ClipBlock) -> Block:
        from echodfkd.teaching.blocks import member_block

        return member_block(self.member, self.teacher, block, self.rules, actor=self.worker.name)


class FusingActor:
    """The last stage of an ensemble whose members have pools of their own.

    A clip that must be replaced has to pass all members, which are earlier stages. That is rare: at the first one this
    actor loads the members itself.
    """

    def __init__(self, config: RunConfig, teacher_id: str, progress_actor: Any = None) -> None:
        from echodfkd.teaching.build import configured_fusion

        self.config = config
        self.teacher_id = teacher_id
        self.worker = PoolWorker(config.teacher, "teacher", progress_actor)
        self.fusion = configured_fusion(config.teacher)
        self.rules = slot_rules(config)
        self.ensemble = functools.cache(functools.partial(known_teacher, config, teacher_id))

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns between the members and this -> columns between teacher and students."""
        return self.worker.run(columns, self._fuse)

    def _fuse(self, block: ClipBlock) -> Block:
        from echodfkd.teaching.blocks import fuse_block

        source, name = functools.partial(training_source, self.config), self.worker.name
        known = self.teacher_id
        return fuse_block(self.fusion, block, self.ensemble, source, self.rules, actor=name, teacher_id=known)


def teaching_stages(config: RunConfig, teacher_id: str, progress_actor: Any = None) -> list[Stage]:
    """The pools that a block of made clips passes, in order. They tell ``progress_actor`` their work."""
    teacher = config.teacher
    known = {"config": config, "teacher_id": teacher_id, "progress_actor": progress_actor}
    if teacher.pools == "one":
        return [Stage("teacher", TeacherActor, known, teacher)]
    told = {"config": config, "progress_actor": progress_actor}
    members = [
        Stage(f"teacher.{name}", MemberActor, {**told, "member": name}, pool) for name, pool in teacher.members.items()
    ]
    return [*members, Stage("teacher", FusingActor, known, teacher)]


def known_teacher(config: RunConfig, teacher_id: str) -> Teacher:
    """The teacher of this run, compiled if teacher.compile is set. Raises `RunError` if it is not the driver's."""
    teacher = load_teacher(config)
    check_same_teacher(teacher.teacher_id, teacher_id)
    if config.teacher.compile:
        teacher.compile()
    return teacher


def check_same_teacher(found: str, teacher_id: str) -> None:
    """Raise `RunError` if a process has another teacher than the driver."""
    if found != teacher_id:
        raise RunError(
            f"teacher.weights: this node loads {found}, the driver loaded {teacher_id}; put the same file on every"
            " node (a remote teacher: its service has been given another one)"
        )
