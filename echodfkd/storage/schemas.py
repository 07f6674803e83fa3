"""Arrow schemas of the Parquet files in a run folder, most of them derived from the records in `core.records`.

======================  =====================================  =====================
file                    one row is                             schema
======================  =====================================  =====================
scores/part-*           one score of one case                  `SCORE_SCHEMA`
ledger/part-*           one clip trained once                  `LEDGER_SCHEMA`
quarantine/part-*       one index that could not be used       `QUARANTINE_SCHEMA`
logs/spans-*            one piece of work of one actor         `SPAN_SCHEMA`
logs/training-*         one student's optimiser step           `TRAINING_SCHEMA`
logs/dropped-*          one member a clip was taught without   `DROPPED_SCHEMA`
cases.parquet           one evaluation case, without pixels    `CASE_SCHEMA`
======================  =====================================  =====================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc

from echodfkd.core.errors import InputError
from echodfkd.core.records import (
    CaseScore,
    Conditions,
    DroppedMember,
    LedgerRow,
    Quarantined,
    StageSpan,
    TrainingRow,
    VideoClip,
)
from echodfkd.storage.files import RunStorage, check_described
from echodfkd.storage.parquet import PARQUET_ERRORS, open_parquet

_ARROW = {bool: pa.bool_(), str: pa.string(), int: pa.int64(), float: pa.float64()}


def schema_of(record: type) -> pa.Schema:
    """The Arrow schema of a record: its fields in order, which are texts, numbers or mappings of them."""
    hints = get_type_hints(record)
    return pa.schema([(field.name, _arrow_type(hints[field.name])) for field in fields(record)])


def _arrow_type(hint: Any) -> pa.DataType:
    """Of a field's type hint; X | None is X, since Arrow's columns may hold nulls."""
    if get_origin(hint) is dict:
        return pa.map_(*(_arrow_type(part) for part in get_args(hint)))
    (kind,) = (part for part in get_args(hint) or (hint,) if part is not NoneType)
    return _ARROW[kind]


SCORE_SCHEMA = schema_of(CaseScore)
"""``threshold`` is null if none applies."""

LEDGER_SCHEMA = schema_of(LedgerRow)

QUARANTINE_SCHEMA = schema_of(Quarantined)

SPAN_SCHEMA = schema_of(StageSpan)
"""Stages are "source", "generator", "teacher", "students" and "evaluator", "teacher.NAME" of an ensemble's member and
"generator.NAME" of a mixture's part. Spans of
"teacher_cache" and "teacher_uncached" (likewise with ".NAME") count the clips of a teacher's span that were in its
cache and that were not, with the ``bytes`` of the entries that were read and written for them (null in rows of older
versions); "teacher_remembered" counts frames whose masks its actor remembered."""

DROPPED_SCHEMA = schema_of(DroppedMember)

TRAINING_SCHEMA = schema_of(TrainingRow)
"""``busy_s`` and ``terms`` are null in rows of older versions."""

CASE_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("index", pa.int64()),
        ("source", pa.string()),
        ("domain", pa.string()),
        ("route", pa.string()),
        ("fps", pa.float64()),
        ("spacing_mm", pa.float64()),
        ("num_frames", pa.int64()),
        *schema_of(Conditions),
        ("sample_weight", pa.float64()),
        ("ed_frames", pa.list_(pa.int64())),
        ("es_frames", pa.list_(pa.int64())),
    ]
)
"""A case without its pixels; its conditions are one column each."""

_NEVER_NULL = {
    "clip_id",
    "student",
    "step",
    "metric",
    "slot",
    "index",
    "stage",
    "actor",
    "start",
    "end",
    "clips",
    "member",
}
"""Columns that every reader computes with."""

_ADDED_LATER = {"busy_s", "terms", "bytes", "seen_id", "route", "stratum", "comes_back"}
"""Columns that files of older versions do not have: read as null."""


def write_records(
    storage: RunStorage, name: str, records: Sequence[CaseScore | LedgerRow | Quarantined | StageSpan | DroppedMember]
) -> dict[str, object]:
    """Write records of one kind as the Parquet file ``name`` (relative to the run folder); returns `describe`'s facts.

    ``records`` must not be empty, because their kind decides the schema.
    """
    assert records, f"{name}: no rows to write"
    return storage.write_table(name, (asdict(record) for record in records), schema_of(type(records[0])))


def case_row(case: VideoClip) -> dict[str, object]:
    """The row of `CASE_SCHEMA` for one evaluation case."""
    return {
        "clip_id": case.clip_id,
        "index": case.index,
        "source": case.source,
        "domain": case.domain,
        "fps": case.fps,
        "spacing_mm": case.spacing_mm,
        "num_frames": len(case.video),
        **asdict(case.conditions),
        "sample_weight": case.sample_weight,
        "ed_frames": None if case.ed_frames is None else list(case.ed_frames),
        "es_frames": None if case.es_frames is None else list(case.es_frames),
    }


def read_part(storage: RunStorage, name: str, schema: pa.Schema, known: Mapping[str, object] | None = None) -> pa.Table:
    """Read one Parquet file of a run folder: exactly the columns of ``schema``, in its types.

    Args:
        storage: the run folder.
        name: the file.
        schema: its columns.
        known: size and sha256 from a manifest (`files.describe`); None if no manifest names it.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not the file that the manifest describes, is damaged, lacks a column or holds another type,
            has nulls in a column that readers compute with, or a time that is not finite.
    """
    data, where = storage.read(name), f"{storage.root}/{name}"
    if known is not None:
        check_described(where, data, known)
    try:
        file = open_parquet(data)
        missing = [column for column in schema.names if column not in file.schema_arrow.names]
        if foreign := [column for column in missing if column not in _ADDED_LATER]:
            raise InputError(f"{where} lacks the columns {', '.join(foreign)}")
        own = [column for column in schema.names if column not in missing]
        table = file.read(columns=own, use_threads=False)  # see `RunStorage.read_table`
        for column in missing:
            table = table.append_column(column, pa.nulls(len(table), schema.field(column).type))
        table = table.select(schema.names).cast(schema)
        table.validate(full=True)
    except PARQUET_ERRORS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} is not a readable table: {error}") from error
    for column in _NEVER_NULL & set(schema.names):
        if table[column].null_count:
            raise InputError(f"{where} has rows without {column}")
    for column in {"start", "end"} & set(schema.names):
        if not pc.all(pc.is_finite(table[column])).as_py():
            raise InputError(f"{where} has a {column} that is not a time")
    return table
