"""The actors that Ray Data's pools run: a teacher, loaded once, and the way to replace a bad clip.

An ensemble runs in one pool, or (teacher.pools: each) each member in its own and the fusion in a last one: a block
passes them one after the other, as `teaching.teach_block` does it in one process.

An actor imports what it needs when it starts: Ray takes the classes into processes that never make one
(`clip_stream`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.teacher import TeacherPoolConfig
from echodfkd.core.errors import EchoDFKDError, RunError
from echodfkd.runtime.cluster.connection import actor_name
from echodfkd.runtime.stream.parts import load_member, load_teacher, slot_rules, training_source

if TYPE_CHECKING:
    from echodfkd.models.teachers.protocol import Teacher
    from echodfkd.teaching.ensemble import Ensemble

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
        self.config = config
        self.worker = _PoolWorker(config.teacher, "teacher")
        self.teacher = compiled(_known_teacher(config, teacher_id), config.teacher)
        self.rules = slot_rules(config)

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns between source and teacher -> columns between teacher and students."""
        return self.worker.run(block, self._teach)

    def _teach(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        from echodfkd.teaching.blocks import teach_block

        source = functools.partial(training_source, self.config)
        return teach_block(self.teacher, block, source, self.rules, actor=self.worker.name)


class MemberActor:
    """One member of an ensemble in a pool of its own (teacher.pools: each)."""

    def __init__(self, config: RunConfig, member: str) -> None:
        self.member = member
        self.worker = _PoolWorker(config.teacher.members[member], f"teacher.{member}")
        self.teacher = compiled(load_member(config, member), config.teacher.members[member])
        self.rules = slot_rules(config)

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The block with what this member says of it."""
        return self.worker.run(block, self._teach)

    def _teach(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        from echodfkd.teaching.blocks import member_block

        return member_block(self.member, self.teacher, block, self.rules, actor=self.worker.name)


class FusingActor:
    """The last stage of an ensemble whose members have pools of their own.

    A clip that must be replaced has to pass all members, which are stages behind. That is rare: the first one makes
    this actor load them itself.
    """

    def __init__(self, config: RunConfig, teacher_id: str) -> None:
        from echodfkd.teaching.build import configured_fusion

        self.config = config
        self.teacher_id = teacher_id
        self.worker = _PoolWorker(config.teacher, "teacher")
        self.fusion = configured_fusion(config.teacher)
        self.rules = slot_rules(config)

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns between the members and this -> columns between teacher and students."""
        return self.worker.run(block, self._fuse)

    def _fuse(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        from echodfkd.teaching.blocks import fuse_block

        source, name = functools.partial(training_source, self.config), self.worker.name
        known = self.teacher_id
        return fuse_block(self.fusion, block, self._members, source, self.rules, actor=name, teacher_id=known)

    @functools.cached_property
    def _ensemble(self) -> Ensemble:
        from echodfkd.teaching.ensemble import Ensemble

        teacher = _known_teacher(self.config, self.teacher_id)
        assert isinstance(teacher, Ensemble)
        return teacher

    def _members(self) -> Ensemble:
        return self._ensemble


@dataclass(frozen=True)
class Stage:
    """One actor pool of the stream: its class, what its constructor is given, and the options of the pool."""

    actor: type
    arguments: dict[str, Any]
    pool: TeacherPoolConfig


def teaching_stages(config: RunConfig, teacher_id: str) -> list[Stage]:
    """The pools that a block of clips passes, in order."""
    teacher = config.teacher
    known = {"config": config, "teacher_id": teacher_id}
    if teacher.pools == "one":
        return [Stage(TeacherActor, known, teacher)]
    members = [Stage(MemberActor, {"config": config, "member": name}, pool) for name, pool in teacher.members.items()]
    return [*members, Stage(FusingActor, known, teacher)]


def _known_teacher(config: RunConfig, teacher_id: str) -> Teacher:
    teacher = load_teacher(config)
    check_same_teacher(teacher.teacher_id, teacher_id)
    return teacher


def compiled(teacher: Teacher, pool: TeacherPoolConfig) -> Teacher:
    """The teacher, whose network is compiled where its pool says so, whatever is kept of its masks before it."""
    if pool.compile:
        network: Any = teacher
        while not hasattr(network, "compile"):
            network = network.teacher
        network.compile()
    return teacher


class _PoolWorker:
    """What all these actors have in common: threads, a name, and what becomes of a block that hangs or fails."""

    def __init__(self, pool: TeacherPoolConfig, stage: str) -> None:
        if not pool.num_gpus:
            import torch

            torch.set_num_threads(max(1, round(pool.num_cpus)))
        self.name = actor_name(stage)
        self.timeout_s = pool.timeout_s
        self.deadline_s = WARM_UP_FACTOR * pool.timeout_s

    def run(self, block: dict[str, np.ndarray], work: Callable[[dict[str, np.ndarray]], Any]) -> dict[str, np.ndarray]:
        """The block after this stage.

        An explained error travels with the block, as every fault of the stream does: raised here, it would restart
        the workers again and again, to meet the same block.
        """
        with _ends_in(self.deadline_s):
            try:
                done = work(block)
            except EchoDFKDError as error:
                done = work({**block, "fault": np.array([str(error)] * len(block["slot"]), dtype=object)})
        self.deadline_s = self.timeout_s
        return done


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
