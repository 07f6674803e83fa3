"""The ledger of one worker, and the offline check that every slot was trained exactly once.

A worker buffers its rows and writes them as part files just before the checkpoint whose manifest names them.
A part that no manifest names belongs to an attempt that died, and its rows are void: the next attempt trains
those clips again. Which students trained over which steps is in the manifests themselves (``students``, ``step``
and the step at which early stopping ended one): until then every student of a run trains on every clip.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from echodfkd.core.errors import InputError
from echodfkd.core.records import (
    DistillationBatch,
    DroppedMember,
    LedgerRow,
    PublishedCheckpoint,
    Quarantined,
    StageSpan,
    TrainingRow,
)
from echodfkd.storage.files import RunStorage
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.manifests import list_checkpoints, read_consumed
from echodfkd.storage.schemas import (
    DROPPED_SCHEMA,
    LEDGER_SCHEMA,
    QUARANTINE_SCHEMA,
    SPAN_SCHEMA,
    TRAINING_SCHEMA,
    read_part,
)

_KINDS: dict[str, tuple[str, pa.Schema]] = {
    "ledger": ("ledger/part-", LEDGER_SCHEMA),
    "quarantine": ("quarantine/part-", QUARANTINE_SCHEMA),
    "spans": ("logs/spans-", SPAN_SCHEMA),
    "training": ("logs/training-", TRAINING_SCHEMA),
    "dropped": ("logs/dropped-", DROPPED_SCHEMA),
}


class LedgerBuffer:
    """Rows of one worker since its last flush.

    Args:
        storage: the run folder.
        rank: this worker's rank.
        attempt: a name that no other start of the worker group has, so that parts never collide.
    """

    def __init__(self, storage: RunStorage, *, rank: int, attempt: str) -> None:
        self._storage = storage
        self._rank = rank
        self._attempt = attempt
        self._rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}

    def add_trained(self, batch: DistillationBatch, step: int, comes_back: Sequence[bool] = ()) -> None:
        """One ledger row per clip of a batch that update number ``step`` (from 1) has trained on.

        ``comes_back`` says it of each clip of a steered run.
        """
        for place, clip_id in enumerate(batch.clip_id):
            row = LedgerRow(
                slot=int(batch.slot[place]),
                index=int(batch.index[place]),
                clip_id=clip_id,
                epoch=int(batch.epoch[place]),
                window_start=int(batch.window_start[place]),
                step=step,
                rank=self._rank,
                attempt=self._attempt,
                source=batch.source[place] if batch.source else "",
                domain=batch.domain[place] if batch.domain else "",
                seen_id=batch.seen_id[place] if batch.seen_id else "",
                route=batch.route[place] if batch.route else "",
                stratum=batch.stratum[place] if batch.stratum else "",
                comes_back=comes_back[place] if comes_back else False,
            )
            self._rows["ledger"].append(vars(row))

    def add_quarantined(self, rows: Iterable[Quarantined]) -> None:
        """Indices that could not be used."""
        self._rows["quarantine"].extend(vars(row) for row in rows)

    def add_dropped(self, rows: Iterable[DroppedMember]) -> None:
        """Members of an ensemble that clips were taught without."""
        self._rows["dropped"].extend(vars(row) for row in rows)

    def add_spans(self, spans: Iterable[StageSpan]) -> None:
        """Pieces of work of the pipeline's actors."""
        self._rows["spans"].extend(vars(span) for span in spans)

    def add_training(self, row: TrainingRow) -> None:
        """One student's update."""
        self._rows["training"].append(vars(row))

    def flush(self, step: int, kinds: Iterable[str] = tuple(_KINDS)) -> dict[str, dict[str, dict[str, object]]]:
        """Write the buffered rows; returns, by kind, the part files (none without rows) with size and sha256."""
        written: dict[str, dict[str, dict[str, object]]] = {kind: {} for kind in _KINDS}
        for kind in kinds:
            if not self._rows[kind]:
                continue
            prefix, schema = _KINDS[kind]
            name = f"{prefix}step{step:08d}-rank{self._rank}-{self._attempt}.parquet"
            written[kind][name] = self._storage.write_table(name, self._rows[kind], schema)
            self._rows[kind] = []
        return written


@dataclass(frozen=True)
class LedgerReport:
    """Result of `check_ledger`.

    ``clips`` counts distinct slots of the plan that were trained, ``lost`` those that were not, ``repeated``
    the rows beyond one per slot or per clip id, ``quarantined`` distinct indices. ``problems`` are sentences
    about everything that breaks an invariant; a finished run has none.
    """

    clips: int
    lost: int
    repeated: int
    quarantined: int
    problems: list[str] = field(default_factory=list)


def check_ledger(storage: RunStorage, plan_slots: int) -> LedgerReport:
    """Check a run's rows against its plan, reading only its files.

    Invariants: every slot 0 .. N-1 has exactly one row, no clip id appears twice (but in rows of clips that a
    steered run brings back, and each of these has a first row), a replacement (index
    slot + a * N, a > 0) comes after all a earlier indices of its slot were quarantined, no quarantined index
    was trained, every update has as many clips as the others, each manifest's consumed slots are those of the
    rows up to its step, and every part file is, byte for byte, the one that its manifest describes. A student that
    early stopping has ended keeps its step and, byte for byte, its weights in every later commit. If all students
    have stopped, the plan is the slots that the last commit has consumed.

    Raises:
        InputError: a manifest cannot be read.
    """
    problems: list[str] = []
    commits = list_checkpoints(storage)
    trained = _read_parts(storage, commits, "ledger", problems)
    quarantined = {(r["slot"], r["index"]) for r in _read_parts(storage, commits, "quarantine", problems)}
    per_slot = Counter(row["slot"] for row in trained)
    per_clip = Counter(row["clip_id"] for row in trained if not row["comes_back"])
    strange = sorted({row["clip_id"] for row in trained if row["comes_back"]} - per_clip.keys())
    plan = _plan(storage, commits, plan_slots, problems)
    lost = [slot for slot in plan if slot not in per_slot]
    outside = sorted(slot for slot in per_slot if slot not in plan)
    twice = sorted(slot for slot, count in per_slot.items() if count > 1)
    clip_twice = sorted(clip for clip, count in per_clip.items() if count > 1)
    if lost:
        problems.append(f"{len(lost)} of {len(plan)} slots were never trained: {_some(lost)}")
    if outside:
        problems.append(f"{len(outside)} slots are not in the plan: {_some(outside)}")
    if twice:
        problems.append(f"{len(twice)} slots were trained more than once: {_some(twice)}")
    if clip_twice:
        problems.append(f"{len(clip_twice)} clip ids were trained more than once: {_some(clip_twice)}")
    if strange:
        problems.append(f"{len(strange)} clips came back that were never trained before: {_some(strange)}")
    problems += _check_replacements(trained, quarantined, plan_slots)
    problems += _check_steps(storage, commits, trained)
    problems += _check_stopped(commits)
    repeated = max(sum(n - 1 for n in per_slot.values()), sum(n - 1 for n in per_clip.values()))
    return LedgerReport(len(per_slot) - len(outside), len(lost), repeated, len(quarantined), problems)


def _read_parts(
    storage: RunStorage, commits: list[PublishedCheckpoint], kind: str, problems: list[str]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for commit in commits:
        for name in getattr(commit, kind):
            try:
                rows.extend(read_part(storage, name, _KINDS[kind][1], commit.parts.get(name)).to_pylist())
            except FileNotFoundError:
                problems.append(f"{name}, named by {commit.folder}, is missing")
            except InputError as error:
                problems.append(str(error))
    return rows


def _check_replacements(
    trained: list[dict[str, Any]], quarantined: set[tuple[object, object]], plan_slots: int
) -> list[str]:
    problems = []
    for row in trained:
        slot, index = row["slot"], row["index"]
        replaced, rest = divmod(index - slot, plan_slots)
        if rest or replaced < 0:
            problems.append(f"slot {slot} was trained on index {index}, which is not one of its own")
        elif (slot, index) in quarantined:
            problems.append(f"slot {slot} was trained on index {index}, which is quarantined")
        elif missing := [
            slot + a * plan_slots for a in range(replaced) if (slot, slot + a * plan_slots) not in quarantined
        ]:
            problems.append(f"slot {slot} was trained on index {index}, but index {missing[0]} was not quarantined")
    return problems


def _check_steps(storage: RunStorage, commits: list[PublishedCheckpoint], trained: list[dict[str, Any]]) -> list[str]:
    problems = []
    sizes = Counter(row["step"] for row in trained)
    if len(set(sizes.values())) > 1:
        usual = Counter(sizes.values()).most_common(1)[0][0]
        odd = sorted(step for step, size in sizes.items() if size != usual)
        problems.append(f"updates differ in size: {usual} clips as a rule, others at {_some(odd)}")
    slots_by_step: dict[int, list[int]] = {}
    for row in trained:
        slots_by_step.setdefault(row["step"], []).append(row["slot"])
    steps = sorted(slots_by_step, reverse=True)
    rows = Intervals()
    for commit in commits:
        while steps and steps[-1] <= commit.step:
            rows = rows.add(slots_by_step[steps.pop()])
        try:
            consumed = read_consumed(storage, commit)
        except InputError as error:
            problems.append(str(error))
            continue
        if consumed != rows:  # counted by intervals: a damaged file can name more slots than fit into memory
            differ = consumed.difference(rows).union(rows.difference(consumed))
            some = _some(list(itertools.islice(differ, 9)))
            problems.append(f"{commit.folder} and the ledger differ about {len(differ)} slots: {some}")
    return problems


def _plan(
    storage: RunStorage, commits: Sequence[PublishedCheckpoint], plan_slots: int, problems: list[str]
) -> Intervals:
    if commits and commits[-1].ended:
        try:
            return read_consumed(storage, commits[-1])
        except InputError as error:
            problems.append(str(error))
    return Intervals(((0, plan_slots),))


def _check_stopped(commits: Sequence[PublishedCheckpoint]) -> list[str]:
    """A student that early stopping has ended stays as it was, from one commit to the next."""
    problems = []
    for before, after in itertools.pairwise(commits):
        for student in after.students:
            first, then = before.stopped_at(student), after.stopped_at(student)
            if first is None and then is not None and not before.step < then <= after.step:
                problems.append(f"{after.folder} says that {student} stopped at step {then}, {before.folder} not yet")
            if first is None:
                continue
            if then != first:
                problems.append(f"{student} stopped at step {first} in {before.folder}, at {then} in {after.folder}")
            file = f"{student}/student.safetensors"
            if before.files.get(file, {}).get("sha256") != after.files.get(file, {}).get("sha256"):
                problems.append(f"{student} stopped at step {first}, but {after.folder} has other weights of it")
    return problems


def _some(values: Sequence[object]) -> str:
    """The first few of a list."""
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
