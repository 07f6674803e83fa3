"""Folders of older layouts are read, resumed and reported; those of newer ones are refused; no file is ever torn.

Layout 1 is what version 0.1 wrote. It is written here by hand, with its names spelt out, so that a change of
today's writers cannot change it.
"""

import dataclasses
import hashlib
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import save

from echodfkd.config.file import config_to_yaml
from echodfkd.config.identity import open_run_folder
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.records import PublishedCheckpoint
from echodfkd.reporting.rows import read_rows
from echodfkd.reporting.summary import build_summary
from echodfkd.sources.written.stored import open_folder
from echodfkd.storage.checkpoints import read_resume
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import latest_checkpoint, list_checkpoints
from echodfkd.storage.schemas import SCORE_SCHEMA
from tests.helpers.reports import render_report
from tests.helpers.training import TEACHER, run_training, small_config

OLD_HASH = "0123456789abcdef"
"""Version 0.1 hashed all its options, and so had another hash for the same config."""

CONFIG = dataclasses.replace(small_config(), window=WindowConfig(frames=3, size=16))
"""Of a size that config files may have."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    root = tmp_path_factory.mktemp("layout") / "run"
    run_training(dataclasses.replace(CONFIG, storage=str(root.parent), name="run"), root)
    return RunStorage(str(root))


def parquet(rows: list[dict]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd")
    return sink.getvalue()


def write_layout_1(root: Path, unbroken: RunStorage) -> RunConfig:
    """A run of version 0.1 that died after its commit at step 5 of 10, while it wrote the parts of step 10."""
    config = dataclasses.replace(CONFIG, storage=str(root.parent), name=root.name)
    state = read_resume(unbroken, commit_at(unbroken, 5), "a")
    files = {
        "a/student.safetensors": save(state.weights),
        "a/resume.safetensors": save(
            {
                **{f"weights/{name}": tensor for name, tensor in state.weights.items()},
                **{f"exp_avg/{name}": tensor for name, tensor in state.optimizer.exp_avg.items()},
                **{f"exp_avg_sq/{name}": tensor for name, tensor in state.optimizer.exp_avg_sq.items()},
                "step": torch.tensor(5),
            }
        ),
        "consumed.json": b"[[0, 20]]",
        "meta.json": json.dumps({"config_hash": OLD_HASH, "teacher_id": TEACHER, "quarantined": 0}).encode(),
    }
    ledger = [
        {"slot": s, "index": s, "clip_id": f"test-i{s}", "epoch": 0, "window_start": 0, "step": s // 4 + 1, "rank": 0}
        | {"attempt": "old", "source": "", "domain": ""}
        for s in range(40)
    ]
    training = [
        {"student": "a", "step": step, "loss": -1.0, "learning_rate": 0.01, "grad_norm": 1.0, "time": 1.7e9 + step}
        for step in range(1, 11)
    ]
    manifest = {
        "step": 5,
        "folder": "checkpoints/step_00000005",
        "students": ["a"],
        "files": {n: {"size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()},
        "ledger": ["ledger/part-step00000005-rank0-old.parquet"],
        "quarantine": [],
        "meta": json.loads(files["meta.json"]),
    }
    options = yaml.safe_load(config_to_yaml(config))
    del options["lease_s"]
    written = {
        "config.yaml": yaml.safe_dump(options).encode(),
        "identity.json": json.dumps({"config_hash": OLD_HASH, "teacher_id": TEACHER}).encode(),
        **{f"checkpoints/step_00000005/{name}": data for name, data in files.items()},
        "checkpoints/step_00000005/manifest.json": json.dumps(manifest).encode(),
        "checkpoints/step_00000010/a/student.safetensors": files["a/student.safetensors"][:1000],
        "ledger/part-step00000005-rank0-old.parquet": parquet(ledger[:20]),
        "ledger/part-step00000010-rank0-old.parquet": parquet(ledger[20:])[:300],
        "logs/training-step00000005-rank0-old.parquet": parquet(training[:5]),
        "logs/training-step00000010-rank0-old.parquet": parquet(training[5:]),
    }
    for name, data in written.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return config


def commit_at(storage: RunStorage, step: int) -> PublishedCheckpoint:
    return next(commit for commit in list_checkpoints(storage) if commit.step == step)


def test_a_run_of_layout_1_is_read_resumed_and_reported(unbroken: RunStorage, tmp_path: Path) -> None:
    config = write_layout_1(tmp_path / "old", unbroken)
    storage = open_run_folder(config, TEACHER)
    assert build_summary(storage)["ledger"] == {"clips": 20, "lost": 0, "to_come": 20, "repeated": 0, "quarantined": 0}
    assert read_rows(storage).training["step"].to_pylist() == [1, 2, 3, 4, 5]

    result = run_training(config, storage.root, attempt="new")
    assert (result.get("error"), result["start_step"], result["steps"]) == (None, 5, 10)
    ours = read_resume(storage, latest_checkpoint(storage), "a").weights
    theirs = read_resume(unbroken, latest_checkpoint(unbroken), "a").weights
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    report = check_ledger(storage, config.plan_slots)
    assert (report.clips, report.lost, report.repeated, report.problems) == (40, 0, 0, [])
    rows = read_rows(storage)
    assert rows.training["step"].to_pylist() == list(range(1, 11))
    assert [loss < 0 for loss in rows.training["loss"].to_pylist()] == [True] * 5 + [False] * 5  # none of the void part
    assert [manifest.layout for manifest in rows.manifests] == [1, 3]
    assert build_summary(storage)["ledger"] == {"clips": 40, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    assert "<html" in render_report(storage)
    assert open_run_folder(config, TEACHER).root == storage.root  # and once more, now that both layouts lie there


def test_a_run_of_layout_1_whose_config_this_version_does_not_read_is_refused(
    unbroken: RunStorage, tmp_path: Path
) -> None:
    config = write_layout_1(tmp_path / "old", unbroken)
    stored = tmp_path / "old" / "config.yaml"
    stored.write_text(stored.read_text() + "bygone: 1\n")
    words = r"^name: an earlier version of echodfkd made the run old .* does not read its config.yaml \(bygone: unknown"
    with pytest.raises(ConfigError, match=words):
        open_run_folder(config, TEACHER)


def test_another_config_is_still_refused(unbroken: RunStorage, tmp_path: Path) -> None:
    config = write_layout_1(tmp_path / "old", unbroken)
    with pytest.raises(ConfigError, match=r"has other options: seed \(0, now 1\); give this run another name"):
        open_run_folder(dataclasses.replace(config, seed=1), TEACHER)
    with pytest.raises(ConfigError, match=r"has another teacher_id \(teacher-1234abcd, now other\)"):
        open_run_folder(config, "other")
    assert "was made with config_hash" in run_training(dataclasses.replace(config, seed=1), config.root)["error"]


def test_a_folder_whose_maker_died_between_its_first_two_files_is_a_run_folder(tmp_path: Path) -> None:
    config = dataclasses.replace(small_config(), storage=str(tmp_path), name="run")
    storage = open_run_folder(config, TEACHER)
    assert json.loads(storage.read("identity.json"))["layout"] == 3
    (tmp_path / "run" / "config.yaml").unlink()
    assert open_run_folder(config, TEACHER).exists("config.yaml")


@pytest.mark.parametrize("name", ["identity.json", "checkpoints/step_00000010/manifest.json"])
def test_a_newer_layout_is_refused_with_a_sentence(unbroken: RunStorage, tmp_path: Path, name: str) -> None:
    config = write_layout_1(tmp_path / "new", unbroken)
    storage = RunStorage(config.root)
    run_training(config, storage.root, attempt="new")
    storage.write(name, json.dumps({**json.loads(storage.read(name)), "layout": 4, "surprise": 1}).encode())
    words = rf"{name} has layout 4, this version of echodfkd reads layouts up to 3: use a newer version"
    with pytest.raises(InputError, match=words):
        read_rows(storage)
    with pytest.raises(InputError, match=words):
        open_run_folder(config, TEACHER) if name == "identity.json" else run_training(config, storage.root)


def test_a_folder_of_clips_of_layout_1_takes_more_and_a_newer_one_does_not(tmp_path: Path) -> None:
    request = {"seed": 0, "synthesize": {"clips": 3}}
    (tmp_path / "synthesis.json").write_text(json.dumps(request))
    storage = open_folder(str(tmp_path), request, on_exists="resume")
    with pytest.raises(ConfigError, match=r"holds clips of another seed \(0, now 1\)"):
        open_folder(str(tmp_path), {**request, "seed": 1}, on_exists="resume")
    storage.write("synthesis.json", json.dumps({"layout": 4, **request}).encode())
    with pytest.raises(InputError, match=r"synthesis.json has layout 4, .* up to 3"):
        open_folder(str(tmp_path), request, on_exists="resume")
    assert json.loads(open_folder(str(tmp_path / "b"), request, on_exists="resume").read("synthesis.json")) == {
        "layout": 3,
        **request,
    }


def test_a_torn_table_is_named(tmp_path: Path) -> None:
    storage = RunStorage(str(tmp_path))
    data = parquet([{"clip_id": "a"}] * 100)
    storage.write("scores/part-step00000005-a-0000.parquet", data[: len(data) // 2])
    with pytest.raises(InputError, match=r"scores/part-step00000005-a-0000.parquet is damaged: \d+ bytes that are no"):
        storage.read_table("scores/part-step00000005-a-0000.parquet")


@pytest.mark.parametrize("call", ["write", "create_once", "write_table"])
@pytest.mark.parametrize("at", ["fsync", "replace or link"])
def test_a_writer_that_dies_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch, call: str, at: str) -> None:
    """Death at any moment before the name is taken, as an exception that no handler of an OSError sees."""
    storage = RunStorage(str(tmp_path))
    storage.write("scores/old.parquet", b"the old one")

    def die(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    names = ["fsync"] if at == "fsync" else ["replace", "link"]
    for name in names:
        monkeypatch.setattr(os, name, die)
    target = "scores/old.parquet" if call == "write" else "scores/new.parquet"
    arguments = [target, [{"clip_id": "a"}], SCORE_SCHEMA] if call == "write_table" else [target, b"x" * 100_000]
    with pytest.raises(KeyboardInterrupt):
        getattr(storage, call)(*arguments)
    monkeypatch.undo()
    assert storage.list("scores") == ["scores/old.parquet"]
    assert storage.read("scores/old.parquet") == b"the old one"


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    storage = RunStorage(str(tmp_path))
    storage.write("run.json", b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for call in (storage.write, storage.create_once):
        with pytest.raises(OSError, match="No space left"):
            call("run.json", b"new")
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"run.json": b"old"}
