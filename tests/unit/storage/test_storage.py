"""The run folder: whole files or none, created once, on a disk and on an in-memory object store."""

import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from echodfkd.core.errors import InputError
from echodfkd.storage.files import RunStorage


@pytest.fixture(params=["local", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> RunStorage:
    if request.param == "local":
        return RunStorage(str(tmp_path / "with space" / "run"))
    return RunStorage(f"memory://bucket-{tmp_path.name}/run")


def test_write_read_list(storage: RunStorage) -> None:
    assert storage.list("scores") == []
    storage.write("scores/b.txt", b"2")
    storage.write("scores/a.txt", b"1")
    storage.write("scores/a.txt", b"3")
    assert storage.list("scores") == ["scores/a.txt", "scores/b.txt"]
    assert storage.list("") == ["scores"]
    assert storage.read("scores/a.txt") == b"3"
    assert storage.exists("scores/a.txt")
    assert not storage.exists("scores/c.txt")


def test_tables_keep_their_rows(storage: RunStorage) -> None:
    schema = pa.schema([("name", pa.string()), ("value", pa.float64())])
    rows = [{"name": "a", "value": 1.5}, {"name": "b", "value": None}]
    storage.write_table("t.parquet", rows, schema)
    assert storage.read_table("t.parquet").to_pylist() == rows


READS_AND_ENDS = """
import sys
import pyarrow as pa
from echodfkd.storage.schemas import read_part
from echodfkd.storage.files import RunStorage
storage = RunStorage(sys.argv[1])
schema = pa.schema({f"c{number}": pa.list_(pa.int64()) for number in range(30)})
if not storage.exists("t.parquet"):
    storage.write_table("t.parquet", [dict.fromkeys(schema.names, [row, row]) for row in range(2000)], schema)
read_part(storage, "t.parquet", schema)
tables = [storage.read_table("t.parquet") for _ in range(5)]
"""


def test_a_program_may_end_as_soon_as_it_has_read_a_table(tmp_path: Path) -> None:
    """Read by Arrow's own threads, four of five such programs were aborted after their last line."""
    for _ in range(6):
        done = subprocess.run(
            [sys.executable, "-c", READS_AND_ENDS, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_only_one_of_many_writers_creates_a_local_file(tmp_path: Path) -> None:
    storage = RunStorage(str(tmp_path))
    made: list[int] = []

    def create(number: int) -> None:
        if storage.create_once("manifest.json", str(number).encode() * 1000):
            made.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert storage.read("manifest.json") == str(made[0]).encode() * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="cannot be written"):
        RunStorage(str(tmp_path / "file" / "run")).check_writable()
