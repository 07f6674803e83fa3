"""The state of a worker's training loop: its start, from nothing or from a checkpoint, and its commits."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from echodfkd.config.identity import config_hash, run_hashes
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError, EchoDFKDError, InputError, RunError
from echodfkd.core.records import PublishedCheckpoint, TrainingRow
from echodfkd.storage.checkpoints import StudentState, code_version, prune_resume, publish, read_resume
from echodfkd.storage.files import RunStorage
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.ledger import LedgerBuffer
from echodfkd.storage.manifests import checkpoint_folder, latest_checkpoint, read_consumed
from echodfkd.training.collectives import gather_texts, num_workers
from echodfkd.training.datafree.adversary import PainterTraining
from echodfkd.training.early_stopping import EarlyStopping
from echodfkd.training.progress import Progress
from echodfkd.training.steering import Steering, start_steering
from echodfkd.training.student import Student, make_student


@dataclass(frozen=True)
class WorkerContext:
    """One worker's place in the group, and its links to the run.

    Attributes:
        rank: 0 .. world_size - 1.
        world_size: workers of the process group; 1 needs no group.
        device: torch device, such as cpu or cuda.
        name: this worker's name in the timeline.
        attempt: a name unique to this start of the run's workers.
        report: takes progress numbers; called on rank 0 at the start and then at most once a second.
        lease_epoch: the lease of this run (`echodfkd.storage.lease`); 0 if no other run can write to the folder.
        stop_asked: whether the run must publish and stop after this update; called at every step.
        is_leaving: whether the worker's machine will be taken away, so that the run must publish after this update, and
            goes on; called at every step, and true once.
    """

    rank: int
    world_size: int
    device: str
    name: str
    attempt: str
    report: Callable[[dict[str, Any]], None]
    lease_epoch: int = 0
    stop_asked: Callable[[], bool] = lambda: False
    is_leaving: Callable[[], bool] = lambda: False


@dataclass
class RunState:
    """The state of the loop between two steps."""

    context: WorkerContext
    config: RunConfig
    storage: RunStorage
    teacher_id: str
    device: torch.device
    students: Sequence[Student]
    """In the order of the config; every worker holds all of them."""
    early: Mapping[str, EarlyStopping]
    """By student."""
    ledger: LedgerBuffer
    progress: Progress
    first_step: int
    consumed: Intervals
    """Slots of the newest checkpoint, over all workers."""
    quarantined: int
    """Indices quarantined so far, over all workers."""
    published: str
    painter: PainterTraining | None = None
    """Trained against the students, if a source is adversarial."""
    slots: list[int] = field(default_factory=list)
    """Slots that this worker received since the newest checkpoint."""
    pending_log: list[tuple[dict[str, Any], Callable[[], float]]] = field(default_factory=list)
    """Log rows of the newest update, and callbacks that return their busy seconds after the device has finished it."""
    steering: Steering | None = None
    """None: the run is not steered."""
    stopping: bool = False
    """Some worker was asked to stop; all of them know."""
    leaving: bool = False
    """Some worker's machine will be taken away; all of them know."""

    @property
    def active(self) -> list[Student]:
        """Students still in training, that is not ended by early stopping; the same on every worker."""
        return [student for student in self.students if self.early[student.name].stopped_at is None]


def start_run(context: WorkerContext, config: RunConfig, storage: RunStorage, teacher_id: str) -> RunState:
    """Build the students, from the seed or from the newest checkpoint, and the rest of the loop's state.

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
    early = {name: EarlyStopping.from_meta(newest.meta if newest else {}, name) for name in config.students}
    students = []
    for name in config.students:
        state = read_resume(storage, newest, name) if newest is not None else None
        students.append(make_student(config, name, device, state))
    quarantined = newest.meta.get("quarantined", 0) if newest else 0
    painter = None if config.painting is None else PainterTraining(config, context.rank, device, newest)
    return RunState(
        context=context,
        config=config,
        storage=storage,
        teacher_id=teacher_id,
        device=device,
        students=students,
        early=early,
        ledger=LedgerBuffer(storage, rank=context.rank, attempt=context.attempt),
        progress=Progress(config, context.report if context.rank == 0 else None),
        first_step=newest.step if newest else 0,
        consumed=read_consumed(storage, newest) if newest else Intervals(),
        quarantined=int(str(quarantined)),
        published=newest.folder if newest else "",
        steering=start_steering(config, storage, newest),
        painter=painter,
    )


def _check_same_run(storage: RunStorage, newest: PublishedCheckpoint, config: RunConfig, teacher_id: str) -> None:
    known = {"config_hash": run_hashes(storage, config), "teacher_id": {teacher_id}}
    for key, own in known.items():
        if newest.meta.get(key) not in own:
            raise InputError(
                f"{storage.root}/{newest.folder} was made with {key} {newest.meta.get(key)}, this run has"
                f" {', '.join(sorted(own))}: go on with the same config and teacher, or set another name"
            )


def publish_run(run: RunState, step: int) -> None:
    """All workers gather weights and write their ledger parts; rank 0 commits; all wait for the commit.

    Raises:
        RunError: slots were repeated, another run publishes to the same folder, or its disk is full; the same on
            every worker.
    """
    states = {student.name: student.state() for student in run.students}
    if run.steering:
        run.steering.close(step)
    parts = _flush_ledgers(run, step)
    consumed = run.consumed
    for part in parts:
        consumed = consumed.union(Intervals.from_json(part["slots"]))
    failed = _commit(run, step, states, consumed, parts) if run.context.rank == 0 else ""
    failed = gather_texts(failed)[0]
    if failed:
        raise RunError(failed)
    run.consumed, run.slots = consumed, []
    run.published = checkpoint_folder(step)
    run.progress.published = step
    run.progress.gaps = consumed.ranges[-1][1] - len(consumed) if consumed.ranges else 0


def _flush_ledgers(run: RunState, step: int) -> list[dict[str, Any]]:
    """Every worker's ``slots`` since the last commit, and by kind the part files that it has written now.

    Raises:
        RunError: a worker's disk is full; the same on every worker.
    """
    flush_log(run)
    own: dict[str, Any] = {"slots": Intervals.of(run.slots).to_json(), "full": ""}
    try:
        own |= run.ledger.flush(step)
    except OSError as error:
        own["full"] = _explain_full(error, run.storage)
    parts = [json.loads(text) for text in gather_texts(json.dumps(own))]
    if full := next((part["full"] for part in parts if part["full"]), ""):
        raise RunError(full)
    return parts


def _commit(
    run: RunState, step: int, states: dict[str, StudentState], consumed: Intervals, parts: Sequence[dict[str, Any]]
) -> str:
    """Publish the checkpoint. Returns the sentence of an error, which all workers must raise, or ""."""
    expected = step * run.config.train.global_batch
    if len(consumed) != expected:
        return (
            f"after step {step} the workers have trained {len(consumed)} distinct slots, expected {expected}: the"
            " clip stream repeated some"
        )
    try:
        publish(
            run.storage,
            step=step,
            students=states,
            consumed=consumed,
            ledger={name: known for part in parts for name, known in part["ledger"].items()},
            quarantine={name: known for part in parts for name, known in part["quarantine"].items()},
            meta=_meta(run, step),
            lease_epoch=run.context.lease_epoch,
            further={
                **(run.steering.state.files() if run.steering else {}),
                **(run.painter.files() if run.painter else {}),
            },
        )
        prune_resume(run.storage, run.config.train.keep_resume)
    except EchoDFKDError as error:
        return str(error)
    except OSError as error:
        return _explain_full(error, run.storage)
    return ""


def flush_log(run: RunState) -> None:
    """Log the newest update with its busy seconds. Call it after the next one has begun, or before a checkpoint."""
    for row, seconds in run.pending_log:
        run.ledger.add_training(TrainingRow(**row, busy_s=seconds()))
    run.pending_log = []


def _explain_full(error: OSError, storage: RunStorage) -> str:
    """The sentence for a full disk, which a restart would meet again; any other error is raised."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    return f"the run folder {storage.root} cannot be written: {error.strerror}; make room, the same command goes on"


def _meta(run: RunState, step: int) -> dict[str, object]:
    train = run.config.train
    stopping = {"early_stopping": {name: asdict(state) for name, state in run.early.items()}}
    return {
        "step": step,
        **(stopping if train.early_stop_window else {}),
        **({"ema_decay": train.ema_decay} if train.ema_decay else {}),
        "config_hash": config_hash(run.config),
        "teacher_id": run.teacher_id,
        "students": {name: asdict(student) for name, student in run.config.students.items()},
        "quarantined": run.quarantined,
        "seed": run.config.seed,
        "rng": "initial weights follow from seed and name; training draws no random numbers",
        "loss_scale": "none: bf16 has the range of fp32, and weights, gradients and moments are fp32",
        "engine": train.engine,
        "zero_stage": train.zero_stage if train.engine == "deepspeed" else 0,
        "workers": train.workers,
        "attempt": run.context.attempt,
        **code_version(),
    }
