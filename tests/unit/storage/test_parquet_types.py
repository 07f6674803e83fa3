"""Tables whose columns have types of Ray's own: nothing in them runs, in a process that has imported `ray.data`.

The files hold payloads that leave a mark. A child process reads them: Ray registers its types for a whole process.
"""

import json
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from echodfkd.storage import parquet
from echodfkd.storage.parquet import open_parquet
from echodfkd.storage.schemas import CASE_SCHEMA, SCORE_SCHEMA
from echodfkd.teaching.mask_files import MASK_SCHEMA
from tests.helpers.hostile_types import NESTS, OBJECT, TENSORS, hostile_column

CHILD = r"""
import json, os, sys
import ray.data
import pyarrow.parquet as pq

def plainly(path):
    pq.ParquetFile(path).read().to_pylist()

def patients(path):
    from echodfkd.sources.patients.table import read_patient_table
    read_patient_table(path, "")

def stored(path):
    from echodfkd.storage.files import RunStorage
    folder, name = os.path.split(path)
    RunStorage(folder).read_table(name).to_pylist()

def part(path):
    from echodfkd.storage import files, schemas
    folder, name = os.path.split(path)
    schema = schemas.CASE_SCHEMA if "cases" in name else schemas.SCORE_SCHEMA
    schemas.read_part(files.RunStorage(folder), name, schema).to_pylist()

def masks(path):
    from echodfkd.teaching.mask_files import decode_masks
    decode_masks(open(path, "rb").read(), path)

def recorded(path):
    from echodfkd.models.teachers.protocol import ClipKey
    from echodfkd.teaching.recorded import RecordedMasks
    import numpy as np
    teacher = RecordedMasks(os.path.dirname(path), source_classes=("LV",), channels=(0,),
                            class_names=("background", "LV"), place=None)
    faults = teacher.teach(np.zeros((1, 2, 8, 8), np.uint8), [ClipKey("c", 0, 0)]).faults
    raise ValueError(faults[0])

found, (mark, asked) = [], json.load(sys.stdin)
for reader, path in asked:
    answer = ""
    try:
        globals()[reader](path)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    found.append([reader, path, answer, os.path.exists(mark)])
    if found[-1][-1]:
        os.unlink(mark)
print(json.dumps(found))
"""


class Payload:
    """Leaves a mark when it is unpickled, and stands for a number, so that its reader would go on."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, dict[str, object]]]:
        return eval, (f"(open({self.mark!r}, 'w').close(), 55.0)[1] # {uuid.uuid4()}", {})  # Ray keeps known types


def with_column(schema: pa.Schema, column: str, values: pa.Array) -> pa.Table:
    """One empty row of a schema, with one column replaced."""
    table = pa.Table.from_pylist([dict.fromkeys(schema.names)], schema=schema)
    return table.set_column(schema.get_field_index(column), column, values)


def read_in_child(mark: Path, asked: list[tuple[str, str]]) -> list[tuple[str, str, str, bool]]:
    """What became of (reader, path) in one process: both, the error's text, and whether the payload ran."""
    env = {**os.environ, "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA": "1", "OMP_NUM_THREADS": "1"}
    given = json.dumps([str(mark), asked])
    done = subprocess.run([sys.executable, "-c", CHILD], input=given, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [(*row,) for row in json.loads(done.stdout.splitlines()[-1])]


READERS = {
    "patients": (pa.schema([("ef_percent", pa.float64())]), "ef_percent"),
    "stored": (CASE_SCHEMA, "fps"),
    "part": (SCORE_SCHEMA, "value"),
    "masks": (MASK_SCHEMA, "classes"),
    "recorded": (MASK_SCHEMA, "clip_id"),
}
"""Every reader of Parquet files that the product has, with a table of its own and a column of it."""


def test_no_type_of_ray_runs_in_any_reader(tmp_path: Path) -> None:
    """The payloads are live: pyarrow itself runs the pickled objects as it lists them, the tensors as it opens them."""
    mark, asked = tmp_path / "mark", []
    for name in (OBJECT, *TENSORS):
        for reader, (schema, column) in {"plainly": (pa.schema([("x", pa.int64())]), "x"), **READERS}.items():
            for shape, nest in enumerate(NESTS):
                path = tmp_path / f"{name}-{reader}-{shape}" / "table.parquet"
                path.parent.mkdir()
                pq.write_table(
                    with_column(schema, column, nest(hostile_column(name, pickle.dumps(Payload(mark))))), path
                )
                asked.append((reader, str(path)))
    found = read_in_child(mark, asked)
    assert len(found) == 4 * 6 * 3
    for reader, path, answer, ran in found:
        assert ran == (reader == "plainly"), (path, answer)
        assert reader == "plainly" or "extension type" in answer, (path, answer)


def test_plain_columns_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": 0.5, "c": "x", "d": [1, 2], "e": {"f": b"y"}, "g": [("k", 1.0)], "h": True}, {"d": None}]
    schema = pa.schema(
        [
            ("a", pa.int64()),
            ("b", pa.float64()),
            ("c", pa.string()),
            ("d", pa.list_(pa.int64())),
            ("e", pa.struct([("f", pa.binary())])),
            ("g", pa.map_(pa.string(), pa.float64())),
            ("h", pa.bool_()),
        ]
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, tmp_path / "t.parquet")
    file = open_parquet((tmp_path / "t.parquet").read_bytes())
    assert file.read(use_threads=False).to_pylist() == table.to_pylist()
    assert file.schema_arrow.types == schema.types


def test_a_parquet_type_that_arrow_takes_for_an_extension_is_plain_bytes(tmp_path: Path) -> None:
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)], pa.binary(16)))
    pq.write_table(pa.table({"a": ids}), tmp_path / "t.parquet", store_schema=False)
    file = open_parquet((tmp_path / "t.parquet").read_bytes())
    assert file.schema_arrow.types == [pa.binary(16)]


def test_rows_are_counted_before_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"a": pa.nulls(1001, pa.int64())}), tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    assert open_parquet(data).metadata.num_rows == 1001
    monkeypatch.setattr(parquet, "MAX_ROWS", 1000)
    with pytest.raises(ValueError, match="it promises 1001 rows, at most 1000 are allowed"):
        open_parquet(data)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" * 3, b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1", bytes(100)])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="as a Parquet file does"):
        open_parquet(data)
