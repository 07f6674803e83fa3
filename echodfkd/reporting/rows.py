"""All rows of a run folder, read once: what every number of the summary and the report is made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from echodfkd import schemas
from echodfkd.errors import InputError
from echodfkd.records import PublishedCheckpoint
from echodfkd.storage import RunStorage


@dataclass(frozen=True)
class RunRows:
    """What lies in a run folder.

    ``config`` is config.yaml as plain values. ``run`` is run.json, empty while a run has not ended.
    ``identity`` is identity.json: what is known from the start. ``ledger`` holds only rows of parts that a
    manifest names.
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

    @cached_property
    def students(self) -> tuple[str, ...]:
        """Names in the order of the config, then any other that has rows."""
        names = [*self.config.get("students", {})]
        seen = {name for m in self.manifests for name in m.students}
        seen |= set(self.scores["student"].to_pylist()) | set(self.training["student"].to_pylist())
        return (*names, *sorted(seen - {"", *names}))

    @cached_property
    def score_groups(self) -> dict[tuple[str, int], np.ndarray]:
        """(student, step) -> numbers of its rows in ``scores``; the teacher is ("", -1)."""
        groups: dict[tuple[str, int], list[int]] = {}
        keys = zip(self.scores["student"].to_pylist(), self.scores["step"].to_pylist(), strict=True)
        for row, key in enumerate(keys):
            groups.setdefault(key, []).append(row)
        return {key: np.array(groups[key]) for key in sorted(groups)}

    def scored_steps(self, student: str) -> list[int]:
        """Steps at which a student was scored, ascending."""
        return [step for name, step in self.score_groups if name == student]


def read_rows(storage: RunStorage) -> RunRows:
    """Read a run folder, whole or half-finished.

    Raises:
        InputError: the folder holds no config.yaml (it is no run folder), or a file that a manifest
            names is missing.
    """
    manifests = read_manifests(storage)
    return RunRows(
        config=_read_config(storage),
        run=_read_json(storage, "run.json"),
        identity=_read_json(storage, "identity.json"),
        manifests=manifests,
        scores=_latest(_read_folder(storage, "scores", "part-", schemas.SCORE_SCHEMA)),
        ledger=_read_parts(storage, _named(manifests, "ledger"), schemas.LEDGER_SCHEMA),
        quarantine=_read_quarantine(storage, _named(manifests, "quarantine")),
        spans=_distinct(_read_folder(storage, "logs", "spans-", schemas.SPAN_SCHEMA)),
        training=_read_folder(storage, "logs", "training-", schemas.TRAINING_SCHEMA),
        cases=_read_cases(storage),
    )


def read_manifests(storage: RunStorage) -> tuple[PublishedCheckpoint, ...]:
    """All published checkpoints, by step. A checkpoint folder without a manifest is not one."""
    found = []
    for folder in storage.list("checkpoints"):
        try:
            values = json.loads(storage.read(f"{folder}/manifest.json"))
        except FileNotFoundError:
            continue
        for key in ("students", "ledger", "quarantine"):
            values[key] = tuple(values.get(key, ()))
        found.append(PublishedCheckpoint(**values))
    return tuple(sorted(found, key=lambda manifest: manifest.step))


def column(table: pa.Table, name: str) -> np.ndarray:
    """One column as a numpy array (strings as objects, null numbers as NaN)."""
    return table[name].to_numpy()


def _read_config(storage: RunStorage) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(storage.read("config.yaml"))
    except FileNotFoundError as error:
        raise InputError(f"{storage.root} is not a run folder: it holds no config.yaml") from error
    if not isinstance(values, dict):
        raise InputError(f"{storage.root}/config.yaml must hold `key: value` lines, got a {type(values).__name__}")
    return values


def _read_json(storage: RunStorage, name: str) -> dict[str, Any]:
    """A small JSON file; empty where it does not exist (yet)."""
    try:
        return json.loads(storage.read(name))
    except FileNotFoundError:
        return {}


def _read_cases(storage: RunStorage) -> pa.Table:
    if not storage.exists("cases.parquet"):
        return schemas.CASE_SCHEMA.empty_table()
    return storage.read_table("cases.parquet")


def _named(manifests: Sequence[PublishedCheckpoint], kind: str) -> list[str]:
    """Parts that the manifests name, each once, relative to the run folder."""
    names = {str(name) for manifest in manifests for name in getattr(manifest, kind)}
    return sorted(name if "/" in name else f"{kind}/{name}" for name in names)


def _read_parts(storage: RunStorage, names: Sequence[str], schema: pa.Schema) -> pa.Table:
    parts = []
    for name in names:
        try:
            parts.append(storage.read_table(name).select(schema.names).cast(schema))
        except FileNotFoundError as error:
            raise InputError(f"{storage.root}: {name} is missing, but a checkpoint's manifest names it") from error
    return pa.concat_tables([schema.empty_table(), *parts])


def _read_folder(storage: RunStorage, folder: str, prefix: str, schema: pa.Schema) -> pa.Table:
    start = f"{folder}/{prefix}"
    names = [name for name in storage.list(folder) if name.startswith(start) and name.endswith(".parquet")]
    return _read_parts(storage, names, schema)


def _read_quarantine(storage: RunStorage, named: Sequence[str]) -> pa.Table:
    """Parts that manifests name and loose ones alike: a bad clip is bad whether or not a commit followed.

    An index quarantined again after a restart is still one index.
    """
    loose = [name for name in storage.list("quarantine") if name.endswith(".parquet")]
    return _distinct(_read_parts(storage, sorted({*named, *loose}), schemas.QUARANTINE_SCHEMA))


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
