"""A run's curves for TensorBoard, MLflow and Weights & Biases, read back and held against the Parquet rows."""

from __future__ import annotations

import struct
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from echodfkd.core.errors import InputError
from echodfkd.reporting.live.follow import follow_report
from echodfkd.reporting.live.loggers import MlflowLogger, TensorBoardLogger, build_loggers
from echodfkd.reporting.rows import read_rows
from echodfkd.storage.files import RunStorage
from tests.unit.reporting.test_reporting import fake_run


def events(folder: Path) -> dict[tuple[str, int], float]:
    """(name, step) -> value, out of TensorBoard's record files: length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[tuple[str, int], float] = {}
    for path in folder.glob("events.out.tfevents.*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16
            for value in event.summary.value:
                assert (value.tag, event.step) not in found, "written twice"
                found[value.tag, event.step] = value.simple_value
    return found


def wanted(folder: Path) -> dict[tuple[str, int], float]:
    """The same, out of the run's own files."""
    found = {}
    for path in (folder / "logs").glob("training-*.parquet"):
        for row in pq.read_table(path).to_pylist():
            for name in ("loss", "learning_rate", "grad_norm"):
                found[f"{row['student']}/{name}", row["step"]] = row[name]
    values: dict[tuple[str, int, str], dict[str, float]] = {}
    for path in (folder / "scores").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            values.setdefault((row["student"], row["step"], row["metric"]), {})[row["clip_id"]] = row["value"]
    for (student, step, metric), column in values.items():
        if not metric.startswith(("ef_", "reliability_")) and step >= -1:
            found[f"{student or 'teacher'}/{metric}", max(step, 0)] = float(np.nanmean([*column.values()]))
    return {key: value for key, value in found.items() if value is not None and np.isfinite(value)}


@pytest.fixture
def folder(tmp_path) -> Path:
    fake_run(tmp_path / "run")
    return tmp_path / "run"


def check(found: dict[tuple[str, int], float], folder: Path) -> None:
    expected = wanted(folder)
    assert expected
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-6)  # TensorBoard keeps float32
    others = {name.split("/")[1].split("_")[0] for name, _ in set(found) - set(expected)}
    assert others <= {"term", "ef"}  # terms of losses; agreement with the known EF, which is over cases


def test_tensorboard_gets_every_update_and_score_once(folder, tmp_path):
    logger = TensorBoardLogger(str(tmp_path / "board"))
    rows = read_rows(RunStorage(str(folder)))
    written = logger.write(rows)
    assert logger.write(rows) == 0
    found = events(tmp_path / "board")
    assert len(found) == written
    check(found, folder)


def test_a_logger_that_follows_adds_what_is_new(folder):
    class FakeLogger:
        seen: list[int]

        def __init__(self) -> None:
            self.seen = []

        def write(self, rows) -> int:
            self.seen.append(len(rows.scores))
            return 0

    logger, storage = FakeLogger(), RunStorage(str(folder))
    follow_report(storage, every_s=1, say=lambda line: None, sleep=lambda seconds: None, loggers=[logger])
    assert logger.seen == [len(read_rows(storage).scores)]


def test_mlflow_gets_parameters_and_curves(folder, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow (extra [mlflow])")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server's place is taken by a folder
    uri = (tmp_path / "mlruns").as_uri()
    rows = read_rows(RunStorage(str(folder)))
    logger = MlflowLogger(uri, "run")
    written = logger.write(rows)
    assert logger.write(rows) == 0
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("echodfkd").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["seed"] == str(rows.config["seed"])
    found = {
        (name, point.step): point.value
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
    }
    assert len(found) == written
    check(found, folder)


class FakeWandbRun:
    """Keeps what Weights & Biases would be sent."""

    def __init__(self) -> None:
        self.config: dict[str, str] = {}
        self.points: dict[tuple[str, int], float] = {}
        self.calls: list[object] = []

    def define_metric(self, name: str, step_metric: str) -> None:
        self.calls.append((name, step_metric))

    def log(self, values: dict[str, float]) -> None:
        update = int(values.pop("update"))
        self.points.update({(name, update): value for name, value in values.items()})

    def finish(self, exit_code: int) -> None:
        self.calls.append(exit_code)


def test_wandb_gets_options_and_curves(folder, monkeypatch):
    run, asked = FakeWandbRun(), []
    run.config = type(
        "FakeConfig", (dict,), {"update": lambda self, values, allow_val_change: dict.update(self, values)}
    )()
    module = types.ModuleType("wandb")
    module.init = lambda **options: asked.append(options) or run
    monkeypatch.setitem(sys.modules, "wandb", module)
    rows = read_rows(RunStorage(str(folder)))
    (logger,) = build_loggers(RunStorage(str(folder)), wandb="echo")
    written = logger.write(rows)
    assert logger.write(rows) == 0
    assert asked == [{"project": "echo", "name": "run"}]
    assert run.calls[:2] == [("*", "update"), 0]
    assert run.config["seed"] == str(rows.config["seed"])
    assert len(run.points) == written
    check(run.points, folder)


def test_wandb_that_is_missing_or_refuses_is_one_sentence(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"^--wandb: needs wandb; pip install 'echodfkd\[wandb\]'"):
        build_loggers(RunStorage(str(folder)), wandb="echo")

    def refuse(**options: object) -> None:
        raise RuntimeError("no API key\nconfigured")

    module = types.ModuleType("wandb")
    module.init = refuse
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(InputError, match=r"^--wandb: echo cannot be used: no API key$"):
        build_loggers(RunStorage(str(folder)), wandb="echo")


def test_places_that_cannot_be_used_are_one_sentence(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match=r"^--tensorboard: .*file/board cannot be written"):
        TensorBoardLogger(str(file / "board"))
    pytest.importorskip("mlflow", reason="needs mlflow (extra [mlflow])")
    with pytest.raises(InputError, match=r"^--mlflow: nowhere:/x cannot be used"):
        MlflowLogger("nowhere:/x", "run")
