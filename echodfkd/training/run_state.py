"""What a worker carries through its loop: how it starts, from nothing or a checkpoint, and how it commits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from echodfkd.config import RunConfig
from echodfkd.config_file import config_hash
from echodfkd.errors import ConfigError, EchoDFKDError, InputError, RunError
from echodfkd.records import PublishedCheckpoint
from echodfkd.storage import RunStorage
from echodfkd.training.checkpoints import (
    StudentState,
    checkpoint_folder,
    code_version,
    latest_checkpoint,
    prune_resume,
    publish,
    read_consumed,
    read_resume,
)
from echodfkd.training.collectives import gather_texts, num_workers
from echodfkd.training.ledger import LedgerBuffer
from echodfkd.training.plan import Intervals
from echodfkd.training.progress import Progress
from echodfkd.training.step import Student, make_student


@dataclass(frozen=True)
class WorkerContext:
    """Who this worker is.

    Attributes:
        rank: 0 .. world_size - 1.
        world_size: workers of the process group; 1 needs no group.
        device: torch device, such as cpu or cuda.
        name: this worker's name in the timeline.
        attempt: a name that no other start of this run's workers has.
        report: takes progress numbers; called on rank 0, at most once a second.
    """

    rank: int
    world_size: int
    device: str
    name: str
    attempt: str
    report: Callable[[dict[str, Any]], None]


@dataclass
class RunState:
    """What the loop carries from step to step."""

    context: WorkerContext
    config: RunConfig
    storage: RunStorage
    teacher_id: str
    device: torch.device
    students: Sequence[Student]
    ledger: LedgerBuffer
    progress: Progress
    first_step: int
    consumed: Intervals
    """Slots of the newest checkpoint, over all workers."""
    quarantined: int
    """Indices quarantined so far, over all workers."""
    published: str
    slots: list[int] = field(default_factory=list)
    """Slots that this worker trained since the newest checkpoint."""


def start_run(context: WorkerContext, config: RunConfig, storage: RunStorage, teacher_id: str) -> RunState:
    """Build the students, from the seed or from the newest checkpoint, and everything else the loop carries.

    Raises:
        InputError: the newest checkpoint does not belong to this run, or is damaged.
        ConfigError: the number of workers is not train.workers.
    """
    if not context.world_size == num_workers() == config.train.workers:
        raise ConfigError(
            f"train.workers: got {config.train.workers}, but the worker group has {num_workers()} processes and"
            f" this worker was told {context.world_size}"
        )
    newest = latest_checkpoint(storage)
    if newest is not None:
        _check_same_run(storage, newest, config, teacher_id)
    device = torch.device(context.device)
    students = []
    for name in config.students:
        state = read_resume(storage, newest, name) if newest is not None else None
        students.append(make_student(config, name, device, state))
    quarantined = newest.meta.get("quarantined", 0) if newest else 0
    return RunState(
        context=context,
        config=config,
        storage=storage,
        teacher_id=teacher_id,
        device=device,
        students=students,
        ledger=LedgerBuffer(storage, rank=context.rank, attempt=context.attempt),
        progress=Progress(config, context.report if context.rank == 0 else None),
        first_step=newest.step if newest else 0,
        consumed=read_consumed(storage, newest) if newest else Intervals(),
        quarantined=int(str(quarantined)),
        published=newest.folder if newest else "",
    )


def _check_same_run(storage: RunStorage, newest: PublishedCheckpoint, config: RunConfig, teacher_id: str) -> None:
    known = {"config_hash": config_hash(config), "teacher_id": teacher_id}
    for key, own in known.items():
        if newest.meta.get(key) != own:
            raise InputError(
                f"{storage.root}/{newest.folder} was made with {key} {newest.meta.get(key)}, this run has {own}:"
                " go on with the same config and teacher, or set another name"
            )


def publish_run(run: RunState, step: int) -> None:
    """All workers gather weights and write their ledger parts; rank 0 commits; all wait for the commit.

    Raises:
        RunError: slots were repeated, or another run publishes to the same folder; the same on every worker.
    """
    states = {s.name: StudentState(s.engine.weights(), s.engine.optimizer_state()) for s in run.students}
    own = {"slots": Intervals.of(run.slots).to_json(), **run.ledger.flush(step)}
    parts = [json.loads(text) for text in gather_texts(json.dumps(own))]
    consumed = run.consumed
    for part in parts:
        consumed = consumed.union(Intervals.from_json(part["slots"]))
    failed = ""
    if run.context.rank == 0:
        try:
            if len(consumed) != step * run.config.train.global_batch:
                raise RunError(
                    f"after step {step} the workers have trained {len(consumed)} distinct slots, expected"
                    f" {step * run.config.train.global_batch}: the clip stream repeated some"
                )
            publish(
                run.storage,
                step=step,
                students=states,
                consumed=consumed,
                ledger=[name for part in parts for name in part["ledger"]],
                quarantine=[name for part in parts for name in part["quarantine"]],
                meta=_meta(run, step),
            )
            prune_resume(run.storage, run.config.train.keep_resume)
        except EchoDFKDError as error:
            failed = str(error)
    failed = gather_texts(failed)[0]
    if failed:
        raise RunError(failed)
    run.consumed, run.slots = consumed, []
    run.published = checkpoint_folder(step)
    run.progress.published = step


def _meta(run: RunState, step: int) -> dict[str, object]:
    train = run.config.train
    return {
        "step": step,
        "config_hash": config_hash(run.config),
        "teacher_id": run.teacher_id,
        "students": {name: asdict(student) for name, student in run.config.students.items()},
        "quarantined": run.quarantined,
        "seed": run.config.seed,
        "rng": "initial weights follow from seed and name; training draws no random numbers",
        "engine": train.engine,
        "zero_stage": train.zero_stage if train.engine == "deepspeed" else 0,
        "workers": train.workers,
        "attempt": run.context.attempt,
        **code_version(),
    }
