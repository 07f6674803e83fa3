"""The offline checker of the ledger, against runs with planted faults."""

import dataclasses
import io
import json
import shutil

import pyarrow.parquet as pq
import pytest

from echodfkd.core.errors import InputError
from echodfkd.core.records import DistillationBatch, Quarantined
from echodfkd.reporting.rows import read_rows
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import LedgerReport, check_ledger
from echodfkd.storage.schemas import LEDGER_SCHEMA
from tests.helpers.training import run_training, small_config

N = 40


def replace_slot_7(batch: DistillationBatch) -> DistillationBatch:
    """Slot 7 drew index 7, then 7 + N, both at fault, and trained on 7 + 2N."""
    if 7 not in batch.slot:
        return batch
    rows = tuple(Quarantined(7, index, f"test-i{index}", "source", "torn") for index in (7, 7 + N))
    index = batch.index.copy()
    index[list(batch.slot).index(7)] = 7 + 2 * N
    names = tuple("test-i87" if name == "test-i7" else name for name in batch.clip_id)
    return dataclasses.replace(batch, index=index, clip_id=names, quarantined=rows)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("ledger") / "run"
    result = run_training(small_config(), root, change=replace_slot_7)
    assert result["quarantined"] == 2
    return root


@pytest.fixture
def storage(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return RunStorage(str(tmp_path / "run"))


def change_rows(storage: RunStorage, change) -> None:
    """Rewrite the first ledger part (slots 0 .. 19), as if its worker had, and the manifest that names it."""
    part = storage.list("ledger")[0]
    known = storage.write_table(part, change(storage.read_table(part).to_pylist()), LEDGER_SCHEMA)
    manifest = "checkpoints/step_00000005/manifest.json"
    values = json.loads(storage.read(manifest))
    assert part in values["parts"]
    values["parts"][part] = known
    storage.write(manifest, json.dumps(values).encode())


def test_a_whole_run_has_no_problems(storage):
    assert check_ledger(storage, N) == LedgerReport(clips=N, lost=0, repeated=0, quarantined=2, problems=[])


def test_rows_that_no_manifest_names_are_void(storage):
    part = storage.list("ledger")[0]
    storage.write(part.replace("first", "died"), storage.read(part))
    assert check_ledger(storage, N).problems == []


def test_lost_slots_are_found(storage):
    change_rows(storage, lambda rows: [row for row in rows if row["slot"] not in (3, 11)])
    report = check_ledger(storage, N)
    assert (report.clips, report.lost, report.repeated) == (38, 2, 0)
    assert "2 of 40 slots were never trained: 3, 11" in report.problems
    assert "checkpoints/step_00000005 and the ledger differ about 2 slots: 3, 11" in report.problems
    assert "updates differ in size: 4 clips as a rule, others at 1, 3" in report.problems


def test_a_plan_longer_than_the_run_is_lost(storage):
    assert check_ledger(storage, N + 5).lost == 5


def test_repeated_slots_are_found(storage):
    change_rows(storage, lambda rows: [*rows, {**rows[0], "step": 5}, {**rows[0], "step": 4}])
    report = check_ledger(storage, N)
    assert (report.clips, report.lost, report.repeated) == (40, 0, 2)
    assert "1 slots were trained more than once: 0" in report.problems
    assert "1 clip ids were trained more than once: test-i0" in report.problems


def test_one_clip_under_two_slots_is_a_repeat(storage):
    change_rows(storage, lambda rows: [{**row, "clip_id": "test-i0"} if row["slot"] == 1 else row for row in rows])
    report = check_ledger(storage, N)
    assert (report.lost, report.repeated) == (0, 1)
    assert report.problems == ["1 clip ids were trained more than once: test-i0"]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (8, "slot 7 was trained on index 8, which is not one of its own"),
        (7 + N, "slot 7 was trained on index 47, which is quarantined"),
        (7 + 3 * N, "slot 7 was trained on index 127, but index 87 was not quarantined"),
    ],
)
def test_replacements_follow_their_slot(storage, index, words):
    change_rows(storage, lambda rows: [{**row, "index": index} if row["slot"] == 7 else row for row in rows])
    assert check_ledger(storage, N).problems == [words]


def test_missing_parts_and_foreign_slots_are_problems(storage):
    change_rows(storage, lambda rows: [{**row, "slot": 90, "index": 90} if row["slot"] == 5 else row for row in rows])
    report = check_ledger(storage, N)
    assert (report.clips, report.lost) == (39, 1)
    assert "1 slots are not in the plan: 90" in report.problems
    part = storage.list("ledger")[1]
    storage.fs.rm_file(storage.path(part))
    report = check_ledger(storage, N)
    assert report.lost == 21
    assert f"{part}, named by checkpoints/step_00000010, is missing" in report.problems


@pytest.mark.parametrize("kind", ["ledger", "quarantine"])
def test_a_part_of_other_bytes_is_a_problem_and_stops_the_report(storage, kind):
    """Rows that Parquet reads without complaint: only the manifest's sha256 tells that they are others."""
    part = storage.list(kind)[0]
    rows = storage.read_table(part)
    sink = io.BytesIO()
    pq.write_table(rows.slice(0, len(rows) - 1), sink)
    storage.write(part, sink.getvalue())
    problems = check_ledger(storage, N).problems
    assert any(f"{part} is damaged: sha256 " in problem for problem in problems)
    storage.write("config.yaml", b"name: run")
    with pytest.raises(InputError, match=f"{part} is damaged: sha256 "):
        read_rows(storage)
