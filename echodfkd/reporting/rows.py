"""All rows of a run folder, read once: the input of every number of the summary and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from echodfkd.config.stored import CONFIG, stored_values
from echodfkd.core.errors import InputError
from echodfkd.core.records import JUDGE_STEP, PublishedCheckpoint
from echodfkd.core.redaction import redact_values
from echodfkd.storage import schemas
from echodfkd.storage.files import RunStorage, check_layout
from echodfkd.storage.manifests import list_checkpoints
from echodfkd.storage.steering import SteeringState, read_steering

_CONFIG_TYPES = {
    "seed": int,
    "students": dict,
    **dict.fromkeys(("source", "window", "train", "evaluation"), dict),
}
_RUN_TYPES = {
    "plan_slots": int,
    "students": dict,
    **dict.fromkeys(("wall_s", "first_step_s", "peak_memory_mb"), int | float),
}


READERS = 16
"""Files of an object store that are read at the same time: each takes a request, and a request tens of milliseconds."""

STARTED = "logs/students.json"
"""Sizes of the students, as in run.json, for the page of a run that has not ended."""

DRAWN = "overlays/drawn.json"
"""Names of the videos of the last checkpoint (`names`) and its step: an earlier end of the run may have left others."""


@dataclass(frozen=True)
class RunRows:
    """The content of a run folder.

    ``config`` is config.yaml as plain values. ``run`` is run.json, empty while a run has not ended. ``identity`` is
    identity.json and ``started`` logs/students.json, both written when a run starts. ``ledger`` holds only rows of
    parts that a manifest names, and ``training`` and ``dropped`` only those of the same workers and updates: of
    training one per student and step, from the attempt whose weights were published. ``steering`` has the laws of the
    newest checkpoint, None if the run is not steered.
    """

    config: dict[str, Any]
    run: dict[str, Any]
    identity: dict[str, Any]
    manifests: tuple[PublishedCheckpoint, ...]
    scores: pa.Table
    ledger: pa.Table
    quarantine: pa.Table
    spans: pa.Table
    training: pa.Table
    cases: pa.Table
    dropped: pa.Table = field(default_factory=schemas.DROPPED_SCHEMA.empty_table)
    started: dict[str, Any] = field(default_factory=dict)
    steering: SteeringState | None = None

    @cached_property
    def students(self) -> tuple[str, ...]:
        """Names in the order of the config, then any other that has rows."""
        names = [*self.config.get("students", {})]
        seen = {name for m in self.manifests for name in m.students}
        seen |= set(self.scores["student"].to_pylist()) | set(self.training["student"].to_pylist())
        return (*names, *sorted(seen - {"", *names}))

    @cached_property
    def sizes(self) -> dict[str, dict[str, int | None]]:
        """Student -> ``parameters`` and ``macs_per_frame`` (at 112 x 112 pixels), None if the run did not keep them."""
        known = {**(self.started.get("students") or {}), **(self.run.get("students") or {})}
        keys = ("parameters", "macs_per_frame")
        return {name: {key: (known.get(name) or {}).get(key) for key in keys} for name in self.students}

    @cached_property
    def score_groups(self) -> dict[tuple[str, int], np.ndarray]:
        """(student, step) -> numbers of its rows in ``scores``; the teacher is ("", -1)."""
        groups: dict[tuple[str, int], list[int]] = {}
        keys = zip(self.scores["student"].to_pylist(), self.scores["step"].to_pylist(), strict=True)
        for row, key in enumerate(keys):
            groups.setdefault(key, []).append(row)
        return {key: np.array(groups[key]) for key in sorted(groups)}

    @cached_property
    def score_columns(self) -> dict[str, np.ndarray]:
        """Columns of ``scores`` as arrays, made once: a long run's have millions of texts."""
        return {name: column(self.scores, name) for name in ("clip_id", "metric", "value", "threshold", "n")}

    def scored_steps(self, student: str) -> list[int]:
        """Steps at which a student was scored, ascending, without the judge's readings of videos."""
        return [step for name, step in self.score_groups if name == student and step != JUDGE_STEP]


def read_rows(storage: RunStorage) -> RunRows:
    """Read a run folder, whole or half-finished.

    Raises:
        InputError: the folder holds no config.yaml (it is no run folder), a newer version made it, or a file
            that a manifest names is missing or damaged.
    """
    manifests = tuple(list_checkpoints(storage))
    known = {name: facts for manifest in manifests for name, facts in manifest.parts.items()}
    identity = _read_json(storage, "identity.json")
    check_layout(identity, f"{storage.root}/identity.json")
    ledger = _named(manifests, "ledger")
    return RunRows(
        config=_read_config(storage),
        run=_read_json(storage, "run.json"),
        identity=identity,
        started=_read_json(storage, STARTED),
        steering=read_steering(storage, manifests[-1]) if manifests else None,
        manifests=manifests,
        scores=_latest(_read_folder(storage, "scores", "part-", schemas.SCORE_SCHEMA)),
        ledger=_read_parts(storage, ledger, schemas.LEDGER_SCHEMA, known),
        quarantine=_read_quarantine(storage, _named(manifests, "quarantine"), known),
        spans=_distinct(_read_folder(storage, "logs", "spans-", schemas.SPAN_SCHEMA)),
        training=_read_log(storage, ledger, "training", schemas.TRAINING_SCHEMA),
        dropped=_read_log(storage, ledger, "dropped", schemas.DROPPED_SCHEMA),
        cases=_read_cases(storage),
    )


def column(table: pa.Table, name: str) -> np.ndarray:
    """One column as a numpy array (strings as objects, null numbers as NaN)."""
    return table[name].to_numpy()


def _read_config(storage: RunStorage) -> dict[str, Any]:
    values = stored_values(storage)
    check_config_values(values, f"{storage.root}/{CONFIG}")
    return redact_values(values)


def check_config_values(values: dict[str, Any], where: str) -> None:
    """Refuse options that no run has and tables could not compute with. Raises `InputError`."""
    _check_types(values, _CONFIG_TYPES, where)
    _check_types(values.get("train", {}), {"steps": int, "global_batch": int}, f"{where}: train")


def _read_json(storage: RunStorage, name: str) -> dict[str, Any]:
    """A JSON file of the run; empty if it does not exist (yet)."""
    try:
        values = storage.read_json(name)
    except FileNotFoundError:
        return {}
    check_run_values(values, f"{storage.root}/{name}")
    return values


def check_run_values(values: dict[str, Any], where: str) -> None:
    """Refuse results of a run that no run has, likewise."""
    _check_types(values, _RUN_TYPES, where)
    for student, known in (values.get("students") or {}).items():
        _check_types({student: known}, {student: dict}, f"{where}: students")
        _check_types(known, {"parameters": int, "macs_per_frame": int}, f"{where}: students.{student}")


def _check_types(values: dict[str, Any], types: dict[str, Any], where: str) -> None:
    """Refuse values that the summary could not compute with; null means unknown. Raises `InputError`."""
    for key, wanted in types.items():
        value = values.get(key)
        usual = value is None or (isinstance(value, wanted) and not isinstance(value, bool))
        if not usual or (isinstance(value, int | float) and not abs(value) < 1 << 53):
            raise InputError(f"{where}: {key} is {value!r}, which no run writes there")


def _read_cases(storage: RunStorage) -> pa.Table:
    if not storage.exists("cases.parquet"):
        return schemas.CASE_SCHEMA.empty_table()
    return schemas.read_part(storage, "cases.parquet", schemas.CASE_SCHEMA)


def _named(manifests: Sequence[PublishedCheckpoint], kind: str) -> list[str]:
    """Parts that the manifests name, each once, relative to the run folder."""
    names = {str(name) for manifest in manifests for name in getattr(manifest, kind)}
    return sorted(name if "/" in name else f"{kind}/{name}" for name in names)


def _read_parts(
    storage: RunStorage, names: Sequence[str], schema: pa.Schema, known: Mapping[str, dict[str, object]] | None = None
) -> pa.Table:
    def read(name: str) -> pa.Table:
        try:
            return schemas.read_part(storage, name, schema, (known or {}).get(name))
        except FileNotFoundError as error:
            raise InputError(f"{storage.root}: {name} is missing, but a checkpoint's manifest names it") from error

    with ThreadPoolExecutor(1 if storage.is_local else READERS) as pool:
        return pa.concat_tables([schema.empty_table(), *pool.map(read, names)])


def _read_folder(storage: RunStorage, folder: str, prefix: str, schema: pa.Schema) -> pa.Table:
    start = f"{folder}/{prefix}"
    names = [name for name in storage.list(folder) if name.startswith(start) and name.endswith(".parquet")]
    return _read_parts(storage, names, schema)


def _read_log(storage: RunStorage, ledger: Sequence[str], kind: str, schema: pa.Schema) -> pa.Table:
    """Log rows of the updates that a commit holds.

    A worker writes its parts of the ledger and of this log together, under one ending (step, rank and attempt).
    If it died before the commit, neither counts: the next attempt takes and logs those steps again.
    """
    published = {name.replace("ledger/part-", f"logs/{kind}-") for name in ledger}
    names = [name for name in storage.list("logs") if name in published]
    return _read_parts(storage, names, schema)


def _read_quarantine(storage: RunStorage, named: Sequence[str], known: Mapping[str, dict[str, object]]) -> pa.Table:
    """Parts that manifests name and loose ones alike: a bad clip is bad whether or not a commit followed.

    An index quarantined again after a restart is still one index.
    """
    loose = [name for name in storage.list("quarantine") if name.endswith(".parquet")]
    return _distinct(_read_parts(storage, sorted({*named, *loose}), schemas.QUARANTINE_SCHEMA, known))


def _distinct(table: pa.Table) -> pa.Table:
    """Rows without exact repeats, in order."""
    return _last_of(table, table.schema.names)


def _latest(scores: pa.Table) -> pa.Table:
    """An evaluator that died may score a checkpoint again: the last row of the same score stands."""
    return _last_of(scores, ["clip_id", "student", "step", "metric", "reference", "threshold"])


def _last_of(table: pa.Table, keys: list[str]) -> pa.Table:
    numbered = table.append_column("row", pa.array(np.arange(len(table)), pa.int64()))
    rows = numbered.group_by(keys).aggregate([("row", "max")])["row_max"].to_numpy()
    return table.take(np.sort(rows))
