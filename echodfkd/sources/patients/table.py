"""Read a table of patients (CSV or Parquet): checked row by row, read once per process, identified by its sha256."""

from __future__ import annotations

import functools
import hashlib
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from echodfkd.config.sections.source import CHOICES, LIMITS
from echodfkd.core.errors import ConfigError, EchoDFKDError, InputError
from echodfkd.storage.files import read_bytes

if TYPE_CHECKING:
    import pyarrow as pa

MAX_PATIENTS = 1_000_000
"""Largest number of patients: a few bytes of Parquet can promise any number."""

_CELLS = ("int", "uint", "halffloat", "float", "double", "bool", "string", "large_string", "null")
"""Types of columns that are read, without their width; a row's own sentence refuses a boolean."""

EF_SLACK = 1.0
"""Points of ejection fraction by which a row's EF, EDV and ESV may disagree (rounding in published lists)."""


@dataclass(frozen=True)
class PatientTable:
    """Rows of a table; a column's entry is None if the cell is empty.

    ``columns`` holds every condition that the table gives; "ef_percent" or "edv_ml" is derived if the table gives
    "esv_ml" instead.
    """

    columns: dict[str, tuple[float | str | None, ...]]
    num_rows: int


@functools.lru_cache(maxsize=4)
def read_patient_table(path: str, sha256: str) -> PatientTable:
    """Read a table, once per process.

    Args:
        path: a .csv or .parquet file, a path or an fsspec URL.
        sha256: of the expected content; "" accepts any.

    Raises:
        InputError: it cannot be read, or has another sha256.
        ConfigError: a column is not a condition, or a row is inconsistent or out of range.
    """
    data = _read(path)
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256:
        raise InputError(
            f"conditions.table: {path} has sha256 {found[:12]}..., the run was made with {sha256[:12]}...;"
            " the table has changed, or differs on this machine"
        )
    rows = _parse(path, data)
    if "esv_ml" in rows[0] and not {"ef_percent", "edv_ml"} & set(rows[0]):
        raise ConfigError(f"conditions.table: {path} has esv_ml, which needs ef_percent or edv_ml beside it")
    checked = [_check_row(f"conditions.table: {path} row {number}", row) for number, row in enumerate(rows, 1)]
    names = [name for name in checked[0] if any(row[name] is not None for row in checked)]
    return PatientTable({name: tuple(row[name] for row in checked) for name in names}, len(checked))


def _read(path: str) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise InputError(f"conditions.table: {path} cannot be read: {error.strerror or error}") from error


def _parse(path: str, data: bytes) -> list[dict[str, Any]]:
    import pyarrow.csv

    from echodfkd.storage.parquet import PARQUET_ERRORS, open_parquet

    try:
        if path.endswith(".parquet"):
            file = open_parquet(data)
            _check_shape(path, file.schema_arrow, file.metadata.num_rows)
            table = file.read(use_threads=False)
        elif path.endswith(".csv"):
            table = pyarrow.csv.read_csv(
                io.BytesIO(data),
                read_options=pyarrow.csv.ReadOptions(use_threads=False),
                convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True),
            )
        else:
            raise InputError(f"conditions.table: {path} must end in .csv or .parquet")
        _check_shape(path, table.schema, table.num_rows)
        table.validate(full=True)
        return table.to_pylist()
    except PARQUET_ERRORS as error:
        if isinstance(error, EchoDFKDError):
            raise
        raise InputError(f"conditions.table: {path} is not readable: {error}") from error


def _check_shape(path: str, schema: pa.Schema, num_rows: int) -> None:
    """Refuse unknown or repeated columns, other cells than numbers and texts, no rows, or too many.

    Raises `ConfigError`, `InputError`.
    """
    names, allowed = schema.names, (*LIMITS, *CHOICES)
    if unknown := sorted(set(names) - set(allowed)):
        raise ConfigError(f"conditions.table: {path} has a column {unknown[0]!r}, allowed are {', '.join(allowed)}")
    if twice := sorted(name for name in set(names) if names.count(name) > 1):
        raise ConfigError(f"conditions.table: {path} has the column {twice[0]!r} twice; which one counts?")
    for field in schema:
        if str(field.type).rstrip("0123456789") not in _CELLS:
            raise ConfigError(
                f"conditions.table: {path} has a column {field.name} of {field.type}, expected numbers or texts"
            )
    if not num_rows or not names:
        raise InputError(f"conditions.table: {path} holds no rows")
    if num_rows > MAX_PATIENTS:
        raise InputError(f"conditions.table: {path} promises {num_rows} rows, at most {MAX_PATIENTS} are allowed")


def _check_row(where: str, row: dict[str, Any]) -> dict[str, float | str | None]:
    """A row with numbers as float and EF and EDV derived. Raises `ConfigError`."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if value is None or (isinstance(value, float) and math.isnan(value)):
            found[name] = None
        elif name in CHOICES:
            if value not in CHOICES[name]:
                raise ConfigError(f"{where}: {name} is {value!r}, allowed are {', '.join(CHOICES[name])}")
            found[name] = value
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{where}: {name} is {value!r}, which is not a number")
        else:
            found[name] = float(value)
    ef, edv, esv = (found.get(name) for name in ("ef_percent", "edv_ml", "esv_ml"))
    if edv is not None and esv is not None and esv > edv:
        raise ConfigError(f"{where}: esv_ml {esv:g} is above edv_ml {edv:g}")
    for name, number in found.items():
        low, high = LIMITS.get(name, (-math.inf, math.inf))
        if isinstance(number, float) and not low <= number <= high:
            raise ConfigError(f"{where}: {name} is {number:g}, must lie in {low:g} .. {high:g}")
    if "esv_ml" in found:
        _complete_volumes(where, found, ef, edv, esv)
        del found["esv_ml"]
    return found


def _complete_volumes(where: str, found: dict[str, Any], ef: Any, edv: Any, esv: Any) -> None:
    """Derive ejection fraction or EDV from ESV, or check that the three agree."""
    found.setdefault("ef_percent", None)
    found.setdefault("edv_ml", None)
    if esv is None:
        return
    if edv is not None:
        derived = 100.0 * (1.0 - esv / edv)
        if ef is not None and abs(ef - derived) > EF_SLACK:
            raise ConfigError(
                f"{where}: ef_percent {ef:g} contradicts edv_ml {edv:g} and esv_ml {esv:g}, which give {derived:.1f}"
            )
        name, value = "ef_percent", derived
    elif ef is not None:
        name, value = "edv_ml", esv / (1.0 - ef / 100.0)
    else:
        raise ConfigError(f"{where}: esv_ml {esv:g} needs ef_percent or edv_ml beside it")
    low, high = LIMITS[name]
    if not low <= value <= high:
        raise ConfigError(f"{where}: its volumes give {name} {value:g}, must lie in {low:g} .. {high:g}")
    found[name] = value
