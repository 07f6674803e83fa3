"""The actors of Ray Data's pools: each loads a teacher once, and teaches blocks.

An ensemble runs in one pool, or (teacher.pools: each) each member in its own and the fusion in a last one: a block
passes them one after the other, with the same result as in one process.

An actor imports what it needs when it starts: Ray takes the classes into processes that never make one
(`clip_stream`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.pool import PoolConfig
from echodfkd.core.errors import EchoDFKDError, RunError
from echodfkd.runtime.cluster.connection import actor_name
from echodfkd.runtime.stream.builders import load_member, load_teacher, slot_rules, training_source

if TYPE_CHECKING:
    from echodfkd.core.records import Block
    from echodfkd.models.teachers.protocol import Teacher
    from echodfkd.teaching.clip_block import ClipBlock

WARM_UP_FACTOR = 4.0
"""An actor's first block may take so many times `teacher.timeout_s`."""

_STDERR = 2
"""Descriptor of the worker's log."""


class TeacherActor:
    """Makes soft masks for blocks of clips.

    Args:
        config: the run.
        teacher_id: of the teacher that the driver loaded; another id here means that this node holds other weights.
        progress_actor: counts the clips that are taught; None counts nothing.
    """

    def __init__(self, config: RunConfig, teacher_id: str, progress_actor: Any = None) -> None:
        self.config = config
        self.worker = _PoolWorker(config.teacher, "teacher", progress_actor)
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

    def __init__(self, config: RunConfig, member: str) -> None:
        self.member = member
        self.worker = _PoolWorker(config.teacher.members[member], f"teacher.{member}")
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
        self.worker = _PoolWorker(config.teacher, "teacher", progress_actor)
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


@dataclass(frozen=True)
class Stage:
    """One actor pool of the stream: its class, the arguments of its constructor, and the options of the pool."""

    actor: type
    arguments: dict[str, Any]
    pool: PoolConfig


def teaching_stages(config: RunConfig, teacher_id: str, progress_actor: Any = None) -> list[Stage]:
    """The pools that a block of clips passes, in order. The last one counts its clips at ``progress_actor``."""
    teacher = config.teacher
    known = {"config": config, "teacher_id": teacher_id, "progress_actor": progress_actor}
    if teacher.pools == "one":
        return [Stage(TeacherActor, known, teacher)]
    members = [Stage(MemberActor, {"config": config, "member": name}, pool) for name, pool in teacher.members.items()]
    return [*members, Stage(FusingActor, known, teacher)]


def known_teacher(config: RunConfig, teacher_id: str) -> Teacher:
    """The teacher of this run, compiled if teacher.compile is set. Raises `RunError` if it is not the driver's."""
    teacher = load_teacher(config)
    check_same_teacher(teacher.teacher_id, teacher_id)
    if config.teacher.compile:
        teacher.compile()
    return teacher


class _PoolWorker:
    """Common to these actors: threads, a name, and the handling of a block that hangs or fails."""

    def __init__(self, pool: PoolConfig, stage: str, progress_actor: Any = None) -> None:
        if not pool.num_gpus:
            import torch

            torch.set_num_threads(max(1, round(pool.num_cpus)))
        self.name = actor_name(stage)
        self.progress_actor = progress_actor
        self.timeout_s = pool.timeout_s
        self.deadline_s = WARM_UP_FACTOR * pool.timeout_s

    def run(self, columns: dict[str, np.ndarray], work: Callable[[ClipBlock], Block]) -> dict[str, np.ndarray]:
        """The block after this stage.

        An explained error travels with the block, as every fault of the stream does: raised here, it would restart
        the workers again and again, to meet the same block.
        """
        from echodfkd.teaching.clip_block import ClipBlock

        with _ends_in(self.deadline_s):
            block = ClipBlock.from_columns(columns)
            try:
                done = work(block)
            except EchoDFKDError as error:
                done = work(replace(block, fault=str(error)))
        self.deadline_s = self.timeout_s
        taught = done.to_columns()
        if self.progress_actor is not None:
            self.progress_actor.add_taught.remote(len(next(iter(taught.values()))))
        return taught


def check_same_teacher(found: str, teacher_id: str) -> None:
    """Raise `RunError` if a process has another teacher than the driver."""
    if found != teacher_id:
        raise RunError(
            f"teacher.weights: this node loads {found}, the driver loaded {teacher_id}; put the same file on every"
            " node (a remote teacher: its service has been given another one)"
        )


@contextlib.contextmanager
def _ends_in(seconds: float) -> Iterator[None]:
    """End this process, with every thread's stack in its log, if the block takes longer (0: never).

    Ray Data then starts the actor again and gives its block to another. The watch is a thread in C that needs no
    interpreter lock, so that a kernel or a driver call that never returns cannot hold it up.
    """
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
