"""The cell of a run: a small file from which a study's tables are the same as from the run's folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.study import study_groups
from echodfkd.core.errors import InputError
from echodfkd.core.records import StageSpan
from echodfkd.reporting.rows import RunRows
from echodfkd.reporting.study.cell import cell_name, has_cell, read_cell, write_cell
from echodfkd.reporting.study.study import build_study
from echodfkd.runtime.study_run import run_study
from echodfkd.storage.files import RunStorage
from echodfkd.storage.schemas import SPAN_SCHEMA
from tests.unit.reporting.test_study import fake_run


def finished(seed: int) -> RunRows:
    """A run in two sittings: work from 0 to 10 s, twice at once, and 5 s much later."""
    work = [StageSpan("source", "a", 0.0, 8.0, 1, 4), StageSpan("students", "b", 2.0, 10.0, 1, 4)]
    work += [StageSpan("students", "c", 1000.0, 1005.0, 1, 4)]
    spans = pa.Table.from_pylist([{**vars(span), "bytes": None} for span in work], schema=SPAN_SCHEMA)
    run = {"version": "9.9", "machine": "two cores", "students": {"paper": {"parameters": 7}}, "wall_s": 1.0}
    return dataclasses.replace(fake_run(seed, domains=("clear", "wild")), spans=spans, run=run)


@pytest.fixture
def folder(tmp_path: Path) -> RunStorage:
    return RunStorage(str(tmp_path / "rows"))


def test_tables_from_cells_are_those_from_runs(folder: RunStorage) -> None:
    runs = [{"": finished(seed)} for seed in range(3)]
    for number, of in enumerate(runs):
        write_cell(folder, of[""], f"hash{number}")
    cells = [{"": read_cell(folder, f"study-seed{seed}")} for seed in range(3)]
    assert build_study(cells, baseline="paper") == build_study(runs, baseline="paper")
    cell = cells[1][""]
    assert cell.identity == {"config_hash": "hash1"}
    kept = {key: cell.run[key] for key in ("version", "machine", "seconds", "students")}
    assert kept == {"version": "9.9", "machine": "two cores", "seconds": 15.0, "students": {"paper": {"parameters": 7}}}
    early = cell.scores.filter(pc.equal(cell.scores["step"], 5))
    assert set(early["metric"].to_pylist()) == {"dice_all"}  # the curve is all that earlier steps have
    assert cell.scored_steps("paper") == [5, 10]


def test_a_cell_of_other_options_is_not_taken_for_done(folder: RunStorage) -> None:
    assert not has_cell(folder, "study-seed0", "mine")
    write_cell(folder, finished(0), "mine")
    assert has_cell(folder, "study-seed0", "mine")
    with pytest.raises(
        InputError, match=r"study.rows: .*study-seed0.parquet is of a run with other options .*hash mine"
    ):
        has_cell(folder, "study-seed0", "yours")


def test_a_file_that_is_no_cell_is_one_sentence(folder: RunStorage) -> None:
    write_cell(folder, finished(0), "mine")
    table = folder.read_table(cell_name("study-seed0"))
    place = Path(folder.root)
    pq.write_table(table, place / "study-seed1.parquet")
    with pytest.raises(InputError, match="its facts are not those of the run study-seed1; delete the file"):
        read_cell(folder, "study-seed1")
    pq.write_table(table.drop_columns(["value"]), place / "study-seed0.parquet")
    with pytest.raises(InputError, match=r"study-seed0\.parquet lacks the columns value"):
        read_cell(folder, "study-seed0")
    (place / "study-seed0.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"study-seed0\.parquet is not a readable table"):
        read_cell(folder, "study-seed0")
    bare = dataclasses.replace(finished(0), scores=finished(0).scores.slice(0, 0))
    with pytest.raises(InputError, match=r"it has no scores; set evaluation\.enabled=true"):
        write_cell(folder, bare, "x")


def test_a_study_whose_cells_are_there_runs_nothing(folder: RunStorage, tmp_path: Path) -> None:
    """Neither a cluster nor a run folder is needed: rows that another machine has made are enough."""
    options = ["students={paper: {blocks: 2, layers: 1, filters: 12}, skips: {blocks: 2, layers: 1, skips: true}}"]
    options += [f"storage={tmp_path}/runs", f"study.rows={folder.root}", "name=study"]
    config = load_config(None, options)
    for seed, run in enumerate(seed[""] for seed in study_groups(config)[""]):
        write_cell(folder, finished(seed), config_hash(run))
    study = run_study(config, lambda line: pytest.fail(line))
    wanted = build_study([{"": finished(seed)} for seed in range(3)], baseline="paper")
    assert {key: study[key] for key in wanted} == wanted
    assert study["stopped"] == ""
    assert sorted(path.name for path in (tmp_path / "runs" / "study").iterdir()) == [
        "study.json",
        "study.md",
        "study.png",
    ]
