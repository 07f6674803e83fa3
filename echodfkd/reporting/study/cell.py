"""A cell of a study: the rows of one finished run in one small Parquet file, which a run folder is not needed for.

The scores of every model at its last scored step (not its calibration bins), and Dice at the steps before. The file's
own facts, as JSON in its metadata, are those options and results of the run that tables of it need, its config's hash,
version, machine and time.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from echodfkd.core import intervals
from echodfkd.core.errors import InputError
from echodfkd.core.redaction import redact_values
from echodfkd.evaluation.against_truth import RELIABILITY
from echodfkd.reporting.rows import RunRows, check_config_values, check_run_values, column
from echodfkd.storage.files import RunStorage
from echodfkd.storage.parquet import PARQUET_ERRORS, open_parquet
from echodfkd.storage.schemas import CASE_SCHEMA, SCORE_SCHEMA, read_part
from echodfkd.storage.untrusted import parse_json_object

CURVE = "dice_all"
"""The metric that is kept at every scored step."""
_FACTS = b"echodfkd"
_OF_CASES = ("domain", "ef_percent")
_SCHEMA = pa.schema([*SCORE_SCHEMA, *(CASE_SCHEMA.field(name) for name in _OF_CASES)])


def cell_name(run: str) -> str:
    """The file of a run's cell, below the folder of rows."""
    return f"{run}.parquet"


def write_cell(folder: RunStorage, rows: RunRows, config_hash: str) -> None:
    """Write the cell of a finished run. ``config_hash`` is of the run with the paths that its config gives."""
    last = {student: steps[-1] for student in ("", *rows.students) if (steps := rows.scored_steps(student))}
    cases = {row["clip_id"]: row for row in rows.cases.select(["clip_id", *_OF_CASES]).to_pylist()}
    kept = [
        {**cases.get(row["clip_id"], {}), **row}
        for row in rows.scores.to_pylist()
        if row["metric"] == CURVE
        or (row["step"] == last.get(row["student"]) and not row["metric"].startswith(RELIABILITY))
    ]
    if not kept:
        raise InputError(f"run {rows.config.get('name')}: it has no scores; set evaluation.enabled=true")
    config = {key: rows.config.get(key) for key in ("name", "seed", "window", "students")}
    config["train"] = {key: rows.config["train"][key] for key in ("steps", "global_batch")}
    run = {key: rows.run.get(key) for key in ("version", "machine", "students", "teacher_id")}
    work = np.stack([column(rows.spans, "start"), column(rows.spans, "end")], axis=1).astype(np.float64)
    facts = {"config_hash": config_hash, "config": config, "run": {**run, "seconds": round(intervals.length(work), 1)}}
    table = pa.Table.from_pylist(kept, schema=_SCHEMA.with_metadata({_FACTS: json.dumps(redact_values(facts))}))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    folder.write(cell_name(str(config["name"])), sink.getvalue())


def read_cell(folder: RunStorage, run: str) -> RunRows:
    """The rows of a run's cell: those of its folder, without ledger, logs and manifests.

    Raises:
        FileNotFoundError: the run has no cell.
        InputError: the file is no cell.
    """
    name = cell_name(run)
    where = f"{folder.root}/{name}"
    facts = _facts(folder.read(name), where)
    config, known = facts.get("config"), facts.get("run")
    if not (isinstance(config, dict) and isinstance(known, dict) and config.get("name") == run):
        raise InputError(f"{where}: its facts are not those of the run {run}; delete the file, and run it again")
    check_config_values(config, where)
    check_run_values(known, where)
    table = read_part(folder, name, _SCHEMA)
    empty = pa.table({"student": pa.array([], pa.string())})
    return RunRows(
        config=config,
        run=known,
        identity={"config_hash": facts.get("config_hash")},
        manifests=(),
        scores=table.select(SCORE_SCHEMA.names),
        ledger=empty,
        quarantine=empty,
        spans=empty,
        training=empty,
        cases=_cases(table),
    )


def _facts(data: bytes, where: str) -> dict[str, Any]:
    try:
        stored = (open_parquet(data).metadata.metadata or {}).get(_FACTS, b"{}")
    except PARQUET_ERRORS as error:
        raise InputError(f"{where} is not a readable table: {error}") from error
    return parse_json_object(stored, where)


def _cases(table: pa.Table) -> pa.Table:
    """One row per case: `clip_id` and `_OF_CASES`."""
    found = {row["clip_id"]: row for row in table.select(["clip_id", *_OF_CASES]).to_pylist()}
    return pa.Table.from_pylist(
        list(found.values()), schema=pa.schema([CASE_SCHEMA.field(n) for n in ("clip_id", *_OF_CASES)])
    )


def has_cell(folder: RunStorage, run: str, config_hash: str) -> bool:
    """Whether a run has its cell. Raises `InputError` if the one there is of other options."""
    if not folder.exists(cell_name(run)):
        return False
    found = read_cell(folder, run).identity["config_hash"]
    if found != config_hash:
        raise InputError(
            f"study.rows: {folder.root}/{cell_name(run)} is of a run with other options (config hash {found}, now"
            f" {config_hash}); give this study another name or folder, or delete the file to run it again"
        )
    return True
